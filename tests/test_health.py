"""Checks, what follows from them, and the probes: with fakes, inside one event loop."""

import asyncio
import contextlib
import gc
import json
import logging
import socket
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from asgi import client_of, lifespan
from service.app import create_app
from service.checks import Check, InThread, Watch
from service.health import FAIL, PASS, Health, Probes
from service.heartbeat import make_heartbeat
from service.lifecycle import Lifecycle
from service.settings import Settings

pytestmark = pytest.mark.anyio


class Dependency:
    """Something to check, which the test takes away and gives back."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.hangs = False
        self.deaf = False
        self.released = asyncio.Event()
        self.seconds = 0.0
        self.calls = 0
        self.running = 0
        self.most_running = 0

    async def check(self) -> None:
        self.calls += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self._answer()
        finally:
            self.running -= 1

    async def _answer(self) -> None:
        while self.hangs and not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                if not self.deaf:
                    raise
        if self.seconds:
            await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error


def a_check(run: Callable[[], Awaitable[object]], name: str = "database", **more: Any) -> Check:
    return Check(name, run, **{"timeout_seconds": 0.1, **more})


def a_health(*checks: Check, **more: Any) -> Health:
    health = Health(Lifecycle(), **{"interval_seconds": 0.05, **more})
    for check in checks:
        health.add(check)
    return health


async def until(condition: Callable[[], Any], seconds: float = 5) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def ask(probes: Probes, path: str, method: str = "GET") -> tuple[int, bytes, dict[str, str]]:
    """(status, body, headers) of one probe."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("a probe reads no body")

    await probes.paths[path]({"type": "http", "method": method}, receive, send)
    start, body = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], body["body"], headers


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged about checks: event and check."""
    return [
        f"{record.message} {record.check}" for record in caplog.records if "check" in vars(record)
    ]


# What the probes say


async def test_everything_passes_where_every_check_passes() -> None:
    """The bodies are those of the contract, to the letter."""
    names = ("database", "cache", "disk_space")
    health = a_health(*(a_check(Dependency().check, name) for name in names))
    probes = Probes(health)
    async with health.running():
        for path in ("/health/live", "/health/ready", "/health/startup"):
            status, body, _ = await ask(probes, path)
            assert (status, json.loads(body)) == (200, {"status": "pass", "reason": "ok"})
        status, body, _ = await ask(probes, "/health")
    checks = {"database": True, "cache": True, "disk_space": True}
    assert (status, json.loads(body)) == (200, {"status": "healthy", "checks": checks})


async def test_before_the_first_result_the_process_is_starting() -> None:
    database = Dependency()
    database.hangs = True
    health = a_health(a_check(database.check, timeout_seconds=60))
    probes = Probes(health)
    async with health.running():
        assert (await ask(probes, "/health/live"))[0] == 200
        for path in ("/health/ready", "/health/startup"):
            status, body, _ = await ask(probes, path)
            assert (status, json.loads(body)) == (503, {"status": "fail", "reason": "starting"})
        status, body, _ = await ask(probes, "/health")
        expected = {"status": "unhealthy", "checks": {"database": False}}
        assert (status, json.loads(body)) == (503, expected)


async def test_a_dependency_that_is_there_makes_the_process_ready_at_once() -> None:
    """No orchestrator sees a failure from a process that starts next to a healthy database."""
    database = Dependency()
    database.seconds = 0.02
    health = a_health(a_check(database.check))
    async with health.running():
        assert health.not_ready() == ""


async def test_a_dependency_that_hangs_does_not_hold_up_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.health.FIRST_RESULTS_SECONDS", 0.1)  # as it ships
    database = Dependency()
    database.hangs = True
    health = a_health(a_check(database.check, timeout_seconds=60))
    began = time.monotonic()
    async with health.running():
        assert time.monotonic() - began < 5


async def test_startup_stays_passed_when_the_database_goes_away() -> None:
    """Else an outage of the database would make the orchestrator restart every replica."""
    database = Dependency()
    health = a_health(a_check(database.check))
    probes = Probes(health)
    async with health.running():
        database.error = ConnectionRefusedError()
        await until(lambda: health.not_ready() == "dependency")
        assert (await ask(probes, "/health/startup"))[0] == 200
        assert (await ask(probes, "/health/live"))[0] == 200


async def test_startup_passes_where_the_database_was_never_there() -> None:
    """The first result counts, whatever it is: a restart would not bring the database back."""
    database = Dependency()
    database.error = ConnectionRefusedError()
    health = a_health(a_check(database.check))
    async with health.running():
        assert health.started
        assert health.not_ready() == "dependency"


async def test_an_optional_check_that_fails_only_degrades() -> None:
    cache = Dependency()
    cache.error = ConnectionRefusedError()
    health = a_health(a_check(Dependency().check), a_check(cache.check, "cache"))
    probes = Probes(health)
    async with health.running():
        status, body, _ = await ask(probes, "/health")
        expected = {"status": "degraded", "checks": {"database": True, "cache": False}}
        assert (status, json.loads(body)) == (200, expected)
        assert (await ask(probes, "/health/ready"))[0] == 200


async def test_a_slow_required_check_only_degrades() -> None:
    database = Dependency()
    database.seconds = 0.02
    health = a_health(a_check(database.check, slow_seconds=0.01))
    probes = Probes(health)
    async with health.running():
        status, body, _ = await ask(probes, "/health")
        assert (status, json.loads(body)["status"]) == (200, "degraded")
        assert json.loads(body)["checks"] == {"database": True}
        assert (await ask(probes, "/health/ready"))[0] == 200


async def test_required_checks_are_a_choice() -> None:
    cache = Dependency()
    cache.error = ConnectionRefusedError()
    database = a_check(Dependency().check)
    health = a_health(database, a_check(cache.check, "cache"), required=("database", "cache"))
    async with health.running():
        assert health.not_ready() == "dependency"


async def test_draining_fails_readiness_and_nothing_else() -> None:
    health = a_health(a_check(Dependency().check))
    probes = Probes(health)
    async with health.running():
        health.lifecycle.begin_drain()
        status, body, _ = await ask(probes, "/health/ready")
        assert (status, json.loads(body)) == (503, {"status": "fail", "reason": "draining"})
        assert (await ask(probes, "/health/live"))[0] == 200
        assert (await ask(probes, "/health/startup"))[0] == 200
        status, body, _ = await ask(probes, "/health")
        assert (status, json.loads(body)["status"]) == (503, "unhealthy")


async def test_checks_beyond_the_usual_three_are_named_only_while_they_fail() -> None:
    """Monitors may compare the usual body as a whole; people have to see what is degraded."""
    pool = Dependency()
    health = a_health(
        a_check(Dependency().check), a_check(pool.check, "database_pool", named_when_failing=True)
    )
    async with health.running():
        assert await health.overall() == ("healthy", {"database": True})
        pool.error = RuntimeError()
        await until(lambda: not health.watches["database_pool"].result.ok)
        assert await health.overall() == ("degraded", {"database": True, "database_pool": False})


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/health/startup"])
async def test_head_has_the_headers_of_get_and_no_body(path: str) -> None:
    health = a_health(a_check(Dependency().check))
    probes = Probes(health)
    async with health.running():
        got, body, headers = await ask(probes, path)
        status, nothing, same = await ask(probes, path, "HEAD")
    assert (status, nothing, same) == (got, b"", headers)
    assert headers["cache-control"] == "no-store"
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == str(len(body))


async def test_head_fails_where_get_fails() -> None:
    database = Dependency()
    database.error = ConnectionRefusedError()
    health = a_health(a_check(database.check))
    probes = Probes(health)
    async with health.running():
        for path in ("/health", "/health/ready"):
            status, body, _ = await ask(probes, path, "HEAD")
            assert (status, body) == (503, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
async def test_other_methods_are_refused(method: str) -> None:
    status, body, headers = await ask(Probes(a_health()), "/health/live", method)
    assert (status, headers["allow"]) == (405, "GET, HEAD")
    assert headers["content-type"] == "application/problem+json"
    assert json.loads(body)["title"] == "Method Not Allowed"
    assert headers["cache-control"] == "no-store"


async def test_what_went_wrong_is_told_to_nobody_anonymous() -> None:
    database = Dependency()
    database.error = OSError("no route to db.internal.example, user admin")
    health = a_health(a_check(database.check))
    probes = Probes(health)
    async with health.running():
        bodies = [(await ask(probes, path))[1] for path in probes.paths]
    assert set(bodies) <= {
        PASS[1],
        FAIL["dependency"][1],
        b'{"status": "unhealthy", "checks": {"database": false}}',
    }


# How checks are run


async def test_a_thousand_probes_at_once_cost_one_run() -> None:
    database = Dependency()
    database.seconds = 0.05
    health = a_health(a_check(database.check, timeout_seconds=5), interval_seconds=60)
    async with health.running():
        watch = health.watches["database"]
        await until(lambda: watch.result.ok)
        watch.started_at = float("-inf")  # the result is older than the interval
        database.calls = 0
        reasons = await asyncio.gather(*(health.ready() for _ in range(1000)))
    assert set(reasons) == {""}
    assert database.calls == 1


async def test_steady_probing_runs_a_check_once_an_interval() -> None:
    database = Dependency()
    health = a_health(a_check(database.check), interval_seconds=0.1)
    async with health.running():
        began = time.monotonic()
        while time.monotonic() - began < 0.5:
            await health.ready()
            await health.overall()
            await asyncio.sleep(0)
        assert database.calls <= 1 + (time.monotonic() - began) / 0.1


async def test_checks_run_in_parallel() -> None:
    everything = Dependency()
    everything.seconds = 0.2
    checks = [a_check(everything.check, f"c{n}", timeout_seconds=5) for n in range(4)]
    health = a_health(*checks, required=())
    async with health.running():
        assert (await health.overall())[0] == "healthy"
        assert everything.most_running == 4


async def test_a_probe_does_not_wait_for_a_check_that_is_known_to_fail() -> None:
    database = Dependency()
    health = a_health(a_check(database.check, timeout_seconds=30), stale_seconds=60)
    async with health.running():
        database.error = ConnectionRefusedError()
        await until(lambda: health.not_ready() == "dependency")
        database.hangs = True
        await until(lambda: database.running == 1)
        calls = database.calls
        for _ in range(20):
            assert await health.ready() == "dependency"
            assert (database.running, database.calls) == (1, calls)  # it is still under way
            await asyncio.sleep(0.01)


async def test_the_first_probe_after_a_hang_began_waits_no_longer_than_the_deadline() -> None:
    database = Dependency()
    health = a_health(a_check(database.check, timeout_seconds=0.2), interval_seconds=60)
    async with health.running():
        database.hangs = True
        health.watches["database"].started_at = float("-inf")
        began = time.monotonic()
        assert await health.ready() == "dependency"
        assert 0.19 < time.monotonic() - began < 3
        assert health.watches["database"].result.error == "timeout"


async def test_a_check_that_ignores_its_cancellation_delays_no_probe_and_runs_once() -> None:
    database = Dependency()
    health = a_health(a_check(database.check, timeout_seconds=0.05))
    async with health.running():
        database.hangs = database.deaf = True
        await until(lambda: health.not_ready() == "dependency")
        database.calls = 0
        await asyncio.sleep(0.3)  # six intervals
        assert (database.running, database.calls) == (1, 0)
        assert health.watches["database"].result.failures_in_a_row > 1
        database.hangs = False
        database.released.set()
        await until(lambda: health.not_ready() == "")
        assert database.most_running == 1


async def test_a_late_end_of_a_run_given_up_is_not_taken_for_a_pass() -> None:
    database = Dependency()
    health = a_health(a_check(database.check, timeout_seconds=0.05), interval_seconds=60)
    async with health.running():
        watch = health.watches["database"]
        database.hangs = database.deaf = True
        watch.started_at = float("-inf")
        assert await health.ready() == "dependency"
        database.released.set()
        assert watch.stuck is not None
        await asyncio.wait({watch.stuck})
        assert not watch.result.ok


class Odd(BaseException):
    """Neither an Exception nor one of the interpreter's own."""


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), asyncio.CancelledError(), SystemExit(3), GeneratorExit(), Odd()],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_check_raises_is_a_failure_and_the_next_run_may_pass(
    error: BaseException,
) -> None:
    database = Dependency()
    database.error = error
    health = a_health(a_check(database.check))
    async with health.running():
        await until(lambda: health.watches["database"].result.failures_in_a_row > 1)
        assert health.not_ready() == "dependency"
        database.error = None
        await until(lambda: health.not_ready() == "")


