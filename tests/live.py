"""The application behind a real port, and clients of its WebSocket."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx
import pytest
from uvicorn.config import Config
from uvicorn.server import Server
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from api import PROBLEM_MEMBERS, Api, Headers
from servers import free_port
from service.app import create_app
from service.health import Health
from service.lifecycle import DrainingWorker
from service.resources import Resources, open_resources
from service.settings import Settings

SOCKET_KEYS = ("http", "ws", "ws_ping_interval", "ws_max_size", "ws_per_message_deflate")


@asynccontextmanager
async def serving(settings: Settings, **more: Any) -> AsyncIterator[tuple[Api, int]]:
    """The application as Gunicorn's workers serve it, in the test's own loop; and its port."""
    opened: list[Resources] = []

    @asynccontextmanager
    async def opening(settings: Settings, health: Health) -> AsyncIterator[Resources]:
        async with open_resources(settings, health) as resources:
            opened.append(resources)
            yield resources

    app = create_app(settings, open_resources=opening)
    async with served(app, lifespan="on", **more) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            yield Api(client, opened[0], app), port
        app.lifecycle.begin_drain()


@asynccontextmanager
async def served(app: Any, **more: Any) -> AsyncIterator[int]:
    """Any application, as Gunicorn's workers serve it; its port."""
    port = free_port()
    options = {name: DrainingWorker.CONFIG_KWARGS[name] for name in SOCKET_KEYS} | more
    server = Server(Config(app, port=port, log_config=None, **options))
    running = asyncio.create_task(server._serve())
    try:
        await until(lambda: server.started)
        yield port
    finally:
        server.should_exit = True
        await running


async def until(condition: Callable[[], Any], *, seconds: float = 20) -> Any:
    """The first true result of a condition. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"not true within {seconds} s: {condition}")
        await asyncio.sleep(0.02)
    return result


def listening(
    port: int,
    headers: Headers,
    cursor: str | None = None,
    *,
    path: str = "/ws/media",
    **more: Any,
) -> connect:
    """A client's connection, to be awaited or used in `async with`."""
    query = "" if cursor is None else f"?cursor={cursor}"
    url = f"ws://127.0.0.1:{port}{path}{query}"
    return connect(url, additional_headers=headers, compression=None, proxy=None, **more)


async def told(socket: ClientConnection, *, seconds: float = 20) -> dict[str, Any]:
    """The next message."""
    async with asyncio.timeout(seconds):
        return dict(json.loads(await socket.recv()))


async def told_until(
    socket: ClientConnection, item_id: str, status: str, *, seconds: float = 20
) -> list[dict[str, Any]]:
    """All messages up to the one that says this of an item."""
    messages: list[dict[str, Any]] = []
    async with asyncio.timeout(seconds):
        while not messages or (messages[-1]["id"], messages[-1]["status"]) != (item_id, status):
            messages.append(await told(socket, seconds=seconds))
    return messages


class Follower:
    """A client that connects again with its newest cursor whenever its socket ends."""

    def __init__(self, headers: Headers, port: Callable[[], int]) -> None:
        """`port` is asked before each attempt."""
        self.headers = headers
        self.port = port
        self.cursor: str | None = None
        self.messages: list[dict[str, Any]] = []
        self.codes: list[int] = []
        self.refusals: list[int] = []

    @property
    def revisions(self) -> list[int]:
        return [int(message["cursor"]) for message in self.messages]

    async def follow(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async with listening(self.port(), self.headers, self.cursor) as socket:
                    await self._hear(socket)
            except InvalidStatus as error:
                self.refusals.append(error.response.status_code)
            except (OSError, InvalidMessage):
                pass  # nobody listens there any more
            await asyncio.sleep(0.05)

    async def _hear(self, socket: ClientConnection) -> None:
        try:
            while True:
                self.messages.append(dict(json.loads(await socket.recv())))
                self.cursor = self.messages[-1]["cursor"]
        except ConnectionClosed:
            self.codes.append(socket.close_code or 0)


@asynccontextmanager
async def following(headers: Headers, port: Callable[[], int]) -> AsyncIterator[Follower]:
    follower = Follower(headers, port)
    task = asyncio.create_task(follower.follow())
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.wait({task})


async def refused(
    port: int, headers: Headers, status: int, cursor: str | None = None, **more: Any
) -> dict[str, Any]:
    """The problem that a handshake is refused with."""
    with pytest.raises(InvalidStatus) as refusal:
        await listening(port, headers, cursor, **more)
    response = refusal.value.response
    assert response.status_code == status, response
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = dict(json.loads(response.body or b""))
    assert set(problem) >= PROBLEM_MEMBERS
    assert problem["request_id"] == response.headers["X-Request-ID"]
    return problem | {"headers": response.headers}
