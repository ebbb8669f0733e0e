"""Removing rows that nobody needs any more: in batches, far from a statement's timeout."""

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import InstrumentedAttribute

from service.database import Database

BATCH = 1000  # rows a statement


async def remove(
    database: Database, key: InstrumentedAttribute[object], which: ColumnElement[bool]
) -> int:
    """Delete rows, of which `key` is the primary key; how many it were."""
    batch = select(key).where(which).limit(BATCH)
    # Asked twice: a row may have changed since it was selected, such as by its confirmation.
    statement = delete(key.class_).where(key.in_(batch), which).returning(key)
    removed = 0
    while True:
        async with database.transaction() as session:
            count = len((await session.execute(statement)).all())
        removed += count
        if count < BATCH:
            return removed
