"""Statements that were prepared before a migration changed what they answer."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from service.database import Database, open_database
from service.database_errors import DatabaseUnavailable
from service.settings import Settings

pytestmark = pytest.mark.anyio

READ = text("SELECT title FROM notes")
WRITE = text("UPDATE notes SET title = 'changed' RETURNING title")
OTHER = text("UPDATE others SET number = number + 1")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """One connection, on which both statements are prepared."""
    settings = Settings(database_url=database_url, database_pool_size=1)
    async with open_database(settings) as opened:
        async with opened.transaction() as session:
            await session.execute(text("CREATE TABLE notes (title varchar(10))"))
            await session.execute(text("CREATE TABLE others (number integer)"))
            await session.execute(text("INSERT INTO notes VALUES ('first')"))
            await session.execute(text("INSERT INTO others VALUES (0)"))
        async with opened.reading() as connection:
            await connection.execute(READ)
        async with opened.transaction() as session:
            await session.execute(OTHER)
            await session.execute(WRITE)
            await session.rollback()
        yield opened


@pytest.fixture
async def widened(database: Database, database_url: str) -> Database:
    settings = Settings(database_url=database_url)
    async with open_database(settings) as migrating, migrating.transaction() as session:
        await session.execute(text("ALTER TABLE notes ALTER title TYPE varchar(20)"))
    return database


async def titles(database: Database) -> list[str]:
    async with database.reading() as connection:
        return list(await connection.scalars(READ))


async def test_a_read_goes_on(widened: Database) -> None:
    assert await titles(widened) == ["first"]


async def test_a_transaction_that_begins_with_it_goes_on(widened: Database) -> None:
    """And what it does is committed."""
    async with widened.transaction() as session:
        assert list(await session.scalars(WRITE)) == ["changed"]
        await session.execute(OTHER)
    assert await titles(widened) == ["changed"]
    async with widened.reading() as connection:
        assert await connection.scalar(text("SELECT number FROM others")) == 1


async def test_a_transaction_that_begins_with_it_can_be_rolled_back(widened: Database) -> None:
    async with widened.transaction() as session:
        await session.execute(WRITE)
        await session.rollback()
    assert await titles(widened) == ["first"]


async def test_a_transaction_that_has_done_something_is_to_be_done_again(
    widened: Database,
) -> None:
    """As nothing here knows what it did; nothing of it stays."""

    async def change() -> None:
        async with widened.transaction() as session:
            await session.execute(OTHER)
            await session.execute(WRITE)

    with pytest.raises(DatabaseUnavailable):
        await change()
    assert await titles(widened) == ["first"]
    await change()
    async with widened.reading() as connection:
        assert await connection.scalar(text("SELECT number FROM others")) == 1
