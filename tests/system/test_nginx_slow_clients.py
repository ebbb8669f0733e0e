"""Clients that are slow on purpose. They are waited for all at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nginx import Change, running_site
from nginx_checks import OPEN, slowness

pytestmark = pytest.mark.alone


@pytest.mark.parametrize(
    ("nginx_kind", "changes"),
    [("image", ()), ("installed", slowness.SHORT)],
    ids=["as-configured", "with-shorter-deadlines"],
    indirect=["nginx_kind"],
)
def test_slow_clients_are_dropped_and_hold_up_nobody(
    nginx_kind: str, changes: tuple[Change, ...], nginx_directory: Path
) -> None:
    with (
        running_site(nginx_directory / f"slow-{nginx_kind}", nginx_kind, OPEN, changes) as site,
        ThreadPoolExecutor(len(slowness.CHECKS)) as threads,
    ):
        begun = [threads.submit(check, site) for check in slowness.CHECKS]
        slowness.many_slow_clients_hold_up_nobody(site)
        for check in begun:
            check.result()
