"""Redis: cache, limits and fan-out. Never required: each use has its answer for when it is away."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from service.settings import Settings

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 50
RETRIES = 1
HEARTBEAT_SHARE = 0.9  # of the check's deadline: the client gives up first, and cleans up


def is_stand_in(settings: Settings) -> bool:
    """Whether each process has a Redis of its own, inside it."""
    return settings.redis_url.get_secret_value().startswith("memory:")


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
