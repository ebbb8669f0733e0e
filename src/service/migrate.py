"""`service migrate`: brings the schema to the newest revision, whoever else is at it."""

import asyncio
import fcntl
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, event, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from service.database_errors import connecting, root
from service.database_url import engine_url, make_file
from service.settings import Settings

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
LOCK = 7_261_893_045  # any number that no other application of the database uses
POLL_SECONDS = 0.25
LOCK_SECONDS = 0.5  # longest wait for a table, in which all others wait for it as well
LOCK_PAUSE_SECONDS = 2.0
LOCK_NOT_AVAILABLE = "55P03"


def alembic_config() -> Config:
    """Alembic's configuration; there is no ini file to keep in step."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def outdated(revision: str | None) -> bool:
    """Whether a schema is older than this code. That of a newer release is taken to be compatible,
    as it has to be while one release replaces another."""
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    return revision is None or (revision != head and not newer(revision))


def newer(revision: str | None) -> bool:
    """Whether a schema is that of a newer release, of which this code knows nothing."""
    scripts = ScriptDirectory.from_config(alembic_config())
    return revision not in {None, *(script.revision for script in scripts.walk_revisions())}


async def current_revision(engine: AsyncEngine) -> str | None:
    """The schema's revision; None for an empty database."""
    async with engine.connect() as connection:
        return await connection.run_sync(
            lambda sync: MigrationContext.configure(sync).get_current_revision()
        )


async def migrate(settings: Settings) -> tuple[str | None, str | None]:
    """(revision before, revision after). Raises DatabaseUnavailable, or what a migration raises.

    There is no way down: a release that fails is followed by a better one, or by the one before,
    which leaves a newer schema as it is.
    """
    engine = _engine(settings)
    turn = _sqlite_turn if engine.dialect.name == "sqlite" else _postgresql_turn
    try:
        with connecting():
            await (await engine.connect()).close()
        async with turn(engine):
            before = await current_revision(engine)
            if newer(before):
                return before, before
            await _upgrade(engine)
            return before, await current_revision(engine)
    finally:
        await engine.dispose()


async def _upgrade(engine: AsyncEngine) -> None:
    """Where somebody holds on to a table, such as a backup, the migration that needs it is given up
    and tried again, until it is free."""
    while True:
        try:
            async with engine.connect() as connection:
                await connection.run_sync(_upgrade_now)
        except DBAPIError as error:
            if getattr(root(error), "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
            log.info("migration_waits_for_lock")
            await asyncio.sleep(LOCK_PAUSE_SECONDS)
        else:
            return


def _upgrade_now(connection: Connection) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _engine(settings: Settings) -> AsyncEngine:
    """Without the limits of requests: a migration may take its time."""
    url = engine_url(settings)
    if url.get_backend_name() != "sqlite":
        return _postgresql_engine(url, settings.database_connect_timeout_seconds)
    return _sqlite_engine(url)


def _postgresql_engine(url: URL, connect_seconds: float) -> AsyncEngine:
    # Where limits are set on the role, they are not meant for this.
    unlimited = {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}
    arguments = {"timeout": connect_seconds, "server_settings": unlimited}
    engine = create_async_engine(url, hide_parameters=True, connect_args=arguments)

    # What waits for a lock on a table holds up all who come after it. Not outside a transaction:
    # CREATE INDEX CONCURRENTLY waits for others, and nobody for it.
    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_isolation_level() != "AUTOCOMMIT":
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{int(LOCK_SECONDS * 1000)}ms'")

    return engine


def _sqlite_engine(url: URL) -> AsyncEngine:
    make_file(url)
    engine = create_async_engine(url, hide_parameters=True)

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")  # here, where nobody else has the file open
        cursor.close()

    # Python's driver begins none for a change of the schema: each would be committed by itself, and
    # a process that is killed between two would leave what no later run can go on from.
    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


@asynccontextmanager
async def _sqlite_turn(engine: AsyncEngine) -> AsyncIterator[None]:
    """One migrating process at a time; the others wait here."""

    async def taken() -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    with open(f"{engine.url.database}.lock", "a") as file:
        await _until(taken)
        yield


@asynccontextmanager
async def _postgresql_turn(engine: AsyncEngine) -> AsyncIterator[None]:
    """As for SQLite. The lock ends with its connection, so with a process that is killed."""

    async def taken() -> bool:
        result = await connection.execute(select(func.pg_try_advisory_lock(LOCK)))
        return bool(result.scalar_one())

    # Polled on an autocommit connection: one that waits inside a transaction deadlocks with
    # CREATE INDEX CONCURRENTLY.
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await _until(taken)
        try:
            yield
        finally:
            await connection.execute(select(func.pg_advisory_unlock(LOCK)))


async def _until(taken: Callable[[], Awaitable[bool]]) -> None:
    if await taken():
        return
    log.info("migration_waits_for_another")
    while not await taken():  # noqa: ASYNC110  (no event crosses processes)
        await asyncio.sleep(POLL_SECONDS)
