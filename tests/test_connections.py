"""What a process says at its start where PostgreSQL lets in fewer than all replicas may open."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api import running_api
from service.checks import Check
from service.connections import tell_if_too_few, wanted
from service.database import Database, open_database
from service.health import Health
from service.lifecycle import Lifecycle
from service.settings import Settings

pytestmark = pytest.mark.anyio

Lines = list[dict[str, Any]]

AVAILABLE = 57  # of the 60 of the tests' server, without those that are kept for superusers


def told(lines: Lines) -> list[tuple[int, int]]:
    return [
        (line["wanted"], line["available"])
        for line in lines
        if line["message"] == "database_connections_too_few"
    ]


def of_replicas(database_url: str, number: int, **more: Any) -> Settings:
    """Each of them wants 12, and so does the one worker."""
    return Settings(database_url=database_url, web_replicas=number, **more)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with open_database(Settings(database_url=database_url)) as opened:
        yield opened


@pytest.mark.parametrize(("replicas", "expected"), [(3, []), (4, [(60, AVAILABLE)])])
async def test_more_replicas_than_fit_are_told(
    database_url: str,
    database: Database,
    log_lines: Lines,
    replicas: int,
    expected: list[tuple[int, int]],
) -> None:
    health = Health(Lifecycle())
    health.add(Check("database", passing, timeout_seconds=1))
    settings = of_replicas(database_url, replicas, web_concurrency=2)
    async with health.running():
        await tell_if_too_few(settings, database, health, web_here=False)
    assert told(log_lines) == expected


async def passing() -> None:
    """As a check that finds what it asks for."""


async def test_who_cannot_know_the_number_of_web_workers_says_nothing(
    database_url: str, database: Database, log_lines: Lines
) -> None:
    """A worker, whose container is not that of the web replicas."""
    settings = of_replicas(database_url, 50)
    await tell_if_too_few(settings, database, Health(Lifecycle()), web_here=False)
    assert told(log_lines) == []


async def test_a_web_process_says_so_at_its_start(
    server_settings: Settings, log_lines: Lines
) -> None:
    crowded = server_settings.model_copy(update={"worker_replicas": 50})
    async with running_api(crowded), asyncio.timeout(30):
        while not told(log_lines):  # noqa: ASYNC110  (no event tells it)
            await asyncio.sleep(0.05)
    assert told(log_lines) == [(wanted(crowded), AVAILABLE)]
