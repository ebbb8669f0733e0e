"""Word that something changed, to whoever watches for it in any process of the service.

Word says only that there is something new to read in the database. It may get lost, as Redis keeps
none for who is not there; so whoever watches also looks for itself whenever `looks` says so.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import islice
from time import monotonic
from typing import Any

from redis.asyncio import Redis

from service.redis import (
    ERRORS,
    OptionalRedis,
    RedisAway,
    is_stand_in,
    open_subscriber,
    tell_forever,
)
from service.settings import Settings

log = logging.getLogger(__name__)

CHANNEL = "service:changed"
LOOK_SECONDS = 1.0  # between looks while no word can come from other processes
RARE_LOOK_SECONDS = 15.0  # and while it does
PING_SECONDS = 1.0
SILENT_SECONDS = 3.0  # a Redis that answers no ping for so long is frozen
MOST_UNTOLD = 10_000  # topics; of more, whoever watches learns by a look
NEVER = float("-inf")

Wake = Callable[[], None]


class Fanout:
    """Topics, and who watches them in this process."""

    def __init__(self, redis: OptionalRedis | None) -> None:
        """Without a Redis that all processes share word stays in this one."""
        self._redis = redis
        self._channel = CHANNEL if redis is None else redis.prefix + CHANNEL
        self._name = secrets.token_hex(4)  # word of its own is not told to a process twice
        self._watchers: dict[str, set[Wake]] = {}
        self._watched = asyncio.Event()
        self._untold: set[str] = set()
        self._due = asyncio.Event()
        self._hears_since: float | None = None
        self._looked_at = NEVER

    def publish(self, topic: str) -> None:
        """Call after the commit of a change. Waits for nothing, wherever Redis is."""
        self._wake(topic)
        if self._redis is not None:
            self._untold.add(topic)
            self._due.set()

    def watch(self, topic: str, wake: Wake) -> None:
        """Call `wake` at each word on a topic, until `unwatch`."""
        self._watchers.setdefault(topic, set()).add(wake)
        self._watched.set()

    def unwatch(self, topic: str, wake: Wake) -> None:
        self._watchers[topic].discard(wake)
        if not self._watchers[topic]:
            del self._watchers[topic]
        if not self._watchers:
            self._watched.clear()

    async def looks(self) -> AsyncIterator[None]:
        """Ticks whenever who watches should look for itself: every second while no word can come,
        once when it can again, and now and then."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now, since = monotonic(), self._hears_since
            missed = since is None or since > self._looked_at
            if missed or now - self._looked_at > RARE_LOOK_SECONDS:
                self._looked_at = now
                yield

    def doubt(self) -> None:
        """A look, or what word led to, failed: the next look comes soon."""
        self._looked_at = NEVER

    def _wake(self, topic: str) -> None:
        for wake in tuple(self._watchers.get(topic, ())):
            wake()

    async def tell_forever(self) -> None:
        """Pass on to other processes what was published here."""
        await tell_forever(self._due, self.tell, LOOK_SECONDS)

    async def tell(self) -> None:
        """Raises RedisAway. What was not told then is for the next time: others may find Redis
        back, and look, before this process does."""
        untold, self._untold = self._untold, set()
        if not untold or self._redis is None:
            return
        words = [f"{self._name} {topic}" for topic in untold]
        try:
            await self._redis.ask(lambda redis: _publish(redis, self._channel, words))
        except RedisAway:
            self._untold.update(islice(untold, MOST_UNTOLD))
            raise

    async def listen_forever(self, subscriber: Redis) -> None:
        """Hear what other processes publish, while something is watched here."""
        while True:
            await self._watched.wait()
            try:
                await self._listen(subscriber)
            except ERRORS:
                pass  # the health check tells of it
            except Exception as error:
                log.exception("fanout_failed", extra={"seldom": type(error).__name__})
            self._hears_since = None
            await asyncio.sleep(LOOK_SECONDS)

    async def _listen(self, subscriber: Redis) -> None:
        async with subscriber.pubsub() as subscription:
            await subscription.subscribe(self._channel)
            heard_at = monotonic()
            while self._watched.is_set():
                message = await subscription.get_message(timeout=PING_SECONDS)
                if message is not None:
                    heard_at = monotonic()
                    self._hear(message)
                elif monotonic() - heard_at > SILENT_SECONDS:
                    raise TimeoutError
                else:
                    await subscription.ping()

    def _hear(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            self._hears_since = monotonic()
        elif message["type"] == "message":
            sender, _, topic = message["data"].decode(errors="replace").partition(" ")
            if sender != self._name:
                self._wake(topic)


async def _publish(redis: Redis, channel: str, words: list[str]) -> None:
    pipeline = redis.pipeline(transaction=False)
    for word in words:
        pipeline.publish(channel, word)
    await pipeline.execute()


@asynccontextmanager
async def open_fanout(settings: Settings, redis: OptionalRedis) -> AsyncIterator[Fanout]:
    """Connects when something is watched or published."""
    if is_stand_in(settings):
        yield Fanout(None)
        return
    fanout = Fanout(redis)
    async with open_subscriber(settings) as subscriber:
        listening = asyncio.create_task(fanout.listen_forever(subscriber))
        telling = asyncio.create_task(fanout.tell_forever())
        try:
            yield fanout
        finally:
            for task in (listening, telling):
                task.cancel()
            await asyncio.wait((listening, telling))
            with suppress(RedisAway):
                await fanout.tell()  # the last word
