"""What the proxy adds to every answer, and the answers that are its own."""

import pytest

from nginx import Site
from nginx_checks import Check, answers


@pytest.mark.parametrize("check", answers.CHECKS, ids=lambda check: check.__name__)
def test_that(check: Check, site: Site) -> None:
    check(site)
