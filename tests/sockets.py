"""Applications behind a real port, and clients of their WebSockets."""

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
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from api import PROBLEM_MEMBERS, Api, Headers
from servers import free_port
from service.app import create_app
from service.health import Health
from service.lifecycle import DrainingWorker
from service.resources import Resources, open_resources
from service.settings import Settings

SOCKET_KEYS = ("http", "ws", "ws_ping_interval", "ws_max_size", "ws_per_message_deflate")


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
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield Api(client, opened[0], app), port
        app.lifecycle.begin_drain()


async def until(condition: Callable[[], Any], *, seconds: float = 20) -> Any:
    """The first true result of a condition. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"not true within {seconds} s: {condition}")
        await asyncio.sleep(0.02)
    return result


def connecting(port: int, path: str, headers: Headers, **more: Any) -> connect:
    """A client's connection, to be awaited or used in `async with`."""
    url = f"ws://127.0.0.1:{port}{path}"
    return connect(url, additional_headers=headers, compression=None, proxy=None, **more)


async def refused(
    port: int, path: str, headers: Headers, status: int, **more: Any
) -> dict[str, Any]:
    """The problem that a handshake is refused with."""
    with pytest.raises(InvalidStatus) as refusal:
        await connecting(port, path, headers, **more)
    response = refusal.value.response
    assert response.status_code == status, response
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = dict(json.loads(response.body or b""))
    assert set(problem) >= PROBLEM_MEMBERS
    assert problem["request_id"] == response.headers["X-Request-ID"]
    return problem | {"headers": response.headers}