async def test_a_check_that_raises_before_it_awaits_is_a_failure() -> None:
    def broken() -> Awaitable[None]:
        raise RuntimeError("not even a coroutine")

    health = a_health(a_check(broken))
    async with health.running():
        assert health.not_ready() == "dependency"


async def test_an_abort_that_fails_is_a_failure_of_the_check() -> None:
    def abort() -> None:
        raise RuntimeError("cannot let go")

    database = Dependency()
    database.hangs = True
    health = a_health(a_check(database.check, timeout_seconds=0.05, abort=abort))
    async with health.running():
        await until(lambda: "cannot let go" in health.watches["database"].result.error)
        await until(lambda: database.running == 0)


async def test_a_run_is_aborted_before_it_is_cancelled() -> None:
    """asyncpg's cancellation would open another connection, to a server that does not answer."""
    order: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            order.append("cancelled")
            raise

    def abort() -> None:
        order.append("aborted")

    health = a_health(a_check(hang, timeout_seconds=0.05, abort=abort), interval_seconds=60)
    async with health.running():
        await until(lambda: order)
        await until(lambda: len(order) == 2)
    assert order == ["aborted", "cancelled"]


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"use_uvloop": True}), ("asyncio", {"use_uvloop": False})]
)
async def test_an_answer_that_came_while_the_loop_was_held_up_counts() -> None:
    """It is there to be read when the deadline's timer runs, late as it is."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def read() -> None:
        loop = asyncio.get_running_loop()
        answer = asyncio.Event()
        loop.add_reader(ours, answer.set)
        try:
            await answer.wait()
        finally:
            loop.remove_reader(ours)
        ours.recv(10)

    watch = Watch(a_check(read, timeout_seconds=0.1), interval_seconds=60)
    with ours, theirs:
        flight = watch.begin()
        await asyncio.sleep(0.01)
        theirs.send(b"here")
        time.sleep(0.3)  # noqa: ASYNC251  (this is the point)
        assert flight is not None
        await flight
    assert watch.result.ok


async def test_a_stale_pass_is_no_pass() -> None:
    database = Dependency()
    health = a_health(a_check(database.check), interval_seconds=60)
    async with health.running():
        watch = health.watches["database"]
        assert watch.result.finished_at is not None
        watch.result.finished_at = time.monotonic() - 4.9
        assert health.not_ready() == ""
        watch.result.finished_at = time.monotonic() - 5.1
        assert health.not_ready() == "dependency"


async def test_a_stale_result_is_renewed_by_the_probe_that_finds_it() -> None:
    """As after a night in which the machine was suspended."""
    health = a_health(a_check(Dependency().check), interval_seconds=60)
    async with health.running():
        watch = health.watches["database"]
        watch.started_at = watch.result.finished_at = time.monotonic() - 3600
        assert await health.ready() == ""


async def test_a_database_that_comes_back_is_noticed_within_an_interval() -> None:
    database = Dependency()
    database.error = ConnectionRefusedError()
    health = a_health(a_check(database.check), interval_seconds=0.2)
    async with health.running():
        assert health.not_ready() == "dependency"
        database.error = None
        began = time.monotonic()
        await until(lambda: health.not_ready() == "")
        assert time.monotonic() - began < 3


async def test_ending_does_not_wait_for_a_check_that_hangs() -> None:
    database, deaf = Dependency(), Dependency()
    database.hangs = deaf.hangs = deaf.deaf = True
    checks = a_check(database.check, timeout_seconds=60), a_check(deaf.check, "deaf")
    health = a_health(*checks)
    async with health.running():
        await until(lambda: health.watches["deaf"].stuck)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert await health.ready() != ""
    deaf.released.set()
    await until(lambda: (database.running, deaf.running) == (0, 0))


async def test_ending_lets_a_driver_let_go_before_its_resource_is_closed() -> None:
    """Else it would connect once more, and nobody would close that connection."""
    let_go = False

    async def check() -> None:
        nonlocal let_go
        try:
            await asyncio.sleep(60)
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)
            let_go = True

    health = a_health(a_check(check, timeout_seconds=60))
    async with health.running():
        pass
    assert let_go


async def test_no_check_begins_after_the_end() -> None:
    database = Dependency()
    health = a_health(a_check(database.check), interval_seconds=0.01)
    async with health.running():
        pass
    calls = database.calls
    await asyncio.sleep(0.05)
    await health.ready()
    await health.overall()
    await asyncio.sleep(0.05)
    assert database.calls == calls


async def test_many_outages_leave_no_task_behind() -> None:
    database = Dependency()
    health = a_health(a_check(database.check, timeout_seconds=0.01), interval_seconds=0.01)
    async with health.running():
        before = len(asyncio.all_tasks())
        for _ in range(20):
            database.hangs = True
            await until(lambda: health.not_ready() == "dependency")
            database.hangs = False
            await until(lambda: health.not_ready() == "")
        gc.collect()
        assert len(asyncio.all_tasks()) <= before + 2  # a flight and its run
        assert database.most_running == 1


async def test_a_check_that_takes_time_holds_up_no_probe() -> None:
    pool = Dependency()
    slow = a_check(pool.check, "pool", takes_time=True, timeout_seconds=30)
    health = a_health(a_check(Dependency().check), slow, interval_seconds=0.01, stale_seconds=60)
    async with health.running():
        await until(lambda: health.watches["pool"].result.ok)
        pool.hangs = True
        await until(lambda: pool.running == 1)
        calls = pool.calls
        for _ in range(20):
            assert (await health.overall())[0] == "healthy"
            assert (pool.running, pool.calls) == (1, calls)  # it is still under way
            await asyncio.sleep(0.001)


# On demand


async def test_an_expensive_check_runs_often_only_while_somebody_looks_at_health() -> None:
    """Probes of an orchestrator are no reason to talk to the mail server all day."""
    mail = Dependency()
    health = a_health(a_check(Dependency().check), a_check(mail.check, "mail", on_demand=True))
    async with health.running():
        for _ in range(10):
            await health.ready()
            await asyncio.sleep(0.02)
        assert mail.calls == 0
        status, _ = await health.overall()
        assert (status, mail.calls) == ("healthy", 1)


async def test_an_expensive_check_runs_now_and_then_though_nobody_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a metric says of it, and an alert, is not of hours ago."""
    mail = Dependency()
    check = a_check(mail.check, "mail", on_demand=True)
    async with a_health(check, interval_seconds=0.01).running():
        await asyncio.sleep(0.2)
        assert mail.calls == 0
    monkeypatch.setattr("service.health.ON_DEMAND_SECONDS", 0.3)
    health = a_health(check, interval_seconds=0.01, stale_seconds=0.5)
    async with health.running():
        await until(lambda: mail.calls == 1)
        mail.error = ConnectionRefusedError()
        await until(lambda: not health.watches["mail"].result.ok)
        assert mail.calls <= 3


