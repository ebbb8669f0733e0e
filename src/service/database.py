"""The database: PostgreSQL, or SQLite on a bare machine. One engine a process."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from threading import Thread
from typing import Any
from weakref import WeakSet

import aiosqlite
from sqlalchemy import (
    URL,
    DateTime,
    Dialect,
    MetaData,
    TypeDecorator,
    event,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import QueuePool

from service import driver
from service.database_errors import connecting, translate
from service.database_pool import InOrder
from service.database_time import InTime, Silence
from service.database_url import make_file, pool_url
from service.settings import Settings

log = logging.getLogger(__name__)

POOL_LOOKS = 5
POOL_LOOK_SECONDS = 0.01
CLOSE_SECONDS = 2.0
CLOSE_LOOK_SECONDS = 0.005

# https://alembic.sqlalchemy.org/en/latest/naming.html
NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Base of all models."""

    metadata = MetaData(naming_convention=NAMES)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment with its time zone on every database: SQLite would forget that it is UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)


class PoolExhausted(Exception):
    """Requests hold every connection of the pool."""


def _postgresql_engine(settings: Settings, url: URL) -> AsyncEngine:
    engine = create_async_engine(
        url,
        poolclass=InOrder,
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=settings.database_pool_timeout_seconds,
        pool_recycle=1800,
        isolation_level="READ COMMITTED" if settings.pooled else "AUTOCOMMIT",
        hide_parameters=True,  # or errors print them: password hashes, tokens
        connect_args=driver.connect_arguments(settings),
    )

    @event.listens_for(engine.sync_engine, "checkout")
    def refuse_closed(connection: Any, _record: Any, _fairy: Any) -> None:
        # After the server was restarted: the pool connects anew, and no request has to fail.
        # The driver has seen the end of the connection, so this asks nobody.
        if connection.driver_connection.is_closed():
            raise DisconnectionError

    return engine


def _sqlite_engine(settings: Settings, url: URL) -> AsyncEngine:
    make_file(url)
    engine = create_async_engine(
        url,
        poolclass=InOrder,
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=settings.database_pool_timeout_seconds,
        hide_parameters=True,
        connect_args={"timeout": settings.database_statement_timeout_seconds},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA synchronous = FULL")  # what was answered survives a power cut
        cursor.close()

    return engine


class Database:
    """Connections for requests and jobs, from one bounded pool."""

    def __init__(self, settings: Settings, engine: AsyncEngine) -> None:
        self.settings = settings
        self.engine = engine
        self.silence = Silence()
        # The engine's own level is autocommit, so that the many single reads set none.
        # SQLite's driver begins a transaction at the first write, and sets a level in a thread.
        level = {"isolation_level": "READ COMMITTED"} if self.is_postgresql else {}
        transactional = engine.execution_options(**level)
        self.sessions = async_sessionmaker(transactional, expire_on_commit=False)

    @property
    def is_postgresql(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    def insert(self, model: type[Base]) -> postgresql.Insert | sqlite.Insert:
        """An INSERT that knows ON CONFLICT, which each database has in a dialect of its own."""
        return (postgresql.insert if self.is_postgresql else sqlite.insert)(model)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A session whose work is committed at the end of the block, or not at all.

        Raises DatabaseUnavailable where the database is away.
        """
        async with InTime(self.silence), self.sessions.begin() as session:
            with connecting():
                await session.connection()
            yield session

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection for single statements that change nothing: no BEGIN, no COMMIT, unless
        a pooler needs them.

        Raises DatabaseUnavailable where the database is away.
        """
        async with InTime(self.silence):
            connection = self.engine.connect()
            with connecting():
                await connection.start()
            try:
                yield connection
            finally:
                await asyncio.shield(connection.close())

    @property
    def pool_in_use(self) -> int:
        pool = self.engine.pool
        return pool.checkedout() if isinstance(pool, QueuePool) else 0

    async def check_pool(self) -> None:
        """Raises PoolExhausted where the next request would have to wait for a connection.

        A busy pool is full for a moment now and then: it has to stay full for as long as several
        looks take. That of a database that is silent is full of those who wait for it, which is
        no matter of its size.
        """
        if self.silence.silent:
            return
        for _ in range(POOL_LOOKS):
            if self.pool_in_use < self.settings.database_pool_size:
                return
            await asyncio.sleep(POOL_LOOK_SECONDS)
        raise PoolExhausted


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """The engine of this process. Nothing is connected before the first use."""
    url = pool_url(settings)
    make = _postgresql_engine if url.get_backend_name() == "postgresql" else _sqlite_engine
    engine = make(settings, url)
    translate(engine)
    database = Database(settings, engine)
    threads = WeakSet[Thread]() if database.is_postgresql else _sqlite_threads(engine)
    try:
        yield database
    finally:
        end = time.monotonic() + CLOSE_SECONDS
        await _all_returned(database, end)
        await engine.dispose()
        await asyncio.to_thread(_join, threads, end)


async def _all_returned(database: Database, end: float) -> None:
    """A connection comes back on its own where its user is cancelled meanwhile. One that came back
    after the pool is disposed of would never be closed."""
    while database.pool_in_use and time.monotonic() < end:  # noqa: ASYNC110  (the pool tells nobody)
        await asyncio.sleep(CLOSE_LOOK_SECONDS)


def _sqlite_threads(engine: AsyncEngine) -> WeakSet[Thread]:
    """The threads of all connections from here on."""
    threads = WeakSet[Thread]()

    def connect(*arguments: Any, **named: Any) -> aiosqlite.Connection:
        connection = aiosqlite.connect(*arguments, **named)
        connection._thread.daemon = True  # noqa: SLF001  (as SQLAlchemy does)
        threads.add(connection._thread)  # noqa: SLF001
        return connection

    @event.listens_for(engine.sync_engine, "do_connect")
    def note(_dialect: Any, _record: Any, _arguments: Any, named: dict[str, Any]) -> None:
        named["async_creator_fn"] = connect

    return threads


def _join(threads: Iterable[Thread], end: float) -> None:
    """A statement that was cancelled ends later, in the thread of its connection, which then tells
    the loop so: the loop has to outlive it."""
    for thread in tuple(threads):
        thread.join(max(0, end - time.monotonic()))
