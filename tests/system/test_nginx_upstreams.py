"""The way from the proxy to the app, while the app is slow, away or being replaced."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nginx import Site, running_site
from nginx_checks import BACKUP, PAIR, Check, upstreams

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def pair(nginx_kind: str, nginx_directory: Path) -> Iterator[Site]:
    """Two upstreams, and a deadline that a test can wait for."""
    directory = nginx_directory / f"pair-{nginx_kind}"
    with running_site(directory, nginx_kind, PAIR, (upstreams.SHORT_READ,)) as running:
        yield running


@pytest.fixture(scope="module")
def with_backup(nginx_kind: str, nginx_directory: Path) -> Iterator[Site]:
    with running_site(nginx_directory / f"backup-{nginx_kind}", nginx_kind, BACKUP) as running:
        yield running


@pytest.mark.parametrize("check", upstreams.SINGLE, ids=lambda check: check.__name__)
def test_that(check: Check, site: Site) -> None:
    check(site)


@pytest.mark.parametrize("check", upstreams.PAIRED, ids=lambda check: check.__name__)
def test_with_two_that(check: Check, pair: Site) -> None:
    check(pair)


@pytest.mark.parametrize("check", upstreams.WITH_BACKUP, ids=lambda check: check.__name__)
def test_with_a_backup_that(check: Check, with_backup: Site) -> None:
    check(with_backup)
