"""Clients that keep their connections, as a proxy does, and count what fails."""

from __future__ import annotations

import http.client
import random
import ssl
import threading
import time
from collections import Counter

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

    def __init__(
        self,
        port: int,
        *,
        clients: int = 4,
        pause_seconds: float = 0.02,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.port = port
        self.tls = tls
        self.pause_seconds = pause_seconds
        self.failures: list[str] = []
        self.answers: Counter[str] = Counter()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    @property
    def answered(self) -> int:
        return self.answers.total()

    def _connection(self) -> http.client.HTTPConnection:
        if self.tls is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        return http.client.HTTPSConnection("localhost", self.port, timeout=20, context=self.tls)

    def _run(self) -> None:
        connection = self._connection()
        rng = random.Random()
        while not self._stop.is_set():
            method, path, body, status = rng.choice(EXCHANGES)
            began = time.monotonic()
            try:
                # To a proxy that trusts us, each request is another client's: within its limits.
                client = ".".join(str(rng.randrange(1, 255)) for _ in range(4))
                headers = {"Content-Type": "application/json", "X-Forwarded-For": client}
                connection.request(method, path, body, headers)
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
