"""Redis: cache, limits and fan-out. Never required: each use has its answer for when it is away."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from service.settings import Settings

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 50
RETRIES = 1


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
    embedded = settings.redis_url.get_secret_value().startswith("memory:")
    client = _stand_in() if embedded else _server(settings)
    try:
        yield client
    finally:
        await client.aclose()
