"""Answers kept in Redis for a short time, under a generation that a change replaces.

Redis is never needed: what cannot be asked in time is made anew, and a Redis that is known to be
away is left alone for a while, so that not every request waits for it.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

Result = TypeVar("Result")

PAUSE_SECONDS = 2.0
GENERATION_BYTES = 16


@dataclass(frozen=True)
class Look:
    """What was found under a name, and the generation that what is made now would belong to."""

    content: bytes | None = None
    generation: bytes | None = None


class CacheAway(Exception):
    """Redis did not answer, or is not asked because it did not."""


class Cache:
    """Groups of answers. Each is valid while its group has the generation it was made under.

    A generation is read before an answer is made, so an answer that was made before a change is
    kept, if at all, under a generation that is over. Generations are random: a Redis that lost its
    memory does not count to an old one again.
    """

    def __init__(self, redis: Redis | None, timeout_seconds: float) -> None:
        """Without a Redis that all processes share nothing is kept."""
        self.redis = redis
        self.timeout_seconds = timeout_seconds
        self._away_until = 0.0
        self._owed: set[str] = set()  # changes that Redis was not told of yet

    async def look(self, group: str, name: str) -> Look:
        async def ask(redis: Redis) -> Look:
            key = _generation_key(group)
            found: list[Any] = await redis.mget(key, f"{group}:{name}")
            generation, kept = found
            if generation is None:
                await redis.set(key, _new_generation(), nx=True)
                (generation,) = await redis.mget(key)  # of whoever was first
            if kept is not None and kept[:GENERATION_BYTES] == generation:
                return Look(kept[GENERATION_BYTES:], generation)
            return Look(generation=generation)

        try:
            look: Look = await self._ask(ask)
        except CacheAway:
            return Look()
        return look

    async def keep(
        self, group: str, name: str, look: Look, content: bytes, *, seconds: int
    ) -> None:
        """Keep what was made after a look."""
        if look.generation is None:
            return
        kept = look.generation + content
        try:
            await self._ask(lambda redis: redis.set(f"{group}:{name}", kept, ex=seconds))
        except CacheAway:
            return

    async def changed(self, group: str) -> None:
        """Call after the commit of a change: what was made before it is not given any more.

        While Redis is away this process asks it for nothing before it has told it. Other processes
        may give what they find there, for as long as it is kept.
        """
        self._owed.add(group)
        try:
            await self._ask(None)
        except CacheAway:
            return

    async def _ask(self, act: Callable[[Redis], Awaitable[Result]] | None) -> Any:
        if self.redis is None or monotonic() < self._away_until:
            raise CacheAway
        was_away = self._away_until > 0
        if was_away:
            self._away_until = monotonic() + PAUSE_SECONDS  # one tries; the others wait for nothing
        try:
            async with asyncio.timeout(self.timeout_seconds):
                await self._settle(self.redis)
                result = await act(self.redis) if act else None
        except (RedisError, OSError, TimeoutError) as error:
            if not was_away:  # the health check tells how long
                log.warning("cache_away", extra={"error": f"{type(error).__name__}: {error}"})
            self._away_until = monotonic() + PAUSE_SECONDS
            raise CacheAway from error
        self._away_until = 0.0
        return result

    async def _settle(self, redis: Redis) -> None:
        if not self._owed:
            return
        owed, self._owed = self._owed, set()
        try:
            generations = {_generation_key(group): _new_generation() for group in owed}
            await redis.mset(generations)
        except BaseException:
            self._owed |= owed
            raise


def _generation_key(group: str) -> str:
    return f"{group}:generation"


def _new_generation() -> bytes:
    return secrets.token_bytes(GENERATION_BYTES)
