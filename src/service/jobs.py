"""Jobs: rows that commit together with what they are about, run later by a worker.

On PostgreSQL they are procrastinate's; embedded they are rows of a small table, run by the web
process. Tasks cannot tell the difference. A task may run more than once and says so itself.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Integer,
    String,
    column,
    event,
    func,
    insert,
    select,
    table,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from service import metrics, tracing
from service.database import Base, Database, UtcDateTime
from service.database_errors import StatementTooLong
from service.errors import Unavailable
from service.logs import Redactor, request_id, trace_id

log = logging.getLogger(__name__)

QUEUE = "default"
OUTCOMES = ("done", "retried", "delayed", "failed")
STATUSES = ("todo", "doing", "failed")  # those that are done are deleted
MOST_COUNTED = 10_000  # with a status: every web worker counts, also when a million wait
ORIGIN = {"request_id": request_id, "trace_id": trace_id}  # go with a job, for its log lines
# Nobody is woken by a job that becomes free, only by a new one; hence the word to all workers.
WAKE = f'pg_notify(\'procrastinate_queue_v1#{QUEUE}\', \'{{"type": "job_inserted", "job_id": 0}}\')'
# Of those that wait for nothing but a worker: the first of the new ones, whose time is an event's,
# and the one that was first to be tried again, by itself, by hand or by another worker.
OLDEST = text("""
    SELECT extract(epoch FROM now() - least(
        (SELECT min(at) FROM procrastinate_events WHERE type = 'deferred' AND job_id = (
            SELECT id FROM procrastinate_jobs WHERE status = 'todo' AND scheduled_at IS NULL
            ORDER BY scheduled_at, id LIMIT 1)),  -- as their index has it
        (SELECT min(scheduled_at) FROM procrastinate_jobs
            WHERE status = 'todo' AND scheduled_at <= now())
    ))
""")
# The priority of what takes long, or waits for a core: it makes way for all other jobs, which have
# 0, and leaves them a place in each worker. So nobody's mail waits for somebody's pictures.
SLOW = -1
MAX_DELAY_SECONDS = 3600
MAX_REASON_CHARACTERS = 500
OUTAGE_DELAY_SECONDS = 5
UNKNOWN_DELAY_SECONDS = 60
TOO_LONG_DELAY_SECONDS = 60  # the database may be too busy for it, for a while


@dataclass(frozen=True)
class Job:
    """One run of a task; `attempt` counts from 1."""

    id: int
    task: str
    attempt: int
    arguments: Mapping[str, Any]
    priority: int = 0


async def _nothing(resources: Any, job: Job, error: BaseException) -> None:
    return None


@dataclass(frozen=True)
class Task:
    """What to do for a job. `give_up` records the end of one that failed every time.

    Both may run more than once for a job, and both may raise `Unavailable`: what a task needs being
    away is not the job's fault, so it waits until that is back and uses up no attempt. But
    `StatementTooLong` does use one up: it may be the task that asks for too much. `outages` are
    errors that say the same of all jobs, and are told once. With `every_seconds` the task is also
    enqueued that often, without arguments, unless one of it waits or runs; what failed of it goes
    then.
    """

    name: str
    run: Callable[[Any, Job], Awaitable[None]]
    give_up: Callable[[Any, Job, BaseException], Awaitable[None]] = _nothing
    max_attempts: int = 5
    first_delay_seconds: float = 1.0
    every_seconds: float | None = None
    outages: tuple[type[Exception], ...] = ()

    def delay_seconds(self, attempt: int) -> float:
        """Wait before the attempt after this one; doubles each time."""
        doublings = min(attempt - 1, 30)
        return float(min(self.first_delay_seconds * 2**doublings, MAX_DELAY_SECONDS))


class JobAbandoned(Exception):
    """The job's workers died more often than it may be tried."""

    def __init__(self, times: int) -> None:
        super().__init__(f"its workers ended {times} times before it did")


@dataclass(frozen=True)
class Outcome:
    """What becomes of a job after a run: it is gone, kept as failed, or run again."""

    status: Literal["done", "failed", "again"]
    delay_seconds: float = 0.0
    counted: bool = True  # the run used up an attempt
    reason: str = ""  # why it failed, for operators


HANDED_BACK = Outcome("again", counted=False)  # stopped in the middle, for others to run
UNKNOWN = Outcome("again", UNKNOWN_DELAY_SECONDS, counted=False)  # for a newer release to run


async def execute(task: Task, resources: Any, job: Job) -> Outcome:
    """Run a task once, with its request's ids in the log. Raises nothing but CancelledError."""
    for name, variable in ORIGIN.items():
        variable.set(str(job.arguments.get(name, "")))
    with tracing.job(task.name, job.arguments, job.attempt):
        return await _execute(task, resources, job)


async def _execute(task: Task, resources: Any, job: Job) -> Outcome:
    extra = {"task": task.name, "job": job.id, "attempt": job.attempt}
    try:
        if job.attempt > task.max_attempts:
            raise JobAbandoned(job.attempt - 1)
        await task.run(resources, job)
    except Exception as error:
        tracing.failed(error)
        too_long = isinstance(error, StatementTooLong)
        if isinstance(error, Unavailable) and not too_long:
            return _delayed(task, extra, error)
        if job.attempt < task.max_attempts:
            seldom = {"seldom": f"{task.name} {error}"} if isinstance(error, task.outages) else {}
            log.warning("job_retried", extra=extra | seldom, exc_info=error)
            metrics.JOBS_DONE.labels(task.name, "retried").inc()
            least_seconds = TOO_LONG_DELAY_SECONDS if too_long else 0
            return Outcome("again", max(task.delay_seconds(job.attempt), least_seconds))
        return await _give_up(task, resources, job, error)
    log.info("job_done", extra=extra)
    metrics.JOBS_DONE.labels(task.name, "done").inc()
    return Outcome("done")


