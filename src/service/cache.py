"""Answers kept in Redis for a short time, under a generation that a change replaces.

Redis is never needed: what it does not give in time is made anew.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from redis.asyncio import Redis

from service.redis import OptionalRedis, RedisAway, tell_forever

Result = TypeVar("Result")

GENERATION_BYTES = 16
TELL_SECONDS = 1.0  # between attempts to tell Redis of a change


@dataclass(frozen=True)
class Look:
    """What was found under a name, and the generation that what is made now would belong to."""

    content: bytes | None = None
    generation: bytes | None = None


class Cache:
    """Groups of answers. Each is valid while its group has the generation it was made under.

    A generation is read before an answer is made, so an answer that was made before a change is
    kept, if at all, under a generation that is over. Generations are random: a Redis that lost its
    memory does not count to an old one again.
    """

    def __init__(self, redis: OptionalRedis | None) -> None:
        """Without a Redis that all processes share nothing is kept."""
        self.redis = redis
        self._prefix = "" if redis is None else redis.prefix
        self._owed: set[str] = set()  # changes that Redis was not told of yet
        self._due = asyncio.Event()

    async def look(self, group: str, name: str) -> Look:
        async def ask(redis: Redis) -> Look:
            key = self._generation_key(group)
            found: list[Any] = await redis.mget(key, self._key(group, name))
            generation, kept = found
            if generation is None:
                await redis.set(key, _new_generation(), nx=True)
                (generation,) = await redis.mget(key)  # of whoever was first
            if kept is not None and kept[:GENERATION_BYTES] == generation:
                return Look(kept[GENERATION_BYTES:], generation)
            return Look(generation=generation)

        try:
            return await self._ask(ask)
        except RedisAway:
            return Look()

    async def keep(
        self, group: str, name: str, look: Look, content: bytes, *, seconds: int
    ) -> None:
        """Keep what was made after a look."""
        if look.generation is None:
            return
        kept = look.generation + content
        try:
            key = self._key(group, name)
            await self._ask(lambda redis: redis.set(key, kept, ex=seconds))
        except RedisAway:
            return

    async def changed(self, group: str) -> None:
        """Call after the commit of a change: what was made before it is not given any more.

        While Redis is away this process asks it for nothing before it has told it, and tries again
        each second. Other processes, where it is there for them, give until then what they find.
        """
        if self.redis is None:
            return
        self._owed.add(group)
        try:
            await self.tell()
        except RedisAway:
            self._due.set()

    async def tell(self) -> None:
        """Of changes that Redis was not told of yet. Raises RedisAway."""
        if self._owed:
            await self._ask(_nothing)

    async def tell_forever(self) -> None:
        await tell_forever(self._due, self.tell, TELL_SECONDS)

    def _key(self, group: str, name: str) -> str:
        return f"{self._prefix}{group}:{name}"

    def _generation_key(self, group: str) -> str:
        return self._key(group, "generation")

    async def _ask(self, act: Callable[[Redis], Awaitable[Result]]) -> Result:
        if self.redis is None:
            raise RedisAway

        async def told(redis: Redis) -> Result:
            await self._settle(redis)
            return await act(redis)

        return await self.redis.ask(told)

    async def _settle(self, redis: Redis) -> None:
        if not self._owed:
            return
        owed, self._owed = self._owed, set()
        try:
            generations = {self._generation_key(group): _new_generation() for group in owed}
            await redis.mset(generations)
        except BaseException:
            self._owed |= owed
            raise


@asynccontextmanager
async def open_cache(redis: OptionalRedis | None) -> AsyncIterator[Cache]:
    """What Redis was not told of by the end is tried once more then."""
    cache = Cache(redis)
    telling = asyncio.create_task(cache.tell_forever())
    try:
        yield cache
    finally:
        telling.cancel()
        await asyncio.wait({telling})
        with suppress(RedisAway):
            await cache.tell()


async def _nothing(_: Redis) -> None:
    return None


def _new_generation() -> bytes:
    return secrets.token_bytes(GENERATION_BYTES)
