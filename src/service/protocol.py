"""Uvicorn's HTTP protocol with bounds on a request's head, which the parser itself has not.

A proxy in front has bounds of its own. Without one, a header of 60 MB kept a worker busy for
seconds, and a client that sent half a head held its connection for ever.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import PROBLEM_JSON, problem_body

MAX_HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 30.0


class BoundedHttp(HttpToolsProtocol):
    """Answers 431 to a head that is too large; closes a connection whose head takes too long."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._in_head = True
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_in_head = self._in_head
        super().data_received(data)
        # After the parser saw it: what comes before or behind a head does not count.
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data) if was_in_head else 0
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431)
            elif self._head_timer is None:
                self._await_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        if self._in_head and not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, status: int) -> None:
        """An answer to what is no request: there is no scope, so no request id either."""
        body = problem_body(status)
        lines: list[tuple[bytes, bytes]] = [
            *self.server_state.default_headers,
            (b"content-type", PROBLEM_JSON.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        title: Any = {400: b"Bad Request", 431: b"Request Header Fields Too Large"}[status]
        head = b"".join(b"%b: %b\r\n" % line for line in dict(lines).items())
        self.transport.write(b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, title, head, body))
        self.transport.close()
