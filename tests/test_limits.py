"""Limits: counted in Redis, and never open while it is away."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis

from api import running_api
from servers import RedisServer, running
from service import limits
from service import redis as optional
from service.errors import Unavailable
from service.limits import Limit, LimitReached, Limits
from service.redis import OptionalRedis, RedisAway, open_redis
from service.settings import Settings

pytestmark = pytest.mark.anyio

SLOW = Limit("test", at_once=3, every_seconds=60)
QUICK = Limit("test", at_once=3, every_seconds=1)
Later = Callable[[Limits, float], Awaitable[None]]


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Limits]:
    async with open_redis(settings) as client:
        redis = OptionalRedis(client, settings.redis_timeout_seconds)
        yield Limits(settings, redis)
        await redis.close()


def away(redis_url: str = "redis://127.0.0.1:9/0", timeout_seconds: float = 5) -> Settings:
    return Settings(redis_url=redis_url, secret_key="k" * 40, redis_timeout_seconds=timeout_seconds)


@pytest.fixture(params=["stand-in", "redis", "away"])
async def counting(request: pytest.FixtureRequest) -> AsyncIterator[Limits]:
    """Every way of counting."""
    if request.param == "stand-in":
        settings = away("memory://")
    elif request.param == "redis":
        shared: RedisServer = request.getfixturevalue("shared_redis")
        shared.flush()
        settings = away(shared.url)
    else:
        settings = away()
    async with opened(settings) as counting:
        yield counting


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    """Makes it so many seconds later for whoever counts."""

    async def pass_by(counting: Limits, seconds: float) -> None:
        now = limits.time.monotonic
        monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: now() + seconds))

        async def shorten(redis: Redis) -> None:
            for key in await redis.keys("limit:*"):
                left = await redis.pttl(key) - int(seconds * 1000)
                await redis.pexpire(key, left)  # one that is not positive ends it

        with suppress(RedisAway):
            await counting._redis.ask(shorten)

    return pass_by


async def try_it(counting: Limits, limit: Limit = SLOW, subject: str = "ada") -> bool:
    """Whether an event was let in."""
    try:
        async with counting.counted(limit, subject):
            return True
    except LimitReached:
        return False


async def test_so_many_are_let_in_and_no_more(counting: Limits) -> None:
    assert [await try_it(counting) for _ in range(5)] == [True] * 3 + [False] * 2


async def test_so_many_are_let_in_at_the_same_moment(counting: Limits) -> None:
    let_in = await asyncio.gather(*(try_it(counting) for _ in range(30)))
    assert sum(let_in) == 3


async def test_then_one_each_so_often(counting: Limits, later: Later) -> None:
    assert [await try_it(counting) for _ in range(4)] == [True] * 3 + [False]
    await later(counting, 61)
    assert [await try_it(counting) for _ in range(2)] == [True, False]
    await later(counting, 181)
    assert [await try_it(counting) for _ in range(4)] == [True] * 3 + [False]


async def test_who_is_refused_is_told_when_to_come_back(counting: Limits) -> None:
    for _ in range(3):
        await try_it(counting)
    with pytest.raises(LimitReached) as refused:
        await try_it_raising(counting)
    assert refused.value.status == 429
    assert 58 <= int(refused.value.headers["Retry-After"]) <= 60


async def try_it_raising(counting: Limits) -> None:
    async with counting.counted(SLOW, "ada"):
        pass


async def test_asking_in_vain_does_not_make_the_wait_longer(counting: Limits) -> None:
    for _ in range(3):
        await try_it(counting, QUICK)
    async with asyncio.timeout(10):
        while not await try_it(counting, QUICK):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_one_subjects_events_are_not_anothers(counting: Limits) -> None:
    for _ in range(4):
        await try_it(counting)
    assert await try_it(counting, subject="eve")


async def test_something_is_remembered_for_a_while(shared_redis: RedisServer, later: Later) -> None:
    async with opened(away(shared_redis.url)) as counting:
        assert not await counting.remembers("seen", "ada")
        await counting.remember("seen", "ada", 60)
        assert await counting.remembers("seen", "ada")
        assert not await counting.remembers("seen", "eve")
        assert not await counting.remembers("another", "ada")
        await later(counting, 61)
        assert not await counting.remembers("seen", "ada")


async def test_nothing_is_remembered_while_redis_is_away() -> None:
    async with opened(away()) as counting:
        await counting.remember("seen", "ada", 60)
        assert not await counting.remembers("seen", "ada")


async def test_one_limits_events_are_not_anothers(counting: Limits) -> None:
    for _ in range(4):
        await try_it(counting)
    assert await try_it(counting, Limit("another", at_once=1, every_seconds=60))


async def test_what_is_forgotten_counts_no_more(counting: Limits) -> None:
    for _ in range(4):
        await try_it(counting)
    await counting.forget(SLOW, "ada")
    assert [await try_it(counting) for _ in range(4)] == [True] * 3 + [False]


async def test_what_fails_in_an_outage_does_not_count(counting: Limits) -> None:
    for _ in range(5):
        with pytest.raises(Unavailable):
            async with counting.counted(SLOW, "ada"):
                raise Unavailable
    assert [await try_it(counting) for _ in range(4)] == [True] * 3 + [False]


async def test_what_fails_otherwise_counts(counting: Limits) -> None:
    for _ in range(3):
        with pytest.raises(RuntimeError):
            async with counting.counted(SLOW, "ada"):
                raise RuntimeError
    assert not await try_it(counting)


async def test_two_processes_count_together(shared_redis: RedisServer) -> None:
    shared_redis.flush()
    async with opened(away(shared_redis.url)) as here, opened(away(shared_redis.url)) as there:
        assert [await try_it(here), await try_it(there), await try_it(here)] == [True] * 3
        assert not await try_it(there)


async def test_redis_holds_no_subject_and_nothing_for_ever(shared_redis: RedisServer) -> None:
    shared_redis.flush()
    settings = away(shared_redis.url)
    async with open_redis(settings) as redis:
        counting = Limits(settings, OptionalRedis(redis, 1))
        await try_it(counting, subject="ada@example.org")
        (key,) = await redis.keys("*")
        assert b"ada" not in key
        assert 0 < await redis.pttl(key) <= 60_000
        secret = {"secret_key": away().secret_key}
        other = Limits(settings.model_copy(update=secret), OptionalRedis(redis, 1))
        assert key.endswith(other._digest(SLOW.name, "ada@example.org")[:16].hex().encode())


async def test_an_event_is_one_round_trip(shared_redis: RedisServer) -> None:
    settings = away(shared_redis.url)
    async with open_redis(settings) as redis:
        counting = Limits(settings, OptionalRedis(redis, 1))
        await try_it(counting)
        before = (await redis.info("commandstats"))["cmdstat_eval"]["calls"]
        await try_it(counting)
        stats = await redis.info("commandstats")
        assert stats["cmdstat_eval"]["calls"] == before + 1


class Unasked:
    """A client that fails the test of who asks it."""

    def __getattr__(self, name: str) -> Any:
        pytest.fail(f"asked for {name}")


async def test_a_frozen_redis_costs_its_time_once_and_opens_nothing(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optional, "PAUSE_SECONDS", 60)
    async with opened(away(own_redis.url)) as counting:
        assert await try_it(counting)
        own_redis.freeze()
        try:
            counting._redis.timeout_seconds = 1.0  # and that of the client is 5
            began = time.monotonic()
            assert await try_it(counting)
            assert 0.99 < time.monotonic() - began < 4
            counting._redis.client = Unasked()
            assert [await try_it(counting) for _ in range(2)] == [True, True]
            assert not await try_it(counting)
        finally:
            own_redis.thaw()


async def test_many_at_once_wait_for_a_frozen_redis_no_longer_than_one(
    own_redis: RedisServer,
) -> None:
    async with opened(away(own_redis.url, 1.0)) as counting:
        own_redis.freeze()
        try:
            began = time.monotonic()
            let_in = await asyncio.gather(*(try_it(counting) for _ in range(100)))
            assert time.monotonic() - began < 4
            assert sum(let_in) == 3
        finally:
            own_redis.thaw()


async def test_redis_counts_again_once_it_is_back(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, log_lines: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(optional, "PAUSE_SECONDS", 0.05)
    server = RedisServer(tmp_path / "redis")
    async with opened(away(server.url)) as counting:
        for _ in range(4):
            await try_it(counting)
            await asyncio.sleep(0.06)
        with running(server):
            assert await try_it(counting)
    said = [line["message"] for line in log_lines if line["logger"] == "service.redis"]
    assert said == ["redis_away", "redis_back"]


async def test_a_stand_in_is_never_away(embedded_settings: Settings) -> None:
    """It is slow where the whole process is, and all that it counted would be forgotten."""
    hasty = embedded_settings.model_copy(update={"redis_timeout_seconds": 0.01})
    async with running_api(hasty) as api:
        assert await api.resources.redis.ask(lambda _: asyncio.sleep(0.1, "late")) == "late"


async def test_the_memory_of_a_process_is_bounded() -> None:
    async with opened(away()) as counting:
        for number in range(2000):
            await try_it(counting, subject=f"{number}@example.org")
        (count,) = counting._local.values()
        assert len(count._until) == limits.SLOTS


async def test_a_stranger_with_many_addresses_frees_nobody() -> None:
    async with opened(away()) as counting:
        for _ in range(3):
            await try_it(counting)
        for number in range(2000):
            await try_it(counting, subject=f"{number}@example.org")
        assert not await try_it(counting)
