"""Whether the time of an answer tells which addresses have an account."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx2 as httpx

from bench.requests import migrate
from bench.table import Row
from servers import Postgresql, RedisServer, Web, running
from service.accounts.passwords import NOBODY

REQUESTS = 200  # of each kind, in a random order
BLOCKS = 10
ATTEMPTS = 10  # the default of LOGIN_ATTEMPTS
KINDS = ("known", "unknown", "waiting")
Ask = Callable[[httpx.Client, str], httpx.Response]


def enumeration(directory: Path, postgresql: Postgresql, redis: RedisServer) -> list[Row]:
    """Login, registration and forgotten password, for addresses with an account, without one, and
    with one that waits for its confirmation. Every address is used once a question, so that no
    limit is reached but where that is the question."""
    url = postgresql.new_database()
    environment = {"DATABASE_URL": url, "REDIS_URL": redis.url, "WEB_CONCURRENCY": "1"}
    quiet = {"ACCESS_LOG": "false", "LOG_LEVEL": "warning", "MAX_REQUESTS": "0"}
    environment["MAILS_PER_NETWORK"] = "10000"
    web = Web(directory / "enumeration", environment | quiet)
    migrate(web)
    for kind, confirmed in (("known", "now()"), ("waiting", "NULL")):
        postgresql.psql(
            "INSERT INTO accounts (id, email, password_hash, stamp, created_at, confirmed_at)"
            f" SELECT gen_random_uuid(), '{kind}-' || n || '@example.org', '{NOBODY}', 'x', now(),"
            f" {confirmed} FROM generate_series(0, {REQUESTS}) AS n",
            url.rpartition("/")[2],
        )
    with running(web), httpx.Client(base_url=web.url, timeout=30) as client:
        _use_up(client)
        return [
            *_rows("login", _measure(client, _login, 401)),
            *_rows("limited login", _measure(client, _limited, 429)),
            *_rows("forgotten password", _measure(client, _forgot, 202)),
            *_rows("registration", _measure(client, _register, 202)),
        ]


def _login(client: httpx.Client, email: str) -> httpx.Response:
    return client.post("/login", data={"username": email, "password": "a wrong password"})


def _limited(client: httpx.Client, email: str) -> httpx.Response:
    return _login(client, f"{email.partition('-')[0]}-0@example.org")


def _forgot(client: httpx.Client, email: str) -> httpx.Response:
    return client.post("/api/accounts/password/forgot", json={"email": email})


def _register(client: httpx.Client, email: str) -> httpx.Response:
    return client.post("/api/accounts", json={"email": email, "password": "a fine password"})


def _use_up(client: httpx.Client) -> None:
    """Number 0 of each kind has no attempts left."""
    for kind in KINDS:
        for _ in range(ATTEMPTS):
            _login(client, f"{kind}-0@example.org")


def _measure(client: httpx.Client, ask: Ask, status: int) -> dict[str, list[float]]:
    """Milliseconds of each request, by kind."""
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(1, REQUESTS + 1):
        for kind in random.sample(KINDS, len(KINDS)):
            began = time.perf_counter()
            answer = ask(client, f"{kind}-{number}@example.org")
            taken[kind].append((time.perf_counter() - began) * 1000)
            assert answer.status_code == status, answer.text
    return taken


def _rows(name: str, taken: Mapping[str, list[float]]) -> list[Row]:
    known = taken["known"]
    return [
        Row(
            f"{name}: time, {kind} / known address",
            _ratios(taken[kind], known),
            at_least=0.9,
            at_most=1.1,
            note=f"{_spread(taken[kind])} against {_spread(known)} ms",
        )
        for kind in KINDS[1:]
    ]


def _ratios(some: list[float], others: list[float]) -> list[float]:
    """Of the medians of blocks that were measured at the same time."""
    size = len(some) // BLOCKS
    starts = range(0, size * BLOCKS, size)
    return [
        statistics.median(some[at : at + size]) / statistics.median(others[at : at + size])
        for at in starts
    ]


def _spread(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"
