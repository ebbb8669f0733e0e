"""`service worker` as a process, against real PostgreSQL: what becomes of jobs whatever happens."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2 as httpx
import psycopg
import pytest

from api import running_api
from mail_server import MailServer, mail_server
from servers import (
    Postgresql,
    Worker,
    clean_environment,
    cpu_seconds,
    free_port,
    idle_cpu_seconds,
    run_service,
    wait_until,
)
from service.connections import QUEUE_CONNECTIONS
from service.database import open_database
from service.jobs import SLOW, Jobs
from service.logs import request_id
from service.migrate import migrate
from service.settings import Settings
from system.health_faults import Proxy

FIRST_DELAY_SECONDS = 0.2  # of test.fail


class Rig:
    """A database, the workers on it, and what their tasks noted."""

    def __init__(self, directory: Path, url: str, psql: Callable[[str], str]) -> None:
        self.directory = directory
        self.url = url
        self.psql = psql
        self.workers: list[Worker] = []

    def worker(self, *, ready: bool = True, **environment: str) -> Worker:
        directory = self.directory / f"worker-{len(self.workers)}"
        worker = Worker(directory, {"DATABASE_URL": self.url, **environment})
        self.workers.append(worker)
        worker.start()
        if ready:
            worker.wait_for("worker_ready")
        return worker

    def enqueue(self, task: str, *, request: str = "", **arguments: Any) -> None:
        async def enqueue() -> None:
            request_id.set(request)
            async with (
                open_database(Settings(database_url=self.url)) as database,
                database.transaction() as session,
            ):
                await Jobs(database).enqueue(session, task, **arguments)

        asyncio.run(enqueue())

    @property
    def notes(self) -> list[str]:
        """Lines such as `ran x 1`, without the process id."""
        path = self.directory / "notes"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.rpartition(" ")[0] for line in lines]

    def process_of(self, note: str) -> int:
        """The id of the process that noted this."""
        lines = (self.directory / "notes").read_text().splitlines()
        return next(int(pid) for said, _, pid in (x.rpartition(" ") for x in lines) if said == note)

    def wait_for_note(self, note: str, *, seconds: float = 60) -> None:
        wait_until(lambda: note in self.notes, seconds=seconds)

    def jobs(self) -> list[str]:
        """`task|status|attempts` of every job there is."""
        sql = "SELECT task_name, status, attempts FROM procrastinate_jobs ORDER BY id"
        return self.psql(sql).splitlines()

    def wait_until_done(self, *, seconds: float = 60) -> None:
        wait_until(lambda: self.jobs() == [], seconds=seconds)

    def stop(self) -> None:
        for worker in self.workers:
            worker.stop()


@pytest.fixture
def rig(database_url: str, shared_postgresql: Postgresql, tmp_path: Path) -> Iterator[Rig]:
    name = database_url.rpartition("/")[2]
    rig = Rig(tmp_path, database_url, lambda sql: shared_postgresql.psql(sql, name))
    yield rig
    rig.stop()


@pytest.fixture
def own_rig(own_postgresql: Postgresql, tmp_path: Path) -> Iterator[Rig]:
    """With a server that the test may harm."""
    asyncio.run(migrate(Settings(database_url=own_postgresql.url())))
    rig = Rig(tmp_path, own_postgresql.url(), own_postgresql.psql)
    yield rig
    rig.stop()


def test_a_job_runs_and_is_gone(rig: Rig) -> None:
    rig.worker()
    rig.enqueue("test.record", name="Ünïcødé-☃-𝄞")
    rig.wait_for_note("ran Ünïcødé-☃-𝄞 1")
    rig.wait_until_done()


def test_the_queue_is_asked_single_statements_without_a_transaction_around_each(rig: Rig) -> None:
    rig.worker()
    rig.enqueue("test.record", name="x")
    rig.wait_until_done()

    def last() -> str:
        """Its heart beats meanwhile as well."""
        query = rig.psql(
            "SELECT query FROM pg_stat_activity"
            " WHERE application_name = 'service-worker' AND datname = current_database()"
        )
        assert "COMMIT" not in query
        return query

    wait_until(lambda: "procrastinate_fetch_job" in last())


def test_the_queue_of_a_worker_has_no_more_connections_than_are_counted(rig: Rig) -> None:
    """Also when all that may be done at once waits for the database."""
    opened = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = 'service-worker' AND datname = current_database()"
    )
    concurrency = 2
    rig.worker(JOB_CONCURRENCY=str(concurrency))
    for name in range(concurrency):
        rig.enqueue("test.last", name=name, seconds=1)
    wait_until(lambda: len(rig.notes) == concurrency)
    counted = concurrency + QUEUE_CONNECTIONS
    with psycopg.connect(rig.url) as lock:
        # The ends of jobs wait, the rescue of others, and the heartbeat.
        lock.execute("LOCK procrastinate_jobs, procrastinate_workers")
        wait_until(lambda: len(rig.notes) == 2 * concurrency)
        wait_until(lambda: int(rig.psql(opened)) >= counted)
        time.sleep(2)  # each of them looks again
        assert int(rig.psql(opened)) == counted
    rig.wait_until_done()


def test_the_log_lines_of_a_job_carry_the_id_of_its_request(rig: Rig) -> None:
    worker = rig.worker()
    rig.enqueue("test.record", name="a", request="0123456789abcdef")
    rig.enqueue("test.record", name="b")
    rig.wait_until_done()
    wait_until(lambda: len(worker.lines("job_done")) == 2)
    ids = {line.get("request_id") for line in worker.lines("job_done")}  # in any order
    assert ids == {"0123456789abcdef", None}


def test_a_job_that_fails_is_tried_again_until_it_succeeds(rig: Rig) -> None:
    rig.worker()
    rig.enqueue("test.fail", name="x", times=2)
    rig.wait_until_done()
    assert rig.notes == ["tried x 1", "tried x 2", "tried x 3", "succeeded x 3"]


def test_a_job_that_always_fails_is_given_up_and_kept(rig: Rig) -> None:
    worker = rig.worker()
    rig.enqueue("test.fail", name="x")
    wait_until(lambda: rig.jobs() == ["test.fail|failed|3"])
    assert rig.notes == ["tried x 1", "tried x 2", "tried x 3", "gave-up x RuntimeError"]
    first, second = worker.lines("job_retried")
    (failed,) = worker.lines("job_failed")
    at = [datetime.fromisoformat(line["time"]) for line in (first, second, failed)]
    # A busy machine only makes it longer.
    assert at[1] - at[0] >= timedelta(seconds=FIRST_DELAY_SECONDS)
    assert at[2] - at[1] >= timedelta(seconds=2 * FIRST_DELAY_SECONDS)
    assert "as it was told" in failed["exception"]


def test_a_job_that_kills_its_workers_is_given_up(rig: Rig) -> None:
    rig.enqueue("test.die", name="x")
    for _ in range(2):
        worker = rig.worker(ready=False)
        assert worker.process is not None
        assert worker.process.wait(60) == -signal.SIGKILL
    rig.worker()
    wait_until(lambda: rig.jobs() == ["test.die|failed|3"])
    assert rig.notes == ["dies x 1", "dies x 2", "gave-up x JobAbandoned"]


def test_what_a_job_needs_may_be_away_longer_than_its_attempts_last(
    rig: Rig, tmp_path: Path
) -> None:
    """The task has one attempt."""
    rig.worker()
    rig.enqueue("test.need", name="x", path=str(tmp_path / "there"))
    rig.wait_for_note("needs x 1")
    wait_until(lambda: rig.jobs() == ["test.need|todo|0"])
    (tmp_path / "there").touch()
    rig.wait_until_done()
    assert rig.notes == ["needs x 1", "needs x 1"]


def test_a_job_of_a_newer_release_waits_for_it(rig: Rig) -> None:
    worker = rig.worker()
    rig.enqueue("test.of-a-newer-release")
    worker.wait_for("job_unknown")
    rig.enqueue("test.record", name="x")
    rig.wait_for_note("ran x 1")
    wait_until(lambda: rig.jobs() == ["test.of-a-newer-release|todo|0"])


def test_a_scheduled_task_runs_once_however_many_workers_there_are(rig: Rig) -> None:
    for _ in range(2):
        rig.worker(EVERY_SECONDS="1")
    before, began = rig.notes.count("ran None 1"), time.monotonic()
    wait_until(lambda: rig.notes.count("ran None 1") >= before + 6, seconds=60)
    # Each to itself, they would have taken half the time.
    assert time.monotonic() - began > 6 - 2


def test_another_worker_finishes_the_job_of_one_that_was_killed(rig: Rig) -> None:
    """Ten seconds are the promise. It had most of its work still before it."""
    for _ in range(2):
        rig.worker()
    rig.enqueue("test.last", name="x", seconds=5)
    rig.wait_for_note("began x 1")
    killed_at = time.monotonic()
    os.kill(rig.process_of("began x 1"), signal.SIGKILL)
    rig.wait_for_note("began x 2")
    assert time.monotonic() - killed_at < 20  # on a busy machine
    rig.wait_until_done()
    assert rig.notes == ["began x 1", "began x 2", "ended x 2"]


def test_the_job_of_a_killed_worker_does_not_wait_for_a_clock_that_was_set_back(rig: Rig) -> None:
    """Its last heartbeat is in the future."""
    worker = rig.worker()
    rig.enqueue("test.last", name="x", seconds=1)
    rig.wait_for_note("began x 1")
    worker.stop(signal.SIGKILL)
    rig.psql("UPDATE procrastinate_workers SET last_heartbeat = now() + interval '1 hour'")
    rig.worker()
    rig.wait_for_note("ended x 2")
    rig.wait_until_done()


def test_so_many_jobs_run_at_once_as_are_allowed(rig: Rig) -> None:
    for name in "abcd":
        rig.enqueue("test.last", name=name, seconds=4)
    rig.worker(JOB_CONCURRENCY="3")
    wait_until(lambda: len(rig.notes) == 3)
    assert rig.jobs() == ["test.last|doing|0"] * 3 + ["test.last|todo|0"]
    rig.wait_until_done()
    running = most = 0
    for note in rig.notes:
        running += 1 if note.startswith("began") else -1
        most = max(most, running)
    assert most == 3


def test_slow_jobs_leave_a_place_to_the_others(rig: Rig) -> None:
    """Or one account's pictures would keep everybody's mail waiting."""
    path = rig.directory / "end"
    for name in "abc":
        rig.enqueue("test.hold", priority=SLOW, name=name, path=str(path))
    worker = rig.worker(JOB_CONCURRENCY="3")
    rig.wait_for_note("holds b 1")
    rig.enqueue("test.record", name="x")
    rig.wait_for_note("ran x 1")
    rig.enqueue("test.record", name="y")  # which is found by the same way out
    rig.wait_for_note("ran y 1")
    assert rig.notes == ["holds a 1", "holds b 1", "ran x 1", "ran y 1"]
    path.touch()
    rig.wait_until_done()
    assert rig.notes[-1] == "holds c 1"
    assert not worker.lines("worker_lost_database")


def test_slow_jobs_make_way_for_the_others(rig: Rig) -> None:
    rig.enqueue("test.record", priority=SLOW, name="slow")
    rig.enqueue("test.record", name="first")
    rig.enqueue("test.record", name="second")
    rig.worker(JOB_CONCURRENCY="1")
    rig.wait_until_done()
    assert rig.notes == ["ran first 1", "ran second 1", "ran slow 1"]


def test_sigterm_lets_running_jobs_finish_and_begins_no_other(rig: Rig) -> None:
    worker = rig.worker(JOB_CONCURRENCY="1")
    rig.enqueue("test.last", name="x", seconds=4)
    rig.wait_for_note("began x 1")
    rig.enqueue("test.record", name="y")
    assert worker.stop(signal.SIGTERM) == 0
    assert rig.notes == ["began x 1", "ended x 1"]
    assert rig.jobs() == ["test.record|todo|0"]
    assert worker.lines("worker_stopped")


def test_a_job_that_ends_after_sigterm_is_run_by_nobody_else_meanwhile(rig: Rig) -> None:
    """A heart that stopped with SIGTERM would be found dead by any worker, this one too."""
    stopped = rig.worker()
    rig.enqueue("test.last", name="x", seconds=9)
    rig.wait_for_note("began x 1")
    stopped.send_signal(signal.SIGTERM)
    other = rig.worker()
    assert stopped.stop(signal.SIGTERM) == 0
    assert rig.notes == ["began x 1", "ended x 1"]
    assert rig.jobs() == []
    assert not stopped.lines("job_rescued") + other.lines("job_rescued")


def test_a_worker_says_that_it_drains_while_its_jobs_end(rig: Rig) -> None:
    port = free_port()
    worker = rig.worker(WORKER_BIND=f"127.0.0.1:{port}")
    rig.enqueue("test.last", name="x", seconds=4)
    rig.wait_for_note("began x 1")
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: "draining" in httpx.get(f"http://127.0.0.1:{port}/health/ready").text)
    assert worker.stop(signal.SIGTERM) == 0
    assert rig.notes == ["began x 1", "ended x 1"]


def test_sigterm_ends_an_idle_worker_at_once(rig: Rig) -> None:
    """It has a minute for jobs, and needs none of it."""
    worker = rig.worker(SHUTDOWN_GRACE_SECONDS="60")
    assert worker.stop(signal.SIGTERM, seconds=10) == 0


def test_a_job_longer_than_the_grace_period_is_handed_back(rig: Rig) -> None:
    """Without using up an attempt, of which the job has two."""
    rig.enqueue("test.last", name="x", seconds=60)
    for count in (1, 2):
        worker = rig.worker(SHUTDOWN_GRACE_SECONDS="6", SHUTDOWN_DRAIN_SECONDS="0")
        wait_until(lambda count=count: rig.notes == ["began x 1"] * count)
        assert worker.stop(signal.SIGTERM) == 0, "which it is not after the grace period"
        assert worker.lines("job_handed_back")
        assert rig.jobs() == ["test.last|todo|0"]


def test_a_thread_that_computes_does_not_keep_the_worker_from_ending(rig: Rig) -> None:
    worker = rig.worker(SHUTDOWN_GRACE_SECONDS="4", SHUTDOWN_DRAIN_SECONDS="0")
    rig.enqueue("test.block", name="x", seconds=60)
    rig.wait_for_note("blocks x 1")
    assert worker.stop(signal.SIGTERM) == 1
    assert rig.jobs() == ["test.block|todo|0"]


def test_a_worker_that_was_frozen_leaves_alone_what_another_took_over(rig: Rig) -> None:
    frozen = rig.worker()
    rig.enqueue("test.last", name="x", seconds=3)
    rig.wait_for_note("began x 1")
    frozen.send_signal(signal.SIGSTOP)
    rig.worker()
    rig.enqueue("test.last", name="y", seconds=90)
    rig.wait_for_note("began x 2")
    frozen.send_signal(signal.SIGCONT)
    rig.wait_for_note("ended x 1")
    rig.wait_for_note("ended x 2")
    frozen.wait_for("job_was_taken_over")
    wait_until(lambda: rig.jobs() == ["test.last|doing|0"])  # y is still with the other worker
    rig.enqueue("test.record", name="z")
    rig.wait_for_note("ran z 1")


def test_a_late_end_does_not_remove_the_job_from_under_who_runs_it_now(rig: Rig) -> None:
    """The one that took it over may still die, and then a third has to find it."""
    frozen = rig.worker()
    rig.enqueue("test.last", name="x", seconds=4)
    rig.wait_for_note("began x 1")
    frozen.send_signal(signal.SIGSTOP)
    second = rig.worker()
    rig.wait_for_note("began x 2")
    second.send_signal(signal.SIGSTOP)
    frozen.send_signal(signal.SIGCONT)
    frozen.wait_for("job_was_taken_over")
    assert rig.jobs()[0].startswith("test.last|")
    second.stop(signal.SIGKILL)
    rig.wait_for_note("gave-up x JobAbandoned")


def test_a_job_whose_end_could_not_be_recorded_is_not_stuck(rig: Rig) -> None:
    """Its worker is alive and well, so nobody would ever rescue it."""
    rig.psql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE 'not now'; END $$;"
        "CREATE TRIGGER refuse BEFORE DELETE ON procrastinate_jobs"
        " FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    worker = rig.worker()
    rig.enqueue("test.record", name="x")
    worker.wait_for("job_end_not_recorded")
    rig.psql("DROP TRIGGER refuse ON procrastinate_jobs")
    rig.wait_until_done()


def test_a_worker_whose_heartbeat_fails_begins_anew(rig: Rig) -> None:
    """Its connection may be well, and without a heartbeat others would run all its jobs too."""
    worker = rig.worker()
    rig.psql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE 'not now'; END $$;"
        "CREATE TRIGGER refuse BEFORE UPDATE ON procrastinate_workers"
        " FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    worker.wait_for("worker_lost_database")
    rig.psql("DROP TRIGGER refuse ON procrastinate_workers")
    rig.enqueue("test.last", name="x", seconds=7)
    rig.wait_for_note("ended x 1")
    rig.wait_until_done()
    assert rig.notes == ["began x 1", "ended x 1"]


class Forgetful(Proxy):
    """As a proxy of databases before one that has vanished: it keeps the connections, mute."""

    outages = 0

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delays: int
    ) -> None:
        before = self.outages
        while data := await reader.read(65536):
            if self.outages != before:
                await asyncio.sleep(3600)
            writer.write(data)
            await writer.drain()


def test_connections_that_say_nothing_any_more_are_given_up(
    rig: Rig, shared_postgresql: Postgresql
) -> None:
    with Forgetful(shared_postgresql.port) as proxy:
        rig.url = rig.url.replace(f":{shared_postgresql.port}/", f":{proxy.port}/")
        worker = rig.worker()
        proxy.outages += 1
        worker.wait_for("worker_lost_database")
        rig.enqueue("test.record", name="x")
        rig.wait_for_note("ran x 1")
        assert worker.stop(signal.SIGTERM) == 0


def test_a_worker_that_was_struck_off_registers_again(rig: Rig) -> None:
    """As one that was frozen is, when another starts."""
    rig.worker()
    rig.psql("DELETE FROM procrastinate_workers")
    wait_until(lambda: rig.psql("SELECT count(*) FROM procrastinate_workers") == "1")
    rig.enqueue("test.record", name="x")
    rig.wait_for_note("ran x 1")


def test_sigterm_ends_a_worker_that_waits(tmp_path: Path) -> None:
    worker = Worker(tmp_path, {"DATABASE_URL": "postgresql://a:b@127.0.0.1:9/c"})
    worker.start()
    try:
        worker.wait_for("check_failed")
    finally:
        assert worker.stop(signal.SIGTERM) == 0


# media: from here
async def upload(settings: Settings) -> str:
    """The id of an item that waits to be processed."""
    async with running_api(settings) as api:
        item = await api.upload(await api.signed_in("ann@example.org"), b"hello", "hello.txt")
        return UUID(item["id"]).hex


@pytest.fixture
def mail() -> Iterator[MailServer]:
    with mail_server() as server:
        yield server


def mail_settings(server: MailServer) -> dict[str, str]:
    return {
        "MAIL_SERVER": "127.0.0.1",
        "MAIL_PORT": str(server.port),
        "MAIL_USE_TLS": "false",
    }


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_an_upload_whose_worker_was_lost_has_one_effect_and_one_mail(
    rig: Rig, server_settings: Settings, mail: MailServer, number: signal.Signals
) -> None:
    item_id = asyncio.run(upload(server_settings))
    environment = mail_settings(mail) | {"INSPECT_SECONDS": "2"}
    lost = rig.worker(**environment)
    rig.wait_for_note("inspects")
    lost.send_signal(number)
    other = rig.worker(**environment)
    wait_until(lambda: rig.notes.count("inspects") == 2)
    if number == signal.SIGSTOP:
        lost.send_signal(signal.SIGCONT)
        lost.wait_for("attempt_superseded")
    wait_until(lambda: mail.contents)
    rig.wait_until_done()
    status = rig.psql("SELECT status, attempt FROM media_items")
    assert status == "ready|2"
    assert [str(message["Message-ID"]) for message in mail.messages] == [
        f"<media-{item_id}@localhost>"
    ]
    assert len(other.lines("media_processed")) == 1


def test_an_upload_that_cannot_be_processed_ends_failed_with_a_reason(
    rig: Rig, server_settings: Settings, mail: MailServer
) -> None:
    asyncio.run(upload(server_settings))
    rig.worker(**mail_settings(mail), INSPECT_SECONDS="-1")
    wait_until(lambda: rig.jobs() == ["media.process|failed|5"], seconds=30)
    status, reason = rig.psql("SELECT status, reason FROM media_items").split("|")
    assert (status, bool(reason)) == ("failed", True)
    wait_until(lambda: mail.contents)
    assert mail.messages[0]["Subject"] == "Your upload could not be processed"


# media: to here


def test_a_worker_outlives_a_restart_of_postgresql(
    own_rig: Rig, own_postgresql: Postgresql
) -> None:
    worker = own_rig.worker()
    own_rig.enqueue("test.record", name="before")
    own_rig.wait_for_note("ran before 1")
    own_postgresql.stop()
    worker.wait_for("check_failed")
    time.sleep(6)
    lines_while_away = worker.log.count("\n")
    assert lines_while_away < 12, worker.log
    own_postgresql.start()
    own_rig.enqueue("test.record", name="after")
    own_rig.wait_for_note("ran after 1")
    assert worker.process is not None
    assert worker.process.poll() is None


def test_a_job_that_runs_while_postgresql_restarts_is_done_once_more_or_once(
    own_rig: Rig, own_postgresql: Postgresql
) -> None:
    own_rig.worker()
    own_rig.enqueue("test.last", name="x", seconds=3)
    own_rig.wait_for_note("began x 1")
    own_postgresql.stop()
    own_rig.wait_for_note("ended x 1")
    own_postgresql.start()
    own_rig.wait_until_done()


def test_a_worker_waits_for_postgresql_to_come(own_rig: Rig, own_postgresql: Postgresql) -> None:
    own_rig.enqueue("test.record", name="x")
    own_postgresql.stop()
    worker = own_rig.worker(ready=False)
    worker.wait_for("check_failed")
    own_postgresql.start()
    own_rig.wait_for_note("ran x 1")


def test_a_worker_outlives_a_frozen_postgresql(own_rig: Rig, own_postgresql: Postgresql) -> None:
    worker = own_rig.worker()
    own_postgresql.freeze()
    worker.wait_for("check_failed")
    own_postgresql.thaw()
    own_rig.enqueue("test.record", name="x")
    own_rig.wait_for_note("ran x 1")


def test_a_worker_ends_though_postgresql_is_frozen(
    own_rig: Rig, own_postgresql: Postgresql
) -> None:
    worker = own_rig.worker(SHUTDOWN_GRACE_SECONDS="3", SHUTDOWN_DRAIN_SECONDS="0")
    own_postgresql.freeze()
    worker.wait_for("check_failed")
    began = time.monotonic()
    worker.stop(signal.SIGTERM)
    assert time.monotonic() - began < 12


def test_a_worker_says_that_the_schema_is_missing_and_waits_for_it(
    shared_postgresql: Postgresql, tmp_path: Path
) -> None:
    url = shared_postgresql.new_database()
    rig = Rig(tmp_path, url, lambda sql: shared_postgresql.psql(sql, url.rpartition("/")[2]))
    try:
        worker = rig.worker(ready=False)
        line = worker.wait_for("worker_waits_for_migration")
        assert (line["schema"], line["remedy"]) == ("empty", "run `service migrate`")
        time.sleep(2)
        assert len(worker.lines("worker_waits_for_migration")) == 1
        asyncio.run(migrate(Settings(database_url=url)))
        rig.enqueue("test.record", name="x")
        rig.wait_for_note("ran x 1")
    finally:
        rig.stop()


@pytest.mark.alone
def test_an_idle_worker_costs_next_to_nothing(rig: Rig) -> None:
    """Against what its start takes, which is a second on a machine like most."""
    worker = rig.worker()
    start = cpu_seconds(worker.pid)
    assert idle_cpu_seconds(worker.pid) < 0.08 * start


def test_a_worker_on_sqlite_is_refused(tmp_path: Path) -> None:
    done = run_service("worker", environment=clean_environment(), cwd=tmp_path)
    assert done.returncode == 78
    assert done.stderr == "embedded: jobs run in the web process; a worker needs PostgreSQL\n"
