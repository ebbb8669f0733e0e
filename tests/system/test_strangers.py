"""What somebody found who used the service for the first time."""

import signal
import socket
import time
from collections.abc import Callable

import pytest

from servers import Postgresql, Web, wait_until
from service import protocol

MakeWeb = Callable[..., Web]


def connect(web: Web) -> socket.socket:
    return socket.create_connection(("127.0.0.1", web.port), timeout=10)


def read_all(connection: socket.socket) -> bytes:
    answer = b""
    while chunk := connection.recv(65536):
        answer += chunk
    return answer


@pytest.fixture
def web(make_web: MakeWeb, embedded_environment: dict[str, str]) -> Web:
    return make_web(embedded_environment, wait="/health/ready")


def test_a_huge_header_is_refused_before_it_costs_anything(web: Web) -> None:
    with connect(web) as connection:
        connection.sendall(b"GET /docs HTTP/1.1\r\nHost: localhost\r\nX: ")
        with pytest.raises(OSError):  # refused long before this is sent
            for _ in range(2000):
                connection.sendall(b"a" * 65536)
    wait_until(lambda: web.status("/health/ready") == 200)


def test_a_head_over_the_bound_gets_431_as_a_problem(web: Web) -> None:
    head = b"GET /docs HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * (protocol.MAX_HEAD_BYTES + 10)
    with connect(web) as connection:
        connection.sendall(head)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"application/problem+json" in answer


def test_a_head_within_the_bound_is_served(web: Web) -> None:
    assert web.get("/openapi.json", headers={"X-Long": "a" * 30_000}).status_code == 200


# media: from here
def test_an_upload_behind_its_head_does_not_count_as_head(web: Web) -> None:
    body = b"x" * 300_000
    head = b"POST /api/media HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    with connect(web) as connection:
        connection.sendall(head % len(body) + body)
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


# media: to here


@pytest.fixture
def slow(make_web: MakeWeb, embedded_environment: dict[str, str]) -> Web:
    """One worker that takes six seconds to drain."""
    one = {"WEB_CONCURRENCY": "1", "SHUTDOWN_DRAIN_SECONDS": "6", "SHUTDOWN_GRACE_SECONDS": "12"}
    patient = {"HEALTH_DATABASE_TIMEOUT_SECONDS": "4"}
    return make_web(embedded_environment | one | patient, wait="/health/ready")


@pytest.mark.alone
def test_a_reload_keeps_the_service_ready(slow: Web) -> None:
    """But for a moment of the new worker's, where its first look at the database takes long."""
    [old] = slow.workers()
    slow.send_signal(signal.SIGHUP)
    seen = set()
    end = time.monotonic() + 20
    while old in slow.workers():
        seen.add(slow.get("/health/ready").json()["reason"])
        assert time.monotonic() < end
    assert "ok" in seen
    assert seen <= {"ok", "starting"}
    assert slow.events("worker_draining")[0]["reason"] == "reloaded"


@pytest.mark.alone
def test_a_real_stop_after_a_reload_is_still_seen(slow: Web) -> None:
    [old] = slow.workers()
    slow.send_signal(signal.SIGHUP)
    wait_until(lambda: slow.workers() and old not in slow.workers(), seconds=20)
    slow.send_signal(signal.SIGTERM)
    wait_until(lambda: slow.status("/health/ready") == 503, seconds=5)


def test_connections_a_restarted_server_closed_fail_no_request(
    make_web: MakeWeb, own_postgresql: Postgresql, tmp_path: object
) -> None:
    from servers import run_service

    url = own_postgresql.new_database()
    web = make_web({"DATABASE_URL": url}, wait="/health/ready")
    migrated = run_service("migrate", environment=web.variables(), cwd=web.directory)
    assert migrated.returncode == 0, migrated.stderr
    bearer = {"Authorization": "Bearer no-such-token"}
    statuses = [web.get("/api/accounts/me", headers=bearer).status_code for _ in range(3)]
    own_postgresql.stop()
    own_postgresql.start()
    wait_until(lambda: web.status("/health/ready") == 200)
    statuses += [web.get("/api/accounts/me", headers=bearer).status_code for _ in range(6)]
    assert set(statuses) == {401}
