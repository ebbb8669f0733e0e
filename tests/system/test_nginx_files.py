"""Files that nginx sends itself, and what it compresses."""

import pytest

from nginx import Site
from nginx_checks import Check, files


@pytest.mark.parametrize("check", files.CHECKS, ids=lambda check: check.__name__)
def test_that(check: Check, site: Site) -> None:
    check(site)
