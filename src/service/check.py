"""`service check --connect`: does the configuration hold against the real dependencies?"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator

from sqlalchemy import text

from service import system
from service.database import Database, open_database
from service.database_errors import root
from service.database_url import engine_url
from service.mail import Mailer
from service.migrate import current_revision, outdated
from service.redis import open_redis
from service.settings import Settings
from service.sources import Problem
from service.storage import StorageUnavailable, open_storage
from service.store_errors import REFUSALS, reason, refusal

CONNECT_SECONDS = 10


async def connect(settings: Settings) -> list[Problem]:
    """What is wrong with the dependencies, found in parallel, each within 10 s."""
    probes: dict[str, Callable[[Settings], Awaitable[list[Problem]]]] = {
        "DATABASE_URL": _database,
        "REDIS_URL": _redis,
        "MAIL_SERVER": _mail,
        _store_variable(settings): _storage,
    }
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
        given = type(root(error)).__name__  # its text may repeat hosts, users or more
    return [Problem(variable, "connection", "a server that answers", given)]


async def _database(settings: Settings) -> list[Problem]:
    url = engine_url(settings)
    if url.get_backend_name() == "sqlite" and not os.path.exists(url.database or ""):
        return list(_schema(None))  # connecting would make the file
    async with open_database(settings) as database:
        problems = list(_schema(await current_revision(database.engine)))
        if database.is_postgresql:
            problems += await _pool_fits(settings, database)
        return problems


def _schema(revision: str | None) -> Iterator[Problem]:
    if outdated(revision):
        given = "an older one" if revision else "an empty database"
        yield Problem(
            "DATABASE_URL", "connection", "the newest schema (run `service migrate`)", given
        )


async def _pool_fits(settings: Settings, database: Database) -> list[Problem]:
    """This replica's pools, and a health connection a worker, within what the server has."""
    async with database.reading() as connection:
        most = int(await connection.scalar(text("SHOW max_connections")))
        most -= int(await connection.scalar(text("SHOW superuser_reserved_connections")))
    needed = system.web_workers(settings) * (settings.database_pool_size + 1)
    if needed <= most:
        return []
    expected = f"web workers x (pool + 1) of at most {most}, what the server has"
    return [Problem("DATABASE_POOL_SIZE", "connection", expected, f"{needed}")]


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
