"""How often something may happen to one subject: so many times at once, then one each so often.

Redis counts for all processes. While it is away each process counts for itself, in memory of a
fixed size, so that no limit is ever open; and nobody waits for it longer than
REDIS_TIMEOUT_SECONDS.
"""

import hmac
import math
import time
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from service.errors import ServiceError, Unavailable
from service.redis import OptionalRedis, RedisAway
from service.settings import Settings

SLOTS = 1 << 15  # a quarter of a MiB a limit
# What an event adds to is the time until its subject is as good as new: the key's time to live.
# So there is no clock to agree on, and what is not used is gone by itself.
TAKE = """
local debt = math.max(redis.call('PTTL', KEYS[1]), 0)
local wait = debt + ARGV[1] - ARGV[2]
if wait > 0 then return wait end
redis.call('SET', KEYS[1], '', 'PX', debt + ARGV[1])
return 0
"""
GIVE_BACK = """
local debt = redis.call('PTTL', KEYS[1]) - ARGV[1]
if debt > 0 then return redis.call('PEXPIRE', KEYS[1], debt) end
return redis.call('DEL', KEYS[1])
"""
FORGET = "return redis.call('DEL', KEYS[1])"
REMEMBER = "redis.call('SET', KEYS[1], '', 'PX', ARGV[1]) return 1"
REMEMBERS = "return redis.call('EXISTS', KEYS[1])"


class LimitReached(ServiceError):
    status = 429

    def __init__(self, wait_seconds: float) -> None:
        super().__init__("Too many attempts. Try again later.")
        self.headers = {"Retry-After": str(max(1, math.ceil(wait_seconds)))}


@dataclass(frozen=True)
class Limit:
    """`at_once` events of a subject, then one every `every_seconds`."""

    name: str
    at_once: int
    every_seconds: float

    @property
    def milliseconds(self) -> tuple[int, int]:
        """What an event adds, and what there may be."""
        every = int(self.every_seconds * 1000)
        return every, every * self.at_once


class Limits:
    """Counts events. Keys are keyed hashes: a copy of Redis names no subject."""

    def __init__(self, settings: Settings, redis: OptionalRedis) -> None:
        self._redis = redis
        self._secret = settings.secret_key.get_secret_value().encode()
        self._local: dict[str, LocalCount] = {}

    @asynccontextmanager
    async def counted(self, limit: Limit, subject: str) -> AsyncIterator[None]:
        """Count what the block does as one event, but for what fails as something is away.

        Raises LimitReached.
        """
        every, most = limit.milliseconds
        digest = self._digest(limit.name, subject)
        wait = await self._run(TAKE, limit.name, digest, every, most)
        if wait is None:
            wait = self._count(limit).take(digest, every, most)
        if wait:
            raise LimitReached(wait / 1000)
        try:
            yield
        except Unavailable:
            if await self._run(GIVE_BACK, limit.name, digest, every) is None:
                self._count(limit).give_back(digest, every)
            raise

    async def forget(self, limit: Limit, subject: str) -> None:
        """The subject is as good as new."""
        digest = self._digest(limit.name, subject)
        self._count(limit).forget(digest)
        await self._run(FORGET, limit.name, digest)

    async def remember(self, name: str, subject: str, seconds: int) -> None:
        """Have `remembers` say so for a while; not where Redis is away."""
        await self._run(REMEMBER, name, self._digest(name, subject), seconds * 1000)

    async def remembers(self, name: str, subject: str) -> bool:
        """False also where Redis is away."""
        return bool(await self._run(REMEMBERS, name, self._digest(name, subject)))

    def _digest(self, name: str, subject: str) -> bytes:
        return hmac.digest(self._secret, f"{name} {subject}".encode(), "sha256")

    def _count(self, limit: Limit) -> "LocalCount":
        return self._local.setdefault(limit.name, LocalCount())

    async def _run(self, script: str, name: str, digest: bytes, *numbers: int) -> int | None:
        """A script's answer, in one round trip; None where Redis gives none in time."""
        key = f"{self._redis.prefix}limit:{name}:{digest[:16].hex()}"
        try:
            return int(await self._redis.ask(lambda redis: redis.eval(script, 1, key, *numbers)))
        except RedisAway:
            return None


class LocalCount:
    """One limit inside one process.

    Subjects share a fixed number of slots by their hash, keyed so that nobody can choose another's
    slot: a stranger fills none but at random, and can never push anybody out.
    """

    def __init__(self) -> None:
        self._until = array("d", bytes(8 * SLOTS))

    def take(self, digest: bytes, every: int, most: int) -> int:
        """0, or the milliseconds to wait."""
        slot, now = _slot(digest), time.monotonic() * 1000
        debt = max(self._until[slot] - now, 0)
        wait = debt + every - most
        if wait <= 0:
            self._until[slot] = now + debt + every
        return max(math.ceil(wait), 0)

    def give_back(self, digest: bytes, every: int) -> None:
        self._until[_slot(digest)] -= every

    def forget(self, digest: bytes) -> None:
        self._until[_slot(digest)] = 0


def _slot(digest: bytes) -> int:
    return int.from_bytes(digest[-4:]) % SLOTS
