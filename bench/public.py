"""The public listing through nginx's cache, against a file that nginx sends."""

from pathlib import Path

from bench.account import Bearer
from bench.items import insert_items
from bench.load import Load, run
from bench.proxy import measured_nginx, publish, web_behind
from bench.requests import CONNECTIONS, SECONDS, in_turn, migrate, rate_row, web_for_bench
from bench.table import Row
from nginx import KINDS, available
from servers import Postgresql, RedisServer, running, wait_until

ROUNDS = 5
PATH = "/api/public/media"


def public(directory: Path, postgresql: Postgresql, redis: RedisServer) -> list[Row]:
    """20 public items from the cache, and the same bytes as a static file, over TLS."""
    url = postgresql.new_database()
    environment = {"DATABASE_URL": url, "REDIS_URL": redis.url}
    bearer = Bearer()
    migrate(web_for_bench(directory / "public", "full", environment))
    bearer.insert(postgresql, url)
    insert_items(postgresql, url, bearer)
    return [
        _measure(directory / f"public-{kind}", kind, environment)
        for kind in KINDS
        if available(kind)
    ]


def _measure(directory: Path, kind: str, environment: dict[str, str]) -> Row:
    nginx = measured_nginx(directory, kind)
    with running(web_behind(nginx, environment), wait=None), running(nginx):
        wait_until(lambda: nginx.ask(PATH).is_success)
        static = publish(nginx, nginx.ask(PATH).content)
        nginx.line(path=PATH, cache="HIT")
        site = f"https://localhost:{nginx.port}"
        pairs = in_turn(lambda: _load(site + PATH), lambda: _load(site + static), ROUNDS)
    return rate_row(f"public listing from nginx's cache ({kind}) / a static file", pairs, 0.80)


def _load(url: str) -> Load:
    return run(url, seconds=SECONDS, connections=CONNECTIONS)
