"""`service jobs` on both back ends: listing, retrying and discarding jobs that failed for good."""

import asyncio
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from servers import Worker, clean_environment, run_service
from service.database import open_database
from service.job_list import JobList
from service.jobs import EmbeddedJob, JobFailure, Jobs
from service.settings import Settings

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = clean_environment(DATABASE_URL=url)
        return run_service("jobs", *arguments, environment=environment, cwd=tmp_path)

    return run


def enqueue(url: str, task: str, **arguments: Any) -> None:
    async def enqueue() -> None:
        async with (
            open_database(Settings(database_url=url)) as database,
            database.transaction() as session,
        ):
            await Jobs(database).enqueue(session, task, **arguments)

    asyncio.run(enqueue())


@pytest.fixture
def failed(database_url: str, tmp_path: Path, run: Run) -> str:
    """The URL of a database with one job that failed for good."""
    enqueue(database_url, "test.fail", name="poison")
    worker = Worker(tmp_path / "worker", {"DATABASE_URL": database_url})
    try:
        worker.start().wait_for("job_failed", seconds=60)
    finally:
        # The line comes before the record: a worker that is killed here leaves the job to others.
        worker.stop(signal.SIGTERM)
    return database_url


def listed(done: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def test_a_poison_job_is_listed_with_its_reason(failed: str, run: Run) -> None:
    [job] = listed(run(failed, "--format", "json"))
    assert (job["task"], job["status"], job["arguments"]) == (
        "test.fail",
        "failed",
        {"name": "poison"},
    )
    assert job["reason"] == "RuntimeError: as it was told"
    assert job["attempts"] >= 1
    text = run(failed).stdout
    assert "test.fail  failed" in text
    assert "RuntimeError: as it was told" in text


def test_a_failed_job_runs_again_with_all_its_attempts(
    failed: str, run: Run, tmp_path: Path
) -> None:
    [job] = listed(run(failed, "--format", "json"))
    done = run(failed, "retry", str(job["id"]))
    assert (done.returncode, done.stdout) == (0, f"{job['id']}: will run again\n")
    assert listed(run(failed, "--format", "json")) == []
    [waiting] = listed(run(failed, "--status", "todo", "--format", "json"))
    assert (waiting["attempts"], waiting["reason"]) == (0, "")
    worker = Worker(tmp_path / "again", {"DATABASE_URL": failed})
    try:
        worker.start().wait_for("job_failed", seconds=60)
    finally:
        worker.stop()


def test_a_failed_job_is_discarded(failed: str, run: Run) -> None:
    [job] = listed(run(failed, "--format", "json"))
    assert run(failed, "discard", str(job["id"])).returncode == 0
    assert run(failed).stdout == "no jobs that are failed\n"


def test_only_failed_jobs_are_changed(database_url: str, run: Run) -> None:
    enqueue(database_url, "test.record", name="waits")
    [job] = listed(run(database_url, "--status", "todo", "--format", "json"))
    done = run(database_url, "discard", str(job["id"]), "999999")
    assert done.returncode == 1
    assert done.stdout.count(": no failed job has this id; `service jobs` lists") == 2
    assert len(listed(run(database_url, "--status", "todo", "--format", "json"))) == 1


@pytest.mark.parametrize("arguments", [("retry",), ("discard",), ("list", "7")])
def test_wrong_usage_is_explained(run: Run, database_url: str, arguments: tuple[str, ...]) -> None:
    done = run(database_url, *arguments)
    assert done.returncode == 2
    assert "expected" in done.stderr


def test_a_database_that_is_away_is_said_so(run: Run) -> None:
    done = run("postgresql://service:x@127.0.0.1:9/service")
    assert done.returncode == 69
    assert "cannot be reached" in done.stderr


def test_a_database_without_a_schema_is_said_so(run: Run, tmp_path: Path) -> None:
    done = run(f"sqlite:///{tmp_path}/empty.sqlite3")
    assert done.returncode == 69
    assert "service migrate" in done.stderr


def test_embedded_jobs_are_listed_and_changed_as_well(
    run: Run, tmp_path: Path, migrated_sqlite: Path
) -> None:
    shutil.copy(migrated_sqlite, tmp_path / "jobs.sqlite3")
    url = f"sqlite:///{tmp_path}/jobs.sqlite3"
    enqueue(url, "test.fail", name="poison")
    [job] = listed(run(url, "--status", "todo", "--format", "json"))

    async def fail() -> None:
        async with (
            open_database(Settings(database_url=url)) as database,
            database.transaction() as session,
        ):
            row = await session.get_one(EmbeddedJob, job["id"])
            row.status = "failed"
            failure = JobFailure(
                job_id=row.id, reason="RuntimeError: so it is", failed_at=row.run_at
            )
            session.add(failure)

    asyncio.run(fail())
    [found] = listed(run(url, "--format", "json"))
    assert (found["status"], found["reason"]) == ("failed", "RuntimeError: so it is")
    assert run(url, "retry", str(job["id"])).returncode == 0
    assert [row["status"] for row in listed(run(url, "--status", "todo", "--format", "json"))] == [
        "todo"
    ]


def test_no_more_are_read_than_asked_for(database_url: str) -> None:
    for number in range(3):
        enqueue(database_url, "test.record", name=str(number))

    async def read() -> list[str]:
        async with open_database(Settings(database_url=database_url)) as database:
            rows = await JobList(database).read(["todo"], 2)
            return [row.arguments["name"] for row in rows]

    assert asyncio.run(read()) == ["2", "1"]
