"""Driving an ASGI application inside the test's own event loop."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import httpx2 as httpx


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
    """Run an application's lifespan around a block, as a server does; gives its state."""
    to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    state: dict[str, Any] = {}
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}
    running = asyncio.create_task(app(scope, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    started = await from_app.get()
    assert started["type"] == "lifespan.startup.complete", started
    try:
        yield state
    finally:
        await to_app.put({"type": "lifespan.shutdown"})
        stopped = await from_app.get()
        await running
        assert stopped["type"] == "lifespan.shutdown.complete", stopped


@asynccontextmanager
async def client_of(app: Any, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application whose lifespan runs; unhandled errors come back as answers."""
    async with lifespan(app) as state:

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "state": dict(state)}, receive, send)

        transport = httpx.ASGITransport(app=with_state, raise_app_exceptions=False)
        base_url = "http://localhost"
        async with httpx.AsyncClient(transport=transport, base_url=base_url, **more) as client:
            yield client


@dataclass(frozen=True)
class RawAnswer:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


async def ask(
    app: Any,
    state: dict[str, Any],
    method: str,
    target: bytes,
    headers: Sequence[tuple[bytes, bytes]] = (),
    body: Sequence[bytes] = (),
) -> RawAnswer:
    """One request as a server passes it on, byte by byte: no client library has tidied it up."""
    raw_path, _, query = target.partition(b"?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(raw_path.decode("ascii")),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in headers],
        "client": ("127.0.0.1", 1234),
        "server": ("127.0.0.1", 8000),
        "state": dict(state),
    }
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in body]
    messages += [{"type": "http.request", "body": b"", "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.Event().wait()  # the client stays to the end
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *rest = sent
    whole = b"".join(message.get("body", b"") for message in rest)
    return RawAnswer(start["status"], start["headers"], whole)