async def _give_up(task: Task, resources: Any, job: Job, error: Exception) -> Outcome:
    extra = {"task": task.name, "job": job.id, "attempt": job.attempt}
    try:
        await task.give_up(resources, job, error)
    except Exception as obstacle:
        # Nobody was told yet that it failed.
        log.error("job_failed", extra=extra, exc_info=error)
        return _delayed(task, extra, obstacle)
    log.error("job_failed", extra=extra, exc_info=error)
    metrics.JOBS_DONE.labels(task.name, "failed").inc()
    redact = Redactor(resources.settings.secrets())
    reason = redact(f"{type(error).__name__}: {error}".rstrip(": "))
    return Outcome("failed", reason=reason.replace("\0", "")[:MAX_REASON_CHARACTERS])


def _delayed(task: Task, extra: dict[str, Any], error: Exception) -> Outcome:
    what = f"{type(error).__name__} from {error.__cause__!r}" if error.__cause__ else repr(error)
    about = f"{task.name} {_kinds(error)}"
    log.warning("job_delayed", extra={**extra, "error": what, "seldom": about})
    metrics.JOBS_DONE.labels(task.name, "delayed").inc()
    return Outcome("again", OUTAGE_DELAY_SECONDS, counted=False)


def _kinds(error: BaseException) -> str:
    """What two errors share that differ in a name or a number."""
    return f"{type(error).__name__} {type(error.__cause__).__name__}"


def by_name(tasks: Iterable[Task]) -> dict[str, Task]:
    """For a program's list of tasks: their counters are there, at 0, before the first is run, or
    that would not be seen to be one more."""
    found = {task.name: task for task in tasks}
    for name in found:
        for outcome in OUTCOMES:
            metrics.JOBS_DONE.labels(name, outcome)
    return found


class EmbeddedJob(Base):
    """A job where there is no PostgreSQL. `run_at` is also when a claim on it ends."""

    __tablename__ = "embedded_jobs"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    task: Mapped[str] = mapped_column(String(100))
    arguments: Mapped[dict[str, Any]] = mapped_column(JSON)
    attempts: Mapped[int] = mapped_column(default=0)
    status: Mapped[str] = mapped_column(String(10), default="todo")
    run_at: Mapped[datetime] = mapped_column(UtcDateTime)
    priority: Mapped[int] = mapped_column(default=0)


class JobFailure(Base):
    """Why a job failed for good; gone with the job."""

    __tablename__ = "job_failures"

    job_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    reason: Mapped[str] = mapped_column(String(MAX_REASON_CHARACTERS))
    failed_at: Mapped[datetime] = mapped_column(UtcDateTime)


DEFER = text(
    "SELECT procrastinate_defer_jobs_v1(ARRAY["
    "ROW(:queue, :task, CAST(:priority AS integer), NULL, NULL, CAST(:arguments AS jsonb), NULL)"
    "::procrastinate_job_to_defer_v1])"
)
procrastinate_jobs = table(
    "procrastinate_jobs",
    *(column(name) for name in ("id", "task_name", "status", "attempts", "worker_id")),
    column("scheduled_at", DateTime(timezone=True)),
    column("args", JSONB),
)


def counting(table: str) -> str:
    """A statement for (status, how many jobs have it)."""
    return " UNION ALL ".join(
        f"SELECT '{status}', count(*) FROM"  # noqa: S608
        f" (SELECT id FROM {table} WHERE status = '{status}' LIMIT {MOST_COUNTED}) AS some_of_them"
        for status in STATUSES
    )


def most_slow(concurrency: int) -> int:
    """How many jobs below priority 0 may run at once, of so many jobs."""
    return max(1, concurrency - 1)


class Jobs:
    """The queue, seen from who enqueues. `arrived` wakes the embedded runner."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.arrived = asyncio.Event()

    async def enqueue(
        self, session: AsyncSession, task: str, *, priority: int = 0, **arguments: Any
    ) -> None:
        """Add a job that exists if, and as soon as, the session's transaction commits. Those of a
        higher priority go first; of the same, those that came first."""
        arguments |= {
            name: origin for name, variable in ORIGIN.items() if (origin := variable.get())
        } | tracing.carried()
        if self.database.is_postgresql:
            job = {"queue": QUEUE, "task": task, "priority": priority}
            await session.execute(DEFER, job | {"arguments": json.dumps(arguments)})
            return
        now = datetime.now(UTC)
        job = {"task": task, "arguments": arguments, "run_at": now, "priority": priority}
        await session.execute(insert(EmbeddedJob).values(job))
        event.listen(session.sync_session, "after_commit", lambda _: self.arrived.set(), once=True)

    async def counts(self) -> dict[str, int]:
        """Jobs by status, of each MOST_COUNTED at most; a status that none has is not there."""
        table = "procrastinate_jobs" if self.database.is_postgresql else "embedded_jobs"
        async with self.database.reading() as connection:
            rows = await connection.execute(text(counting(table)))
            return {status: number for status, number in rows if number}

    async def oldest_seconds(self) -> float:
        """For how long a job has been waiting that could run, 0 where none is."""
        async with self.database.reading() as connection:
            if self.database.is_postgresql:
                return float(await connection.scalar(OLDEST) or 0)
            now = datetime.now(UTC)
            waiting = EmbeddedJob.status == "todo", EmbeddedJob.run_at <= now
            since = await connection.scalar(select(func.min(EmbeddedJob.run_at)).where(*waiting))
            return (now - since).total_seconds() if since else 0.0
