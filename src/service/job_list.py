"""Jobs as operators see them: what waits, what runs, what failed and why."""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, String, bindparam, delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from service import tracing
from service.database import Database
from service.jobs import ORIGIN, WAKE, EmbeddedJob, Job, JobFailure, Task, procrastinate_jobs

log = logging.getLogger(__name__)

FAILED_KEPT = timedelta(days=30)
EXPIRY_SECONDS = 24 * 3600
BATCH = 1000
CARRIED = {*ORIGIN, tracing.TRACEPARENT}  # of no interest to who looks at a job
MAILBOX = re.compile(r"[^\s@]+@")  # whose it is; the domain tells where mail fails


@dataclass(frozen=True)
class ListedJob:
    """`at` is when it failed, or may run from; None: it is new. `attempts` are those used up.
    Of a mail address among the `arguments` only the domain is shown."""

    id: int
    task: str
    status: str
    attempts: int
    at: datetime | None
    arguments: dict[str, Any]
    reason: str


class JobList:
    """The queue of either back end, read and changed by hand."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.on_postgresql = database.is_postgresql

    @property
    def _jobs(self) -> Any:
        return procrastinate_jobs if self.on_postgresql else EmbeddedJob.__table__

    async def read(self, statuses: Sequence[str], limit: int) -> list[ListedJob]:
        """Jobs with these statuses, newest first. Raises DatabaseUnavailable."""
        jobs = self._jobs.c
        task, run_at, arguments = (
            (jobs.task_name, jobs.scheduled_at, jobs.args)
            if self.on_postgresql
            else (jobs.task, jobs.run_at, jobs.arguments)
        )
        query = (
            select(
                *(jobs.id, task, jobs.status, jobs.attempts, run_at, arguments),
                *(JobFailure.reason, JobFailure.failed_at),
            )
            .outerjoin_from(self._jobs, JobFailure, JobFailure.job_id == jobs.id)
            .where(self._is(*statuses))
            .order_by(jobs.id.desc())
            .limit(limit)
        )
        async with self.database.reading() as connection:
            return [_listed(*row) for row in await connection.execute(query)]

    def _is(self, *statuses: str) -> ColumnElement[bool]:
        # Written out: a bound text is no value of the enumeration, and of one that is bound the
        # planner does not know which index has it.
        given = bindparam("statuses", statuses, String, expanding=True, literal_execute=True)
        is_one: ColumnElement[bool] = self._jobs.c.status.in_(given)
        return is_one

    async def retry(self, ids: Sequence[int]) -> set[int]:
        """Have failed jobs run again, with all their attempts; returns those that were failed."""
        if self.on_postgresql:
            fresh: dict[str, Any] = {"worker_id": None, "scheduled_at": func.now()}
        else:
            fresh = {"run_at": datetime.now(UTC)}
        statement = update(self._jobs).values(status="todo", attempts=0, **fresh)
        return await self._change(statement, ids)

    async def discard(self, ids: Sequence[int]) -> set[int]:
        """Remove failed jobs; returns those that were failed."""
        return await self._change(delete(self._jobs), ids)

    async def failed_before(self, moment: datetime) -> list[int]:
        """The ids of up to BATCH jobs that failed before a moment."""
        jobs = self._jobs.c
        query = (
            select(jobs.id)
            .join_from(self._jobs, JobFailure, JobFailure.job_id == jobs.id)
            .where(self._is("failed"), JobFailure.failed_at < moment)
            .limit(BATCH)
        )
        async with self.database.reading() as connection:
            return list(await connection.scalars(query))

    async def make_way(self, session: AsyncSession, task: str) -> bool:
        """Whether no job of a task waits or runs; then those of it that failed are removed."""
        jobs = self._jobs.c
        name = jobs.task_name if self.on_postgresql else jobs.task
        found = (await session.execute(select(jobs.id, jobs.status).where(name == task))).all()
        if any(status in ("todo", "doing") for _, status in found):
            return False
        await self._change_failed(session, delete(self._jobs), [number for number, _ in found])
        return True

    async def _change(self, statement: Any, ids: Sequence[int]) -> set[int]:
        async with self.database.transaction() as session:
            changed = await self._change_failed(session, statement, ids)
            if self.on_postgresql:
                await session.execute(text(f"SELECT {WAKE}"))
        return changed

    async def _change_failed(
        self, session: AsyncSession, statement: Any, ids: Sequence[int]
    ) -> set[int]:
        jobs = self._jobs.c
        which = statement.where(jobs.id.in_(ids), self._is("failed")).returning(jobs.id)
        changed = set((await session.scalars(which)).all())
        await session.execute(delete(JobFailure).where(JobFailure.job_id.in_(changed)))
        return changed


def _listed(
    number: int,
    task: str,
    status: str,
    attempts: int,
    run_at: datetime | None,
    arguments: dict[str, Any] | str,
    reason: str | None,
    failed_at: datetime | None,
) -> ListedJob:
    given = json.loads(arguments) if isinstance(arguments, str) else arguments
    shown = {name: _masked(value) for name, value in given.items() if name not in CARRIED}
    at = failed_at if status == "failed" else run_at
    return ListedJob(number, task, status, attempts, at, shown, reason or "")


def _masked(value: Any) -> Any:
    return MAILBOX.sub("***@", value) if isinstance(value, str) else value


async def expire(resources: Any, job: Job) -> None:
    """Remove jobs that failed long ago: what they were to do is over, and they may name people."""
    jobs, removed = JobList(resources.database), 0
    while ids := await jobs.failed_before(datetime.now(UTC) - FAILED_KEPT):
        removed += len(await jobs.discard(ids))
    log.info("failed_jobs_removed", extra={"count": removed})


TASKS = (Task("jobs.expire", expire, every_seconds=EXPIRY_SECONDS),)
