"""Jobs inside the web process: bounded, repeated, never twice, and never lost."""

import asyncio
import os
import signal
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from anyio import fail_after
from sqlalchemy import update

from embedded_jobs import embedded_jobs
from mail_server import mail_server
from servers import Web, cpu_seconds, free_port, idle_cpu_seconds, wait_until
from service import embedded
from service.errors import Unavailable
from service.health import Health
from service.jobs import SLOW, EmbeddedJob, Job, Task
from service.lifecycle import Lifecycle
from service.migrate import migrate
from service.resources import Resources, open_resources
from service.settings import Settings

pytestmark = pytest.mark.anyio


class Notebook:
    """Tasks that note what they do."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, Any, int]] = []
        self.running = self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def record(self, resources: Any, job: Job) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
            self.notes.append(("ran", job.arguments.get("name"), job.attempt))
        finally:
            self.running -= 1

    async def fail(self, resources: Any, job: Job) -> None:
        self.notes.append(("tried", job.arguments.get("name"), job.attempt))
        if job.attempt <= job.arguments.get("times", 1000):
            raise (job.arguments.get("away") and Unavailable()) or RuntimeError("as told")

    async def give_up(self, resources: Any, job: Job, error: BaseException) -> None:
        self.notes.append(("gave up", job.arguments.get("name"), job.attempt))

    async def until(self, condition: Callable[[], Any]) -> None:
        with fail_after(15):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    notebook = Notebook()
    tasks = [
        Task("test.record", notebook.record),
        Task("test.fail", notebook.fail, notebook.give_up, 3, first_delay_seconds=0.05),
    ]
    for task in tasks:
        monkeypatch.setitem(embedded.TASKS, task.name, task)
    return notebook


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Resources]:
    async with open_resources(settings, Health(Lifecycle())) as resources:
        yield resources


@asynccontextmanager
async def running_twice(settings: Settings) -> AsyncIterator[tuple[Resources, Resources]]:
    """Two runners on the same file, as two processes have them."""
    async with (
        opened(settings) as one,
        opened(settings) as other,
        embedded.run_jobs(one),
        embedded.run_jobs(other),
    ):
        yield one, other


async def enqueue(resources: Resources, task: str, **arguments: Any) -> None:
    async with resources.database.transaction() as session:
        await resources.jobs.enqueue(session, task, **arguments)


async def test_a_job_runs_as_soon_as_it_is_committed(
    embedded_settings: Settings, notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not when the runner looks the next time."""
    monkeypatch.setattr(embedded, "POLL_SECONDS", 60)
    async with opened(embedded_settings) as resources, embedded.run_jobs(resources):
        await asyncio.sleep(0.2)
        await enqueue(resources, "test.record", name="ä☃")
        await notebook.until(lambda: notebook.notes)
        assert notebook.notes == [("ran", "ä☃", 1)]
        await notebook.until(lambda: embedded_jobs(embedded_settings) == [])


async def test_no_more_jobs_than_allowed_run_at_once(
    embedded_settings: Settings, notebook: Notebook
) -> None:
    settings = embedded_settings.model_copy(update={"job_concurrency": 3})
    notebook.gate.clear()
    async with opened(settings) as resources, embedded.run_jobs(resources):
        for name in range(10):
            await enqueue(resources, "test.record", name=name)
        await notebook.until(lambda: notebook.running == 3)
        await asyncio.sleep(0.2)
        notebook.gate.set()
        await notebook.until(lambda: len(notebook.notes) == 10)
    assert notebook.most == 3
    assert sorted(name for _, name, _ in notebook.notes) == list(range(10))


