"""`service check --connect`: does the configuration hold against the real dependencies?"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import asyncpg
from sqlalchemy import text

from service import connections
from service.database import Database, open_database
from service.database_errors import root
from service.database_url import engine_url
from service.fields import SecretUrl
from service.mail import Mailer
from service.migrate import current_revision, outdated
from service.redis import open_redis
from service.settings import Settings
from service.sources import Problem
from service.storage import StorageUnavailable, open_storage
from service.store_errors import REFUSALS, reason, refusal
from service.system import web_workers

CONNECT_SECONDS = 10
# What two databases do not have in common, and everybody may ask.
IDENTITY = text("SELECT current_database(), pg_postmaster_start_time()")


async def connect(settings: Settings) -> list[Problem]:
    """What is wrong with the dependencies, found in parallel, each within 10 s."""
    probes: dict[str, Callable[[Settings], Awaitable[list[Problem]]]] = {
        "DATABASE_URL": _database,
        "REDIS_URL": _redis,
        "MAIL_SERVER": _mail,
        _store_variable(settings): _storage,
    }
    if settings.pooled:
        probes["DATABASE_POOLER_URL"] = _pooler
    found = await asyncio.gather(
        *(_within(name, probe, settings) for name, probe in probes.items())
    )
    return [problem for problems in found for problem in problems]


async def _within(
    variable: str, probe: Callable[[Settings], Awaitable[list[Problem]]], settings: Settings
) -> list[Problem]:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await probe(settings)
    except TimeoutError:
        given = f"no answer in {CONNECT_SECONDS} s"
    except Exception as error:
        cause = root(error)
        given = type(cause).__name__  # its text may repeat hosts, users or more
        if isinstance(cause, asyncpg.ProtocolViolationError) and "startup parameter" in str(cause):
            given = "a pooler, whose URL is for DATABASE_POOLER_URL"
    return [Problem(variable, "connection", "a server that answers", given)]


async def _database(settings: Settings) -> list[Problem]:
    url = engine_url(settings)
    if url.get_backend_name() == "sqlite" and not os.path.exists(url.database or ""):
        return list(_schema(None))  # connecting would make the file
    async with open_database(_direct(settings)) as database:
        problems = list(_schema(await current_revision(database.engine)))
        if database.is_postgresql:
            problems += await _connections_fit(settings, database)
        return problems


def _direct(settings: Settings) -> Settings:
    return settings.model_copy(update={"database_pooler_url": SecretUrl("")})


async def _pooler(settings: Settings) -> list[Problem]:
    async with open_database(settings) as database, open_database(_direct(settings)) as direct:
        if await _identity(database) == await _identity(direct):
            return []
    return [Problem("DATABASE_POOLER_URL", "connection", "the database of DATABASE_URL", "another")]


async def _identity(database: Database) -> Sequence[Any]:
    async with database.reading() as connection:
        return (await connection.execute(IDENTITY)).one()


def _schema(revision: str | None) -> Iterator[Problem]:
    if outdated(revision):
        given = "an older one" if revision else "an empty database"
        yield Problem(
            "DATABASE_URL", "connection", "the newest schema (run `service migrate`)", given
        )


async def _connections_fit(settings: Settings, database: Database) -> list[Problem]:
    found = await connections.count(settings, database)
    if found.fit:
        return []
    variable = "WEB_REPLICAS" if settings.pooled else "DATABASE_POOL_SIZE"
    workers = web_workers(settings)
    expected = (
        f"at most {found.available} connections, of all WEB_REPLICAS ({workers} workers each)"
        " and WORKER_REPLICAS"
    )
    return [Problem(variable, "connection", expected, f"{found.wanted}")]


async def _redis(settings: Settings) -> list[Problem]:
    async with open_redis(settings) as redis:
        await redis.ping()
    return []


async def _mail(settings: Settings) -> list[Problem]:
    if settings.mail_server:
        await Mailer(settings).check_login()
    return []


def _store_variable(settings: Settings) -> str:
    return "MEDIA_STORE_URL" if settings.media_store_url else "UPLOAD_FOLDER"


async def _storage(settings: Settings) -> list[Problem]:
    async with open_storage(settings) as storage:
        try:
            await storage.check()
        except StorageUnavailable as error:
            if storage.folder is None:
                return [_store_problem(settings, error)]
            given = type(root(error)).__name__
            expected = "a folder that this user can write to"
            return [Problem("UPLOAD_FOLDER", "connection", expected, given)]
    return []


def _store_problem(settings: Settings, error: StorageUnavailable) -> Problem:
    address = "AWS_ENDPOINT_URL" if settings.aws_endpoint_url else "MEDIA_STORE_URL"
    away = (address, "an object store that answers", reason(error) or "no answer")
    variable, expected, given = REFUSALS.get(refusal(error), away)
    return Problem(variable, "connection", expected, given)
