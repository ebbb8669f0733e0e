"""Tasks that run every so often, once for all processes together, on both back ends."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from anyio import fail_after
from sqlalchemy import select, text, update

from asgi import client_of
from service import embedded, schedule
from service.app import create_app
from service.database_errors import DatabaseUnavailable
from service.health import Health
from service.jobs import Job, JobFailure, Task
from service.lifecycle import Lifecycle
from service.resources import Resources, open_resources
from service.schedule import Due, enqueue_due
from service.settings import Settings

pytestmark = pytest.mark.anyio

TASK = "test.often"


@pytest.fixture
async def resources(settings: Settings) -> AsyncIterator[Resources]:
    """Nothing runs the jobs."""
    async with open_resources(settings, Health(Lifecycle())) as resources:
        yield resources


async def waiting(resources: Resources) -> int:
    return (await resources.jobs.counts()).get("todo", 0)


async def make_due(resources: Resources) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    async with resources.database.transaction() as session:
        await session.execute(update(Due).values(due_at=past))


async def test_a_task_is_due_after_its_pause_for_the_first_time(resources: Resources) -> None:
    await enqueue_due(resources, TASK, 3600)
    await enqueue_due(resources, TASK, 3600)
    assert await waiting(resources) == 0
    async with resources.database.transaction() as session:
        due = (await session.scalars(select(Due))).one()
    assert timedelta(0) < due.due_at - datetime.now(UTC) <= timedelta(hours=1)


async def test_a_task_that_is_due_is_enqueued_once(resources: Resources) -> None:
    await enqueue_due(resources, TASK, 3600)
    await make_due(resources)
    for _ in range(3):
        await enqueue_due(resources, TASK, 3600)
    assert await waiting(resources) == 1


async def test_of_many_processes_at_the_same_moment_one_enqueues(
    resources: Resources, settings: Settings
) -> None:
    await enqueue_due(resources, TASK, 3600)
    await make_due(resources)
    async with open_resources(settings, Health(Lifecycle())) as others:
        await asyncio.gather(
            *(enqueue_due(process, TASK, 3600) for process in [resources, others] * 4)
        )
    assert await waiting(resources) == 1


async def test_a_task_missed_for_long_is_made_up_for_once(resources: Resources) -> None:
    await enqueue_due(resources, TASK, 60)
    long_ago = datetime.now(UTC) - timedelta(days=3)
    async with resources.database.transaction() as session:
        await session.execute(update(Due).values(due_at=long_ago))
    for _ in range(3):
        await enqueue_due(resources, TASK, 60)
    assert await waiting(resources) == 1


async def set_status(resources: Resources, status: str) -> None:
    """Of all jobs but those that failed, each of which has its reason."""
    table = "procrastinate_jobs" if resources.database.is_postgresql else "embedded_jobs"
    async with resources.database.transaction() as session:
        change = f"UPDATE {table} SET status = '{status}' WHERE status <> 'failed' RETURNING id"
        ids = (await session.scalars(text(change))).all()
        if status == "failed":
            failed_at = datetime.now(UTC)
            session.add_all(JobFailure(job_id=i, reason="x", failed_at=failed_at) for i in ids)


@pytest.mark.parametrize("status", ["todo", "doing"])
async def test_a_task_is_not_enqueued_while_a_job_of_it_waits_or_runs(
    resources: Resources, status: str
) -> None:
    """Such as one that waits for a store that is away for days."""
    for task in (TASK, "test.other"):
        await enqueue_due(resources, task, 3600)
    await make_due(resources)
    await enqueue_due(resources, TASK, 3600)
    await set_status(resources, status)
    await make_due(resources)
    await enqueue_due(resources, TASK, 3600)
    assert await resources.jobs.counts() == {status: 1}
    await enqueue_due(resources, "test.other", 3600)
    assert sum((await resources.jobs.counts()).values()) == 2


async def test_a_job_that_failed_makes_way_for_the_next(resources: Resources) -> None:
    """A task that always fails would fill the list of them, and none is worth another try."""
    await enqueue_due(resources, TASK, 3600)
    async with resources.database.transaction() as session:
        await resources.jobs.enqueue(session, "test.other")
    for _ in range(2):
        await make_due(resources)
        await enqueue_due(resources, TASK, 3600)
        await set_status(resources, "failed")
    assert await resources.jobs.counts() == {"failed": 2}
    async with resources.database.transaction() as session:
        assert len((await session.scalars(select(JobFailure))).all()) == 2


async def test_the_web_process_runs_scheduled_tasks_where_it_runs_jobs(
    embedded_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = asyncio.Event()

    async def note(_: Any, job: Job) -> None:
        ran.set()

    monkeypatch.setattr(schedule, "LOOK_SECONDS", 0.02)
    monkeypatch.setitem(embedded.TASKS, TASK, Task(TASK, note, every_seconds=0.1))
    async with client_of(create_app(embedded_settings)):
        with fail_after(10):
            await ran.wait()


async def test_an_outage_does_not_end_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [DatabaseUnavailable(), RuntimeError("no such table")]
    seen: list[str] = []

    async def fail(_: Any, task: str, every_seconds: float) -> None:
        seen.append(task)
        if errors:
            raise errors.pop()

    monkeypatch.setattr(schedule, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(schedule, "enqueue_due", fail)
    tasks = [Task("test.never", fail), Task(TASK, fail, every_seconds=1)]  # type: ignore[arg-type]
    running = asyncio.create_task(schedule.enqueue_forever(None, tasks))  # type: ignore[arg-type]
    with fail_after(5):
        while len(seen) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    running.cancel()
    assert set(seen) == {TASK}
