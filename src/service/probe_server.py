"""The worker's probes and metrics, on an address of their own: it serves nothing else."""

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator

from starlette.types import Receive, Scope, Send
from uvicorn import Config, Server

from service import metrics
from service.health import Health, Probes, answer
from service.protocol import BoundedHttp

STOP_SECONDS = 1


class _Server(Server):
    """Uvicorn without its signal handlers: those are the worker's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serve_probes(listener: socket.socket, health: Health) -> AsyncIterator[None]:
    """Answer `/health...` and `/metrics` beside a block, and close the listener at its end."""
    endpoints = {**Probes(health).paths, "/metrics": metrics.endpoint}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if endpoint := endpoints.get(scope["path"]):
            await endpoint(scope, receive, send)
        else:
            await answer(scope, send, 404, b"")

    config = Config(
        app,
        http=BoundedHttp,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    server = _Server(config)
    with contextlib.closing(listener):
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield
        finally:
            server.should_exit = True
            await asyncio.wait({serving}, timeout=2 * STOP_SECONDS)


def listen(bind: str) -> socket.socket:
    """A socket at `host:port` or `unix:/path`. Raises OSError."""
    if bind.startswith("unix:"):
        path = bind[5:]
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode):
                os.unlink(path)  # left by a worker that was killed
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        return listener
    host, _, port = bind.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host.strip("[]"), int(port)), family=family)