async def test_slow_jobs_make_way_for_the_others_and_leave_them_a_place(
    embedded_settings: Settings, notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = embedded_settings.model_copy(update={"job_concurrency": 2})
    slow = asyncio.Event()

    async def hold(resources: Any, job: Job) -> None:
        notebook.notes.append(("holds", job.arguments["name"], job.attempt))
        await slow.wait()

    monkeypatch.setitem(embedded.TASKS, "test.hold", Task("test.hold", hold))
    async with opened(settings) as resources:
        for name in "ab":
            await enqueue(resources, "test.hold", priority=SLOW, name=name)
        for name in "xy":
            await enqueue(resources, "test.record", name=name)
        async with embedded.run_jobs(resources):
            await notebook.until(lambda: len(notebook.notes) == 3)
            await enqueue(resources, "test.record", name="z")
            await notebook.until(lambda: len(notebook.notes) == 4)
            told = [(what, name) for what, name, _ in notebook.notes]
            assert sorted(told[:2]) == [("ran", "x"), ("ran", "y")]
            assert told[2:] == [("holds", "a"), ("ran", "z")]
            slow.set()
            await notebook.until(lambda: embedded_jobs(settings) == [])
    assert notebook.notes[-1] == ("holds", "b", 1)


async def test_a_job_that_fails_is_tried_again(
    embedded_settings: Settings, notebook: Notebook
) -> None:
    async with opened(embedded_settings) as resources, embedded.run_jobs(resources):
        await enqueue(resources, "test.fail", name="x", times=2)
        await notebook.until(lambda: embedded_jobs(embedded_settings) == [])
    assert notebook.notes == [("tried", "x", 1), ("tried", "x", 2), ("tried", "x", 3)]


async def test_a_job_that_always_fails_is_given_up_and_kept(
    embedded_settings: Settings, notebook: Notebook
) -> None:
    async with opened(embedded_settings) as resources, embedded.run_jobs(resources):
        await enqueue(resources, "test.fail", name="x")
        failed = [("test.fail", "failed", 3)]
        await notebook.until(lambda: embedded_jobs(embedded_settings) == failed)
        assert await resources.jobs.counts() == {"failed": 1}
    assert notebook.notes[-1] == ("gave up", "x", 3)


async def test_an_outage_uses_up_no_attempt(
    embedded_settings: Settings, notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.OUTAGE_DELAY_SECONDS", 0)
    async with opened(embedded_settings) as resources, embedded.run_jobs(resources):
        await enqueue(resources, "test.fail", name="x", away=True)
        await notebook.until(lambda: len(notebook.notes) > 5)
        assert {attempt for *_, attempt in notebook.notes} == {1}


async def test_an_unknown_task_waits_and_holds_up_no_other(
    embedded_settings: Settings, notebook: Notebook
) -> None:
    async with opened(embedded_settings) as resources, embedded.run_jobs(resources):
        await enqueue(resources, "test.of-a-newer-release")
        await enqueue(resources, "test.record", name="x")
        await notebook.until(lambda: notebook.notes)
        await asyncio.sleep(0.3)
    assert embedded_jobs(embedded_settings) == [("test.of-a-newer-release", "todo", 0)]


async def test_missing_tables_are_waited_for_without_a_flood_of_lines(
    tmp_path: Path, notebook: Notebook, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(
        database_url=f"sqlite:///{tmp_path}/empty.sqlite3", upload_folder=str(tmp_path / "uploads")
    )
    async with opened(settings) as resources, embedded.run_jobs(resources):
        for _ in range(20):
            resources.jobs.arrived.set()
            await asyncio.sleep(0.02)
    assert caplog.messages.count("embedded_jobs_failed") == 1


async def test_at_the_end_a_running_job_may_finish(
    embedded_settings: Settings, notebook: Notebook
) -> None:
    notebook.gate.clear()
    async with opened(embedded_settings) as resources, embedded.run_jobs(resources):
        await enqueue(resources, "test.record", name="x")
        await notebook.until(lambda: notebook.running)
        asyncio.get_running_loop().call_later(0.3, notebook.gate.set)
    assert notebook.notes == [("ran", "x", 1)]
    assert embedded_jobs(embedded_settings) == []


async def test_at_the_end_a_long_job_is_handed_back_and_runs_at_the_next_start(
    embedded_settings: Settings, notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "STOP_SECONDS", 0.2)
    notebook.gate.clear()
    async with opened(embedded_settings) as resources:
        async with embedded.run_jobs(resources):
            await enqueue(resources, "test.record", name="x")
            await notebook.until(lambda: notebook.running)
        assert embedded_jobs(embedded_settings) == [("test.record", "todo", 0)]
        notebook.gate.set()
        async with embedded.run_jobs(resources):
            await notebook.until(lambda: notebook.notes)
    assert notebook.notes == [("ran", "x", 1)]


async def test_a_claim_is_renewed_while_its_job_runs(
    embedded_settings: Settings, notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runners stand for two processes; the claim alone would end after 2 s."""
    monkeypatch.setattr(embedded, "CLAIM_SECONDS", 2.0)
    monkeypatch.setattr(embedded, "POLL_SECONDS", 0.1)
    notebook.gate.clear()
    async with running_twice(embedded_settings) as (one, _):
        await enqueue(one, "test.record", name="x")
        await notebook.until(lambda: notebook.running)
        await asyncio.sleep(4)
        assert notebook.most == 1
        notebook.gate.set()
        await notebook.until(lambda: embedded_jobs(embedded_settings) == [])
    assert notebook.notes == [("ran", "x", 1)]


async def test_a_claim_that_was_lost_is_not_ended_by_who_lost_it(
    embedded_settings: Settings, notebook: Notebook
) -> None:
    notebook.gate.clear()
    async with opened(embedded_settings) as resources, embedded.run_jobs(resources):
        await enqueue(resources, "test.record", name="x")
        await notebook.until(lambda: notebook.running)
        later = datetime.now(UTC) + timedelta(seconds=60)
        async with resources.database.transaction() as session:  # as another process does
            await session.execute(update(EmbeddedJob).values(attempts=2, run_at=later))
        notebook.gate.set()
        await notebook.until(lambda: notebook.notes)
        await asyncio.sleep(0.2)
    assert embedded_jobs(embedded_settings) == [("test.record", "doing", 2)]


async def test_two_processes_never_run_a_job_twice(
    embedded_settings: Settings, notebook: Notebook
) -> None:
    async with running_twice(embedded_settings) as (one, other):
        for name in range(60):
            await enqueue((one, other)[name % 2], "test.record", name=name)
            one.jobs.arrived.set()
            other.jobs.arrived.set()
        await notebook.until(lambda: embedded_jobs(embedded_settings) == [])
    assert sorted(notebook.notes) == [("ran", name, 1) for name in range(60)]


async def test_idle_rounds_write_nothing(embedded_settings: Settings, notebook: Notebook) -> None:
    """A write a second would lock out others."""
    path = embedded_settings.database_url.get_secret_value().removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        async with opened(embedded_settings) as resources:
            runner = embedded.Runner(resources)
            began = time.monotonic()
            await runner._round()
            # A write would wait for the lock.
            assert time.monotonic() - began < embedded_settings.database_statement_timeout_seconds


def embedded_web(
    make_web: Callable[..., Web], tmp_path: Path, mail_port: int, **more: str
) -> tuple[Web, Settings]:
    """Gunicorn on a migrated file of its own; and the settings of the file."""
    url = f"sqlite:///{tmp_path}/service.sqlite3"
    asyncio.run(migrate(Settings(database_url=url)))
    environment = {"DATABASE_URL": url, "MAIL_SERVER": "127.0.0.1", "MAIL_USE_TLS": "false"}
    web = make_web(environment | {"MAIL_PORT": str(mail_port), **more}, wait="/health/ready")
    return web, Settings(database_url=url)


def register(web: Web, name: str) -> None:
    body = {"email": f"{name}@example.org", "password": "correct horse battery"}
    answer = httpx.post(f"{web.url}/api/accounts", json=body, timeout=10)
    assert answer.status_code == 202, answer.text


def test_what_was_running_when_all_processes_were_killed_is_done_after_the_start(
    make_web: Callable[..., Web], tmp_path: Path
) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        web, settings = embedded_web(make_web, tmp_path, port)
        register(web, "ann")
        wait_until(lambda: embedded_jobs(settings) == [("mail.deliver", "doing", 1)])
        assert web.process is not None
        for pid in (web.process.pid, *web.workers()):
            os.kill(pid, signal.SIGKILL)
        web.process.wait(10)
    with mail_server(port=port) as server:
        web.start()
        wait_until(lambda: server.contents, seconds=15)
        wait_until(lambda: embedded_jobs(settings) == [])
        assert server.recipients == ["ann@example.org"]


def test_several_web_workers_share_the_jobs(make_web: Callable[..., Web], tmp_path: Path) -> None:
    with mail_server() as server:
        web, settings = embedded_web(make_web, tmp_path, server.port, WEB_CONCURRENCY="2")
        names = [f"user-{number}" for number in range(12)]
        for name in names:
            register(web, name)
        wait_until(lambda: len(server.contents) >= len(names))
        wait_until(lambda: embedded_jobs(settings) == [])
        assert sorted(server.recipients) == sorted(f"{name}@example.org" for name in names)


@pytest.mark.alone
def test_an_idle_embedded_process_costs_next_to_nothing(
    make_web: Callable[..., Web], tmp_path: Path
) -> None:
    """Against what its start takes, which is a second on a machine like most."""
    web, _ = embedded_web(make_web, tmp_path, 9)
    assert web.process
    (pid,) = web.workers()
    start = cpu_seconds(web.process.pid) + cpu_seconds(pid)
    assert idle_cpu_seconds(pid) < 0.05 * start
