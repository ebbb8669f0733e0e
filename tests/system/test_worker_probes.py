"""The worker's own probes and metrics, as its container's health check and Prometheus ask them."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from servers import Postgresql, Worker, clean_environment, free_port, run_service, wait_until
from service.database import open_database
from service.jobs import Jobs
from service.settings import Settings

pytestmark = pytest.mark.alone

Start = Callable[..., Worker]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def start(tmp_path: Path, port: int) -> Iterator[Start]:
    started: list[Worker] = []

    def start(url: str, **more: str) -> Worker:
        environment = {"DATABASE_URL": url, "WORKER_BIND": f"127.0.0.1:{port}", **more}
        started.append(Worker(tmp_path / f"worker-{len(started)}", environment))
        return started[-1].start()

    yield start
    for worker in started:
        worker.stop()


def get(port: int, path: str) -> tuple[int, str]:
    """(status, body); (0, "") where nothing answers."""
    try:
        response = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5)
    except httpx.HTTPError:
        return 0, ""
    return response.status_code, response.text


def test_a_worker_is_ready_once_it_takes_jobs(start: Start, port: int, database_url: str) -> None:
    worker = start(database_url)
    worker.wait_for("worker_ready")
    wait_until(lambda: get(port, "/health/ready")[0] == 200)
    assert get(port, "/health/live")[0] == 200
    assert '"queue": true' in get(port, "/health")[1]
    # What it waits for at first may take longer on a busy machine.
    assert [line for line in worker.lines("check_failed") if line["check"] != "queue"] == []


def test_a_worker_that_waits_for_the_schema_is_alive_and_not_ready(
    start: Start, port: int, shared_postgresql: Postgresql
) -> None:
    worker = start(shared_postgresql.new_database())
    worker.wait_for("worker_waits_for_migration")
    assert wait_until(lambda: "dependency" in get(port, "/health/ready")[1])
    assert get(port, "/health/live")[0] == 200


def test_a_worker_without_its_database_is_not_ready_until_it_works_again(
    start: Start, port: int, own_postgresql: Postgresql
) -> None:
    url = own_postgresql.new_database()
    migrated = run_service(
        "migrate", environment=clean_environment(DATABASE_URL=url), cwd=own_postgresql.directory
    )
    assert migrated.returncode == 0, migrated.stderr
    start(url).wait_for("worker_ready")
    wait_until(lambda: get(port, "/health/ready")[0] == 200)
    own_postgresql.stop()
    wait_until(lambda: get(port, "/health/ready")[0] == 503)
    own_postgresql.start()
    wait_until(lambda: get(port, "/health/ready")[0] == 200, seconds=20)


def test_metrics_of_a_worker_tell_of_its_loop_and_its_jobs(
    start: Start, port: int, database_url: str
) -> None:
    async def enqueue() -> None:
        async with (
            open_database(Settings(database_url=database_url)) as database,
            database.transaction() as session,
        ):
            await Jobs(database).enqueue(session, "test.record", name="x")

    start(database_url).wait_for("worker_ready")
    status, text = get(port, "/metrics")
    assert status == 200
    assert "service_worker_heartbeat_timestamp_seconds" in text
    asyncio.run(enqueue())
    counted = 'service_jobs_done_total{outcome="done",task="test.record"} 1.0'
    wait_until(lambda: counted in get(port, "/metrics")[1])


def test_nothing_else_is_served(start: Start, port: int, database_url: str) -> None:
    start(database_url).wait_for("worker_ready")
    assert get(port, "/api/accounts/me")[0] == 404


def test_the_health_client_asks_the_worker(
    start: Start, port: int, database_url: str, tmp_path: Path
) -> None:
    start(database_url).wait_for("worker_ready")
    environment = clean_environment(WORKER_BIND=f"127.0.0.1:{port}", BIND="127.0.0.1:1")
    wait_until(lambda: run_service("health", environment=environment, cwd=tmp_path).returncode == 0)


def test_a_unix_socket_left_by_a_killed_worker_is_taken_over(
    start: Start, database_url: str, tmp_path: Path
) -> None:
    path = f"/tmp/worker-{os.getpid()}-{free_port()}.sock"
    try:
        start(database_url, WORKER_BIND=f"unix:{path}").wait_for("worker_ready")
        start_again = start(database_url, WORKER_BIND=f"unix:{path}")
        start_again.wait_for("worker_ready")
        environment = clean_environment(WORKER_BIND=f"unix:{path}")
        wait_until(
            lambda: run_service("health", environment=environment, cwd=tmp_path).returncode == 0
        )
    finally:
        Path(path).unlink(missing_ok=True)


def test_an_address_that_is_taken_ends_the_worker_with_a_word(
    start: Start, port: int, database_url: str
) -> None:
    with socket.create_server(("127.0.0.1", port)):
        worker = start(database_url)
        assert worker.process is not None
        assert worker.process.wait(20) == 1
    [line] = worker.lines("worker_cannot_listen")
    assert line["bind"] == f"127.0.0.1:{port}"
