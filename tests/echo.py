"""An upstream for proxies: it answers with what it was sent, counts, and fails as it is told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import socket
import struct
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loops import end_tasks, stop_listening

WEBSOCKET_KEY = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
ABORT = struct.pack("ii", 1, 0)


@dataclass
class Answer:
    """What a path is answered with; without a body, what was sent, as JSON."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    content_type: str = "application/json"
    delay_seconds: float = 0  # unless it is released before
    resets: int = 0  # how many times the connection is cut instead, once the request has been read


@dataclass
class Request:
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]

    def described(self) -> bytes:
        about = {
            "method": self.method,
            "target": self.target,
            "headers": self.headers,
            "length": len(self.body),
        }
        return json.dumps(about).encode()


@dataclass
class Echo:
    """Listens on a Unix socket, or on an address and port."""

    address: Path | tuple[str, int]
    name: str = "echo"
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    draining: bool = False
    begun: Counter[str] = field(default_factory=Counter)  # heads, by path
    sent: set[str] = field(default_factory=set)  # paths whose answer has gone out whole
    _released: dict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Echo:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Echo:
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.open(), self._loop).result(10)
        return self

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        assert self._thread
        self._thread.join(10)
        self._loop.close()

    def go_away(self) -> None:
        """Refuse connections, as while the app is replaced, and close those there are."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)

    def come_back(self) -> None:
        asyncio.run_coroutine_threadsafe(self.open(), self._loop).result(10)

    def drain(self) -> None:
        """Accept no more, and close each connection with its next answer."""

        async def stop() -> None:
            self.draining = True
            if isinstance(self.address, Path):
                self.address.unlink(missing_ok=True)
            await asyncio.sleep(0.2)  # for those who had connected and are not accepted yet
            await self._stop_listening()

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(10)

    def release(self, path: str) -> None:
        """Answer now, and from now on, what would be answered after a delay."""

        def set_it() -> None:
            self._released[path].set()

        self._loop.call_soon_threadsafe(set_it)

    @property
    def open_connections(self) -> int:
        return len(self._writers)

    def counted(self, path: str) -> int:
        return Counter(request.path for request in self.requests)[path]

    def last(self, path: str) -> Request:
        return next(request for request in reversed(self.requests) if request.path == path)

    async def open(self) -> None:
        self.draining = False
        if isinstance(self.address, Path):
            self.address.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._serve, self.address, limit=2**20)
            os.chmod(self.address, 0o666)
        else:
            host, port = self.address
            self._server = await asyncio.start_server(self._serve, host, port, limit=2**20)

    async def _stop_listening(self) -> None:
        if isinstance(self.address, Path):
            self.address.unlink(missing_ok=True)
        if self._server:
            server, self._server = self._server, None
            await stop_listening(server)

    async def _close(self) -> None:
        await self._stop_listening()
        for writer in list(self._writers):
            writer.close()

    async def _end(self) -> None:
        await self._close()
        await end_tasks()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while (request := await self._read_request(reader)) is not None:
                self.requests.append(request)
                if not await self._answer(request, reader, writer):
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        answer = self.answers.get(request.path, Answer())
        if answer.delay_seconds:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(answer.delay_seconds):
                    await self._released[request.path].wait()
        if answer.resets:
            answer.resets -= 1
            connection: Any = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            return False
        if request.values("upgrade"):
            await self._upgrade(request, reader, writer)
            return False
        tag = dict(answer.headers).get("ETag")
        if tag and tag in request.values("if-none-match"):
            answer = Answer(304, answer.headers, b"")
        body = request.described() if answer.body is None else answer.body
        lines = [f"HTTP/1.1 {answer.status} Whatever", f"X-Answered-By: {self.name}"]
        if answer.status != 304:
            lines += [f"Content-Type: {answer.content_type}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        last = self.draining or request.values("connection") == ["close"]
        if last:
            lines.append("Connection: close")
        writer.write("\r\n".join([*lines, "", ""]).encode())
        if request.method != "HEAD" and answer.status != 304:
            writer.write(body)
        await writer.drain()
        self.sent.add(request.path)
        return not last

    async def _upgrade(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        [key] = request.values("sec-websocket-key") or [""]
        accept = base64.b64encode(hashlib.sha1((key + WEBSOCKET_KEY).encode()).digest()).decode()
        lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
        writer.write("\r\n".join([*lines, f"Sec-WebSocket-Accept: {accept}", "", ""]).encode())
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()

    async def _read_request(self, reader: asyncio.StreamReader) -> Request | None:
        """The next request of a connection, or None at its end."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        headers = [(name.lower(), value) for name, value in (line.split(": ", 1) for line in lines)]
        request = Request(method, target, headers)
        self.begun[request.path] += 1
        for length in request.values("content-length"):
            request.body = await reader.readexactly(int(length))
        if request.values("transfer-encoding"):
            while size := int(await reader.readline(), 16):
                request.body += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
        return request
