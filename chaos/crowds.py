"""Crowds of clients that want next to nothing, and hold what they have: slow readers, slow writers,
connections that were begun and left, WebSockets on which nothing happens."""

import asyncio
import base64
import json
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, cast

import uvloop

from chaos.people import address, bearer

HANDSHAKES = 24  # at once: fewer than one worker works on, as what waits may be refused
TRICKLE_SECONDS = 1.0
RECEIVE_BYTES = 4096
OPENED_SECONDS = 120.0
PING, TEXT = 0x89, 0x81


class Client(asyncio.Protocol):
    """Says `greeting`, and `greeted` is set; one that is `deaf` reads nothing of the answer."""

    def __init__(self, greeting: bytes, *, deaf: bool = False) -> None:
        self.greeting = greeting
        self.deaf = deaf
        self.closed = False
        self.greeted = asyncio.Event()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self.transport.write(self.greeting)
        if self.deaf:
            self.transport.pause_reading()
        self._is_greeted()

    def _is_greeted(self) -> None:
        self.greeted.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.greeted.set()


class Socket(Client):
    """An idle WebSocket: it answers pings, and counts what it is told."""

    def __init__(self, greeting: bytes, account: int) -> None:
        super().__init__(greeting)
        self.account = account
        self.status = 0
        self.messages: list[dict[str, Any]] = []
        self._received = bytearray()

    def _is_greeted(self) -> None:
        """Not before its handshake is answered."""

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self.status and (end := self._received.find(b"\r\n\r\n")) >= 0:
            self.status = int(self._received[9:12])
            self.greeted.set()
            del self._received[: end + 4]
        while self.status == 101 and len(self._received) > 1:
            length, begin = self._received[1], 2
            if length == 126:
                length, begin = int.from_bytes(self._received[2:4]), 4
            if len(self._received) < begin + length:
                return
            self._take(self._received[0], bytes(self._received[begin : begin + length]))
            del self._received[: begin + length]

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == PING and self.transport is not None:
            # Masked, as all that clients send (RFC 6455 section 5.3), by zeros.
            self.transport.write(bytes((0x8A, 0x80 | len(payload), 0, 0, 0, 0)) + payload)
        elif kind == TEXT:
            self.messages.append(json.loads(payload))


def handshake(token: str, client: int) -> bytes:
    """The head that opens a WebSocket."""
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    lines = [
        "GET /ws/media HTTP/1.1",
        "Host: localhost",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        bearer(token),
        address(client),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


class Crowd:
    """Clients in a thread of their own."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.clients: list[Any] = []
        self.loop = uvloop.new_event_loop()
        self._tls = ssl.create_default_context()
        self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE

    @property
    def open(self) -> int:
        return sum(not client.closed for client in self.clients)

    def add(self, make: Callable[[int], Client], count: int) -> None:
        """Connect so many, and wait until each has said its greeting."""
        self._run(self._add(make, count))

    def trickle(self, data: bytes) -> None:
        """Every client goes on to send this now and then."""
        self.loop.call_soon_threadsafe(self._trickle, data)

    def leave(self) -> None:
        async def abort() -> None:
            for client in self.clients:
                client.transport.abort()

        self._run(abort())
        self.clients.clear()

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(OPENED_SECONDS)

    async def _add(self, make: Callable[[int], Client], count: int) -> None:
        turns = asyncio.Semaphore(HANDSHAKES)

        async def connect(number: int) -> None:
            raw = socket.socket()
            raw.setblocking(False)
            client = make(number)
            if client.deaf:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            async with turns:
                await self.loop.sock_connect(raw, ("127.0.0.1", self.port))
                await self.loop.create_connection(
                    lambda: client, sock=raw, ssl=self._tls, server_hostname="localhost"
                )
                await client.greeted.wait()
            self.clients.append(client)

        await asyncio.gather(*map(connect, range(count)))

    def _trickle(self, data: bytes) -> None:
        for client in self.clients:
            if not client.closed:
                client.transport.write(data)
        self.loop.call_later(TRICKLE_SECONDS, self._trickle, data)


@contextmanager
def crowd(port: int) -> Iterator[Crowd]:
    found = Crowd(port)
    thread = threading.Thread(target=found.loop.run_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.leave()
        found.loop.call_soon_threadsafe(found.loop.stop)
        thread.join(10)