async def test_an_expensive_check_runs_more_rarely_and_its_result_is_still_believed() -> None:
    mail = Dependency()
    checks = a_check(Dependency().check), a_check(mail.check, "mail", on_demand=True)
    health = a_health(*checks, stale_seconds=1.0)
    async with health.running():
        end = time.monotonic() + 1.7
        while time.monotonic() < end:
            assert (await health.overall())[0] == "healthy"
            await asyncio.sleep(0.02)
        assert mail.calls <= 3  # every 0.8 s


async def test_a_slow_mail_server_holds_up_only_the_first_look() -> None:
    mail = Dependency()
    checks = (
        a_check(Dependency().check),
        a_check(mail.check, "mail", on_demand=True, timeout_seconds=5),
    )
    health = a_health(*checks, stale_seconds=2.0)
    async with health.running():
        await health.overall()
        mail.seconds = 3
        health.watches["mail"].started_at = float("-inf")
        began = time.monotonic()
        assert (await health.overall())[0] == "healthy"
        assert time.monotonic() - began < 2


async def test_an_old_failure_on_demand_is_asked_again() -> None:
    """Nobody looked for ten minutes: the answer is about now, not about then."""
    mail = Dependency()
    mail.error = ConnectionRefusedError()
    health = a_health(a_check(Dependency().check), a_check(mail.check, "mail", on_demand=True))
    async with health.running():
        assert (await health.overall())[0] == "degraded"
        watch = health.watches["mail"]
        health._asked_at = watch.started_at = watch.result.finished_at = time.monotonic() - 600
        mail.error = None
        assert (await health.overall())[0] == "healthy"


