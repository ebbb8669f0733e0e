"""How long one request may wait for the database, in all."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx2 as httpx
import pytest
from sqlalchemy import select, text
from starlette.responses import Response

from servers import Postgresql
from service import database_time
from service.database import Database, open_database
from service.database_errors import DatabaseUnavailable
from service.database_time import begin_request
from service.lookup import Lookup
from service.middleware import RequestLayer
from service.settings import Settings

pytestmark = pytest.mark.anyio

Use = Callable[[Database, float], Awaitable[Any]]


async def execute(database: Database, seconds: float) -> None:
    async with database.transaction() as session:
        await session.execute(text(f"SELECT pg_sleep({seconds})"))


async def read(database: Database, seconds: float) -> None:
    async with database.reading() as connection:
        await connection.execute(text(f"SELECT pg_sleep({seconds})"))


async def look_up(database: Database, seconds: float) -> None:
    await Lookup(select(text(f"pg_sleep({seconds})"))).one(database)


async def look_all_up(database: Database, seconds: float) -> None:
    await Lookup(select(text(f"pg_sleep({seconds})"))).all(database)


def patient(url: str, **more: Any) -> Settings:
    """As long as ever for one statement, but for a frozen server; and longer for a connection."""
    seconds = {"database_statement_timeout_seconds": 2.0, "database_pool_timeout_seconds": 10.0}
    return Settings(database_url=url, **(seconds | more))


@pytest.fixture
async def database(shared_postgresql: Postgresql) -> AsyncIterator[Database]:
    settings = patient(shared_postgresql.url())
    async with open_database(settings) as database:
        yield database


async def ask(database: Database, use: Use, *sleeps: float, limit: float = 10.0) -> str:
    """`done` or `unavailable`, and the seconds in all; in a task of its own, as requests are."""

    async def request() -> str:
        begin_request(limit)
        try:
            for seconds in sleeps:
                await use(database, seconds)
        except DatabaseUnavailable:
            return "unavailable"
        return "done"

    return await asyncio.create_task(request())


@pytest.mark.parametrize("use", [execute, read, look_up, look_all_up])
async def test_what_a_request_asks_shares_one_limit(database: Database, use: Use) -> None:
    """Each statement is well within its own; and the next request has a limit anew."""
    began = time.monotonic()
    assert await ask(database, use, *(10 * [0.6]), limit=1.0) == "unavailable"
    assert 0.9 < time.monotonic() - began < 4
    assert database.pool_in_use == 0
    assert await ask(database, use, 0) == "done"


async def test_time_between_two_uses_does_not_count(database: Database) -> None:
    async def request() -> None:
        begin_request(2.0)
        await execute(database, 0)
        await asyncio.sleep(2.1)
        await execute(database, 0)

    await asyncio.create_task(request())


async def test_what_belongs_to_no_request_has_no_limit(database: Database) -> None:
    for _ in range(2):
        await execute(database, 0.6)


async def test_a_wait_for_a_connection_counts(database: Database) -> None:
    async with AsyncExitStack() as holding:
        for _ in range(database.settings.database_pool_size):
            await holding.enter_async_context(database.transaction())
        began = time.monotonic()
        assert await ask(database, look_up, 0, limit=0.5) == "unavailable"
        assert time.monotonic() - began < 5


async def test_a_frozen_server_costs_one_request_at_a_time_its_whole_patience(
    own_postgresql: Postgresql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others learn soon; and none of them fails once it answers again."""
    monkeypatch.setattr(database_time, "SILENT_SECONDS", 0.5)
    settings = patient(own_postgresql.url(), database_connect_timeout_seconds=4.0)
    async with open_database(settings) as database:
        assert await ask(database, execute, 0) == "done"
        own_postgresql.freeze()
        assert await ask(database, execute, 0) == "unavailable"  # now it is known to be silent

        size = database.settings.database_pool_size
        trying = [asyncio.create_task(ask(database, execute, 0)) for _ in range(size)]
        await asyncio.sleep(0.1)
        answers = await asyncio.gather(*(ask(database, look_up, 0) for _ in range(3)))
        assert answers == ["unavailable"] * 3
        assert [task.done() for task in trying].count(False) == 1
        await database.check_pool()  # no wonder that it is full: a larger one would help nobody
        await asyncio.gather(*trying)
        monkeypatch.setattr(database_time, "SILENT_SECONDS", 10)  # for the thaw to be in time
        waiting = [asyncio.create_task(ask(database, execute, 0)) for _ in range(4)]
        await asyncio.sleep(0.05)
        own_postgresql.thaw()
        assert await asyncio.gather(*waiting) == ["done"] * 4
        # With as much patience as ever.
        monkeypatch.setattr(database_time, "SILENT_SECONDS", 0.5)
        slow = [asyncio.create_task(ask(database, execute, 0.7)) for _ in range(3)]
        assert await asyncio.gather(*slow) == ["done"] * 3
        assert database.pool_in_use == 0


async def test_writing_to_a_read_only_server_is_unavailable_and_connects_anew(
    own_postgresql: Postgresql,
) -> None:
    """Perhaps a primary that was relieved, which does not cut connections: another has taken over,
    and new connections lead there."""
    write = text("CREATE TABLE written ()")
    async with open_database(patient(own_postgresql.url())) as database:
        own_postgresql.psql("ALTER SYSTEM SET default_transaction_read_only = on")
        own_postgresql.psql("SELECT pg_reload_conf()")
        with pytest.raises(DatabaseUnavailable):
            while True:  # until the server has read it
                async with database.transaction() as session:
                    before = await session.scalar(text("SELECT pg_backend_pid()"))
                    await session.execute(write)
                    await session.rollback()
        async with database.transaction() as session:
            assert await session.scalar(text("SELECT pg_backend_pid()")) != before


async def test_every_request_has_the_pools_and_the_statements_limit_anew() -> None:
    seen = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        left = database_time._left_seconds.get()
        assert left is not None
        seen.append(left[0])
        left[0] = 0.0
        await Response()(scope, receive, send)

    transport = httpx.ASGITransport(RequestLayer(application, Settings(), {}, {}))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for _ in range(2):
            assert (await client.get("/")).status_code == 200
    assert seen == [7.0, 7.0]
