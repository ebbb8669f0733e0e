"""Clients that keep their connections, as a proxy does, and count what fails."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from types import TracebackType

# What is asked for, and the one right answer: a probe, a read and two writes with a body.
EXCHANGES = (
    ("GET", "/health/live", None, 200),
    ("POST", "/nowhere", b"x" * 1000, 404),
    ("GET", "/api/accounts/me", None, 401),
    ("POST", "/api/accounts/confirm", b'{"token": "short"}', 400),
)


class Traffic:
    """A few clients, each with one connection, from the beginning of a block to its end.

    A connection that the server said it would close is replaced. Anything else that does not
    bring the right answer is a failure.
    """

    def __init__(self, port: int, *, clients: int = 4, pause_seconds: float = 0.02) -> None:
        self.port = port
        self.pause_seconds = pause_seconds
        self.failures: list[str] = []
        self.answers: Counter[str] = Counter()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    @property
    def answered(self) -> int:
        return self.answers.total()

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        rng = random.Random()
        while not self._stop.is_set():
            method, path, body, status = rng.choice(EXCHANGES)
            began = time.monotonic()
            try:
                connection.request(method, path, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException) as error:
                after = time.monotonic() - began
                self.failures.append(f"{method} {path}: {error!r} after {after:.3f} s")
                connection.close()
            else:
                self.answers[f"{method} {path}"] += 1
                if response.status != status:
                    self.failures.append(f"{method} {path}: {response.status}, not {status}")
            time.sleep(rng.uniform(0, 2 * self.pause_seconds))
        connection.close()
