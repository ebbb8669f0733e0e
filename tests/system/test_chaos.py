"""The fault suite in its short form; `make chaos` is the whole of it."""

import subprocess
import sys

import pytest

from nginx import available
from servers import ROOT, clean_environment, find_program, postgresql_program, require


@pytest.mark.timeout(900)
def test_deploys_fail_lose_and_repeat_nothing() -> None:
    """A few events, with clients connected all the while; the table says what failed."""
    require(postgresql_program("postgres"), "PostgreSQL")
    require(find_program("redis-server"), "Redis")
    require(available("image"), "nginx (image)")
    done = subprocess.run(
        [sys.executable, "-m", "chaos", "--short", "deploys"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=870,
    )
    assert done.returncode == 0, done.stdout + done.stderr
