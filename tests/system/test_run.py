"""`make run` without containers, as on a bare machine."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from servers import (
    ROOT,
    Postgresql,
    RedisServer,
    as_at_a_terminal,
    clean_environment,
    free_port,
    require,
    wait_until,
)
from stack import copy_checkout


class Run:
    """`make run` in a terminal."""

    def __init__(self, directory: Path, *arguments: str, **environment: str) -> None:
        self.port = free_port()
        self.log = directory / "run.log"
        variables = clean_environment(BIND=f"127.0.0.1:{self.port}", **environment)
        variables |= {"SHUTDOWN_DRAIN_SECONDS": "0.2"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["make", "--no-print-directory", "run", *arguments],
                cwd=directory,
                env=variables,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=as_at_a_terminal,
            )

    @property
    def printed(self) -> str:
        return self.log.read_text()

    def url(self) -> str:
        """The address it prints, once it serves there."""

        def serves() -> str:
            if self.process.poll() is not None:
                raise RuntimeError(self.printed)
            found = re.search(r"^url: +(\S+)$", self.printed, re.MULTILINE)
            with contextlib.suppress(httpx.HTTPError):
                if found and httpx.get(f"{found[1]}/health/ready").status_code == 200:
                    return found[1]
            return ""

        url: str = wait_until(serves, seconds=60)
        return url

    def processes(self) -> list[str]:
        """Command lines of everything it started that still runs."""
        command = ["ps", "-o", "args=", "-s", str(self.process.pid)]
        lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
        return [line for line in lines if "<defunct>" not in line]

    def stop(self, number: int = signal.SIGINT) -> int:
        """Ctrl-C, which the terminal sends to the whole group."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        return self.process.wait(30)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy with the environment of this one, which make leaves as it is: renewed from here, it
    would lose its own package with the copy."""
    require((ROOT / ".venv" / "runtime").exists(), "make .venv/runtime")
    copy_checkout(tmp_path)
    for name in ("requirements.txt", "requirements-build.txt", "pyproject.toml"):
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    return tmp_path


@pytest.fixture
def embedded(checkout: Path) -> Iterator[Run]:
    run = Run(checkout, "MODE=embedded")
    yield run
    run.stop()


def test_embedded_says_what_it_chose_and_serves(embedded: Run) -> None:
    assert embedded.url() == f"http://127.0.0.1:{embedded.port}"
    assert "mode: embedded (SQLite" in embedded.printed
    url = embedded.url()
    wait_until(lambda: httpx.get(f"{url}/health").json()["status"] == "healthy")


def test_ctrl_c_ends_everything(embedded: Run) -> None:
    embedded.url()
    embedded.stop()
    assert embedded.processes() == []
    end = embedded.printed.partition("Handling signal: int")[2]
    assert "Shutting down: Master" in end
    assert not re.search(r"^\S+ (warning|error) ", end, re.MULTILINE), end


def test_servers_of_the_environment_are_used_with_a_worker_beside(
    checkout: Path, shared_postgresql: Postgresql, shared_redis: RedisServer
) -> None:
    url = shared_postgresql.new_database()
    run = Run(checkout, DATABASE_URL=url, REDIS_URL=shared_redis.url)
    try:
        run.url()
        assert "mode: this machine" in run.printed
        wait_until(lambda: any("service worker" in line for line in run.processes()))
    finally:
        run.stop()
    assert run.processes() == []


def test_the_environment_is_not_renewed_from_a_copy(checkout: Path) -> None:
    made = subprocess.run(
        ["make", "--question", ".venv/runtime"], cwd=checkout, capture_output=True
    )
    assert made.returncode == 0


def test_a_mode_that_is_not_known_is_refused(checkout: Path) -> None:
    run = Run(checkout, "MODE=nonsense")
    assert run.process.wait(10) == 2
    assert "expected auto, containers or embedded" in run.printed


def test_a_wrong_setting_ends_it_with_a_word(checkout: Path) -> None:
    run = Run(checkout, "MODE=embedded", DATABASE_POOL_SIZE="many")
    assert run.process.wait(20) == 2  # what make says of any failure
    assert "DATABASE_POOL_SIZE" in run.printed
