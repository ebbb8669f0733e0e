"""The background worker: the same resources as the web process, running the listed tasks."""

import asyncio
import contextlib
import logging
import signal
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import procrastinate
from procrastinate import App, JobContext, PsycopgConnector, RetryDecision
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import DeleteJobCondition
from procrastinate.jobs import Job as ProcrastinateJob
from psycopg import OperationalError

from service import metrics
from service.database_url import libpq_url
from service.health import Health
from service.jobs import QUEUE, Job, Task, execute
from service.lifecycle import Lifecycle
from service.resources import Resources, background, open_resources
from service.settings import Settings
from service.tasks import TASKS

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
DEAD_AFTER_SECONDS = 5.0  # without a heartbeat; its jobs are then run by others
RESCUE_SECONDS = 2.0
RECONNECT_SECONDS = 1.0


class Backoff(procrastinate.BaseRetryStrategy):
    """procrastinate's view of a task's own attempts and delays."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def get_retry_decision(
        self, *, exception: BaseException, job: ProcrastinateJob
    ) -> RetryDecision | None:
        attempt = job.attempts + 1
        if attempt >= self.task.max_attempts:
            return None
        delay = timedelta(seconds=self.task.delay_seconds(attempt))
        return RetryDecision(retry_at=datetime.now(UTC) + delay)


def build(settings: Settings, resources: Resources) -> App:
    """procrastinate's application with every task registered."""
    connector = PsycopgConnector(
        conninfo=libpq_url(settings),
        min_size=1,
        max_size=settings.job_concurrency + 2,
        kwargs={"connect_timeout": int(settings.database_connect_timeout_seconds + 1)},
    )
    app = App(connector=connector)
    for task in TASKS.values():
        run = partial(_run, task, resources)
        app.task(name=task.name, queue=QUEUE, pass_context=True, retry=Backoff(task))(run)
    return app


async def _run(task: Task, resources: Resources, context: JobContext, **arguments: Any) -> None:
    # A run that ends in JobFailed is retried or failed by procrastinate, as Backoff decides.
    job = Job(context.job.id or 0, task.name, context.job.attempts + 1, arguments)
    await execute(task, resources, job)


async def rescue_forever(app: App) -> None:
    """Give the jobs of dead workers to the living. Without this they would be stuck for good."""
    manager = app.job_manager
    while True:
        await asyncio.sleep(RESCUE_SECONDS)
        with contextlib.suppress(ConnectorException, OperationalError):
            stalled = await manager.get_stalled_jobs(seconds_since_heartbeat=DEAD_AFTER_SECONDS)
            for job in stalled:
                log.warning("job_rescued", extra={"job": job.id, "task": job.task_name})
                await manager.retry_job(job)


async def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT; then finish what is under way, within the grace period."""
    lifecycle = Lifecycle()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lifecycle.begin_drain)
    health = Health(lifecycle, required=settings.health_required)
    async with open_resources(settings, health) as resources:
        log.info("worker_started", extra={"tasks": sorted(TASKS)})
        samples = metrics.sample_forever(lambda: None)
        async with background(samples):
            while not lifecycle.draining:
                await _work(settings, resources, lifecycle)
    log.info("worker_stopped")


async def _work(settings: Settings, resources: Resources, lifecycle: Lifecycle) -> None:
    """Run jobs until the drain begins or the database goes away."""
    app = build(settings, resources)
    stopping = asyncio.create_task(lifecycle.wait_for_drain())
    try:
        async with app.open_async(), background(rescue_forever(app)):
            working = asyncio.create_task(
                app.run_worker_async(
                    queues=[QUEUE],
                    concurrency=settings.job_concurrency,
                    install_signal_handlers=False,
                    delete_jobs=DeleteJobCondition.SUCCESSFUL,
                    fetch_job_polling_interval=2.0,
                    update_heartbeat_interval=HEARTBEAT_SECONDS,
                    stalled_worker_timeout=DEAD_AFTER_SECONDS,
                    shutdown_graceful_timeout=max(1.0, settings.shutdown_grace_seconds - 5.0),
                )
            )
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working
    except (ConnectorException, OperationalError, OSError) as error:
        log.warning("worker_lost_database", extra={"error": f"{type(error).__name__}: {error}"})
        await asyncio.wait({stopping}, timeout=RECONNECT_SECONDS)
    finally:
        stopping.cancel()
