"""Reloads, and upstreams that move, while clients ask."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator

from nginx import Nginx, Site
from servers import wait_until

REQUESTS = (("GET", b""), ("POST", b"x" * 1000))


class Clients:
    """A few that keep their connections. Anything but an answer with 200 is a failure, but for a
    connection that nginx said it would close."""

    def __init__(self, nginx: Nginx, clients: int = 6) -> None:
        self.nginx = nginx
        self.answered = 0
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(30)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self.nginx.connect() as connection:
                    while not self._stop.wait(0.005) and self._ask(connection):
                        pass
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))

    def _ask(self, connection: object) -> bool:
        """Ask once; whether the connection may be used again."""
        method, body = REQUESTS[self.answered % 2]
        head = self.nginx.head(method, "/steady", f"Content-Length: {len(body)}")
        connection.sendall(head + body)  # type: ignore[attr-defined]
        answer = http.client.HTTPResponse(connection)  # type: ignore[arg-type]
        answer.begin()
        answer.read()
        self.answered += 1
        if answer.status != 200:
            self.failures.append(f"{method}: {answer.status}")
        return not answer.will_close


def a_reload_fails_no_request(site: Site) -> None:
    clients = Clients(site.nginx)
    with clients.running():
        for _ in range(5):
            time.sleep(0.6)
            site.nginx.run("-s", "reload")
        answered = clients.answered
        wait_until(lambda: clients.answered > max(answered + 50, 200), seconds=30)
    assert clients.failures == []
