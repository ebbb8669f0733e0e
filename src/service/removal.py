"""Removing rows that nobody needs any more: in batches, far from a statement's timeout."""

from sqlalchemy import ColumnElement, delete, inspect, select, tuple_

from service.database import Base, Database

BATCH = 1000  # rows a statement


async def remove(database: Database, model: type[Base], which: ColumnElement[bool]) -> int:
    """Delete rows, which have an index to be found by; how many it were."""
    key = inspect(model).primary_key
    batch = select(*key).where(which).limit(BATCH)
    # Asked twice: a row may have changed since it was selected, such as by its confirmation.
    statement = delete(model).where(tuple_(*key).in_(batch), which).returning(*key)
    removed = 0
    while True:
        async with database.transaction() as session:
            count = len((await session.execute(statement)).all())
        removed += count
        if count < BATCH:
            return removed
