"""Uvicorn's WebSocket protocol, with an end to clients that do not read and no word in the log of
what they send.

Its own `send` waits for such a client for ever, and `close` for what is not sent yet.
"""

import asyncio
import logging
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request
from websockets.server import ServerProtocol

BUFFER_BYTES = 16 * 1024  # unsent; beyond the kernel's own buffer
SLOW_SECONDS = 10.0  # a client that takes nothing off a full buffer for so long is dropped
SLOW, SILENT = "slow", "silent"
# Neither at level debug: the library's own lines hold headers, and so tokens.
log = logging.getLogger("uvicorn.websocket")


def is_handshake(head: bytes) -> bool:
    """Whether the library below would accept it. What it would not, that answers with words of its
    own; and a head with a body, or with more or longer fields than it takes, never."""
    conn = ServerProtocol(logger=log)
    conn.debug = False
    conn.receive_data(head)
    return any(
        isinstance(event, Request) and conn.accept(event).status_code == 101
        for event in conn.events_received()
    )


class BoundedSocket(WebSocketsSansIOProtocol):
    """Drops a client that does not read, or that answers no ping. The application then receives
    `websocket.disconnect` with the code 1006 and SLOW or SILENT for a reason."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.logger = self.conn.logger = log
        self.conn.debug = False
        self._slow_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=BUFFER_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_slow_timer()
        super().connection_lost(exc)

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True  # or each refusal is logged as an error

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_slow_timer()
        self._slow_timer = self.loop.call_later(SLOW_SECONDS, self._drop, SLOW)

    def resume_writing(self) -> None:
        self._stop_slow_timer()
        super().resume_writing()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._drop(SILENT)

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()  # no pongs are heaped up for who does not read them

    def shutdown(self) -> None:
        super().shutdown()
        if not self.writable.is_set():
            self.transport.abort()

    def _stop_slow_timer(self) -> None:
        if self._slow_timer is not None:
            self._slow_timer.cancel()
            self._slow_timer = None

    def _drop(self, reason: str) -> None:
        self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006, "reason": reason})
        self.transport.abort()
