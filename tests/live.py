"""Clients that are told of items as they change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

import sockets
from api import Headers
from sockets import connecting

PATH = "/ws/media"


START = "0"  # nothing was told yet


def listening(port: int, headers: Headers, cursor: str | None = START, **more: Any) -> connect:
    """A client's connection, to be awaited or used in `async with`."""
    return connecting(port, path(cursor), headers, **more)


def path(cursor: str | None) -> str:
    return PATH if cursor is None else f"{PATH}?cursor={cursor}"


async def refused(
    port: int, headers: Headers, status: int, cursor: str | None = None, **more: Any
) -> dict[str, Any]:
    """The problem that a handshake is refused with."""
    return await sockets.refused(port, path(cursor), headers, status, **more)


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
        self.cursor = START
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
