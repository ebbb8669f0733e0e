"""procrastinate's queue, made safe against workers that froze, died or were told to stop."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from procrastinate import PsycopgConnector
from procrastinate.connector import BaseConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job as QueuedJob
from procrastinate.jobs import Status
from procrastinate.manager import JobManager, NotificationCallback

from service.jobs import HANDED_BACK, UNKNOWN, WAKE, Outcome

log = logging.getLogger(__name__)

STATEMENT_SECONDS = 10.0  # longest wait for one of the queue's; psycopg takes as long to give it up

# A run may end what it still owns, and nothing else: its worker may have been frozen for so long
# that another has taken the job over. procrastinate's own functions do not ask.
OWNED = (
    """id = %(job)s AND status = 'doing' AND worker_id = %(worker)s AND attempts = %(attempts)s"""
)
FETCH_PROMPT = "SELECT * FROM fetch_prompt_job(%(queues)s::varchar[], %(worker_id)s)"
DONE = f"DELETE FROM procrastinate_jobs WHERE {OWNED} RETURNING id"  # noqa: S608
FAILED = f"""
WITH failed AS (
    UPDATE procrastinate_jobs
    SET status = 'failed', attempts = attempts + 1, abort_requested = false
    WHERE {OWNED} RETURNING id
)
INSERT INTO job_failures (job_id, reason, failed_at) SELECT id, %(reason)s, now() FROM failed
ON CONFLICT (job_id) DO UPDATE SET reason = excluded.reason, failed_at = excluded.failed_at
RETURNING job_id AS id
"""  # noqa: S608
AGAIN = f"""
WITH freed AS (
    UPDATE procrastinate_jobs
    SET status = 'todo', worker_id = NULL, abort_requested = false,
        attempts = attempts + %(counted)s,
        scheduled_at = now() + make_interval(secs => %(delay)s)
    WHERE {OWNED} RETURNING id
)
SELECT id, {WAKE} FROM freed
"""  # noqa: S608
RESCUE = f"""
WITH lost AS (
    SELECT id FROM procrastinate_jobs AS job
    WHERE status = 'doing' AND NOT EXISTS (
        SELECT 1 FROM procrastinate_workers AS worker
        WHERE worker.id = job.worker_id
        AND worker.last_heartbeat BETWEEN now() - make_interval(secs => %(dead_after)s)
        AND now() + make_interval(secs => %(dead_after)s)  -- or the clock was set back since
    )
    FOR UPDATE SKIP LOCKED
), freed AS (
    UPDATE procrastinate_jobs AS job
    SET status = 'todo', worker_id = NULL, abort_requested = false,
        attempts = attempts + 1, scheduled_at = now()
    FROM lost WHERE job.id = lost.id RETURNING job.id, job.task_name
)
SELECT id, task_name, {WAKE} FROM freed
"""  # noqa: S608


HEARTBEAT = (
    "UPDATE procrastinate_workers SET last_heartbeat = now() WHERE id = %(worker)s RETURNING id"
)


class Connector(PsycopgConnector):
    """Gives up a statement in the end: a proxy whose server has vanished keeps its connections."""

    async def execute_query_async(self, query: str, **arguments: Any) -> None:
        async with _bounded():
            await super().execute_query_async(query, **arguments)

    async def execute_query_one_async(self, query: str, **arguments: Any) -> dict[str, Any]:
        async with _bounded():
            row: dict[str, Any] = await super().execute_query_one_async(query, **arguments)
            return row

    async def execute_query_all_async(self, query: str, **arguments: Any) -> list[dict[str, Any]]:
        async with _bounded():
            rows: list[dict[str, Any]] = await super().execute_query_all_async(query, **arguments)
            return rows


@asynccontextmanager
async def _bounded() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(STATEMENT_SECONDS):
            yield
    except TimeoutError as error:
        raise ConnectorException from error


class Queue(JobManager):
    """Ends each job as its run's Outcome says.

    `broken` is set where only a new registration of the worker helps: a job's end could not be
    recorded, or a heartbeat, or the worker was struck off while it was frozen. procrastinate's own
    worker would go on without a heartbeat, and all its jobs would be run by others as well. No more
    than `most_slow` jobs below priority 0 are taken at once.
    """

    def __init__(self, connector: BaseConnector, most_slow: int) -> None:
        super().__init__(connector)
        self.most_slow = most_slow
        self.slow: set[int] = set()  # the ids of those that run
        self._wake: NotificationCallback | None = None
        self.outcomes: dict[int, Outcome] = {}
        self.broken = asyncio.Event()
        self.worker_id: int | None = None

    async def register_worker(self) -> int:
        self.worker_id = await super().register_worker()
        return self.worker_id

    async def unregister_worker(self, worker_id: int) -> None:
        self.worker_id = None
        await super().unregister_worker(worker_id)

    async def listen_for_jobs(
        self, *, on_notification: NotificationCallback, queues: Iterable[str] | None = None
    ) -> None:
        self._wake = on_notification
        await super().listen_for_jobs(on_notification=on_notification, queues=queues)

    @property
    def _full(self) -> bool:
        return len(self.slow) >= self.most_slow

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> QueuedJob | None:
        job = None
        if self._full:
            rows = await self.connector.execute_query_all_async(
                FETCH_PROMPT, queues=queues, worker_id=worker_id
            )
            job = QueuedJob.from_row(rows[0]) if rows else None
        if job is None and not self._full:  # any more: a word of it would not be heard meanwhile
            job = await super().fetch_job(queues, worker_id)
        if job is not None and job.priority < 0:
            assert job.id is not None
            self.slow.add(job.id)
        return job

    async def finish_job(self, job: QueuedJob, status: Status, delete_job: bool) -> None:
        """Called once a run, also for one that was cancelled or whose task nobody knows."""
        assert job.id is not None
        extra: dict[str, Any] = {"task": job.task_name, "job": job.id}
        outcome = self.outcomes.pop(job.id, None)
        if outcome is None:
            cancelled = status is Status.ABORTED
            outcome = HANDED_BACK if cancelled else UNKNOWN
            log.warning("job_handed_back" if cancelled else "job_unknown", extra=extra)
        try:
            owned = await self._record(job, outcome)
        except ConnectorException as error:
            log.warning("job_end_not_recorded", extra={**extra, "error": repr(error.__cause__)})
            self.broken.set()
            return
        if not owned:
            log.warning("job_was_taken_over", extra=extra)
        await self._leave(job.id)

    async def _leave(self, job_id: int) -> None:
        """Where it kept other slow jobs from being taken, the worker looks for them now."""
        kept_others = self._full
        self.slow.discard(job_id)
        if kept_others and not self._full and self._wake is not None:
            await self._wake(channel="", notification={"type": "job_inserted", "job_id": 0})

    async def _record(self, job: QueuedJob, outcome: Outcome) -> bool:
        """Whether the job was still this run's."""
        query = {"done": DONE, "failed": FAILED, "again": AGAIN}[outcome.status]
        more: dict[str, Any] = {}
        if outcome.status == "again":
            more = {"delay": outcome.delay_seconds, "counted": int(outcome.counted)}
        elif outcome.status == "failed":
            more = {"reason": outcome.reason}
        rows = await self.connector.execute_query_all_async(
            query, job=job.id, worker=job.worker_id, attempts=job.attempts, **more
        )
        return bool(rows)

    async def update_heartbeat(self, worker_id: int) -> None:
        """procrastinate's worker ends its own as soon as it is told to stop, and not when its jobs
        have ended, which others would run as well meanwhile: see `beat`."""

    async def beat(self) -> None:
        """To be called every few seconds, as long as jobs may be running."""
        if self.worker_id is None:
            return
        try:
            alive = await self.connector.execute_query_all_async(HEARTBEAT, worker=self.worker_id)
        except ConnectorException:
            alive = []
        if not alive:
            self.broken.set()

    async def rescue(self, dead_after_seconds: float) -> None:
        """Free the jobs of workers without a heartbeat: without this they are stuck for good.

        Raises ConnectorException.
        """
        rows = await self.connector.execute_query_all_async(RESCUE, dead_after=dead_after_seconds)
        for row in rows:
            log.warning("job_rescued", extra={"job": row["id"], "task": row["task_name"]})
