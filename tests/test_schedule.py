"""Tasks that come round, on both back ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from service import schedule
from service.database import open_database
from service.database_errors import DatabaseUnavailable
from service.jobs import Job, Jobs, Task
from service.schedule import enqueue_due, keep
from service.settings import Settings
from service.tasks import TASKS

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


async def nothing(_: Any, __: Job) -> None:
    return None


HOURLY = Task("test.hourly", nothing, every_seconds=3600)


@pytest.fixture
async def jobs(settings: Settings) -> AsyncIterator[Jobs]:
    async with open_database(settings) as database:
        yield Jobs(database)


async def queued(jobs: Jobs) -> list[str]:
    sql = "SELECT task FROM embedded_jobs"
    if jobs.database.is_postgresql:
        sql = "SELECT task_name FROM procrastinate_jobs"
    async with jobs.database.reading() as connection:
        return list(await connection.scalars(text(sql)))


async def test_a_task_comes_once_a_period(jobs: Jobs) -> None:
    times = [NOON + minutes * timedelta(minutes=1) for minutes in (0, 1, 59, 60, 61, 119, 120)]
    counts = []
    for now in times:
        await enqueue_due(jobs, [HOURLY], now)
        counts.append(len(await queued(jobs)))
    assert counts == [0, 0, 0, 1, 1, 1, 2]


async def test_periods_without_anybody_are_made_up_for_once(jobs: Jobs) -> None:
    await enqueue_due(jobs, [HOURLY], NOON)
    for _ in range(3):
        await enqueue_due(jobs, [HOURLY], NOON + 50 * HOUR)
    assert await queued(jobs) == ["test.hourly"]


async def test_many_who_look_at_once_enqueue_it_once(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        many = [Jobs(await stack.enter_async_context(open_database(settings))) for _ in range(6)]
        for moment in (NOON, NOON + HOUR):
            await asyncio.gather(*(enqueue_due(jobs, [HOURLY], moment) for jobs in many))
        assert await queued(many[0]) == ["test.hourly"]


async def test_it_is_moved_on_and_enqueued_together_or_not_at_all(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a mistake")

    await enqueue_due(jobs, [HOURLY], NOON)
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "enqueue", broken)
        with pytest.raises(RuntimeError):
            await enqueue_due(jobs, [HOURLY], NOON + HOUR)
    await enqueue_due(jobs, [HOURLY], NOON + HOUR)
    assert await queued(jobs) == ["test.hourly"]


async def test_what_does_not_come_round_is_left_alone(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "LOOK_SECONDS", 0.01)
    keeping = asyncio.create_task(keep(jobs, [Task("test.once", nothing), HOURLY]))
    await asyncio.sleep(0.3)
    keeping.cancel()
    await asyncio.wait({keeping})
    async with jobs.database.reading() as connection:
        found = list(await connection.scalars(text("SELECT task FROM schedules")))
    assert found == ["test.hourly"]


async def test_it_goes_on_after_a_failure_and_tells_of_it_once(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, log_lines: list[dict[str, Any]]
) -> None:
    errors: list[Exception] = [RuntimeError("no table"), RuntimeError("x"), DatabaseUnavailable()]
    done = asyncio.Event()

    async def failing(*_: Any) -> None:
        if errors:
            raise errors.pop(0)
        done.set()

    monkeypatch.setattr(schedule, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(schedule, "enqueue_due", failing)
    keeping = asyncio.create_task(keep(jobs, [HOURLY]))
    await asyncio.wait_for(done.wait(), 5)
    keeping.cancel()
    await asyncio.wait({keeping})
    assert [line["message"] for line in log_lines] == ["schedule_failed"]


async def test_housekeeping_comes_round() -> None:
    assert TASKS["idempotency.expire"].every_seconds == 3600
