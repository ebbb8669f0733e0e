"""How many of something a subject may hold, over all processes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from servers import RedisServer
from service import slots
from service.redis import OptionalRedis, RedisAway, open_redis
from service.settings import Settings
from service.slots import NoSlotFree, Slots, open_slots
from sockets import until

REDIS_SECONDS = 2.0  # on a busy machine it is slow, and not away

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def redis_of(server: RedisServer) -> AsyncIterator[OptionalRedis]:
    settings = Settings(redis_url=server.url, redis_timeout_seconds=REDIS_SECONDS)
    async with open_redis(settings) as client:
        optional = OptionalRedis(client, settings.redis_timeout_seconds)
        yield optional
        await optional.close()


@asynccontextmanager
async def two_processes(server: RedisServer, most: int = 2) -> AsyncIterator[tuple[Slots, Slots]]:
    async with (
        redis_of(server) as one,
        redis_of(server) as other,
        open_slots("test", one, most=most, refusal="Too many.") as here,
        open_slots("test", other, most=most, refusal="Too many.") as there,
    ):
        yield here, there


async def is_free(process: Slots, subject: str = "ada") -> bool:
    """Takes one if so."""
    try:
        await process.take(subject)
    except NoSlotFree:
        return False
    return True


async def becomes_free(process: Slots) -> None:
    async with asyncio.timeout(20):
        while not await is_free(process):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_what_all_processes_hold_counts(shared_redis: RedisServer) -> None:
    shared_redis.flush()
    async with two_processes(shared_redis) as (here, there):
        assert await is_free(here)
        assert await is_free(there)
        assert not await is_free(here)
        assert not await is_free(there)
        assert await is_free(there, "bob")


async def told(process: Slots, count: int) -> None:
    """Wait until Redis has it that the process holds so many of ada's."""
    assert process._redis
    client, place = process._redis.client, (process._key("ada"), process._process)
    async with asyncio.timeout(20):
        while await client.hget(*place) != b"%d" % count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_of_two_that_are_taken_at_once_both_count_in_whatever_order_they_arrive(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_redis.flush()
    async with two_processes(shared_redis) as (here, there):
        ask, asked, overtaken = here._redis.ask, list[Any](), asyncio.Event()

        async def ask_in_reverse(question: Any) -> Any:
            asked.append(question)
            if len(asked) == 1:
                await overtaken.wait()
            answer = await ask(question)
            overtaken.set()
            return answer

        monkeypatch.setattr(here._redis, "ask", ask_in_reverse)
        await asyncio.gather(here.take("ada"), here.take("ada"))
        await told(here, 2)
        assert not await is_free(there)


async def test_what_was_taken_while_redis_was_away_for_a_moment_counts(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_redis.flush()
    async with two_processes(shared_redis, 1) as (here, there):

        async def away(_: Any) -> Any:
            raise RedisAway

        with monkeypatch.context() as moment:
            moment.setattr(here._redis, "ask", away)
            await here.take("ada")
        await told(here, 1)
        assert not await is_free(there)


async def test_what_is_given_back_is_free_elsewhere(shared_redis: RedisServer) -> None:
    shared_redis.flush()
    async with two_processes(shared_redis, most=1) as (here, there):
        await here.take("ada")
        here.give_back("ada")
        await becomes_free(there)
        assert not await is_free(here)


async def test_a_process_that_was_killed_holds_nothing_after_a_while(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_redis.flush()
    monkeypatch.setattr(slots, "LEASE_MILLISECONDS", 300)
    async with redis_of(shared_redis) as redis, two_processes(shared_redis, 1) as (_, there):
        killed = Slots("test", redis, 1, "Too many.")  # nothing renews its lease
        await killed.take("ada")
        await becomes_free(there)


async def test_a_process_that_lives_keeps_what_it_holds(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_redis.flush()
    monkeypatch.setattr(slots, "LEASE_MILLISECONDS", 2000)
    monkeypatch.setattr(slots, "RENEW_SECONDS", 0.1)
    async with two_processes(shared_redis, 1) as (here, there):
        await here.take("ada")
        await asyncio.sleep(3)
        assert not await is_free(there)


async def test_a_process_that_ends_holds_nothing_at_once(shared_redis: RedisServer) -> None:
    shared_redis.flush()
    async with redis_of(shared_redis) as redis, two_processes(shared_redis, 1) as (_, there):
        async with open_slots("test", redis, most=1, refusal="Too many.") as ending:
            await ending.take("ada")
            assert not await is_free(there)
        assert await is_free(there)


async def test_without_redis_each_process_counts_for_itself(own_redis: RedisServer) -> None:
    async with two_processes(own_redis, 1) as (here, there):
        own_redis.stop()
        assert await is_free(here)
        assert await is_free(there)
        assert not await is_free(here)
        assert not await is_free(there)


async def test_a_redis_that_lost_its_memory_is_told_again(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "RENEW_SECONDS", 0.1)
    async with two_processes(own_redis, 1) as (here, there):
        await here.take("ada")
        own_redis.stop()
        await until(lambda: here._untold == {"ada"})
        own_redis.start()
        await told(here, 1)
        assert not await is_free(there)


async def test_the_stand_in_counts_nothing_for_others() -> None:
    async with open_slots("test", None, most=1, refusal="Too many.") as process:
        assert await is_free(process)
        assert not await is_free(process)
        process.give_back("ada")
        assert await is_free(process)
