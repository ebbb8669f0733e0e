"""Through PgBouncer in transaction mode, whose three sessions take turns with every transaction:
nothing may need the session it was begun in, and nothing may stay there."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Integer, bindparam, text
from sqlalchemy.exc import IntegrityError

from pooler import SESSIONS, Pgbouncer
from servers import Postgresql, free_port, running
from service import driver
from service.checks import Check, Watch
from service.connections import wanted
from service.database import Database, open_database
from service.database_errors import DatabaseUnavailable
from service.heartbeat import make_heartbeat
from service.lookup import Lookup
from service.migrate import LOCK, migrate
from service.settings import Settings

pytestmark = pytest.mark.anyio

AT_ONCE = 12
ROUNDS = 20
LIMITS = text("SHOW statement_timeout")
SESSION = text("SELECT pg_backend_pid()")


@pytest.fixture
def settings(database_url: str, shared_pooler: Pgbouncer) -> Settings:
    return Settings(
        database_url=database_url,
        database_pooler_url=shared_pooler.url(database_url),
        database_pool_size=AT_ONCE,
        database_pool_timeout_seconds=30,
    )


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    async with open_database(settings) as opened:
        async with opened.transaction() as session:
            table = "CREATE TABLE numbers (number integer PRIMARY KEY, of text)"
            await session.execute(text(table))
        yield opened


async def test_who_gives_up_a_lookup_does_not_wait_for_a_frozen_pooler(
    database_url: str, shared_postgresql: Postgresql, server_directory: Path
) -> None:
    """Between the answer to BEGIN and the row."""
    pooler = Pgbouncer(server_directory / "frozen-pooler", server=shared_postgresql)
    with running(pooler):
        settings = Settings(
            database_url=database_url,
            database_pooler_url=pooler.url(database_url),
            database_statement_timeout_seconds=8,
        )
        async with open_database(settings) as database:
            slow = asyncio.create_task(Lookup(text("SELECT pg_sleep(5)")).all(database))
            await asyncio.sleep(1)
            pooler.freeze()
            began = time.monotonic()
            slow.cancel()
            await asyncio.wait({slow})
            assert time.monotonic() - began < 4
            assert slow.cancelled()
            pooler.thaw()
            assert await Lookup(text("SELECT 1")).all(database) == [(1,)]


async def test_each_statement_finds_what_it_needs_in_whichever_session(database: Database) -> None:
    """Reads, lookups and transactions of many at once, each with another statement in turn."""
    one = Lookup(
        text("SELECT of FROM numbers WHERE number = :number").bindparams(
            bindparam("number", type_=Integer)
        )
    )
    all_of = Lookup(text("SELECT number FROM numbers WHERE of = :of ORDER BY number"))
    sessions = set()

    async def use(who: int) -> None:
        for step in range(ROUNDS):
            number = who * ROUNDS + step
            async with database.transaction() as session:
                sessions.add(await session.scalar(SESSION))
                values = {"number": number, "of": str(who)}
                await session.execute(text("INSERT INTO numbers VALUES (:number, :of)"), values)
                assert await session.scalar(SESSION) in sessions
            row = await one.one(database, number=number)
            assert (row or ())[0] == str(who)
            rows = await all_of.all(database, of=str(who))
            assert [found for (found,) in rows] == [who * ROUNDS + i for i in range(step + 1)]
            async with database.reading() as connection:
                counted = text("SELECT count(*) FROM numbers WHERE of = :of")
                assert await connection.scalar(counted, {"of": str(who)}) == step + 1

    await asyncio.gather(*(use(who) for who in range(AT_ONCE)))
    assert 1 < len(sessions) <= SESSIONS


async def test_a_transaction_is_undone_as_a_whole(database: Database) -> None:
    insert = text("INSERT INTO numbers VALUES (:number, '')")
    with pytest.raises(IntegrityError):
        async with database.transaction() as session:
            await session.execute(insert, [{"number": 1}, {"number": 2}])
            await session.execute(insert, {"number": 1})
    async with database.reading() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM numbers")) == 0


async def test_limits_hold_for_what_this_service_asks_and_for_nobody_else(
    settings: Settings, database: Database
) -> None:
    async with database.transaction() as session:
        assert await session.scalar(LIMITS) == "5s"
    async with database.reading() as connection:
        assert await connection.scalar(LIMITS) == "5s"
    row = await Lookup(text("SELECT current_setting('statement_timeout')")).one(database)
    assert (row or ())[0] == "5s"
    stranger = await asyncpg.connect(
        settings.database_pooler_url.get_secret_value(), statement_cache_size=0
    )
    try:
        for _ in range(2 * SESSIONS):
            async with stranger.transaction():
                assert await stranger.fetchval("SHOW statement_timeout") == "0"
                assert await stranger.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0
    finally:
        await stranger.close()


async def test_a_statement_that_is_too_long_is_ended_by_the_server(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the client would give it up, which waits long here."""
    arguments = driver.connect_arguments
    patient = {"command_timeout": 10.0}
    monkeypatch.setattr(driver, "connect_arguments", lambda given: arguments(given) | patient)
    hasty = settings.model_copy(update={"database_statement_timeout_seconds": 0.3})
    async with open_database(hasty) as database:
        with pytest.raises(DatabaseUnavailable) as told:
            async with database.reading() as connection:
                await connection.execute(text("SELECT pg_sleep(60)"))
        assert "due to statement timeout" in repr(told.value.__cause__)
        async with database.reading() as connection:
            active = text("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sl%'")
            assert await connection.scalar(active) == 0


