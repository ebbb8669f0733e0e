"""One instance of the web process: it can be stopped, killed and taken over by a new master."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx

from servers import Web, children, has_ended, wait_until

WORKERS = 2
READY_SECONDS = 120.0
STOP_SECONDS = 60.0


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
    def successor(self) -> Path:
        """Where a second master writes its process id until the first has ended."""
        return self.pidfile.with_name(f"{self.pidfile.name}.2")

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

    def stop(self) -> None:
        """SIGTERM, and wait for its end."""
        master = self.master
        os.kill(master, signal.SIGTERM)
        wait_until(lambda: has_ended(master), seconds=STOP_SECONDS, every=0.05)

    def end(self) -> None:
        """At once, and also a master that was about to take over."""
        for path in (self.pidfile, self.successor):
            with suppress(FileNotFoundError, ValueError, ProcessLookupError):
                os.kill(master := int(path.read_text()), signal.SIGQUIT)
                kill(children(master))  # stock ones take half a minute
                wait_until(lambda pid=master: has_ended(pid), seconds=READY_SECONDS)
        self.web.stop()


def kill(processes: Iterable[int]) -> None:
    """SIGKILL, also to what may have ended by now."""
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
