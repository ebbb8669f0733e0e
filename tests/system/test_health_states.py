"""Every state of the health contract, against real Gunicorn, PostgreSQL and Redis.

Bounds are asserted where the contract names one, and on the best of a few tries where the machine
may add milliseconds of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiosmtpd.controller import Controller

from conftest import require
from servers import (
    Postgresql,
    RedisServer,
    free_port,
    postgresql_program,
    running,
    unprivileged,
    wait_until,
)
from service.database_url import engine_url
from service.heartbeat import PostgresqlHeartbeat
from service.migrate import migrate
from service.settings import Settings
from system.health_faults import (
    Answer,
    FarPostgresql,
    Namespaces,
    Proxy,
    Service,
    no_namespaces,
    open_files,
    open_sockets,
    small_disk,
)

pytestmark = pytest.mark.alone

PASS = {"status": "pass", "reason": "ok"}
STARTING = {"status": "fail", "reason": "starting"}
DEPENDENCY = {"status": "fail", "reason": "dependency"}
DRAINING = {"status": "fail", "reason": "draining"}
ALL = {"database": True, "cache": True, "disk_space": True}
PATHS = ("/health", "/health/live", "/health/ready", "/health/startup")
AT_ONCE_SECONDS = 0.05
RECOVERY_SECONDS = 1.5
# Where a database is there all the while: a machine that is busy elsewhere fails no check.
PATIENT = {"HEALTH_DATABASE_TIMEOUT_SECONDS": "4"}
TOKEN = "token-of-the-tests"

Make = Callable[..., Service]


@pytest.fixture
def make_service(tmp_path: Path) -> Iterator[Make]:
    """Starts Gunicorn; everything is stopped after the test."""
    started: list[Service] = []

    def make(*, wait: str | None = "/health/ready", **more: Any) -> Service:
        environment = {"LOG_LEVEL": "info", **more.pop("environment", {})}
        started.append(Service(tmp_path / f"web-{len(started)}", environment, **more))
        return started[-1].start(wait=wait)  # type: ignore[return-value]

    yield make
    for service in started:
        service.stop()


@pytest.fixture(scope="module")
def module_postgresql(server_directory: Path) -> Iterator[Postgresql]:
    """A migrated server for this module to stop and freeze, which logs every statement."""
    require(postgresql_program("postgres"), "PostgreSQL")
    options = ("-c", "log_statement=all", "-c", "log_line_prefix=%a|")
    server = Postgresql(server_directory / "health", options=options)
    with running(server.create()):
        asyncio.run(migrate(Settings(database_url=server.url())))
        yield server


@pytest.fixture
def postgresql(module_postgresql: Postgresql) -> Iterator[Postgresql]:
    """The server, well again after the test."""
    yield module_postgresql
    if module_postgresql.process is None:
        module_postgresql.start()
    module_postgresql.thaw()


@pytest.fixture
def database(postgresql: Postgresql) -> dict[str, str]:
    return {"DATABASE_URL": postgresql.url()}


def cannot(what: str) -> None:
    """Skip, by name, what this machine does not allow. In CI nothing may be skipped."""
    if os.environ.get("CI"):
        pytest.fail(f"this machine has no {what}")
    pytest.skip(f"this machine has no {what}")


def health_connections(server: Postgresql) -> int:
    """Connections of health checks that the server knows of, but for those of `well`."""
    where = "application_name = 'service-health' AND datname = current_database()"
    return int(server.psql(f"SELECT count(*) FROM pg_stat_activity WHERE {where}"))


def pool_connections(server: Postgresql) -> int:
    """Those of requests. The first is made a moment after the start, or ten seconds later."""
    where = "application_name = 'service' AND datname = current_database()"
    return int(server.psql(f"SELECT count(*) FROM pg_stat_activity WHERE {where}"))


# All well


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/health", {"status": "healthy", "checks": ALL}),
        ("/health/live", PASS),
        ("/health/ready", PASS),
        ("/health/startup", PASS),
    ],
)
def test_all_well(well: Service, path: str, expected: Any) -> None:
    """200, the body to the letter, and nothing for a cache to keep."""
    answer = well.probe(path)
    assert answer.told == (200, expected)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"
    known = {"date", "content-type", "cache-control", "content-length"}
    assert answer.headers.keys() == known


@pytest.fixture(scope="module")
def well(
    module_postgresql: Postgresql, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """One service for the tests that harm nothing."""
    environment = PATIENT | {"DATABASE_URL": module_postgresql.new_database()}
    service = Service(tmp_path_factory.mktemp("well"), environment)
    with running(service, wait="/health/ready"):
        wait_until_healthy(service)
        yield service


def wait_until_healthy(service: Service) -> None:
    """The first connection to a server may be slow, which is degraded."""
    healthy = (200, {"status": "healthy", "checks": ALL})
    wait_until(lambda: service.probe("/health").told == healthy)


@pytest.mark.parametrize("path", PATHS)
def test_head_is_get_without_its_body(well: Service, path: str) -> None:
    got, head = well.probe(path), well.probe(path, "HEAD")
    assert (head.status, head.body) == (200, b"")
    same = ("cache-control", "content-type", "content-length")
    assert [head.headers[name] for name in same] == [got.headers[name] for name in same]


@pytest.mark.parametrize("path", PATHS)
def test_a_post_is_no_probe(well: Service, path: str) -> None:
    answer = well.probe(path, "POST")
    assert answer.status == 405
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_successful_probe_writes_no_line(well: Service) -> None:
    before = len(well.events())
    for _ in range(100):
        for path in PATHS:
            assert well.probe(path).status == 200
    # A slow machine may have slow checks.
    assert [event for event in well.events()[before:] if "check" not in event] == []


def test_a_thousand_probes_at_once_cost_one_query(well: Service, postgresql: Postgresql) -> None:
    async def all_at_once() -> list[bytes]:
        opened = [asyncio.open_connection("127.0.0.1", well.port) for _ in range(1000)]
        connections = await asyncio.gather(*opened)
        for _, writer in connections:
            writer.write(b"GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        try:
            return await asyncio.gather(*(reader.readline() for reader, _ in connections))
        finally:
            for _, writer in connections:
                writer.close()

    began, before = time.monotonic(), health_queries(postgresql)
    answers = asyncio.run(all_at_once())
    queries, elapsed = health_queries(postgresql) - before, time.monotonic() - began
    assert set(answers) == {b"HTTP/1.1 200 OK\r\n"}
    # One a second, whoever asks: a slow machine takes more than one to ask a thousand times.
    assert queries <= 2 + elapsed


def test_steady_probing_costs_a_query_a_second_a_worker(
    make_service: Make, postgresql: Postgresql, database: dict[str, str]
) -> None:
    service = make_service(environment=database | PATIENT | {"WEB_CONCURRENCY": "2"})
    wait_until(lambda: health_connections(postgresql) == 2)
    began, before = time.monotonic(), health_queries(postgresql)
    while time.monotonic() - began < 3:
        assert service.probe("/health/ready").status == 200
        assert service.probe("/health").status == 200
    elapsed = time.monotonic() - began
    assert health_queries(postgresql) - before <= 2 * (2 + elapsed)


def health_queries(server: Postgresql) -> int:
    """Statements of health checks in the server's log."""
    log = (server.directory / "log").read_text(errors="replace")
    return sum(line.startswith("service-health|LOG:  statement:") for line in log.splitlines())


