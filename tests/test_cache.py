"""Answers in Redis, and what becomes of requests while it is away."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import pytest

from servers import RedisServer, free_port
from service import cache as cache_module
from service import redis as optional
from service.cache import Cache, Look, open_cache
from service.redis import OptionalRedis, RedisAway, open_redis
from service.settings import Settings

pytestmark = pytest.mark.anyio

TIMEOUT_SECONDS = 0.25
PATIENCE_SECONDS = 5  # on a busy machine it is slow, and not away


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[OptionalRedis]:
    settings = Settings(redis_url=url, redis_timeout_seconds=PATIENCE_SECONDS)
    async with open_redis(settings) as client:
        redis = OptionalRedis(client, PATIENCE_SECONDS)
        yield redis
        await redis.close()


@pytest.fixture
async def redis(own_redis: RedisServer) -> AsyncIterator[OptionalRedis]:
    async with opened(own_redis.url) as redis:
        yield redis


@contextmanager
def frozen(redis: OptionalRedis, server: RedisServer) -> Iterator[None]:
    """A block in which Redis answers nothing, and is not waited for very long."""
    redis.timeout_seconds = TIMEOUT_SECONDS
    server.freeze()
    try:
        yield
    finally:
        server.thaw()
        redis.timeout_seconds = PATIENCE_SECONDS


@pytest.fixture
def cache(redis: OptionalRedis) -> Cache:
    return Cache(redis)


async def keep(cache: Cache, content: bytes = b"content", name: str = "name") -> None:
    await cache.keep("group", name, await cache.look("group", name), content, seconds=30)


async def found(cache: Cache, name: str = "name") -> bytes | None:
    return (await cache.look("group", name)).content


async def test_what_is_kept_is_found(cache: Cache) -> None:
    assert await found(cache) is None
    for content in (b"content", b"", b"\x00\xff\n" * 10_000):
        await keep(cache, content)
        assert await found(cache) == content
    assert await found(cache, "other") is None


async def test_after_a_change_nothing_of_before_is_found(cache: Cache) -> None:
    await keep(cache)
    await keep(cache, name="second")
    await cache.changed("group")
    assert (await found(cache), await found(cache, "second")) == (None, None)
    await keep(cache, b"new")
    assert await found(cache) == b"new"


async def test_a_change_of_one_group_leaves_the_others(cache: Cache) -> None:
    await keep(cache)
    await cache.changed("other group")
    assert await found(cache) == b"content"


async def test_what_was_made_before_a_change_is_not_given_after_it(cache: Cache) -> None:
    """The reader looks, the writer changes, the reader keeps."""
    look = await cache.look("group", "name")
    await cache.changed("group")
    await cache.keep("group", "name", look, b"old", seconds=30)
    assert await found(cache) is None


async def test_a_change_in_one_process_is_one_in_all(own_redis: RedisServer) -> None:
    async with AsyncExitStack() as stack:
        one, other = [
            Cache(await stack.enter_async_context(opened(own_redis.url))) for _ in range(2)
        ]
        await keep(one)
        assert await found(other) == b"content"
        await other.changed("group")
        assert await found(one) is None


async def test_a_redis_that_forgets_does_not_come_back_to_an_old_generation(
    cache: Cache, redis: OptionalRedis
) -> None:
    await keep(cache, b"old")
    await cache.changed("group")
    await keep(cache, b"new")
    await redis.client.delete("group:generation")
    assert await found(cache) is None
    await keep(cache)
    assert await found(cache) == b"content"


async def test_many_who_look_first_agree_on_the_generation(cache: Cache) -> None:
    looks = await asyncio.gather(*(cache.look("group", "name") for _ in range(20)))
    assert len({look.generation for look in looks}) == 1


async def test_nothing_is_kept_for_long(cache: Cache, redis: OptionalRedis) -> None:
    await keep(cache)
    assert 0 < await redis.client.ttl("group:name") <= 30


async def test_without_a_shared_redis_nothing_is_kept() -> None:
    cache = Cache(None)
    await keep(cache)
    await cache.changed("group")
    assert await cache.look("group", "name") == Look()


class Unasked:
    """A client that fails the test of who asks it."""

    def __getattr__(self, name: str) -> Any:
        pytest.fail(f"asked for {name}")


async def test_a_frozen_redis_costs_its_deadline_once(
    cache: Cache,
    redis: OptionalRedis,
    own_redis: RedisServer,
    log_lines: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(optional, "PAUSE_SECONDS", 60)
    await keep(cache)
    with frozen(redis, own_redis):
        began = time.monotonic()
        assert await cache.look("group", "name") == Look()
        assert time.monotonic() - began < PATIENCE_SECONDS / 2  # which is that of the client
        redis.client = Unasked()
        for act in (cache.look("group", "name"), cache.changed("group"), keep(cache)):
            await act
    assert [line["message"] for line in log_lines] == ["redis_away"]


async def test_a_redis_that_refuses_is_left_alone(
    log_lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optional, "PAUSE_SECONDS", 60)
    async with opened(f"redis://127.0.0.1:{free_port()}/0") as redis:
        cache = Cache(redis)
        await keep(cache)
        redis.client = Unasked()
        assert await asyncio.gather(*(found(cache) for _ in range(100))) == [None] * 100
    assert [line["message"] for line in log_lines] == ["redis_away"]


async def test_a_connection_that_was_just_given_up_is_a_redis_that_is_away(
    redis: OptionalRedis,
) -> None:
    """As uvloop says it, to whom writes to one whose packets are lost."""

    async def write(_: Any) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>")

    with pytest.raises(RedisAway):
        await redis.ask(write)


async def test_a_server_that_is_no_redis_is_one_that_is_away(
    log_lines: list[dict[str, Any]],
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(b":no number\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with opened(f"redis://127.0.0.1:{port}/0") as redis:
            assert await found(Cache(redis)) is None
    assert [line["message"] for line in log_lines] == ["redis_away"]
    assert "Traceback" in str(log_lines)


async def test_after_a_pause_one_asks_again_and_the_others_wait_for_nothing(
    cache: Cache,
    redis: OptionalRedis,
    own_redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(optional, "PAUSE_SECONDS", 0.3)
    await keep(cache)
    with frozen(redis, own_redis):
        await cache.look("group", "name")
        await asyncio.sleep(0.35)
        looks = [asyncio.create_task(cache.look("group", "name")) for _ in range(10)]
        done, asking = await asyncio.wait(looks, return_when=asyncio.FIRST_COMPLETED)
        assert (len(done), len(asking)) == (9, 1)
        await asyncio.wait(asking)
    await asyncio.sleep(0.35)
    assert await found(cache) == b"content"


@pytest.mark.parametrize("known", [True, False])
async def test_a_change_while_redis_is_away_is_told_before_anything_is_asked(
    cache: Cache,
    redis: OptionalRedis,
    own_redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    known: bool,
) -> None:
    monkeypatch.setattr(optional, "PAUSE_SECONDS", 0.2)
    await keep(cache, b"old")
    with frozen(redis, own_redis):
        if known:
            await cache.look("group", "name")
        await cache.changed("group")
    await asyncio.sleep(0.25)
    assert await found(cache) is None


async def test_a_change_while_redis_was_away_is_told_without_being_asked(
    redis: OptionalRedis, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others, for whom Redis may never have been away, would go on to give what was before."""
    monkeypatch.setattr(optional, "PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(cache_module, "TELL_SECONDS", 0.1)
    async with opened(own_redis.url) as others, open_cache(redis) as cache:
        other = Cache(others)
        await keep(other, b"old")
        with frozen(redis, own_redis):
            await cache.changed("group")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await found(other) is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_a_change_is_told_at_the_end_at_the_latest(
    redis: OptionalRedis, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optional, "PAUSE_SECONDS", 0.2)
    async with opened(own_redis.url) as others:
        other = Cache(others)
        await keep(other, b"old")
        async with open_cache(redis) as cache:
            with frozen(redis, own_redis):
                await cache.changed("group")
            await asyncio.sleep(0.25)
        assert await found(other) is None


async def test_a_request_that_is_given_up_leaves_the_connection_in_order(
    cache: Cache, own_redis: RedisServer
) -> None:
    """An answer that comes late must not be taken for that of the next question."""
    await keep(cache, b"one", "one")
    await keep(cache, b"two", "two")
    own_redis.freeze()
    looking = asyncio.create_task(cache.look("group", "one"))
    await asyncio.sleep(0.05)
    looking.cancel()
    await asyncio.wait({looking})
    own_redis.thaw()
    assert await found(cache, "two") == b"two"
