"""The background worker: the same resources as the web process, running the listed tasks.

It never exits because something is away: without a database, or with one whose schema is older than
the code, it waits, says so once, and begins when it can. SIGTERM lets running jobs finish within
SHUTDOWN_GRACE_SECONDS; what takes longer is handed back for another worker and uses up no attempt.
"""

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Any

from procrastinate import App, JobContext
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import DeleteJobCondition
from psycopg import AsyncConnection
from psycopg import Error as PsycopgError
from psycopg_pool import AsyncConnectionPool
from sqlalchemy.exc import SQLAlchemyError

from service import metrics, tracing
from service.checks import Check
from service.connections import QUEUE_CONNECTIONS, tell_if_too_few
from service.database_errors import DatabaseUnavailable
from service.database_url import libpq_url
from service.health import Health
from service.job_queue import Connector, Queue
from service.jobs import QUEUE, Job, Task, execute, most_slow
from service.lifecycle import Lifecycle
from service.migrate import current_revision, outdated
from service.probe_server import listen, serve_probes
from service.resources import Resources, background, open_resources
from service.schedule import enqueue_forever
from service.settings import Settings
from service.tasks import TASKS

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
DEAD_AFTER_SECONDS = 5.0  # without a heartbeat; its jobs are then run by others
RESCUE_SECONDS = 1.0
POLL_SECONDS = 1.0  # for jobs whose time has come; new ones are announced
READY_POLL_SECONDS = 0.5
QUEUE_CHECK_SECONDS = 1.0
POOL_SECONDS = 5.0  # longest wait for a connection
MAX_PAUSE_SECONDS = 5.0  # between two attempts where the health check passes and work fails
STABLE_SECONDS = 60.0
# A partner that vanished without a word is noticed within about ten seconds.
CONNECTION = {
    "application_name": "service-worker",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


async def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT."""
    _quieten(settings)
    lifecycle = Lifecycle()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _begin_stop, lifecycle, settings.shutdown_grace_seconds)
    health = Health(lifecycle, required=(*settings.health_required, "queue"))
    working = asyncio.Event()
    # It waits, so that a worker that is just starting is not reported as one that fails.
    health.add(Check("queue", working.wait, timeout_seconds=QUEUE_CHECK_SECONDS))
    async with AsyncExitStack() as stack:
        stack.enter_context(tracing.exporting(tracing.make_provider(settings), settings))
        resources = await stack.enter_async_context(open_resources(settings, health))
        if settings.worker_bind:
            await stack.enter_async_context(_probes(settings.worker_bind, health))
        log.info("worker_started", extra={"tasks": sorted(TASKS)})
        worker = Worker(settings, resources, health, working)
        enough = tell_if_too_few(settings, resources.database, health, web_here=False)
        async with background(metrics.sample_forever(lambda: None), enough):
            work = asyncio.create_task(worker.work())
            stopping = asyncio.create_task(lifecycle.wait_for_drain())
            await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            stopping.cancel()
    log.info("worker_stopped")


def _quieten(settings: Settings) -> None:
    """Both libraries log every failed attempt, with a traceback; the worker says it once."""
    if settings.log_level != "debug":
        logging.getLogger("procrastinate").setLevel(logging.CRITICAL)
        logging.getLogger("psycopg").setLevel(logging.CRITICAL)


def _begin_stop(lifecycle: Lifecycle, grace_seconds: float) -> None:
    if lifecycle.draining:
        return
    lifecycle.begin_drain()
    # A frozen database, or a thread that computes, must not keep the process from ending.
    timer = threading.Timer(grace_seconds, _give_up_stop)
    timer.daemon = True
    timer.start()


def _give_up_stop() -> None:
    log.error("worker_stop_timed_out")  # what it was running is rescued by others
    os._exit(1)


def _probes(bind: str, health: Health) -> AbstractAsyncContextManager[None]:
    try:
        return serve_probes(listen(bind), health)
    except OSError as error:
        log.error("worker_cannot_listen", extra={"bind": bind, "error": str(error)})
        raise SystemExit(1) from None


class Worker:
    """Sessions with the queue, one after the other; each ends when the database is lost."""

    def __init__(
        self, settings: Settings, resources: Resources, health: Health, working: asyncio.Event
    ) -> None:
        self.settings = settings
        self.resources = resources
        self.health = health
        self.working = working
        self._told_outdated = False

    async def work(self) -> None:
        """Until cancelled. A cancellation lets running jobs finish first."""
        pause_seconds = READY_POLL_SECONDS
        while True:
            await self._until_ready()
            began = time.monotonic()
            try:
                await self._session()
                reason = "its connection"
            except (ConnectorException, PsycopgError, OSError) as error:
                reason = repr(error.__cause__ or error)
            if time.monotonic() - began > STABLE_SECONDS:
                pause_seconds = READY_POLL_SECONDS
            extra = {"error": reason, "pause": pause_seconds, "seldom": ""}
            log.warning("worker_lost_database", extra=extra)
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, MAX_PAUSE_SECONDS)

    async def _until_ready(self) -> None:
        """Wait for the database, whose health check tells its comings and goings in the log."""
        while not await self._ready():  # noqa: ASYNC110  (nor does one tell of a schema)
            await asyncio.sleep(READY_POLL_SECONDS)

    async def _ready(self) -> bool:
        if not self.health.watches["database"].result.ok:
            return False
        try:
            revision = await current_revision(self.resources.database.engine)
        except (DatabaseUnavailable, SQLAlchemyError, OSError):
            return False
        if not outdated(revision):
            self._told_outdated = False
            return True
        if not self._told_outdated:
            self._told_outdated = True
            extra = {"schema": revision or "empty", "remedy": "run `service migrate`"}
            log.error("worker_waits_for_migration", extra=extra)
        return False

    async def _session(self) -> None:
        """Run jobs until cancelled, or until the database goes away."""
        concurrency = self.settings.job_concurrency
        pool = AsyncConnectionPool(
            libpq_url(self.settings),
            kwargs={"connect_timeout": self._connect_seconds, **CONNECTION},
            min_size=1,
            max_size=concurrency + QUEUE_CONNECTIONS - 1,
            timeout=POOL_SECONDS,
            reconnect_timeout=POOL_SECONDS,
            check=AsyncConnectionPool.check_connection,
            configure=_autocommit,
            open=False,
        )
        try:
            await pool.open(wait=True, timeout=POOL_SECONDS)
            app = App(connector=Connector())
            await app.open_async(pool)
            queue = app.job_manager = Queue(app.connector, most_slow(concurrency))
            _register(app, queue, self.resources)
            self.working.set()
            log.info("worker_ready")
            due = enqueue_forever(self.resources, TASKS.values())
            async with background(_beat_forever(queue), _rescue_forever(queue), due):
                await self._run_jobs(app, queue)
        finally:
            self.working.clear()
            await pool.close(timeout=1)

    async def _run_jobs(self, app: App, queue: Queue) -> None:
        grace_seconds = self.settings.shutdown_grace_seconds
        jobs = app.run_worker_async(
            queues=[QUEUE],
            concurrency=self.settings.job_concurrency,
            install_signal_handlers=False,
            delete_jobs=DeleteJobCondition.SUCCESSFUL,
            fetch_job_polling_interval=POLL_SECONDS,
            stalled_worker_timeout=DEAD_AFTER_SECONDS,
            shutdown_graceful_timeout=max(grace_seconds - 5, grace_seconds / 2),
        )
        running = asyncio.create_task(jobs)
        broken = asyncio.create_task(queue.broken.wait())
        try:
            await asyncio.wait({running, broken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            broken.cancel()
            running.cancel()  # which lets jobs finish; once they did, it raises
            await asyncio.wait({running})
        with contextlib.suppress(asyncio.CancelledError):
            running.result()

    @property
    def _connect_seconds(self) -> int:
        return int(self.settings.database_connect_timeout_seconds + 1)


async def _autocommit(connection: AsyncConnection) -> None:
    """The queue's uses are single statements: BEGIN and COMMIT would be two round trips more."""
    await connection.set_autocommit(True)


def _register(app: App, queue: Queue, resources: Resources) -> None:
    for task in TASKS.values():
        run = partial(_run, task, resources, queue)
        app.task(name=task.name, queue=QUEUE, pass_context=True)(run)


async def _run(
    task: Task, resources: Resources, queue: Queue, context: JobContext, /, **arguments: Any
) -> None:
    assert context.job.id is not None
    job = Job(context.job.id, task.name, context.job.attempts + 1, arguments)
    queue.outcomes[job.id] = await execute(task, resources, job)


async def _beat_forever(queue: Queue) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_SECONDS)
        await queue.beat()


async def _rescue_forever(queue: Queue) -> None:
    while True:
        await asyncio.sleep(RESCUE_SECONDS)
        with contextlib.suppress(ConnectorException):
            await queue.rescue(DEAD_AFTER_SECONDS)
