"""Word of changes between processes, and what is done where none can come."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from servers import RedisServer
from service import fanout
from service.fanout import Fanout, open_fanout
from service.redis import OptionalRedis, deployment, open_redis
from service.settings import Settings
from sockets import until

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def a_process(redis_url: str, key: str = "") -> AsyncIterator[Fanout]:
    settings = Settings(redis_url=redis_url, redis_timeout_seconds=0.25, secret_key=key)
    async with open_redis(settings) as client:
        optional = OptionalRedis(client, settings.redis_timeout_seconds, deployment(settings))
        async with open_fanout(settings, optional) as opened:
            yield opened
        await optional.close()


class Watcher:
    """Counts the word it got."""

    def __init__(self) -> None:
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


async def hears(process: Fanout) -> None:
    await until(lambda: process._hears_since is not None)


async def looks(process: Fanout, ticks: list[int]) -> None:
    async for _ in process.looks():
        ticks.append(len(ticks))


async def test_word_reaches_other_processes_and_this_one_once(shared_redis: RedisServer) -> None:
    async with a_process(shared_redis.url) as here, a_process(shared_redis.url) as there:
        near, far, other = Watcher(), Watcher(), Watcher()
        here.watch("a", near.wake)
        there.watch("a", far.wake)
        there.watch("b", other.wake)
        await hears(here)
        await hears(there)
        here.publish("a")
        assert near.woken == 1  # at once
        await until(lambda: far.woken == 1)
        there.publish("b")
        await until(lambda: other.woken == 1)
        await asyncio.sleep(0.2)
        assert (near.woken, far.woken, other.woken) == (1, 1, 1)


async def test_deployments_that_share_a_redis_do_not_hear_each_other(
    shared_redis: RedisServer,
) -> None:
    """Not even by the number of their databases: channels have none."""
    key = "theirs" * 8
    async with (
        a_process(shared_redis.url) as here,
        a_process(shared_redis.url, key) as there,
        a_process(shared_redis.url, key) as beside,
    ):
        near, far = Watcher(), Watcher()
        here.watch("a", near.wake)
        beside.watch("a", far.wake)
        await hears(here)
        await hears(beside)
        there.publish("a")
        await until(lambda: far.woken == 1)
        assert near.woken == 0


async def test_what_a_stranger_says_on_the_channel_is_passed_over(
    shared_redis: RedisServer,
) -> None:
    async with a_process(shared_redis.url) as here, a_process(shared_redis.url) as there:
        watcher = Watcher()
        there.watch("a", watcher.wake)
        await hears(there)
        since = there._hears_since
        for word in (b"\xff\xfe", b"", b"without-a-topic"):
            await here._redis.ask(lambda redis, word=word: redis.publish(there._channel, word))
        here.publish("a")
        await until(lambda: watcher.woken == 1)
        assert there._hears_since == since


async def test_an_error_that_nobody_expected_does_not_end_listening(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, log_lines: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(fanout, "LOOK_SECONDS", 0.05)
    async with a_process(shared_redis.url) as here, a_process(shared_redis.url) as there:
        watcher = Watcher()
        there.watch("a", watcher.wake)
        await hears(there)
        with monkeypatch.context() as broken:
            broken.setattr(Fanout, "_hear", lambda *_: {}["unknown"])
            here.publish("b")
            await until(lambda: there._hears_since is None)
        await hears(there)
        here.publish("a")
        await until(lambda: watcher.woken == 1)
    assert {line["message"] for line in log_lines} == {"fanout_failed"}


async def test_who_no_longer_watches_is_not_woken(shared_redis: RedisServer) -> None:
    async with a_process(shared_redis.url) as process:
        stays, goes = Watcher(), Watcher()
        process.watch("a", stays.wake)
        process.watch("a", goes.wake)
        process.unwatch("a", goes.wake)
        process.publish("a")
        assert (stays.woken, goes.woken) == (1, 0)


async def test_nothing_is_subscribed_to_while_nobody_watches(own_redis: RedisServer) -> None:
    async with a_process(own_redis.url) as process:
        watcher = Watcher()
        process.watch("a", watcher.wake)
        await hears(process)
        process.unwatch("a", watcher.wake)
        await until(lambda: process._hears_since is None)


async def test_the_last_word_of_a_process_is_spread(shared_redis: RedisServer) -> None:
    async with a_process(shared_redis.url) as there:
        watcher = Watcher()
        there.watch("a", watcher.wake)
        await hears(there)
        async with a_process(shared_redis.url) as here:
            here.publish("a")
        await until(lambda: watcher.woken == 1)


async def test_the_stand_in_stays_in_its_process() -> None:
    async with a_process("memory://") as process:
        watcher = Watcher()
        process.watch("a", watcher.wake)
        process.publish("a")
        assert watcher.woken == 1
        assert process._redis is None


async def test_while_word_comes_looks_are_rare(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "LOOK_SECONDS", 0.05)
    async with a_process(shared_redis.url) as process:
        process.watch("a", Watcher().wake)
        await hears(process)
        ticks: list[int] = []
        looking = asyncio.create_task(looks(process, ticks))
        await until(lambda: ticks)  # for what came before it could hear
        await asyncio.sleep(0.5)
        assert len(ticks) == 1
        process.doubt()
        await until(lambda: len(ticks) == 2)
        monkeypatch.setattr(fanout, "RARE_LOOK_SECONDS", 0.1)
        await until(lambda: len(ticks) >= 4)  # as word may get lost
        looking.cancel()


@pytest.mark.parametrize("how", ["stopped", "frozen"])
async def test_without_redis_looks_are_frequent_until_it_is_back(
    own_redis: RedisServer, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "LOOK_SECONDS", 0.05)
    async with a_process(own_redis.url) as here, a_process(own_redis.url) as there:
        watcher, ticks = Watcher(), list[int]()
        there.watch("a", watcher.wake)
        await hears(there)
        looking = asyncio.create_task(looks(there, ticks))
        own_redis.stop() if how == "stopped" else own_redis.freeze()
        await until(lambda: there._hears_since is None)
        seen = len(ticks)
        await until(lambda: len(ticks) > seen + 5)
        here.publish("a")  # waits for nobody
        await until(lambda: here._redis._away_until)
        assert watcher.woken == 0
        own_redis.start() if how == "stopped" else own_redis.thaw()
        await hears(there)
        await until(lambda: watcher.woken == 1)  # late, but not lost
        looking.cancel()