# What is logged


async def test_each_change_of_state_writes_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    database = Dependency()
    check = a_check(database.check, slow_seconds=0.25, timeout_seconds=2)
    health = a_health(check, interval_seconds=0.01)
    async with health.running():
        watch = health.watches["database"]
        assert lines(caplog) == []
        database.error = ConnectionRefusedError("refused")
        await until(lambda: watch.result.failures_in_a_row > 3)
        database.error = None
        await until(lambda: watch.result.ok)
        database.seconds = 0.4
        await until(lambda: watch.result.slow)
        database.seconds = 0.0
        await until(lambda: not watch.result.slow)
        database.hangs = True
        await until(lambda: not watch.result.ok)
    assert lines(caplog) == [
        "check_failed database",
        "check_recovered database",
        "check_slow database",
        "check_recovered database",
        "check_failed database",
    ]
    assert caplog.records[0].__dict__["error"] == "ConnectionRefusedError: refused"


async def test_a_start_without_its_database_writes_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    database = Dependency()
    database.error = ConnectionRefusedError()
    health = a_health(a_check(database.check), interval_seconds=0.01)
    async with health.running():
        await until(lambda: health.watches["database"].result.failures_in_a_row > 3)
    assert lines(caplog) == ["check_failed database"]


async def test_probes_write_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Neither those that pass nor two hundred that fail."""
    caplog.set_level(logging.DEBUG, logger="service")
    database = Dependency()
    health = a_health(a_check(database.check), interval_seconds=0.01)
    probes = Probes(health)
    async with health.running():
        for _ in range(200):
            for path in probes.paths:
                await ask(probes, path)
        assert caplog.records == []
        database.error = ConnectionRefusedError()
        await until(health.not_ready)
        caplog.clear()
        for _ in range(200):
            for path in probes.paths:
                await ask(probes, path)
    assert caplog.records == []


# Blocking checks


async def test_a_blocked_thread_is_waited_for_again_and_never_joined_by_another() -> None:
    """A dead network file system holds a thread for good; one is all it gets."""
    release = threading.Event()
    threads: list[int] = []

    def stat() -> None:
        threads.append(threading.get_ident())
        release.wait(10)

    health = a_health(a_check(InThread(stat), "disk_space", timeout_seconds=0.03), required=())
    async with health.running():
        watch = health.watches["disk_space"]
        await until(lambda: watch.result.failures_in_a_row >= 4)
        assert len(threads) == 1
        release.set()
        await until(lambda: watch.result.ok)
    assert len(threads) < 4


async def test_a_blocking_check_raises_what_its_function_raises() -> None:
    def stat() -> None:
        raise PermissionError("not yours")

    with pytest.raises(PermissionError, match="not yours"):
        await InThread(stat)()


async def test_a_blocking_check_does_not_wait_for_the_threads_of_requests() -> None:
    release = threading.Event()
    loop = asyncio.get_running_loop()
    busy = [loop.run_in_executor(None, release.wait, 10) for _ in range(64)]
    try:
        async with asyncio.timeout(2):
            await InThread(lambda: None)()
    finally:
        release.set()
        await asyncio.gather(*busy)


# In the application, on the embedded back ends


@asynccontextmanager
async def running_app(settings: Settings) -> AsyncIterator[Any]:
    app = create_app(settings)
    async with client_of(app) as client:
        yield app, client


async def test_the_embedded_service_is_healthy_from_its_first_request(
    embedded_settings: Settings,
) -> None:
    async with running_app(embedded_settings) as (_, client):
        answer = await client.get("/health")
        checks = {"database": True, "cache": True, "disk_space": True}
        assert answer.json() == {"status": "healthy", "checks": checks}
        for path in ("/health/live", "/health/ready", "/health/startup"):
            assert (await client.get(path)).json() == {"status": "pass", "reason": "ok"}


async def test_probes_are_answered_for_any_host_and_carry_no_request_id(
    embedded_settings: Settings,
) -> None:
    """A kubelet asks by IP address. Probes are outside the layer that checks hosts."""
    async with running_app(embedded_settings) as (_, client):
        answer = await client.get("/health/ready", headers={"host": "10.1.2.3:8000"})
        assert answer.status_code == 200
        assert "x-request-id" not in answer.headers


async def test_a_sqlite_file_that_is_gone_is_noticed_and_not_made_anew(
    embedded_settings: Settings,
) -> None:
    path = Path(embedded_settings.database_url.get_secret_value().removeprefix("sqlite:///"))
    heartbeat = make_heartbeat(embedded_settings)
    await heartbeat.beat()
    path.rename(f"{path}.away")
    with pytest.raises(sqlite3.OperationalError):
        await heartbeat.beat()
    assert not path.exists()
    Path(f"{path}.away").rename(path)
    await heartbeat.beat()


async def test_a_locked_sqlite_file_fails_within_the_deadline(embedded_settings: Settings) -> None:
    settings = embedded_settings.model_copy(update={"health_database_timeout_seconds": 0.2})
    path = settings.database_url.get_secret_value().removeprefix("sqlite:///")
    heartbeat = make_heartbeat(settings)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            async with asyncio.timeout(2):
                await heartbeat.beat()
    await heartbeat.beat()


async def test_the_application_ends_with_its_checks(embedded_settings: Settings) -> None:
    app = create_app(embedded_settings)
    async with lifespan(app):
        assert app.health.not_ready() == ""
    assert [task for task in asyncio.all_tasks() if "check" in task.get_name()] == []
