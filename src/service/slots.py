"""How many of something a subject may hold at a time, such as open connections.

Redis adds up what all processes hold; while it is away each process counts for itself. A process
lets go of what it holds by no longer saying that it lives, so one that is killed keeps nothing.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from redis.asyncio import Redis

from service.errors import ServiceError
from service.redis import OptionalRedis, RedisAway

RENEW_SECONDS = 3.0
LEASE_MILLISECONDS = 12_000
KEPT_SECONDS = 86_400  # counts of processes that were killed, of subjects that never come back
# A hash of how many each process holds. Those of processes that live no more do not count.
TAKE = """
redis.call('SET', ARGV[2] .. ARGV[1], '', 'PX', ARGV[3])
local total = tonumber(ARGV[4])
local held = redis.call('HGETALL', KEYS[1])
for i = 1, #held, 2 do
    if held[i] ~= ARGV[1] then
        if redis.call('EXISTS', ARGV[2] .. held[i]) == 1 then
            total = total + held[i + 1]
        else
            redis.call('HDEL', KEYS[1], held[i])
        end
    end
end
if total > tonumber(ARGV[5]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[6])
return 1
"""


class NoSlotFree(ServiceError):
    status = 429
    headers = {"Retry-After": "5"}


class Slots:
    """The slots of one kind that this process holds."""

    def __init__(self, name: str, redis: OptionalRedis | None, most: int, refusal: str) -> None:
        """Without a Redis that all processes share each counts for itself."""
        self.name = name
        self.most = most
        self.refusal = refusal
        self._redis = redis
        self._prefix = "" if redis is None else redis.prefix
        self._lives = f"{self._prefix}slots:process:"
        self._process = secrets.token_hex(8)
        self._held: dict[str, int] = {}
        self._untold: set[str] = set()
        self._due = asyncio.Event()

    async def take(self, subject: str) -> None:
        """Raises NoSlotFree."""
        count = self._held[subject] = self._held.get(subject, 0) + 1
        if count > self.most or not await self._is_free(subject, count):
            self.give_back(subject)
            raise NoSlotFree(self.refusal)
        self._owe(subject)  # what was told at the same time may arrive in another order

    def give_back(self, subject: str) -> None:
        self._held[subject] -= 1
        if not self._held[subject]:
            del self._held[subject]
        self._owe(subject)

    def _owe(self, subject: str) -> None:
        """Have Redis told how many there are."""
        self._untold.add(subject)
        self._due.set()

    async def _is_free(self, subject: str, count: int) -> bool:
        if self._redis is None:
            return True
        numbers = (LEASE_MILLISECONDS, count, self.most, KEPT_SECONDS)
        values = (self._process, self._lives, *numbers)
        try:
            answer = await self._redis.ask(
                lambda redis: redis.eval(TAKE, 1, self._key(subject), *values)
            )
        except RedisAway:
            return True
        return bool(answer)

    def _key(self, subject: str) -> str:
        return f"{self._prefix}slots:{self.name}:{subject}"

    async def keep_forever(self) -> None:
        """Say that this process lives, and what it let go of."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(RENEW_SECONDS):
                    await self._due.wait()
            self._due.clear()
            if self._held or self._untold:
                await self._tell()

    async def _tell(self) -> None:
        untold, self._untold = self._untold, set()
        if self._redis is None:
            return
        try:
            await self._redis.ask(lambda redis: self._write(redis, untold))
        except RedisAway:
            self._untold |= untold | set(self._held)  # it may have lost its memory

    async def _write(self, redis: Redis, subjects: set[str]) -> None:
        pipeline = redis.pipeline(transaction=False)
        pipeline.set(self._lives + self._process, "", px=LEASE_MILLISECONDS)
        for subject in subjects:
            if count := self._held.get(subject):
                pipeline.hset(self._key(subject), self._process, count)
                pipeline.expire(self._key(subject), KEPT_SECONDS)
            else:
                pipeline.hdel(self._key(subject), self._process)
        await pipeline.execute()

    async def leave(self) -> None:
        """Let go of everything: what this process held counts no more."""
        if self._redis is not None:
            with suppress(RedisAway):
                await self._redis.ask(lambda redis: redis.delete(self._lives + self._process))


@asynccontextmanager
async def open_slots(
    name: str, redis: OptionalRedis | None, *, most: int, refusal: str
) -> AsyncIterator[Slots]:
    slots = Slots(name, redis, most, refusal)
    keeping = asyncio.create_task(slots.keep_forever())
    try:
        yield slots
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})
        await slots.leave()
