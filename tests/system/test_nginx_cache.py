"""What the proxy keeps of public answers, for whom and for how long."""

from collections.abc import Callable  # media

import pytest

from nginx import Site
from nginx_checks import Check, caching

pytestmark = pytest.mark.alone


@pytest.mark.parametrize("check", caching.CHECKS, ids=lambda check: check.__name__)
def test_that(check: Check, site: Site) -> None:
    check(site)


# media: from here
def test_made_up_pages_push_out_no_preview(nginx_kind: str, make_site: Callable[..., Site]) -> None:
    caching.made_up_pages_push_out_no_preview(make_site(nginx_kind, None, *caching.SMALL))


# media: to here
