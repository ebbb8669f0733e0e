"""Tasks that come round: each is enqueued once a period, however many processes look.

A row says when a task is due next; who moves that on enqueues the job, in one transaction. A period
in which nobody was there is made up for by one run, not by several.
"""

import asyncio
import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from sqlalchemy import String, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, mapped_column

from service.database import Base, UtcDateTime
from service.errors import Unavailable
from service.jobs import Jobs, Task

log = logging.getLogger(__name__)

LOOK_SECONDS = 30.0


class Schedule(Base):
    """When a task is due next."""

    __tablename__ = "schedules"

    task: Mapped[str] = mapped_column(String(100), primary_key=True)
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)


async def keep(jobs: Jobs, tasks: Iterable[Task]) -> None:
    """Enqueue what is due, until cancelled."""
    periodic = [task for task in tasks if task.every_seconds is not None]
    failed = False
    while True:
        try:
            await enqueue_due(jobs, periodic, datetime.now(UTC))
            failed = False
        except Unavailable:
            pass  # the health check tells of it
        except Exception:
            if not failed:
                log.exception("schedule_failed")  # such as tables that are not made yet
            failed = True
        await asyncio.sleep(LOOK_SECONDS)


async def enqueue_due(jobs: Jobs, tasks: Iterable[Task], now: datetime) -> None:
    """Enqueue the tasks whose time has come. A new task's first time is a period from now."""
    async with jobs.database.reading() as connection:
        rows = await connection.execute(select(Schedule.task, Schedule.due_at))
        due = {row.task: row.due_at for row in rows}
    for task in tasks:
        following = now + timedelta(seconds=task.every_seconds or 0)
        if task.name not in due:
            await _enter(jobs, task, following)
        elif due[task.name] <= now:
            await _enqueue(jobs, task, due[task.name], following)


async def _enter(jobs: Jobs, task: Task, due_at: datetime) -> None:
    insert = postgresql.insert if jobs.database.is_postgresql else sqlite.insert
    statement = insert(Schedule).values(task=task.name, due_at=due_at)
    async with jobs.database.transaction() as session:
        await session.execute(statement.on_conflict_do_nothing())


async def _enqueue(jobs: Jobs, task: Task, due_at: datetime, following: datetime) -> None:
    statement = (
        update(Schedule)
        .where(Schedule.task == task.name, Schedule.due_at == due_at)  # else another was faster
        .values(due_at=following)
        .returning(Schedule.task)
    )
    async with jobs.database.transaction() as session:
        if (await session.execute(statement)).scalar_one_or_none() is not None:
            await jobs.enqueue(session, task.name)
