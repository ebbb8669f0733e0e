"""What the proxy keeps of public answers, for whom and for how long."""

import pytest

from nginx import Site
from nginx_checks import Check, caching

pytestmark = pytest.mark.alone


@pytest.mark.parametrize("check", caching.CHECKS, ids=lambda check: check.__name__)
def test_that(check: Check, site: Site) -> None:
    check(site)
