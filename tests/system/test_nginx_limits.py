"""How often a client may ask, and how much it may send."""

import pytest

from nginx import Site
from nginx_checks import Check, limits

pytestmark = pytest.mark.alone


@pytest.mark.parametrize("check", limits.RATES, ids=lambda check: check.__name__)
def test_that(check: Check, limited_site: Site) -> None:
    check(limited_site)


@pytest.mark.parametrize("check", limits.SIZES, ids=lambda check: check.__name__)
def test_of_bodies_that(check: Check, site: Site) -> None:
    check(site)
