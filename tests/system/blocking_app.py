"""The application with one path more, which blocks the event loop of the worker that serves it."""

import os
import time
from typing import Any

import service.app


class BlockingApp:
    """Answers `/block` with the worker's process id, and then stands still."""

    refusal = None  # it answers a path that the application would never hear of

    def __init__(self, app: Any) -> None:
        self.app = app

    def __getattr__(self, name: str) -> Any:
        return getattr(self.app, name)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/block":
            await self.app(scope, receive, send)
            return
        body = str(os.getpid()).encode()
        headers = [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        time.sleep(60)  # noqa: ASYNC251  (this is the point)


def create_app() -> BlockingApp:
    return BlockingApp(service.app.create_app())
