"""`service migrate`: brings the schema to the newest revision, whoever else is at it."""

import asyncio
import fcntl
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from service.database_url import engine_url
from service.settings import Settings

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
LOCK = 7_261_893_045  # any number that no other application of the database uses
POLL_SECONDS = 0.25


def alembic_config() -> Config:
    """Alembic's configuration; there is no ini file to keep in step."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def newest_revision() -> str | None:
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


async def current_revision(engine: AsyncEngine) -> str | None:
    """The schema's revision; None for an empty database."""
    async with engine.connect() as connection:
        return await connection.run_sync(
            lambda sync: MigrationContext.configure(sync).get_current_revision()
        )


@asynccontextmanager
async def _turn(engine: AsyncEngine, settings: Settings) -> AsyncIterator[None]:
    """One migrating process at a time; the others wait here."""
    if engine.dialect.name == "sqlite":
        path = Path(f"{engine.url.database}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
            yield
        return
    # Polled on an autocommit connection: one that waits inside a transaction deadlocks with
    # CREATE INDEX CONCURRENTLY.
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        taken = text("SELECT pg_try_advisory_lock(:lock)").bindparams(lock=LOCK)
        waiting = False
        while not (await connection.execute(taken)).scalar_one():
            if not waiting:
                log.info("migration_waits_for_another")
                waiting = True
            await asyncio.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            await connection.execute(text("SELECT pg_advisory_unlock(:lock)").bindparams(lock=LOCK))


def _upgrade(connection: Connection) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def migrate(settings: Settings) -> tuple[str | None, str | None]:
    """(revision before, revision after). Raises what the database or a migration raises."""
    url = engine_url(settings)
    if url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(url)
    try:
        async with _turn(engine, settings):
            before = await current_revision(engine)
            async with engine.begin() as connection:
                await connection.run_sync(_upgrade)
            return before, await current_revision(engine)
    finally:
        await engine.dispose()
