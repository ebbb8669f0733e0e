"""Everything a process holds open, opened in one place and closed in reverse."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection

from service import metrics
from service.cache import Cache, open_cache
from service.cgroups import cgroup_limits
from service.checks import Check, InThread
from service.database import Database, open_database
from service.fanout import Fanout, open_fanout
from service.health import Health
from service.heartbeat import make_heartbeat
from service.jobs import STATUSES, Jobs
from service.limits import Limits
from service.mail import Mailer
from service.middleware import RequestLayer
from service.redis import OptionalRedis, deployment, is_stand_in, open_heartbeat, open_redis
from service.settings import Settings
from service.storage import Storage, open_storage
from service.system import disk_usage, resident_bytes, usable_cpus, web_workers

log = logging.getLogger(__name__)

JOB_COUNT_SECONDS = 10
POOL_CHECK_SECONDS = 0.5
DISK_CHECK_SECONDS = 0.5
STORE_CHECK_SECONDS = 2


class FolderUnusable(Exception):
    """UPLOAD_FOLDER is no folder, or one that this process cannot write to."""


class DiskNearlyFull(Exception):
    """Less space or fewer inodes are free than HEALTH_DISK_FREE_PERCENT."""


@dataclass
class Disk:
    """Where uploads are kept, where that is a folder; elsewhere that of the machine."""

    settings: Settings
    nearly_full: bool = False
    """What the last look said of the folder. What is left may be PostgreSQL's."""

    def check(self) -> None:
        """Raises DiskNearlyFull or FolderUnusable. Blocks for as long as the file system does."""
        settings, folder = self.settings, Path(self.settings.upload_folder)
        needed = not settings.media_store_url
        if needed and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            raise FolderUnusable
        usage = disk_usage(folder)
        metrics.DISK_FREE.labels("bytes").set(usage.free_percent / 100)
        metrics.DISK_FREE.labels("inodes").set(usage.inodes_free_percent / 100)
        least_free = min(usage.free_percent, usage.inodes_free_percent)
        low = least_free < settings.health_disk_free_percent
        self.nearly_full = needed and low
        if low:
            raise DiskNearlyFull


@dataclass(frozen=True)
class Resources:
    """What requests and tasks work with."""

    settings: Settings
    database: Database
    redis: OptionalRedis
    limits: Limits
    cache: Cache
    fanout: Fanout
    storage: Storage
    disk: Disk
    mailer: Mailer
    jobs: Jobs
    cpu_gate: asyncio.Semaphore  # around work in threads that needs a core for milliseconds
    hashing: Executor  # of passwords; each of its threads keeps the 19 MiB of its last hash


def provide(connection: HTTPConnection) -> Resources:
    resources: Resources = connection.state.resources
    return resources


async def _provide(connection: HTTPConnection) -> Resources:
    return provide(connection)  # a coroutine: FastAPI runs plain functions in threads


Provided = Annotated[Resources, Depends(_provide)]


@asynccontextmanager
async def open_resources(settings: Settings, health: Health) -> AsyncIterator[Resources]:
    """Open what a process needs. Returns at once: everything connects on first use, so that
    liveness is answered while dependencies are still away."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings))
        heartbeat = make_heartbeat(settings)
        stack.push_async_callback(heartbeat.close)
        health.add(
            Check(
                "database",
                heartbeat.beat,
                timeout_seconds=settings.health_database_timeout_seconds,
                abort=heartbeat.abort,
                slow_seconds=settings.health_slow_seconds,
            )
        )
        health.add(
            Check(
                "database_pool",
                database.check_pool,
                timeout_seconds=POOL_CHECK_SECONDS,
                takes_time=True,
                named_when_failing=True,
            )
        )

        redis = await stack.enter_async_context(open_redis(settings))
        pulse = await stack.enter_async_context(open_heartbeat(settings, redis))
        health.add(
            Check(
                "cache",
                pulse.ping,
                timeout_seconds=settings.health_cache_timeout_seconds,
                slow_seconds=settings.health_slow_seconds,
            )
        )

        timeout_seconds = None if is_stand_in(settings) else settings.redis_timeout_seconds
        optional = OptionalRedis(redis, timeout_seconds, deployment(settings))
        stack.push_async_callback(optional.close)
        limits = Limits(settings, optional)
        shared = None if is_stand_in(settings) else optional
        cache = await stack.enter_async_context(open_cache(shared))
        fanout = await stack.enter_async_context(open_fanout(settings, optional))

        storage = await stack.enter_async_context(open_storage(settings))
        disk = Disk(settings)
        health.add(Check("disk_space", InThread(disk.check), timeout_seconds=DISK_CHECK_SECONDS))
        if storage.folder is None:
            health.add(
                Check(
                    "media_store",
                    InThread(storage.backend.ping),
                    timeout_seconds=STORE_CHECK_SECONDS,
                    on_demand=True,
                    named_when_failing=True,
                )
            )

        mailer = Mailer(settings)
        if settings.mail_server:
            health.add(
                Check(
                    "mail",
                    mailer.check,
                    timeout_seconds=settings.health_mail_timeout_seconds,
                    on_demand=True,
                    named_when_failing=True,
                )
            )

        jobs = Jobs(database)
        cores = int(usable_cpus(cgroup_limits()))
        gate = asyncio.Semaphore(max(1, cores))
        # In all workers together no more than there are cores.
        threads = max(1, cores // web_workers(settings))
        hashing = stack.enter_context(ThreadPoolExecutor(threads, "hashing"))
        await stack.enter_async_context(health.running())
        yield Resources(
            settings,
            database,
            optional,
            limits,
            cache,
            fanout,
            storage,
            disk,
            mailer,
            jobs,
            gate,
            hashing,
        )


@asynccontextmanager
async def background(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines beside a block and cancel them at its end."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    for task in tasks:
        task.add_done_callback(_told)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _told(task: asyncio.Task[None]) -> None:
    """Nobody awaits it: what it raised would be in no log as long as the process runs."""
    if not task.cancelled() and (error := task.exception()):
        log.error("background_task_failed", exc_info=error)


def refresh_gauges(resources: Resources, layer: RequestLayer) -> None:
    """What metrics read rather than count."""
    metrics.IN_PROGRESS.set(layer.running)
    metrics.SOCKETS.set(layer.sockets)
    metrics.WORKER_REQUESTS.set(layer.answered)
    metrics.WORKER_MEMORY.set(resident_bytes())
    metrics.POOL_SIZE.set(resources.settings.database_pool_size)
    metrics.POOL_IN_USE.set(resources.database.pool_in_use)


async def count_jobs(resources: Resources, health: Health) -> None:
    """Keep the queue's gauges fresh; a database that is away leaves them as they are."""
    database = health.watches["database"]
    while True:
        if health.passes(database):  # else every try would write another line about the outage
            with contextlib.suppress(Exception):
                counts = await resources.jobs.counts()
                for status in STATUSES:
                    metrics.JOBS.labels(status).set(counts.get(status, 0))
                metrics.JOBS_OLDEST.set(await resources.jobs.oldest_seconds())
        await asyncio.sleep(JOB_COUNT_SECONDS)
