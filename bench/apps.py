"""What is measured against what. Each factory is given to Gunicorn under the shipped configuration,
so that every application runs in the same worker."""

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import asyncpg
import orjson
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.types import Receive, Scope, Send

from service.app import Service, create_app
from service.database_url import engine_url
from service.lifecycle import Lifecycle
from service.media.listing import START
from service.settings import load

JSON = (b"content-type", b"application/json")
ACCOUNT = (
    "SELECT a.id, a.email FROM accounts a JOIN tokens t ON t.account_id = a.id"
    " WHERE t.digest = $1 AND t.expires_at > now()"
)
# media: from here
PAGE_ITEMS = 20  # without a `limit`
PAGE = (
    "SELECT id, title, filename, public, status, progress, reason, size, content_type, sha256,"
    " width, height, has_thumbnail, created_at, updated_at FROM media_items"
    " WHERE account_id = $1 AND (created_at, id) < ($2, $3)"
    " ORDER BY created_at DESC, id DESC LIMIT $4"
)
# media: to here


class Carried:
    """An application with what the worker class asks of one."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.settings = load().settings
        self.lifecycle = Lifecycle()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


def _add_trivial(api: FastAPI) -> None:
    @api.get("/trivial")
    async def trivial() -> dict[str, str]:
        return {"hello": "world"}


def full() -> Service:
    """The whole service, with one trivial route added."""
    app = create_app()
    _add_trivial(app.api)
    return app


def bare() -> Carried:
    """FastAPI and the same trivial route; nothing else."""
    api = FastAPI()
    _add_trivial(api)
    return Carried(api)


def bare_database() -> Carried:
    """FastAPI with SQLAlchemy and one readiness route, as a tutorial would write it."""
    engine = create_async_engine(engine_url(load().settings))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    api = FastAPI(lifespan=lifespan)

    @api.get("/health/ready")
    async def ready() -> dict[str, str]:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
        return {"status": "pass"}

    return Carried(api)


class Raw:
    """One coroutine behind raw ASGI, with a pool of asyncpg and nothing else."""

    def __init__(self, answer: Callable[[Any, Scope], Awaitable[bytes]]) -> None:
        self.settings = load().settings
        self.lifecycle = Lifecycle()
        self.answer = answer
        self.pool: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        alive = scope["path"] == "/health/live"
        body = b"{}" if alive else await self.answer(self.pool, scope)
        headers = [JSON, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        url = self.settings.database_url.get_secret_value()
        size = self.settings.database_pool_size
        self.pool = await asyncpg.create_pool(url, min_size=size, max_size=size)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.pool.close()
        await send({"type": "lifespan.shutdown.complete"})


def raw_query() -> Raw:
    """One indexed row: the least that can answer `who am I`."""
    digest = bytes.fromhex(os.environ["BENCH_TOKEN_DIGEST"])

    async def answer(pool: Any, _: Scope) -> bytes:
        async with pool.acquire() as connection:
            row = await connection.fetchrow(ACCOUNT, digest)
        return f'{{"id":"{row[0]}","email":"{row[1]}"}}'.encode()

    return Raw(answer)


# media: from here
def raw_list() -> Raw:
    """The bytes of `GET /api/media`, with the token's lookup, by two statements on a connection."""
    return Raw(_list)


async def _list(pool: Any, scope: Scope) -> bytes:
    token = dict(scope["headers"])[b"authorization"].removeprefix(b"Bearer ")
    async with pool.acquire() as connection:
        account = await connection.fetchrow(ACCOUNT, hashlib.sha256(token).digest())
        rows = await connection.fetch(PAGE, account[0], *START, PAGE_ITEMS + 1)
    assert len(rows) <= PAGE_ITEMS  # so there is no next page, and no cursor
    page = {"items": [_item(row) for row in rows], "next_cursor": None}
    return orjson.dumps(page, option=orjson.OPT_UTC_Z)


def _item(row: Any) -> dict[str, Any]:
    item = dict(row)
    item["id"] = item_id = str(item["id"])
    item["sha256"] = item["sha256"].hex()
    item["url"] = f"/media/{item_id}/{quote(item['filename'], safe='')}"
    item["thumbnail_url"] = f"/media/{item_id}/thumbnail" if item.pop("has_thumbnail") else None
    item["created_at"] = item.pop("created_at")
    item["updated_at"] = item.pop("updated_at")
    return item


# media: to here
