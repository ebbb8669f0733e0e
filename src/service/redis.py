"""Redis: cache, limits and fan-out. Never required: each use has its answer for when it is away."""

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from service.settings import Settings

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# What a Redis that is away raises. RuntimeError is uvloop's word for a connection that was given up
# a moment ago, where asyncio's is ConnectionError.
ERRORS = (RedisError, OSError, TimeoutError, RuntimeError)
MAX_CONNECTIONS = 50
RETRIES = 1
HEARTBEAT_SHARE = 0.9  # of the check's deadline: the client gives up first, and cleans up
PAUSE_SECONDS = 2.0  # before a Redis that failed is asked again
CLOSE_SECONDS = 1.0


def is_stand_in(settings: Settings) -> bool:
    """Whether each process has a Redis of its own, inside it."""
    return settings.redis_url.get_secret_value().startswith("memory:")


def deployment(settings: Settings) -> str:
    """What all names of a deployment begin with, as others may have the same Redis: those of
    channels are of all its databases.

    SECRET_KEY is what replicas have in common, and deployments never do. While it is rotated the
    old and the new replicas count apart, hear nothing of each other, and look for themselves.
    """
    secret = settings.secret_key.get_secret_value().encode()
    return hmac.digest(secret, b"deployment", "sha256")[:4].hex() + ":"


def _server(settings: Settings) -> Redis:
    timeout_seconds = settings.redis_timeout_seconds
    pool = BlockingConnectionPool.from_url(
        settings.redis_url.get_secret_value(),
        max_connections=MAX_CONNECTIONS,
        timeout=timeout_seconds,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        # The library's default of ten takes 4 s to find out that a connection is refused.
        retry=Retry(ExponentialBackoff(cap=0.05, base=0.01), RETRIES),
        health_check_interval=15,
        client_name="service",
    )
    return Redis(connection_pool=pool)


def _stand_in() -> Redis:
    from fakeredis import FakeAsyncRedis  # noqa: PLC0415  (200 ms that production does not pay)

    return FakeAsyncRedis()


@asynccontextmanager
async def open_redis(settings: Settings) -> AsyncIterator[Redis]:
    """A client; `memory://` gives a stand-in inside this process. Connects on first use."""
    client = _stand_in() if is_stand_in(settings) else _server(settings)
    try:
        yield client
    finally:
        await client.aclose(close_connection_pool=True)  # it was given its pool


class RedisAway(Exception):
    """Redis did not answer in time, or is not asked because it did not."""


class OptionalRedis:
    """Redis for those who have an answer without it.

    Nobody waits for it longer than its timeout, and one that did not answer is left alone for a
    while, so that not every request waits for it.
    """

    def __init__(self, client: Redis, timeout_seconds: float | None, prefix: str = "") -> None:
        """Without a timeout for a stand-in, which is slow only where all of the process is."""
        self.client = client
        self.timeout_seconds = timeout_seconds
        self.prefix = prefix  # of the names of keys and channels
        self._away_until = 0.0
        self._asking: set[asyncio.Future[Any]] = set()

    async def ask(self, question: Callable[[Redis], Awaitable[Result]]) -> Result:
        """What the question has for an answer. Raises RedisAway."""
        if monotonic() < self._away_until:
            raise RedisAway
        if self._away_until:
            self._away_until = monotonic() + PAUSE_SECONDS  # one tries; the others wait for nothing
        try:
            answer = await self._in_time(question(self.client))
        except Exception as error:  # also what the client takes a strange answer for
            if not self._away_until:  # the health check tells how long
                name = type(error).__name__
                extra = {"error": f"{name}: {error}", "seldom": name}
                log.warning("redis_away", extra=extra, exc_info=not isinstance(error, ERRORS))
            self._away_until = monotonic() + PAUSE_SECONDS
            raise RedisAway from error
        if self._away_until:
            self._away_until = 0.0
            log.info("redis_back")
        return answer

    async def _in_time(self, question: Awaitable[Result]) -> Result:
        """Raises TimeoutError. A task of its own, as the client may take a cancellation for one of
        its own timeouts and try again: by `asyncio.timeout` some waited six times as long."""
        asking = asyncio.ensure_future(question)
        self._asking.add(asking)
        asking.add_done_callback(self._asked)
        done, _ = await asyncio.wait({asking}, timeout=self.timeout_seconds)
        if not done:
            asking.cancel()
            raise TimeoutError
        return asking.result()

    def _asked(self, asking: asyncio.Future[Any]) -> None:
        self._asking.discard(asking)
        if not asking.cancelled():
            asking.exception()  # or it would be logged as one that nobody looked at

    async def close(self) -> None:
        """Wait for what was asked in vain, before the connections are closed."""
        if self._asking:
            await asyncio.wait(self._asking, timeout=CLOSE_SECONDS)


async def tell_forever(
    due: asyncio.Event, tell: Callable[[], Awaitable[None]], pause_seconds: float
) -> None:
    """Tell Redis whenever something is due; while it is away, again after a pause."""
    while True:
        await due.wait()
        due.clear()
        try:
            await tell()
        except RedisAway:
            await asyncio.sleep(pause_seconds)
            due.set()


@asynccontextmanager
async def open_heartbeat(settings: Settings, client: Redis) -> AsyncIterator[Redis]:
    """A client whose `ping` waits for no request: on one connection of its own.

    The stand-in has no connections to wait for, and is asked itself.
    """
    if is_stand_in(settings):
        yield client
        return
    url = settings.redis_url.get_secret_value()
    timeout_seconds = HEARTBEAT_SHARE * settings.health_cache_timeout_seconds
    heartbeat = Redis.from_url(
        url,
        max_connections=1,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        # At once, and only what Redis refused or closed: an old connection may be the one lost.
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        client_name="service-health",
    )
    try:
        yield heartbeat
    finally:
        await heartbeat.aclose(close_connection_pool=True)


@asynccontextmanager
async def open_subscriber(settings: Settings) -> AsyncIterator[Redis]:
    """A client for one subscription, on a connection of its own. Tries nothing twice."""
    subscriber = Redis.from_url(
        settings.redis_url.get_secret_value(),
        max_connections=1,
        socket_timeout=settings.redis_timeout_seconds,
        socket_connect_timeout=settings.redis_timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        client_name="service-fanout",
    )
    try:
        yield subscriber
    finally:
        await subscriber.aclose(close_connection_pool=True)