# Starting


def test_starting(make_service: Make) -> None:
    """Alive from the first moment, and nothing more before the first result; then started."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://service:sesame-open@127.0.0.1:{silent.getsockname()[1]}/x"
        environment = {"DATABASE_URL": url, "HEALTH_DATABASE_TIMEOUT_SECONDS": "3"}
        service = make_service(environment=environment, wait="/health/live")
        checks = dict.fromkeys(ALL, False)
        assert service.probe("/health/ready").told == (503, STARTING)
        assert service.probe("/health/startup").told == (503, STARTING)
        answer = service.probe("/health")
        assert (answer.status, answer.json["status"]) == (503, "unhealthy")
        assert answer.json["checks"].keys() == checks.keys()
        assert service.probe("/health/live").told == (200, PASS)
        service.first("/health/startup", 200)
        assert service.probe("/health/ready").told == (503, DEPENDENCY)


# The database is away


@dataclass
class Outage:
    """A database in reach of a service, and how to take it away from it."""

    server: Postgresql
    begin: Callable[[], object]
    end: Callable[[], object]
    environment: dict[str, str]
    prefix: tuple[str, ...] = ()
    first_seconds: float = 0.8

    def serve(self, make_service: Make, **environment: str) -> Service:
        service = make_service(environment=self.environment | environment, prefix=self.prefix)
        wait_until(lambda: health_connections(self.server) == 1)
        return service


@pytest.fixture(params=["refused", "frozen", "silent", "dropped"])
def outage(request: pytest.FixtureRequest) -> Iterator[Outage]:
    """The ways in which a database goes away."""
    if request.param == "dropped":
        yield request.getfixturevalue("dropped")
        return
    server: Postgresql = request.getfixturevalue("postgresql")
    environment = {"DATABASE_URL": server.url()}
    if request.param == "refused":
        yield Outage(server, server.stop, server.start, environment, (), AT_ONCE_SECONDS)
    elif request.param == "frozen":
        yield Outage(server, server.freeze, server.thaw, environment)
    else:
        with Proxy(server.port) as proxy:
            environment["DATABASE_URL"] = proxied(server, proxy)
            begin = partial_set(proxy, "silent", True)
            yield Outage(server, begin, partial_set(proxy, "silent", False), environment)


def proxied(server: Postgresql, proxy: Proxy) -> str:
    return server.url().replace(f":{server.port}/", f":{proxy.port}/")


def partial_set(target: object, name: str, value: object) -> Callable[[], None]:
    return lambda: setattr(target, name, value)


@pytest.fixture
def dropped(far_postgresql: FarPostgresql, tmp_path: Path) -> Iterator[Outage]:
    """Packets from the server vanish between two network namespaces."""
    names = far_postgresql.namespaces
    assert names is not None
    environment = {
        "DATABASE_URL": far_postgresql.url(),
        "BIND": f"unix:{tmp_path}/socket",
    }
    near = ("ip", "netns", "exec", names.near)
    yield Outage(far_postgresql, names.cut, names.mend, environment, near)
    with contextlib.suppress(subprocess.CalledProcessError):
        names.mend()


@pytest.fixture(scope="module")
def far_postgresql(server_directory: Path) -> Iterator[FarPostgresql]:
    require(postgresql_program("postgres"), "PostgreSQL")
    if reason := no_namespaces():
        cannot(f"network namespaces: {reason}")
    names = Namespaces.make()
    who = unprivileged()
    user = ("--reuid", str(who["user"]), "--regid", str(who["group"]), "--clear-groups")
    prefix = ("ip", "netns", "exec", names.far, "setpriv", *user, "--pdeathsig", "KILL")
    server = FarPostgresql(
        server_directory / "far", host=names.far_address, prefix=prefix, namespaces=names
    )
    try:
        with running(server.create()):
            yield server
    finally:
        names.remove()


def test_the_database_is_away(make_service: Make, outage: Outage) -> None:
    """503 within the bound the first time and at once from then on; alive, and started for good."""
    service = outage.serve(make_service)
    first: list[float] = []
    for _ in range(3):
        outage.begin()
        first.append(service.first("/health/ready", 503).seconds)
        later = {path: [service.probe(path) for _ in range(20)] for path in PATHS}
        outage.end()
        if first[-1] <= outage.first_seconds:
            break
        service.first("/health/ready", 200)
    expected = {
        "/health": (503, {"status": "unhealthy", "checks": ALL | {"database": False}}),
        "/health/live": (200, PASS),
        "/health/ready": (503, DEPENDENCY),
        "/health/startup": (200, PASS),
    }
    assert {path: told(answers) for path, answers in later.items()} == expected
    assert min(first) <= outage.first_seconds
    for answers in later.values():
        assert statistics.median(answer.seconds for answer in answers) <= AT_ONCE_SECONDS


def told(answers: list[Answer]) -> tuple[int, Any]:
    """What all of them were told."""
    assert all(answer.told == answers[0].told for answer in answers)
    return answers[0].told


def test_a_database_that_returns_is_noticed(make_service: Make, outage: Outage) -> None:
    service = outage.serve(make_service)
    took: list[float] = []
    while len(took) < 3 and (not took or took[-1] > RECOVERY_SECONDS):
        outage.begin()
        service.first("/health/ready", 503)
        time.sleep(0.4 * len(took))  # another moment of the cycle of attempts
        outage.end()
        took.append(service.seconds_until("/health/ready", 200))
    assert min(took) <= RECOVERY_SECONDS
    wait_until_healthy(service)


def test_many_outages_leave_nothing_behind(make_service: Make, outage: Outage) -> None:
    """Neither a connection on the server nor a socket or a file in the process."""
    quick = {"HEALTH_INTERVAL_SECONDS": "0.1", "HEALTH_DATABASE_TIMEOUT_SECONDS": "0.1"}
    service = outage.serve(make_service, **quick)
    wait_until(lambda: pool_connections(outage.server) == 1, seconds=20)
    worker = service.workers()[0]
    files, sockets = open_files(worker), open_sockets(worker)
    for _ in range(10):
        outage.begin()
        service.first("/health/ready", 503)
        outage.end()
        service.first("/health/ready", 200)
    wait_until(lambda: health_connections(outage.server) == 1)
    wait_until(lambda: open_sockets(worker) <= sockets and open_files(worker) <= files)
    assert service.workers() == [worker]


def test_an_outage_writes_two_lines_however_often_it_is_asked_for(
    make_service: Make, postgresql: Postgresql, database: dict[str, str]
) -> None:
    """One when the database goes and one when it is back."""
    service = make_service(environment=database)
    wait_until_healthy(service)
    before = without_slow(service.changes())  # of a first connection that took long
    postgresql.freeze()
    service.first("/health/ready", 503)
    for _ in range(50):
        for path in PATHS:
            service.probe(path)
    failed, recovered = ("check_failed", "database"), ("check_recovered", "database")
    assert without_slow(service.changes()) == [*before, failed]
    postgresql.thaw()
    wait_until(lambda: without_slow(service.changes()) == [*before, failed, recovered])


def without_slow(changes: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """A check that was asked in the last of an outage may be slow before it is well."""
    return [change for change in changes if change[0] != "check_slow"]


def test_a_frozen_database_is_left_in_peace(
    make_service: Make, postgresql: Postgresql, database: dict[str, str]
) -> None:
    """One connection waits for it, not one more with every run that fails."""
    service = make_service(environment=database)
    wait_until(lambda: pool_connections(postgresql) == 1, seconds=20)
    worker = service.workers()[0]
    sockets = open_sockets(worker)
    postgresql.freeze()
    service.first("/health/ready", 503)
    end = time.monotonic() + 3
    while time.monotonic() < end:
        assert open_sockets(worker) <= sockets + 1  # and the one that asks
        time.sleep(0.05)


# The database is slow


def test_a_slow_database_degrades(make_service: Make, postgresql: Postgresql) -> None:
    """Also one that was slow before the service came."""
    with Proxy(postgresql.port) as proxy:
        proxy.delay_seconds = 0.35
        environment = PATIENT | {"DATABASE_URL": proxied(postgresql, proxy)}
        service = make_service(environment=environment)
        for _ in range(5):
            assert service.probe("/health/ready").told == (200, PASS)
            assert service.probe("/health").told == (200, {"status": "degraded", "checks": ALL})
            time.sleep(0.3)
        proxy.delay_seconds = 0.0
        wait_until(lambda: service.probe("/health").json["status"] == "healthy", seconds=5)
        events = [event for event, check in service.changes() if check == "database"]
        assert events[-1] == "check_recovered"
        assert set(events[:-1]) <= {"check_failed", "check_slow"}
        assert len(events) <= 3


def test_an_exhausted_pool_degrades(
    make_service: Make, postgresql: Postgresql, database: dict[str, str]
) -> None:
    """The checks do not wait behind the requests: /health within 10 ms, or within what a slow
    machine takes for five answers that ask nothing; and ready."""
    settings = {
        "DATABASE_POOL_SIZE": "2",
        "DATABASE_POOL_TIMEOUT_SECONDS": "20",
        "DATABASE_STATEMENT_TIMEOUT_SECONDS": "20",
    }
    service = make_service(environment=database | settings)
    with psycopg.connect(postgresql.url()) as lock:
        lock.execute("LOCK TABLE tokens IN ACCESS EXCLUSIVE MODE")
        headers = {"authorization": f"Bearer {'x' * 43}"}
        requests = [Background(service, "/api/accounts/me", headers) for _ in range(6)]
        wait_until(lambda: service.probe("/health").json["status"] == "degraded")
        checks = ALL | {"database_pool": False}
        seconds: list[float] = []
        live_seconds: list[float] = []
        for _ in range(50):
            answer = service.probe("/health")
            assert answer.told == (200, {"status": "degraded", "checks": checks})
            seconds.append(answer.seconds)
            live_seconds.append(service.probe("/health/live").seconds)
            ready = service.probe("/health/ready")
            assert ready.told == (200, PASS)
        assert statistics.median(seconds) <= max(0.01, 5 * statistics.median(live_seconds))
        assert not any(request.answered for request in requests)
        lock.rollback()
    for request in requests:
        assert request.status == 401
    wait_until(lambda: service.probe("/health").json["status"] == "healthy")


class Background:
    """A request that is under way."""

    def __init__(self, service: Service, path: str, headers: dict[str, str]) -> None:
        self._answers: list[int] = []

        def ask() -> None:
            connection = service.connection(timeout=30)
            with contextlib.closing(connection):
                connection.request("GET", path, headers=headers)
                self._answers.append(connection.getresponse().status)

        self._thread = threading.Thread(target=ask, daemon=True)
        self._thread.start()

    @property
    def answered(self) -> bool:
        return bool(self._answers)

    @property
    def status(self) -> int:
        self._thread.join(30)
        return self._answers[0]


# Redis, disk, mail


@pytest.fixture
def own_redis_settings(database: dict[str, str], own_redis: RedisServer) -> dict[str, str]:
    return database | {"REDIS_URL": own_redis.url}


@pytest.mark.parametrize("fault", ["stop", "freeze"])
def test_redis_away_only_degrades(
    make_service: Make, own_redis_settings: dict[str, str], own_redis: RedisServer, fault: str
) -> None:
    service = make_service(environment=own_redis_settings)
    without = (200, {"status": "degraded", "checks": ALL | {"cache": False}})
    took: list[float] = []
    while len(took) < 3 and (not took or took[-1] > RECOVERY_SECONDS + 1):
        wait_until_healthy(service)
        getattr(own_redis, fault)()
        wait_until(lambda: service.probe("/health").json["status"] == "degraded")
        answers = [service.probe("/health") for _ in range(20)]
        assert told(answers) == without
        assert statistics.median(answer.seconds for answer in answers) <= AT_ONCE_SECONDS
        assert service.probe("/health/ready").told == (200, PASS)
        own_redis.thaw() if fault == "freeze" else own_redis.start()
        began = time.monotonic()
        wait_until(lambda: service.probe("/health").json["status"] == "healthy")
        took.append(time.monotonic() - began)
    assert min(took) <= RECOVERY_SECONDS + 1


@pytest.mark.parametrize("fault", ["stop", "freeze"])
def test_many_outages_of_redis_leave_nothing_behind(
    make_service: Make, own_redis_settings: dict[str, str], own_redis: RedisServer, fault: str
) -> None:
    quick = {"HEALTH_INTERVAL_SECONDS": "0.1", "HEALTH_CACHE_TIMEOUT_SECONDS": "0.1"}
    service = make_service(environment=own_redis_settings | quick)
    wait_until(lambda: service.probe("/health").json["status"] == "healthy")
    worker = service.workers()[0]
    files, sockets = open_files(worker), open_sockets(worker)
    for _ in range(10):
        getattr(own_redis, fault)()
        wait_until(lambda: service.probe("/health").json["status"] == "degraded")
        own_redis.thaw() if fault == "freeze" else own_redis.start()
        wait_until(lambda: service.probe("/health").json["status"] == "healthy")
    wait_until(lambda: open_sockets(worker) <= sockets and open_files(worker) <= files)


def test_redis_can_be_required(
    make_service: Make, own_redis_settings: dict[str, str], own_redis: RedisServer
) -> None:
    environment = own_redis_settings | {"HEALTH_REQUIRED": "database,cache"}
    service = make_service(environment=environment)
    own_redis.stop()
    answer = service.first("/health/ready", 503)
    assert answer.json == DEPENDENCY
    assert service.probe("/health").json["status"] == "unhealthy"
    assert service.probe("/health/live").told == (200, PASS)


def test_a_disk_nearly_full_degrades(
    make_service: Make, database: dict[str, str], tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        try:
            disk = stack.enter_context(small_disk(tmp_path / "disk"))
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            cannot(f"mounted file systems: {error}")
        service = make_service(environment=database | {"UPLOAD_FOLDER": str(disk)})
        wait_until_healthy(service)
        (disk / "ballast").write_bytes(bytes(int(15.6 * 2**20)))
        wait_until(lambda: service.probe("/health").json["status"] == "degraded")
        full = {"status": "degraded", "checks": ALL | {"disk_space": False}}
        assert service.probe("/health").told == (200, full)
        assert service.probe("/health/ready").told == (200, PASS)
        (disk / "ballast").unlink()
        wait_until(lambda: service.probe("/health").json["status"] == "healthy")
        service.stop()


@dataclass
class Greetings:
    """An SMTP server's handler that counts conversations."""

    count: int = 0

    async def handle_QUIT(self, *_: object) -> str:
        self.count += 1
        return "221 Bye"


