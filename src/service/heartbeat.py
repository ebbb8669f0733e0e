"""The database check: on a connection of its own, so that it never waits for the pool."""

import asyncio
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Protocol

import asyncpg
from sqlalchemy import URL

from service.checks import InThread
from service.database_url import pool_url
from service.settings import Settings

log = logging.getLogger(__name__)

CONNECT_MESSAGES = 5  # to connect, for TLS or none, to start, and two to log in


class Heartbeat(Protocol):
    """The database check, on a connection of its own, so that it never waits for the pool."""

    async def beat(self) -> None: ...
    def abort(self) -> None: ...
    async def close(self) -> None: ...


class PostgresqlHeartbeat:
    """`SELECT 1` on one autocommit connection, made anew when it is lost; the way requests go.

    Connecting takes several messages to and fro, and a beat's deadline is meant for one: so the
    connection is made by a task of its own, which outlives the beat that began it. Else a slow
    server would never be reached at all.
    """

    def __init__(self, settings: Settings, url: URL) -> None:
        self.pooled = settings.pooled
        _, self.arguments = url.get_dialect()().create_connect_args(url)
        self.connect_seconds = CONNECT_MESSAGES * settings.health_database_timeout_seconds
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._connecting: asyncio.Task[None] | None = None

    async def beat(self) -> None:
        """Raises what the driver raises where the server does not answer."""
        connection = self._connection
        if connection is not None and not connection.is_closed():
            try:
                await connection.execute("SELECT 1")  # one message each way, unlike fetchval
            except Exception:
                # Perhaps only this connection is lost, by a failover or a router that forgot it.
                log.debug("heartbeat_reconnects", exc_info=True)
                self.abort()
            else:
                return
        await self._connected()

    async def _connected(self) -> None:
        """A server that lets us in has answered: no need to ask it again. A pooler may do that
        while there is no server."""
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect(), name="heartbeat connects")
            self._connecting.add_done_callback(_forget)
        await asyncio.wait({self._connecting})
        self._connecting.result()

    async def _connect(self) -> None:
        self._connection = await asyncpg.connect(
            **self.arguments,
            timeout=self.connect_seconds,
            server_settings={"application_name": "service-health"},
            statement_cache_size=0,
        )
        if self.pooled:
            await self._connection.execute("SELECT 1", timeout=self.connect_seconds)

    def abort(self) -> None:
        """Drop the connection without a word: a server that is frozen would not answer a goodbye.

        Done before the run is cancelled, as asyncpg's cancellation opens another connection.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        if self._connecting is not None and not self._connecting.done():
            self._connecting.cancel()
            await asyncio.wait({self._connecting})
        self.abort()


def _forget(connecting: asyncio.Task[None]) -> None:
    if not connecting.cancelled():
        connecting.exception()  # no beat may be left to look at it


class SqliteHeartbeat:
    """Reads the file anew each time: a file that is gone or locked for good is noticed."""

    def __init__(self, settings: Settings, url: URL) -> None:
        self.path = url.database or ":memory:"
        self.timeout_seconds = settings.health_database_timeout_seconds
        self._read_in_thread = InThread(self._read)

    async def beat(self) -> None:
        await self._read_in_thread()

    def _read(self) -> None:
        uri = f"{Path(self.path).resolve().as_uri()}?mode=rw"  # does not make a missing file
        with closing(sqlite3.connect(uri, uri=True, timeout=self.timeout_seconds)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()

    def abort(self) -> None:
        return None

    async def close(self) -> None:
        return None


def make_heartbeat(settings: Settings) -> Heartbeat:
    url = pool_url(settings)
    sqlite = url.get_backend_name() == "sqlite"
    return SqliteHeartbeat(settings, url) if sqlite else PostgresqlHeartbeat(settings, url)
