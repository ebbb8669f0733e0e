"""Tasks that run every so often: once for all processes together, not once in each.

A row says when a task is due. Whoever moves it on enqueues the job in the same transaction, so of
many that look at the same moment one does; and no job piles up while nobody is there to run it, or
behind one that does not end: there is one of each task at most, and one that failed makes way.
"""

import asyncio
import logging
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from sqlalchemy import String, update
from sqlalchemy.orm import Mapped, mapped_column

from service.database import Base, UtcDateTime
from service.errors import Unavailable
from service.job_list import JobList
from service.jobs import Task
from service.resources import Resources

log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0


class Due(Base):
    """When a task runs next."""

    __tablename__ = "schedule"

    task: Mapped[str] = mapped_column(String(100), primary_key=True)
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)


async def enqueue_forever(resources: Resources, tasks: Collection[Task]) -> None:
    """Enqueue each task with `every_seconds` when it is due, until cancelled."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            for task in tasks:
                if task.every_seconds is not None:
                    await enqueue_due(resources, task.name, task.every_seconds)
        except Unavailable:
            continue  # which was logged where it was found
        except Exception:
            log.exception("schedule_failed")


async def enqueue_due(resources: Resources, task: str, every_seconds: float) -> None:
    """Enqueue a task if it is due, and none of it waits or runs. One that was never seen before is
    due after its first pause."""
    now = datetime.now(UTC)
    following = now + timedelta(seconds=every_seconds)
    move_on = update(Due).where(Due.task == task, Due.due_at <= now).values(due_at=following)
    first = resources.database.insert(Due).values(task=task, due_at=following)
    async with resources.database.transaction() as session:
        if not (await session.execute(move_on.returning(Due.task))).scalar_one_or_none():
            await session.execute(first.on_conflict_do_nothing())
        elif await JobList(resources.database).make_way(session, task):
            await resources.jobs.enqueue(session, task)
