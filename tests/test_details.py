"""`/health/detailed`: who may read it, what it holds, and that it costs the event loop nothing."""

import asyncio
import hmac
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from asgi import client_of
from service import system
from service.app import Service, create_app
from service.details import Details, authorised
from service.health import Health
from service.lifecycle import Lifecycle
from service.settings import Settings

pytestmark = pytest.mark.anyio

TOKEN = "token-of-the-tests"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def with_token(embedded_settings: Settings) -> Settings:
    return Settings(**(embedded_settings.model_dump() | {"health_token": TOKEN}))


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    app = create_app(settings)
    async with client_of(app) as client:
        yield app, client


async def test_without_a_configured_token_it_does_not_exist(embedded_settings: Settings) -> None:
    """The same 404 as for any other path, whatever token is brought."""
    async with serving(embedded_settings) as (_, client):
        for headers in ({}, BEARER, {"authorization": "Bearer "}):
            answer = await client.get("/health/detailed", headers=headers)
            assert answer.status_code == 404
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["status"] == 404


@pytest.mark.parametrize(
    "authorization",
    [
        [],
        ["Bearer guessed-by-someone"],
        ["Bearer"],
        ["Bearer "],
        [TOKEN],
        [f"Basic {TOKEN}"],
        [f"Bearer {TOKEN}x"],
        [f"Bearer {TOKEN[:-1]}"],
        ["Bearer \u00e4\u00f6\u00fc"],
        [f"Bearer {TOKEN}", "Bearer guessed-by-someone"],
    ],
)
async def test_a_wrong_token_is_refused(with_token: Settings, authorization: list[str]) -> None:
    headers = [(b"authorization", value.encode("latin-1")) for value in authorization]
    async with serving(with_token) as (_, client):
        answer = await client.get("/health/detailed", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_token_opens_it(with_token: Settings, scheme: str) -> None:
    """The scheme's case does not matter: RFC 9110, 11.1."""
    async with serving(with_token) as (_, client):
        headers = {"authorization": f"{scheme} {TOKEN}"}
        assert (await client.get("/health/detailed", headers=headers)).status_code == 200


async def test_the_token_is_compared_in_constant_time(
    with_token: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert with_token.health_token
    scope = {"headers": [(b"authorization", b"Bearer guessed")]}
    assert not authorised(with_token.health_token, scope)
    assert compared == [(b"guessed", TOKEN.encode())]


async def test_the_fields_that_monitors_expect_are_at_its_top(with_token: Settings) -> None:
    async with serving(with_token) as (_, client):
        answer = await client.get("/health/detailed", headers=BEARER)
    assert answer.headers["cache-control"] == "no-store"
    report = answer.json()
    assert report["status"] == "healthy"
    assert report["state"] == "ready"
    assert abs(report["timestamp"] - time.time()) < 60
    assert 0 <= report["cpu_percent"] <= 100
    assert report["memory"].keys() == {"total", "available", "percent"}
    assert report["disk"].keys() == {"total", "free", "percent"}
    assert report["inodes"].keys() == {"total", "free", "percent"}
    assert report["pid"] == os.getpid()
    assert report["version"]


async def test_uptime_is_of_the_process_and_not_of_the_machine(with_token: Settings) -> None:
    async with serving(with_token) as (_, client):
        report = (await client.get("/health/detailed", headers=BEARER)).json()
    assert abs(report["uptime"] - system.process_uptime()) < 5
    assert report["uptime"] <= float(Path("/proc/uptime").read_text().split()[0])


async def test_each_check_is_told_in_full(with_token: Settings) -> None:
    async with serving(with_token) as (app, client):
        report = (await client.get("/health/detailed", headers=BEARER)).json()
        assert report["checks"].keys() == app.health.watches.keys()
    for name, check in report["checks"].items():
        assert check["state"] == "pass"
        assert check["required"] is (name == "database")
        assert 0 <= check["latency_seconds"] < 5
        assert 0 <= check["age_seconds"] < 5
        assert check["failures_in_a_row"] == 0
        assert abs(check["last_change"] - time.time()) < 60


async def test_failures_are_counted_and_the_change_is_dated(with_token: Settings) -> None:
    settings = with_token.model_copy(update={"health_interval_seconds": 0.1})
    async with serving(settings) as (app, client):
        watch = app.health.watches["database"]
        changed = watch.result.changed_at
        watch.check = replace(watch.check, run=refused)
        async with asyncio.timeout(5):
            while watch.result.failures_in_a_row < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        answer = await client.get("/health/detailed", headers=BEARER)
        check = answer.json()["checks"]["database"]
    assert answer.status_code == 503
    assert check["state"] == "fail"
    assert check["failures_in_a_row"] >= 3
    assert check["last_change"] > changed
    assert "db.internal" not in answer.text


async def refused() -> None:
    raise ConnectionRefusedError("db.internal:5432")


async def test_an_unready_process_says_why(with_token: Settings) -> None:
    async with serving(with_token) as (app, client):
        app.lifecycle.begin_drain()
        answer = await client.get("/health/detailed", headers=BEARER)
    assert (answer.status_code, answer.json()["state"]) == (503, "draining")


async def test_the_first_request_already_finds_a_sample(with_token: Settings) -> None:
    async with serving(with_token) as (_, client):
        report = (await client.get("/health/detailed", headers=BEARER)).json()
    assert report["memory"]["total"] > 0
    assert report["sample_age_seconds"] < 5


async def test_a_file_system_that_hangs_leaves_the_rest_of_the_report(
    with_token: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = asyncio.Event()

    def hang(*_: Any) -> None:
        while not release.is_set():
            time.sleep(0.01)
        raise OSError

    monkeypatch.setattr(system.Sampler, "sample", hang)
    async with serving(with_token) as (_, client):
        report = (await client.get("/health/detailed", headers=BEARER)).json()
        history = (await client.get("/api/operations/history", headers=BEARER)).json()
        release.set()
    assert history["columns"]["at"]
    assert report["memory"] is None
    assert report["sample_age_seconds"] is None
    assert report["status"] == "healthy"


async def test_sampling_that_fails_is_logged_once(
    with_token: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[None] = []

    def fail(*_: Any) -> None:
        calls.append(None)
        raise OSError("no answer")

    monkeypatch.setattr(system.Sampler, "sample", fail)
    monkeypatch.setattr("service.details.SAMPLE_SECONDS", 0.01)
    details = Details(with_token, Health(Lifecycle()))
    task = asyncio.create_task(details.sample_forever())
    async with asyncio.timeout(5):
        while len(calls) < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    assert [record.message for record in caplog.records] == ["sampling_failed"]


async def test_nothing_is_sampled_where_nobody_may_ask(embedded_settings: Settings) -> None:
    details = Details(embedded_settings, Health(Lifecycle()))
    async with asyncio.timeout(1):
        await details.sample_forever()


async def test_the_machine_is_never_sampled_by_the_loop(
    with_token: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    sample = system.Sampler.sample

    def noted(sampler: system.Sampler) -> system.Snapshot:
        threads.append(threading.get_ident())
        return sample(sampler)

    monkeypatch.setattr(system.Sampler, "sample", noted)
    async with serving(with_token) as (_, client):
        await client.get("/health/detailed", headers=BEARER)
    assert threads
    assert threading.get_ident() not in threads


@pytest.fixture
def short_turns() -> Iterator[None]:
    """No thread keeps the interpreter from the loop for the 5 ms that it may by default."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    yield
    sys.setswitchinterval(before)


@pytest.mark.alone
@pytest.mark.usefixtures("short_turns")
async def test_nothing_in_it_blocks_the_loop(
    with_token: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a hundred samples and reports the loop is late by 5 ms about as often as without."""
    monkeypatch.setattr("service.details.SAMPLE_SECONDS", 0.01)
    more = []
    for _ in range(3):  # what else the machine does comes and goes
        without = await times_late(each=idle)
        async with serving(with_token) as (app, _):
            more.append(await times_late(each=app.details.report) - 2 * without)
    # A call that blocks for 6 ms would add a hundred, each time.
    assert min(more) <= 25


async def idle() -> None:
    pass


async def times_late(*, each: Callable[[], Coroutine[Any, Any, object]]) -> int:
    late = 0
    for step in range(500):
        beside: asyncio.Task[object] = asyncio.create_task((idle if step % 5 else each)())
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        late += time.perf_counter() - began > 0.006
        await beside
    return late
