"""Requests per second and latency, of the service against the least that could answer."""

import statistics
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx

from bench.account import Bearer
from bench.items import insert_items
from bench.load import Load, run
from bench.table import Row
from servers import Postgresql, RedisServer, Web, run_service, running

ROUNDS = 7
SECONDS = 3
CONNECTIONS = 16


def in_turn(
    first: Callable[[], Load], second: Callable[[], Load], rounds: int
) -> list[tuple[Load, Load]]:
    """Both in turn, in changing order, after one warm-up each."""
    first(), second()
    pairs = []
    for number in range(rounds):
        if number % 2:
            b, a = second(), first()
        else:
            a, b = first(), second()
        pairs.append((a, b))
    failed = sum(load.failed for pair in pairs for load in pair)
    assert failed == 0, f"{failed} failed requests"
    return pairs


def rate_row(name: str, pairs: list[tuple[Load, Load]], least: float) -> Row:
    rates = [a.requests_per_second / b.requests_per_second for a, b in pairs]
    ours = statistics.median(a.requests_per_second for a, _ in pairs)
    theirs = statistics.median(b.requests_per_second for _, b in pairs)
    note = f"{ours:,.0f} against {theirs:,.0f} requests/s"
    return Row(name, rates, at_least=least, note=note)


def tail_row(name: str, pairs: list[tuple[Load, Load]], most: float) -> Row:
    tails = [a.p99_ms / b.p99_ms for a, b in pairs]
    ours = statistics.median(a.p99_ms for a, _ in pairs)
    theirs = statistics.median(b.p99_ms for _, b in pairs)
    return Row(name, tails, at_most=most, note=f"{ours:.2f} against {theirs:.2f} ms")


def web_for_bench(directory: Path, app: str, environment: dict[str, str]) -> Web:
    common = {"ACCESS_LOG": "false", "LOG_LEVEL": "warning", "MAX_REQUESTS": "0"}
    return Web(directory, common | environment, arguments=(f"bench.apps:{app}()",))


def migrate(web: Web) -> None:
    """Make the tables in the database of a service that does not run yet."""
    web.directory.mkdir(parents=True)
    migrated = run_service("migrate", environment=web.variables(), cwd=web.directory)
    assert migrated.returncode == 0, migrated.stderr


def trivial(directory: Path, postgresql: Postgresql, redis: RedisServer) -> list[Row]:
    """A trivial JSON route in the whole service against the same in a bare FastAPI."""
    environment = {"DATABASE_URL": postgresql.new_database(), "REDIS_URL": redis.url}
    full = web_for_bench(directory / "full", "full", environment)
    bare = web_for_bench(directory / "bare", "bare", environment)
    with running(full), running(bare, wait="/trivial"):
        pairs = in_turn(
            lambda: run(f"{full.url}/trivial", seconds=SECONDS, connections=CONNECTIONS),
            lambda: run(f"{bare.url}/trivial", seconds=SECONDS, connections=CONNECTIONS),
            ROUNDS,
        )
    name = "trivial route, service / bare FastAPI"
    return [
        rate_row(f"{name}: requests/s ratio", pairs, 0.90),
        tail_row(f"{name}: p99 ratio", pairs, 1.15),
    ]


def who_am_i(directory: Path, postgresql: Postgresql, redis: RedisServer) -> list[Row]:
    """`GET /api/accounts/me` against one query by asyncpg behind raw ASGI."""
    pair = _Authenticated(directory, postgresql, redis, "/api/accounts/me", "raw_query")
    with running(pair.full), running(pair.raw):
        assert pair.get(pair.full).is_success
        pairs = pair.measure()
    return [rate_row("GET /api/accounts/me / raw asyncpg: requests/s ratio", pairs, 0.30)]


# media: from here
def list_items(directory: Path, postgresql: Postgresql, redis: RedisServer) -> list[Row]:
    """`GET /api/media` with 20 items against the same two statements by asyncpg, and the same bytes
    by orjson, behind raw ASGI."""
    pair = _Authenticated(directory, postgresql, redis, "/api/media", "raw_list")
    insert_items(postgresql, pair.url, pair.bearer)
    with running(pair.full), running(pair.raw):
        ours, theirs = pair.get(pair.full).content, pair.get(pair.raw).content
        assert ours == theirs, f"{ours!r} and {theirs!r}"
        pairs = pair.measure()
    return [rate_row("GET /api/media / raw asyncpg and orjson: requests/s ratio", pairs, 0.35)]


# media: to here


class _Authenticated:
    """A path of the service and a rival of `bench.apps`, on one migrated database with a token."""

    def __init__(
        self, directory: Path, postgresql: Postgresql, redis: RedisServer, path: str, rival: str
    ) -> None:
        self.url = postgresql.new_database()
        self.bearer = Bearer()
        environment = {"DATABASE_URL": self.url, "REDIS_URL": redis.url}
        environment["BENCH_TOKEN_DIGEST"] = self.bearer.digest
        self.full = web_for_bench(directory / f"{rival}-full", "full", environment)
        self.raw = web_for_bench(directory / rival, rival, environment)
        self.path = path
        migrate(self.full)
        self.bearer.insert(postgresql, self.url)

    def get(self, web: Web) -> httpx.Response:
        return web.get(self.path, headers={"Authorization": self.bearer.header})

    def measure(self) -> list[tuple[Load, Load]]:
        return in_turn(lambda: self._load(self.full), lambda: self._load(self.raw), ROUNDS)

    def _load(self, web: Web) -> Load:
        headers = (f"Authorization: {self.bearer.header}",)
        url = web.url + self.path
        return run(url, seconds=SECONDS, connections=CONNECTIONS, headers=headers)
