"""Jobs inside the web process, where there is no PostgreSQL to queue them in.

They are rows all the same: what is unfinished when the process ends is picked up at the next start.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import psutil
from sqlalchemy import delete, select, update

from service.jobs import EmbeddedJob, Job, JobFailed, execute
from service.resources import Resources
from service.tasks import TASKS

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0


@asynccontextmanager
async def run_jobs(resources: Resources) -> AsyncIterator[None]:
    """Run jobs beside a block; at its end those under way may finish."""
    runner = Runner(resources)
    loop = asyncio.create_task(runner.run(), name="embedded jobs")
    try:
        yield
    finally:
        loop.cancel()
        with suppress(asyncio.CancelledError):
            await loop
        if runner.running:
            await asyncio.wait(runner.running, timeout=5)


class Runner:
    """Takes jobs one by one and runs up to JOB_CONCURRENCY at once."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        while True:
            try:
                await self._hand_back_orphans()
                while len(self.running) < self.resources.settings.job_concurrency:
                    if (job := await self._claim()) is None:
                        break
                    self._start(job)
            except Exception:
                log.exception("embedded_jobs_failed")  # such as tables that are not made yet
            self.resources.jobs.arrived.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.resources.jobs.arrived.wait(), POLL_SECONDS)

    def _start(self, job: Job) -> None:
        run = asyncio.create_task(self._run(job), name=f"job {job.id}")
        self.running.add(run)
        run.add_done_callback(self._done)

    def _done(self, run: asyncio.Task[None]) -> None:
        self.running.discard(run)
        self.resources.jobs.arrived.set()
        if not run.cancelled() and (error := run.exception()):
            log.error("embedded_job_lost", exc_info=error)

    async def _hand_back_orphans(self) -> None:
        """Free jobs whose process is gone."""
        async with self.resources.database.transaction() as session:
            claimed = select(EmbeddedJob.claimed_by).where(EmbeddedJob.status == "doing").distinct()
            pids = (await session.scalars(claimed)).all()
            dead = [pid for pid in pids if pid is None or not psutil.pid_exists(pid)]
            if os.getpid() in pids and not self.running:
                dead.append(os.getpid())  # a former process had the same id
            if dead:
                mine = EmbeddedJob.claimed_by.in_(dead) & (EmbeddedJob.status == "doing")
                await session.execute(update(EmbeddedJob).where(mine).values(status="todo"))

    async def _claim(self) -> Job | None:
        due = (
            select(EmbeddedJob.id)
            .where(EmbeddedJob.status == "todo", EmbeddedJob.run_at <= datetime.now(UTC))
            .order_by(EmbeddedJob.id)
            .limit(1)
            .scalar_subquery()
        )
        statement = (
            update(EmbeddedJob)
            .where(EmbeddedJob.id == due, EmbeddedJob.status == "todo")
            .values(status="doing", claimed_by=os.getpid(), attempts=EmbeddedJob.attempts + 1)
            .returning(EmbeddedJob)
        )
        async with self.resources.database.transaction() as session:
            row = (await session.scalars(statement)).one_or_none()
        return None if row is None else Job(row.id, row.task, row.attempts, row.arguments)

    async def _run(self, job: Job) -> None:
        mine = EmbeddedJob.id == job.id
        task = TASKS[job.task]
        try:
            await execute(task, self.resources, job)
        except JobFailed as error:
            again = datetime.now(UTC) + timedelta(seconds=task.delay_seconds(job.attempt))
            status = "failed" if error.final else "todo"
            change = update(EmbeddedJob).where(mine).values(status=status, run_at=again)
            async with self.resources.database.transaction() as session:
                await session.execute(change)
        else:
            async with self.resources.database.transaction() as session:
                await session.execute(delete(EmbeddedJob).where(mine))