def test_a_mail_server_that_is_away_degrades(make_service: Make, database: dict[str, str]) -> None:
    port = free_port()
    environment = database | {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": str(port)}
    service = make_service(environment=environment)
    away = {"status": "degraded", "checks": ALL | {"mail": False}}
    assert service.probe("/health").told == (200, away)
    assert service.probe("/health/ready").told == (200, PASS)
    controller = Controller(Greetings(), hostname="127.0.0.1", port=port)
    controller.start()
    try:
        wait_until_healthy(service)
    finally:
        controller.stop()


def test_the_mail_server_is_left_in_peace_by_orchestrators(
    make_service: Make, database: dict[str, str]
) -> None:
    greetings = Greetings()
    controller = Controller(greetings, hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        mail = {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": str(controller.port)}
        service = make_service(environment=database | PATIENT | mail)
        end = time.monotonic() + 2
        while time.monotonic() < end:
            assert service.probe("/health/ready").status == 200
        assert greetings.count == 0
        wait_until_healthy(service)
        wait_until(lambda: greetings.count >= 1)
    finally:
        controller.stop()


# Draining, and the end


def test_draining_fails_readiness_while_requests_are_served(
    make_service: Make, database: dict[str, str]
) -> None:
    took: list[float] = []
    while len(took) < 3 and (not took or took[-1] > 0.15):
        service = make_service(environment=database | {"SHUTDOWN_DRAIN_SECONDS": "2"})
        service.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert service.first("/health/ready", 503).json == DRAINING
        took.append(time.monotonic() - began)
        assert service.probe("/health/live").told == (200, PASS)
        assert service.probe("/health/startup").told == (200, PASS)
        assert service.probe("/openapi.json").status == 200
        assert service.probe("/health").told == (503, {"status": "unhealthy", "checks": ALL})
        assert service.process is not None
        assert service.process.wait(10) == 0
    assert min(took) <= 0.15


def test_a_service_whose_dependencies_are_frozen_still_ends_in_time(
    make_service: Make,
    own_redis_settings: dict[str, str],
    own_redis: RedisServer,
    postgresql: Postgresql,
) -> None:
    patient = {
        "DATABASE_CONNECT_TIMEOUT_SECONDS": "30",
        "DATABASE_STATEMENT_TIMEOUT_SECONDS": "30",
        "SHUTDOWN_GRACE_SECONDS": "14",
    }
    service = make_service(environment=own_redis_settings | patient)
    postgresql.freeze()
    own_redis.freeze()
    service.first("/health/ready", 503)
    began = time.monotonic()
    assert service.stop(signal.SIGTERM) == 0
    assert time.monotonic() - began < 12  # Gunicorn would kill it after 14
    assert "worker_stopped" in service.log
    for killed in ("WORKER TIMEOUT", "Timeout (", "SIGKILL"):
        assert killed not in service.log


# A blocked event loop


@pytest.mark.parametrize("workers", [1, 4])
def test_a_blocked_worker_is_replaced(
    make_service: Make, database: dict[str, str], workers: int
) -> None:
    """Within the timeout and a second, and counted; the other workers go on all the while."""
    timeout_seconds = 3
    service = make_service(
        environment=database
        | {
            "WEB_CONCURRENCY": str(workers),
            "WORKER_TIMEOUT_SECONDS": str(timeout_seconds),
            "SHUTDOWN_GRACE_SECONDS": "2",
            "PYTHONPATH": str(Path(__file__).parent),
        },
        arguments=("blocking_app:create_app()",),
    )
    before = set(service.workers())
    blocked = int(service.probe("/block").body)
    began = time.monotonic()
    assert blocked in before
    while blocked in service.workers():
        if workers > 1:
            assert service.probe("/health/live").status == 200
        time.sleep(0.01)
    wait_until(lambda: len(service.workers()) == workers)
    took = time.monotonic() - began
    service.first("/health/ready", 200)
    assert took <= timeout_seconds + 1 + 5  # the last is for noise
    assert set(service.workers()) - before
    counted = b'service_worker_exits_total{reason="timeout"} 1.0'
    wait_until(lambda: counted in service.probe("/metrics").body)


# In full, for operators


def test_detailed_lists_every_worker_and_not_the_master(
    make_service: Make, database: dict[str, str]
) -> None:
    service = make_service(environment=database | {"WEB_CONCURRENCY": "4"})

    def all_workers() -> Any:
        report = service.probe("/health/detailed", Authorization=f"Bearer {TOKEN}").json
        beating = [w for w in report["workers"] if "heartbeat_age_seconds" in w]
        return report if len(beating) == 4 else None

    report = wait_until(all_workers)
    assert {worker["pid"] for worker in report["workers"]} == set(service.workers())
    assert report["pid"] in service.workers()
    for worker in report["workers"]:
        assert 0 <= worker["heartbeat_age_seconds"] < 5
        assert 0 <= worker["event_loop_lag_seconds"] < 5


def test_detailed_forgets_a_worker_that_is_gone(
    make_service: Make, database: dict[str, str]
) -> None:
    service = make_service(environment=database | {"WEB_CONCURRENCY": "2"})
    victim = service.workers()[0]
    os.kill(victim, signal.SIGKILL)

    def listed() -> set[int]:
        report = service.probe("/health/detailed", Authorization=f"Bearer {TOKEN}").json
        return {worker["pid"] for worker in report["workers"]}

    wait_until(lambda: victim not in listed() and listed() == set(service.workers()))


# The check itself, in this process


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.mark.anyio
async def test_many_hangs_leave_no_task_and_no_connection(postgresql: Postgresql) -> None:
    with Proxy(postgresql.port) as proxy:
        settings = Settings(
            database_url=proxied(postgresql, proxy), health_database_timeout_seconds=0.1
        )
        heartbeat = PostgresqlHeartbeat(settings, engine_url(settings))
        await heartbeat.beat()
        before = len(asyncio.all_tasks())
        for _ in range(20):
            proxy.silent = True
            for _ in range(3):
                run = asyncio.create_task(heartbeat.beat())
                await asyncio.wait({run}, timeout=0.02)
                heartbeat.abort()
                run.cancel()
                await asyncio.wait({run})
            proxy.silent = False
            await beats(heartbeat)
        async with asyncio.timeout(5):
            while len(asyncio.all_tasks()) > before or proxy.open > 1:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert proxy.accepted <= 1 + 20 * 5
        await heartbeat.close()
        async with asyncio.timeout(5):
            while proxy.open:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def beats(heartbeat: PostgresqlHeartbeat) -> None:
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(Exception):
                await heartbeat.beat()
                return
            await asyncio.sleep(0.01)


@pytest.mark.anyio
async def test_a_connection_that_was_lost_is_no_outage(postgresql: Postgresql) -> None:
    """An administrator ended it, a failover or a router forgot it: the next beat connects anew."""
    settings = Settings(database_url=postgresql.url())
    heartbeat = PostgresqlHeartbeat(settings, engine_url(settings))
    await heartbeat.beat()
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'service-health'"
    )
    await asyncio.to_thread(postgresql.psql, kill)
    await heartbeat.beat()
    assert heartbeat._connection is not None
    heartbeat._connection._transport.abort()  # lost without a word, and not noticed yet
    await heartbeat.beat()
    await heartbeat.close()


@pytest.mark.anyio
async def test_a_wrong_password_fails_and_leaves_nothing_behind(postgresql: Postgresql) -> None:
    url = postgresql.url().replace(postgresql.password, "guessed")
    settings = Settings(database_url=url)
    heartbeat = PostgresqlHeartbeat(settings, engine_url(settings))
    before = len(asyncio.all_tasks())
    for _ in range(5):
        with pytest.raises(Exception, match="password"):
            await heartbeat.beat()
    assert len(asyncio.all_tasks()) == before
    await heartbeat.close()
