"""Jobs inside the web process, where there is no PostgreSQL to queue them in.

They are rows all the same: what is unfinished when the process ends is picked up at the next start.
A claim on a job has to be renewed, so that jobs of a process that was killed become free again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, and_, delete, exists, or_, select, update

from service.jobs import (
    HANDED_BACK,
    UNKNOWN,
    EmbeddedJob,
    Job,
    JobFailure,
    Outcome,
    execute,
    most_slow,
)
from service.resources import Resources, background
from service.schedule import enqueue_forever
from service.tasks import TASKS

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # for the jobs of other processes, and for those whose time has come
CLAIM_SECONDS = 5.0
STOP_SECONDS = 2.0  # Gunicorn grants the lifespan's end little more
STILL_FAILING_EVERY = 60  # rounds between two log lines


@asynccontextmanager
async def run_jobs(resources: Resources) -> AsyncIterator[None]:
    """Run jobs beside a block; at its end those under way may finish, or are handed back."""
    runner = Runner(resources)
    rounds = asyncio.create_task(runner.run(), name="embedded jobs")
    try:
        async with background(enqueue_forever(resources, TASKS.values())):
            yield
    finally:
        runner.stopping = True
        resources.jobs.arrived.set()
        await asyncio.wait({rounds}, timeout=STOP_SECONDS)
        rounds.cancel()
        await asyncio.wait({rounds})
        await runner.stop()


class Runner:
    """Takes jobs one by one and runs up to JOB_CONCURRENCY at once."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.running: dict[asyncio.Task[None], Job] = {}
        self.failures = 0
        self.stopping = False

    async def run(self) -> None:
        arrived = self.resources.jobs.arrived
        while not self.stopping:
            arrived.clear()
            try:
                await self._round()
                self.failures = 0
            except Exception:
                if self.failures % STILL_FAILING_EVERY == 0:
                    log.exception("embedded_jobs_failed")  # such as tables that are not made yet
                self.failures += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(arrived.wait(), POLL_SECONDS)

    async def stop(self) -> None:
        """Wait a little for what runs, then hand it back."""
        if self.running:
            await asyncio.wait(self.running, timeout=STOP_SECONDS)
        for run in self.running:
            run.cancel()
        if self.running:
            await asyncio.wait(self.running)

    async def _round(self) -> None:
        if self.running:
            claims = or_(*(_claim_of(job) for job in self.running.values()))
            await self._change(claims, Outcome("again", CLAIM_SECONDS), status="doing")
        concurrency = self.resources.settings.job_concurrency
        while len(self.running) < concurrency and not self.stopping:
            if (job := await self._claim()) is None:
                break
            run = asyncio.create_task(self._run(job), name=f"job {job.id}")
            self.running[run] = job
            run.add_done_callback(self._done)

    def _done(self, run: asyncio.Task[None]) -> None:
        del self.running[run]
        self.resources.jobs.arrived.set()  # there is room for another
        if not run.cancelled() and (error := run.exception()):
            log.error("embedded_job_lost", exc_info=error)  # its claim will end

    async def _claim(self) -> Job | None:
        now = datetime.now(UTC)
        due = and_(EmbeddedJob.status.in_(("todo", "doing")), EmbeddedJob.run_at <= now)
        slow = sum(job.priority < 0 for job in self.running.values())
        if slow >= most_slow(self.resources.settings.job_concurrency):
            due = and_(due, EmbeddedJob.priority >= 0)
        async with self.resources.database.reading() as connection:
            if not await connection.scalar(select(exists().where(due))):
                return None  # without a write, which would lock out others once a second
        order = EmbeddedJob.priority.desc(), EmbeddedJob.id
        first = select(EmbeddedJob.id).where(due).order_by(*order).limit(1)
        statement = (
            update(EmbeddedJob)
            .where(EmbeddedJob.id == first.scalar_subquery())
            .values(
                status="doing",
                run_at=now + timedelta(seconds=CLAIM_SECONDS),
                attempts=EmbeddedJob.attempts + 1,
            )
            .returning(EmbeddedJob)
        )
        async with self.resources.database.transaction() as session:
            row = (await session.scalars(statement)).one_or_none()
        if row is None:
            return None
        return Job(row.id, row.task, row.attempts, row.arguments, row.priority)

    async def _run(self, job: Job) -> None:
        task = TASKS.get(job.task)
        if task is None:
            log.warning("job_unknown", extra={"task": job.task, "job": job.id})
        try:
            outcome = await execute(task, self.resources, job) if task else UNKNOWN
        except asyncio.CancelledError:
            await self._finish(job, HANDED_BACK)
            raise
        await self._finish(job, outcome)

    async def _finish(self, job: Job, outcome: Outcome) -> None:
        if outcome.status == "done":
            async with self.resources.database.transaction() as session:
                await session.execute(delete(EmbeddedJob).where(_claim_of(job)))
        elif outcome.status == "failed":
            await self._fail(job, outcome.reason)
        else:
            await self._change(_claim_of(job), outcome, status="todo")

    async def _fail(self, job: Job, reason: str) -> None:
        failed = update(EmbeddedJob).where(_claim_of(job)).values(status="failed")
        failure = JobFailure(job_id=job.id, reason=reason, failed_at=datetime.now(UTC))
        async with self.resources.database.transaction() as session:
            if await session.scalar(failed.returning(EmbeddedJob.id)) is not None:
                # Ids are given again once the newest job is gone, and a failure may have stayed.
                await session.merge(failure)

    async def _change(self, which: ColumnElement[bool], outcome: Outcome, *, status: str) -> None:
        run_at = datetime.now(UTC) + timedelta(seconds=outcome.delay_seconds)
        attempts = EmbeddedJob.attempts if outcome.counted else EmbeddedJob.attempts - 1
        statement = update(EmbeddedJob).where(which)
        async with self.resources.database.transaction() as session:
            await session.execute(statement.values(status=status, run_at=run_at, attempts=attempts))


def _claim_of(job: Job) -> ColumnElement[bool]:
    """False once another process has taken the job over."""
    return and_(
        EmbeddedJob.id == job.id,
        EmbeddedJob.attempts == job.attempt,
        EmbeddedJob.status == "doing",
    )
