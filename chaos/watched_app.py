"""The application with one path more, which tells what is alive in the worker that serves it."""

import asyncio
import gc
import json
import os
from typing import Any

import service.app


class WatchedApp:
    """Answers `/alive` with its process id, and how many tasks and objects there are."""

    refusal = None  # it answers a path that the application would never hear of

    def __init__(self, app: Any) -> None:
        self.app = app

    def __getattr__(self, name: str) -> Any:
        return getattr(self.app, name)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/alive":
            await self.app(scope, receive, send)
            return
        body = json.dumps(alive()).encode()
        headers = [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def alive() -> dict[str, int]:
    """What is left after garbage is collected, in this process."""
    gc.collect()
    found = {"tasks": len(asyncio.all_tasks()), "objects": len(gc.get_objects())}
    return found | {"pid": os.getpid()}


def create_app() -> WatchedApp:
    return WatchedApp(service.app.create_app())
