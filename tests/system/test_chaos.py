"""The fault suite in its short form; `make chaos` is the whole of it."""

import subprocess
import sys

import pytest

from nginx import available
from servers import ROOT, clean_environment, find_program, postgresql_program, require

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("chaos")]


@pytest.mark.timeout(900)
def test_deploys_fail_lose_and_repeat_nothing() -> None:
    """A few events, with clients connected all the while; the table says what failed."""
    require(available("image"), "nginx (image)")
    run_part("deploys")


@pytest.mark.timeout(900)
def test_what_is_killed_loses_nothing() -> None:
    """Everything at once, a few times."""
    run_part("losses")


@pytest.mark.timeout(900)
def test_nothing_hangs() -> None:
    """A few ways in which dependencies fail, while every kind of request is asked."""
    run_part("hangs")


def run_part(name: str) -> None:
    require(postgresql_program("postgres"), "PostgreSQL")
    require(find_program("redis-server"), "Redis")
    done = subprocess.run(
        [sys.executable, "-m", "chaos", "--short", name],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=870,
    )
    assert done.returncode == 0, done.stdout + done.stderr
