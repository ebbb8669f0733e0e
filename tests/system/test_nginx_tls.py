"""TLS, and the versions of HTTP above it."""

import pytest

from conftest import require
from nginx import Site
from nginx_checks import Check, tls


@pytest.mark.parametrize("check", tls.CHECKS, ids=lambda check: check.__name__)
def test_that(check: Check, site: Site) -> None:
    check(site)


@pytest.mark.parametrize("check", tls.SCANS, ids=lambda check: check.__name__)
def test_as_sslscan_sees_it(check: Check, site: Site) -> None:
    require(tls.sslscan(), "sslscan")
    check(site)


@pytest.mark.parametrize("nginx_kind", ["image"], indirect=True)
@pytest.mark.parametrize("check", tls.IMAGE_CHECKS, ids=lambda check: check.__name__)
def test_of_the_newest_that(check: Check, site: Site) -> None:
    check(site)
