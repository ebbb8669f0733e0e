"""Whether PostgreSQL lets in all that may connect: every pool of every replica, full."""

import asyncio
import logging
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from service import system
from service.database import Database
from service.database_errors import DatabaseUnavailable
from service.health import Health
from service.settings import Settings

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
# Of a worker's, beside one for each job that runs: one that hears of new jobs and belongs to no
# pool, and one more in the queue's pool, for heartbeat, rescue and looks.
QUEUE_CONNECTIONS = 2

# `reserved_connections` is of PostgreSQL 16; -1 is no limit.
AVAILABLE = text(
    """SELECT least(
        current_setting('max_connections')::int
            - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true), '0')::int,
        (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
        (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())
    )"""
)


@dataclass(frozen=True)
class Connections:
    """What may be opened at PostgreSQL in all, and how many it takes from this role."""

    wanted: int
    available: int

    @property
    def fit(self) -> bool:
        return self.wanted <= self.available


def wanted(settings: Settings) -> int:
    """Of `WEB_REPLICAS` and `WORKER_REPLICAS`. Through a pooler only the queue's are the service's
    own: how many sessions the pooler opens is its configuration.

    Each process has its pool, and one for health.
    """
    process = 0 if settings.pooled else settings.database_pool_size + 1
    web = system.web_workers(settings) * process
    worker = settings.job_concurrency + QUEUE_CONNECTIONS + process
    return settings.web_replicas * web + settings.worker_replicas * worker


async def count(settings: Settings, database: Database) -> Connections:
    """Raises DatabaseUnavailable."""
    async with database.reading() as connection:
        return Connections(wanted(settings), int(await connection.scalar(AVAILABLE)))


async def tell_if_too_few(
    settings: Settings, database: Database, health: Health, *, web_here: bool
) -> None:
    """One line at the start, as soon as the database is there. Nothing else would tell why some
    requests are 503 on the day when replicas are many and busy.

    How many workers a web replica has by itself is seen only where one runs: `web_here`.
    """
    if settings.embedded or not (web_here or settings.web_concurrency):
        return
    while not health.passes(health.watches["database"]):  # noqa: ASYNC110  (no event tells it)
        await asyncio.sleep(POLL_SECONDS)
    try:
        found = await count(settings, database)
    except (DatabaseUnavailable, SQLAlchemyError):
        return  # its check tells that; or it tells such things to nobody
    if not found.fit:
        extra = {"wanted": found.wanted, "available": found.available}
        log.warning("database_connections_too_few", extra=extra)
