"""Enqueueing on both back ends, and what becomes of a run."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from sqlalchemy import bindparam, text

from servers import Postgresql
from service import metrics
from service.database import UtcDateTime, open_database
from service.errors import Unavailable
from service.job_list import JobList
from service.job_queue import RESCUE
from service.jobs import MOST_COUNTED, OLDEST, SLOW, Job, Jobs, Outcome, Task, counting, execute
from service.logs import request_id, trace_id
from service.settings import Settings

pytestmark = pytest.mark.anyio

RESOURCES: Any = SimpleNamespace(settings=Settings(secret_key="k3y-0f-the-t3sts-k3y-0f-the-t3sts"))


@pytest.fixture
async def jobs(settings: Settings) -> AsyncIterator[Jobs]:
    async with open_database(settings) as database:
        yield Jobs(database)


async def queued(jobs: Jobs) -> list[tuple[str, Any]]:
    """(task, arguments) of every job."""
    sql = "SELECT task, arguments FROM embedded_jobs ORDER BY id"
    if jobs.database.is_postgresql:
        sql = "SELECT task_name, args FROM procrastinate_jobs ORDER BY id"
    async with jobs.database.reading() as connection:
        rows = (await connection.execute(text(sql))).all()
    return [(name, json.loads(data) if isinstance(data, str) else data) for name, data in rows]


async def test_a_job_exists_once_its_transaction_has_committed(jobs: Jobs) -> None:
    async with jobs.database.transaction() as session:
        await jobs.enqueue(session, "test.task", number=1)
        async with jobs.database.transaction() as other:
            table = "procrastinate_jobs" if jobs.database.is_postgresql else "embedded_jobs"
            count = await other.scalar(text(f"SELECT count(*) FROM {table}"))
        assert count == 0
    assert await queued(jobs) == [("test.task", {"number": 1})]


async def test_a_job_goes_with_its_transaction(jobs: Jobs) -> None:
    with pytest.raises(RuntimeError):
        async with jobs.database.transaction() as session:
            await jobs.enqueue(session, "test.task", number=1)
            raise RuntimeError
    assert await queued(jobs) == []
    assert not jobs.arrived.is_set()


async def test_the_embedded_runner_is_woken_by_a_commit(embedded_settings: Settings) -> None:
    async with open_database(embedded_settings) as database:
        jobs = Jobs(database)
        async with database.transaction() as session:
            await jobs.enqueue(session, "test.task")
            assert not jobs.arrived.is_set()
        assert jobs.arrived.is_set()


@pytest.mark.parametrize(
    ("fetch", "slow", "first"),
    [
        ("procrastinate_fetch_job_v2", 0, [15000]),
        ("fetch_prompt_job", 20000, [20001]),
        ("fetch_prompt_job", 30000, []),
    ],
    ids=["of all", "of those that are not slow", "of which there are none"],
)
def test_the_next_of_many_jobs_is_found_without_reading_the_others(
    shared_postgresql: Postgresql, database_url: str, fetch: str, slow: int, first: list[int]
) -> None:
    """Also where statistics are of a time when the queue was empty, as it is most of the time."""
    psql = partial(shared_postgresql.psql, database=database_url.rpartition("/")[2])
    psql("ALTER TABLE procrastinate_jobs SET (autovacuum_enabled = off)")
    psql("ANALYZE procrastinate_jobs; INSERT INTO procrastinate_workers DEFAULT VALUES")
    psql(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, priority)"
        f" SELECT 'default', 'test.task', CASE WHEN n <= {slow} THEN {SLOW} ELSE 0 END"
        " FROM generate_series(1, 30000) AS n"
    )
    psql("DELETE FROM procrastinate_jobs WHERE id < 15000")
    found = psql(
        f"BEGIN; SELECT id FROM {fetch}(ARRAY['default'], 1);"
        " SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables"
        " WHERE relname = 'procrastinate_jobs'; COMMIT"
    )
    *job_ids, read = (int(line) for line in found.split() if line.isdigit())
    assert job_ids == first
    assert read <= 10


@pytest.mark.parametrize(
    "value",
    [
        "Ünïcødé-☃-𝄞-\u202e-\U0010ffff",
        "quotes ' \" \\ %s :name {} \x01 \x7f \r\n\t",
        "x" * 100_000,
        ["a", None, True, 1.5, {"b": [2**60]}],
        {"": "", "a b": "ä"},
    ],
    ids=["unicode", "special", "long", "list", "object"],
)
async def test_arguments_come_back_as_they_were(jobs: Jobs, value: Any) -> None:
    async with jobs.database.transaction() as session:
        await jobs.enqueue(session, "test.task", value=value)
    assert await queued(jobs) == [("test.task", {"value": value})]


async def test_several_jobs_of_a_transaction_keep_their_order(jobs: Jobs) -> None:
    async with jobs.database.transaction() as session:
        for number in range(20):
            await jobs.enqueue(session, "test.task", number=number)
    assert [arguments["number"] for _, arguments in await queued(jobs)] == list(range(20))


async def test_a_job_carries_the_ids_of_its_request(jobs: Jobs) -> None:
    async def request() -> None:
        request_id.set("0123456789abcdef")
        trace_id.set("4bf92f3577b34da6a3ce929d0e0e4736")
        async with jobs.database.transaction() as session:
            await jobs.enqueue(session, "test.task")

    await asyncio.create_task(request())
    expected = {
        "request_id": "0123456789abcdef",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    }
    assert await queued(jobs) == [("test.task", expected)]


async def test_jobs_are_counted_by_status(jobs: Jobs) -> None:
    assert await jobs.counts() == {}
    async with jobs.database.transaction() as session:
        await jobs.enqueue(session, "test.task")
        await jobs.enqueue(session, "test.task")
    assert await jobs.counts() == {"todo": 2}


async def test_of_many_jobs_no_more_are_counted_than_is_cheap(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.MOST_COUNTED", 3)
    async with jobs.database.transaction() as session:
        for _ in range(5):
            await jobs.enqueue(session, "test.task")
    assert await jobs.counts() == {"todo": 3}


def test_the_gauge_of_jobs_says_how_far_it_counts() -> None:
    assert str(MOST_COUNTED) in metrics.JOBS._documentation


@pytest.mark.parametrize("statistics", ["of before", "of now"])
def test_the_gauges_of_a_long_queue_read_little_of_it(
    shared_postgresql: Postgresql, database_url: str, statistics: str
) -> None:
    """Every web worker has them, and all of them ask just when there is too much to do."""
    psql = partial(shared_postgresql.psql, database=database_url.rpartition("/")[2])
    psql("ALTER TABLE procrastinate_jobs SET (autovacuum_enabled = off)")
    psql("ANALYZE procrastinate_jobs")
    psql(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, scheduled_at)"
        " SELECT 'default', 'test.task', CASE WHEN n < 20000 THEN now() + interval '1 hour' END"
        " FROM generate_series(1, 40000) AS n"
    )
    if statistics == "of now":
        psql("ANALYZE procrastinate_jobs")

    def read(query: str) -> int:
        told = psql(
            f"BEGIN; {query}; SELECT 'read:', sum(seq_tup_read + idx_tup_fetch)"
            " FROM pg_stat_xact_user_tables; COMMIT"
        )
        return int(told.partition("read:|")[2].split()[0])

    assert read(counting("procrastinate_jobs")) <= MOST_COUNTED + 10
    assert read(str(OLDEST)) <= 10


async def test_the_oldest_job_is_the_one_that_could_have_run_first(jobs: Jobs) -> None:
    assert await jobs.oldest_seconds() == 0.0
    async with jobs.database.transaction() as session:
        await jobs.enqueue(session, "test.task")
    await asyncio.sleep(0.3)
    async with jobs.database.transaction() as session:
        await jobs.enqueue(session, "test.task")
    assert 0.3 <= await jobs.oldest_seconds() < 30
    await schedule(jobs, timedelta(hours=1))
    assert await jobs.oldest_seconds() == 0.0, "they wait for their time"
    await schedule(jobs, timedelta(minutes=-2))
    assert 120 <= await jobs.oldest_seconds() < 150


@pytest.fixture
async def weeks_old(database_url: str) -> AsyncIterator[Jobs]:
    """With a job that was enqueued three weeks ago, and taken by a worker that died since."""
    async with open_database(Settings(database_url=database_url)) as database:
        jobs = Jobs(database)
        async with database.transaction() as session:
            await jobs.enqueue(session, "test.task")
            long_ago = "UPDATE procrastinate_events SET at = now() - interval '21 days'"
            await session.execute(text(long_ago))
            await session.execute(text("UPDATE procrastinate_jobs SET status = 'doing'"))
        assert await jobs.oldest_seconds() == 0.0
        yield jobs


async def test_a_job_that_is_rescued_has_waited_since_then(
    weeks_old: Jobs, database_url: str
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(RESCUE, {"dead_after": 5})
    assert await weeks_old.counts() == {"todo": 1}
    assert 0.0 < await weeks_old.oldest_seconds() < 60 * 60


async def test_a_job_that_is_tried_again_by_hand_has_waited_since_then(weeks_old: Jobs) -> None:
    async with weeks_old.database.transaction() as session:
        failed = text("UPDATE procrastinate_jobs SET status = 'failed' RETURNING id")
        ids = (await session.scalars(failed)).all()
    assert await JobList(weeks_old.database).retry(ids) == set(ids)
    assert 0.0 < await weeks_old.oldest_seconds() < 60 * 60


async def schedule(jobs: Jobs, delay: timedelta) -> None:
    """All jobs, as those that are to be tried again."""
    name, column = "embedded_jobs", "run_at"
    if jobs.database.is_postgresql:
        name, column = "procrastinate_jobs", "scheduled_at"
    changed = text(f"UPDATE {name} SET {column} = :at").bindparams(
        bindparam("at", datetime.now(UTC) + delay, UtcDateTime)
    )
    async with jobs.database.transaction() as session:
        await session.execute(changed)


@dataclass
class Script:
    """A task whose runs raise, one after the other, what is listed; and what it saw."""

    errors: list[BaseException | None]
    give_up_errors: list[BaseException | None] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    given_up: list[BaseException] = field(default_factory=list)

    async def run(self, resources: Any, job: Job) -> None:
        self.runs.append(job.attempt)
        if self.errors and (error := self.errors.pop(0)):
            raise error

    async def give_up(self, resources: Any, job: Job, error: BaseException) -> None:
        self.given_up.append(error)
        if self.give_up_errors and (obstacle := self.give_up_errors.pop(0)):
            raise obstacle

    @property
    def task(self) -> Task:
        return Task("test.script", self.run, self.give_up, max_attempts=3, first_delay_seconds=2)


def attempt(number: int) -> Job:
    return Job(7, "test.script", number, {"request_id": "r-1"})


async def test_a_run_that_ends_well_is_done() -> None:
    assert await execute(Script([None]).task, RESOURCES, attempt(1)) == Outcome("done")


async def test_a_run_that_fails_is_tried_again_later() -> None:
    script = Script([RuntimeError("x")])
    assert await execute(script.task, RESOURCES, attempt(1)) == Outcome("again", 2)
    assert script.given_up == []


async def test_the_last_run_that_fails_is_given_up() -> None:
    error = RuntimeError("x")
    script = Script([error])
    outcome = await execute(script.task, RESOURCES, attempt(3))
    assert outcome == Outcome("failed", reason="RuntimeError: x")
    assert script.given_up == [error]


async def test_the_reason_that_is_kept_holds_no_secret_and_is_short() -> None:
    key = RESOURCES.settings.secret_key.get_secret_value()
    outcome = await execute(
        Script([RuntimeError(f"{key}\0 {'x' * 1000}")]).task, RESOURCES, attempt(3)
    )
    assert key not in outcome.reason
    assert "\0" not in outcome.reason
    assert outcome.reason.startswith("RuntimeError: ")
    assert len(outcome.reason) == 500


async def test_a_job_whose_workers_died_too_often_is_given_up_without_a_run() -> None:
    script = Script([])
    assert await execute(script.task, RESOURCES, attempt(4)) == Outcome(
        "failed", reason="JobAbandoned: its workers ended 3 times before it did"
    )
    assert script.runs == []
    assert [type(error).__name__ for error in script.given_up] == ["JobAbandoned"]


@pytest.mark.parametrize("number", [1, 3])
async def test_an_outage_uses_up_no_attempt(number: int) -> None:
    script = Script([Unavailable()])
    outcome = await execute(script.task, RESOURCES, attempt(number))
    assert (outcome.status, outcome.counted, script.given_up) == ("again", False, [])


async def test_a_statement_that_is_ended_at_its_time_limit_uses_up_an_attempt(
    server_settings: Settings,
) -> None:
    """It may take as long every time, and a job that is never given up is never seen to fail."""

    async def run(resources: Any, job: Job) -> None:
        async with resources.database.transaction() as session:
            await session.execute(text("SET LOCAL statement_timeout = '50ms'"))
            await session.execute(text("SELECT pg_sleep(60)"))

    async with open_database(server_settings) as database:
        resources = SimpleNamespace(settings=server_settings, database=database)
        task = Task("test.slow", run, max_attempts=3)
        assert await execute(task, resources, attempt(1)) == Outcome("again", 60)
        outcome = await execute(task, resources, attempt(3))
        assert outcome.status == "failed"
        assert outcome.reason.startswith("StatementTooLong: ")


@pytest.mark.parametrize("obstacle", [Unavailable(), RuntimeError("y")])
async def test_a_job_is_not_failed_before_giving_up_has_worked(obstacle: Exception) -> None:
    """Else nobody would ever be told, and an item would stay `processing`."""
    script = Script([RuntimeError("x"), RuntimeError("x")], give_up_errors=[obstacle])
    outcome = await execute(script.task, RESOURCES, attempt(3))
    assert (outcome.status, outcome.counted) == ("again", False)
    assert await execute(script.task, RESOURCES, attempt(3)) == Outcome(
        "failed", reason="RuntimeError: x"
    )


async def test_a_cancelled_run_has_no_outcome() -> None:
    script = Script([asyncio.CancelledError()])
    with pytest.raises(asyncio.CancelledError):
        await execute(script.task, RESOURCES, attempt(3))
    assert script.given_up == []


async def test_a_run_has_the_ids_of_its_request_in_the_log() -> None:
    seen = []

    async def run(resources: Any, job: Job) -> None:
        seen.append((request_id.get(), trace_id.get()))

    job = Job(7, "test.task", 1, {"request_id": "r-1", "trace_id": "t-1"})
    await asyncio.create_task(execute(Task("test.task", run), RESOURCES, job))
    assert seen == [("r-1", "t-1")]
    assert request_id.get() == ""


def test_delays_double_up_to_an_hour() -> None:
    task = Task("test.task", Script([]).run, first_delay_seconds=2)
    assert [task.delay_seconds(number) for number in (1, 2, 3)] == [2, 4, 8]
    assert task.delay_seconds(100_000) == 3600
