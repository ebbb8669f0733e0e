"""What the app is told of a request, who is let in where, and what the logs keep."""

from pathlib import Path

import pytest

from nginx import Site, running_site
from nginx_checks import FOREIGN, Check, identity

pytestmark = pytest.mark.alone


@pytest.mark.parametrize("check", identity.CHECKS, ids=lambda check: check.__name__)
def test_that(check: Check, site: Site) -> None:
    check(site)


@pytest.mark.parametrize("check", identity.LIMITED_CHECKS, ids=lambda check: check.__name__)
def test_with_a_load_balancer_that(check: Check, limited_site: Site) -> None:
    check(limited_site)


def test_strangers_are_not_inside(nginx_kind: str, nginx_directory: Path) -> None:
    with running_site(nginx_directory / f"foreign-{nginx_kind}", nginx_kind, FOREIGN) as site:
        identity.strangers_are_not_inside(site)
