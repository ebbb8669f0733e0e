"""One instance of the web process: it can be stopped, killed and taken over by a new master."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx

from servers import Web, children, has_ended, wait_until

WORKERS = 2
READY_SECONDS = 60.0


@dataclass
class Instance:
    """Gunicorn with its workers. Its master may change: a new one can take over (USR2)."""

    web: Web

    def start(self) -> Instance:
        self.web.start(wait=None)
        return self.wait_until_ready()

    def wait_until_ready(self) -> Instance:
        wait_until(self._complete, seconds=READY_SECONDS, every=0.1)
        return self

    def _complete(self) -> bool:
        with suppress(OSError, ValueError, httpx.HTTPError):
            return len(self.workers()) == WORKERS and self.ask("/health/ready").status_code == 200
        return False

    def ask(self, path: str) -> httpx.Response:
        """The answer to a GET, not through nginx."""
        bind = self.web.environment["BIND"]
        path_of_socket = bind.removeprefix("unix:") if bind.startswith("unix:") else None
        with httpx.Client(transport=httpx.HTTPTransport(uds=path_of_socket)) as client:
            return client.get(self.web.url + path, timeout=5)

    @property
    def pidfile(self) -> Path:
        return self.web.directory / "pid"

    @property
    def master(self) -> int:
        """Its process id. Raises TimeoutError where none runs."""
        found: int = wait_until(self._read_pidfile, seconds=2)
        return found

    def _read_pidfile(self) -> int | None:
        with suppress(FileNotFoundError, ValueError):  # at a reload Gunicorn writes it anew
            return int(self.pidfile.read_text())
        return None

    def workers(self) -> list[int]:
        return children(self.master)

    @property
    def workers_started(self) -> int:
        return self.web.log.count("Booting worker with pid")

    def send_signal(self, number: int) -> None:
        os.kill(self.master, number)

    def stop(self, number: int = signal.SIGTERM, *, seconds: float = 60) -> None:
        """Nothing happens where it does not run."""
        try:
            master = self.master
            os.kill(master, number)
        except (TimeoutError, ProcessLookupError):
            return
        if self.web.process and self.web.process.pid == master:
            self.web.process.wait(seconds)
        wait_until(lambda: has_ended(master), seconds=seconds, every=0.05)
