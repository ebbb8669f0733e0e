"""What is measured against what. Each factory is given to Gunicorn under the shipped configuration,
so that every application runs in the same worker."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from service.app import Service, create_app
from service.database import engine_url
from service.lifecycle import Lifecycle
from service.settings import load

OK = [(b"content-type", b"application/json"), (b"content-length", b"2")]


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


class RawQuery:
    """One indexed row by asyncpg behind raw ASGI: the least that can answer `who am I`."""

    QUERY = (
        "SELECT a.id::text, a.email FROM accounts a JOIN tokens t ON t.account_id = a.id"
        " WHERE t.digest = $1 AND t.expires_at > now()"
    )

    def __init__(self) -> None:
        self.settings = load().settings
        self.lifecycle = Lifecycle()
        self.digest = bytes.fromhex(os.environ["BENCH_TOKEN_DIGEST"])
        self.pool: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        async with self.pool.acquire() as connection:
            row = await connection.fetchrow(self.QUERY, self.digest)
        body = f'{{"id":"{row[0]}","email":"{row[1]}"}}'.encode()
        headers = [OK[0], (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        url = self.settings.database_url.get_secret_value()
        size = self.settings.database_pool_size
        self.pool = await asyncpg.create_pool(url, min_size=size, max_size=size)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.pool.close()
        await send({"type": "lifespan.shutdown.complete"})


def raw_query() -> RawQuery:
    return RawQuery()