async def test_a_pooler_is_no_database_where_its_own_is_not(
    own_postgresql: Postgresql, server_directory: Path
) -> None:
    """It goes on to let in whoever asks; and all is well as soon as the server is back."""
    with running(Pgbouncer(server_directory / "own-pooler", server=own_postgresql)) as pooler:
        url = own_postgresql.url()
        settings = Settings(database_url=url, database_pooler_url=pooler.url(url))
        heartbeat = make_heartbeat(settings)
        check = Check("database", heartbeat.beat, timeout_seconds=0.75, abort=heartbeat.abort)
        watch = Watch(check, interval_seconds=0)
        await until_it_passes(watch)
        own_postgresql.stop()
        assert not any([await passes(watch) for _ in range(3)])
        own_postgresql.start()
        await until_it_passes(watch)
        watch.close()
        await heartbeat.close()


async def test_migrations_take_turns_past_the_pooler(
    database_url: str, log_lines: list[dict[str, Any]]
) -> None:
    """A lock that was taken through it would stay with a session that others get."""
    nowhere = f"postgresql://service:pa55@127.0.0.1:{free_port()}/service"
    settings = Settings(database_url=database_url, database_pooler_url=nowhere)
    other = await asyncpg.connect(database_url)
    await other.execute("SELECT pg_advisory_lock($1)", LOCK)
    migration = asyncio.create_task(migrate(settings))

    def waits() -> bool:
        return "migration_waits_for_another" in [line["message"] for line in log_lines]

    try:
        async with asyncio.timeout(10):
            while not waits():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert not migration.done()
    finally:
        await other.close()
    before, after = await migration
    assert before == after is not None


async def until_it_passes(watch: Watch) -> None:
    async with asyncio.timeout(10):
        while not await passes(watch):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def passes(watch: Watch) -> bool:
    flight = watch.begin()
    assert flight
    await flight
    return watch.result.ok


def test_only_the_queue_counts_at_the_server_where_there_is_a_pooler() -> None:
    more = {"web_concurrency": 2, "web_replicas": 3, "worker_replicas": 2, "database_pool_size": 9}
    url = "postgresql://service:pa55@localhost/service"
    assert wanted(Settings(database_url=url, **more)) == 3 * 2 * 10 + 2 * (4 + 2 + 10)
    assert wanted(Settings(database_url=url, database_pooler_url=url, **more)) == 2 * (4 + 2)
