"""Jobs that failed for good, on both back ends: how long they are kept."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, text, update

from service import job_list
from service.health import Health
from service.job_list import JobList
from service.jobs import Job, JobFailure
from service.lifecycle import Lifecycle
from service.resources import Resources, open_resources
from service.settings import Settings

pytestmark = pytest.mark.anyio

(EXPIRY,) = job_list.TASKS


@pytest.fixture
async def resources(settings: Settings) -> AsyncIterator[Resources]:
    """Nothing runs the jobs."""
    async with open_resources(settings, Health(Lifecycle())) as resources:
        yield resources


async def add(resources: Resources, name: str) -> None:
    async with resources.database.transaction() as session:
        await resources.jobs.enqueue(session, "test.fail", name=name)


async def fail(resources: Resources, **ago: float) -> None:
    """Let all jobs that wait have failed so long ago."""
    table = "procrastinate_jobs" if resources.database.is_postgresql else "embedded_jobs"
    failed_at = datetime.now(UTC) - timedelta(**ago)
    async with resources.database.transaction() as session:
        found = text(f"SELECT id FROM {table} WHERE status = 'todo'")
        for job_id in (await session.scalars(found)).all():
            if resources.database.is_postgresql:  # which knows no way from `todo` to `failed`
                doing = text(f"UPDATE {table} SET status = 'doing' WHERE id = {job_id}")
                await session.execute(doing)
            await session.execute(text(f"UPDATE {table} SET status = 'failed' WHERE id = {job_id}"))
            session.add(JobFailure(job_id=job_id, reason="as told", failed_at=failed_at))


async def names(resources: Resources, status: str = "failed") -> set[str]:
    rows = await JobList(resources.database).read([status], 100)
    return {row.arguments["name"] for row in rows}


async def expire(resources: Resources) -> None:
    await EXPIRY.run(resources, Job(1, EXPIRY.name, 1, {}))


async def test_a_failed_job_is_removed_after_thirty_days(resources: Resources) -> None:
    await add(resources, "old")
    await fail(resources, days=30, hours=1)
    await add(resources, "new")
    await fail(resources, days=30, hours=-1)
    await add(resources, "waiting")
    await expire(resources)
    assert await names(resources) == {"new"}
    assert await names(resources, "todo") == {"waiting"}
    async with resources.database.transaction() as session:
        assert len((await session.scalars(select(JobFailure))).all()) == 1


async def test_one_that_runs_again_is_not_removed(resources: Resources) -> None:
    await add(resources, "again")
    await fail(resources, days=100)
    [job] = await JobList(resources.database).read(["failed"], 1)
    await JobList(resources.database).retry([job.id])
    await expire(resources)
    assert await names(resources, "todo") == {"again"}


async def test_the_time_counts_from_the_last_failure(resources: Resources) -> None:
    await add(resources, "again")
    await fail(resources, days=100)
    async with resources.database.transaction() as session:
        await session.execute(update(JobFailure).values(failed_at=datetime.now(UTC)))
    await expire(resources)
    assert await names(resources) == {"again"}


async def test_failed_jobs_are_found_by_their_index(resources: Resources) -> None:
    """However many others the queue has."""
    if not resources.database.is_postgresql:
        pytest.skip("SQLite's queue has no index of them")
    engine = resources.database.engine
    ran: list[tuple[str, Any]] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def keep(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        ran.append((statement, parameters))

    await JobList(resources.database).read(["failed"], 100)
    [(statement, parameters)] = [one for one in ran if "procrastinate_jobs" in one[0]]
    async with engine.connect() as connection:
        await connection.exec_driver_sql("SET enable_seqscan = off")  # the table is empty here
        plan = await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
        assert "ix_procrastinate_jobs_failed_id" in "\n".join(plan.scalars())


async def test_many_are_removed_in_batches(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_list, "BATCH", 2)
    for number in range(5):
        await add(resources, str(number))
    await fail(resources, days=31)
    await expire(resources)
    assert await names(resources) == set()


async def test_of_a_mail_address_only_the_domain_is_shown(resources: Resources) -> None:
    await add(resources, "ada@example.org")
    assert await names(resources, "todo") == {"***@example.org"}


def test_it_comes_round_once_a_day() -> None:
    assert EXPIRY.every_seconds == 24 * 3600
