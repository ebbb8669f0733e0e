"""Requests per second through nginx, against the app alone and against a file that nginx sends."""

import hashlib
import statistics
from pathlib import Path

from bench.load import Load, run
from bench.requests import CONNECTIONS, SECONDS, web_for_bench
from bench.table import Row
from nginx import KINDS, Nginx, available
from servers import Postgresql, RedisServer, Web, running

ROUNDS = 7
# A single client that asks as fast as it can; nginx counts in milliseconds.
BURSTS = (("burst=20 ", "burst=9999 "), ("burst=200 ", "burst=9999 "))
RATES = {"API_RATE": "900000r/s", "MEDIA_RATE": "900000r/s", "LOGIN_RATE": "900000r/s"}


def proxy(directory: Path, postgresql: Postgresql, redis: RedisServer) -> list[Row]:
    """The trivial JSON route three ways, over kept connections: the app itself, by TCP without TLS;
    through nginx as it ships, over TLS and a Unix socket; and, as nginx's own best, a static file
    of the same bytes over TLS."""
    environment = {"DATABASE_URL": postgresql.new_database(), "REDIS_URL": redis.url}
    return [
        row
        for kind in KINDS
        if available(kind)
        for row in _measure(directory / kind, kind, environment)
    ]


def measured_nginx(directory: Path, kind: str, processes: str = "1") -> Nginx:
    """nginx as it ships, but for its processes, and limits that a benchmark does not reach."""
    directory.mkdir(parents=True)
    environment = {**RATES, "WORKER_PROCESSES": processes}
    return Nginx(directory / "nginx", kind, environment, BURSTS, name="localhost")


def web_behind(nginx: Nginx, environment: dict[str, str]) -> Web:
    """The service on the socket that this nginx asks."""
    bind = {"BIND": nginx.variables()["UPSTREAM"]}
    return web_for_bench(nginx.directory.parent / "behind", "full", environment | bind)


def _measure(directory: Path, kind: str, environment: dict[str, str]) -> list[Row]:
    nginx = measured_nginx(directory, kind)
    direct = web_for_bench(directory / "direct", "full", environment)
    behind = web_behind(nginx, environment)
    with running(direct), running(behind, wait=None), running(nginx):
        trivial = f"{direct.url}/trivial"
        static = publish(nginx, direct.get("/trivial").content)
        site = f"https://localhost:{nginx.port}"
        ways = {"app": trivial, "proxied": f"{site}/trivial", "static": f"{site}{static}"}
        rounds: list[dict[str, Load]] = []
        for number in range(ROUNDS + 1):
            order = list(ways) if number % 2 else list(reversed(ways))
            rounds.append({way: _load(ways[way]) for way in order})
    return _rows(kind, rounds[1:])


def publish(nginx: Nginx, content: bytes) -> str:
    """The path of a static file with this content."""
    name = f"file.{hashlib.sha256(content).hexdigest()[:12]}.json"
    (nginx.folder("static") / name).write_bytes(content)
    return f"/static/{name}"


def _load(url: str) -> Load:
    return run(url, seconds=SECONDS, connections=CONNECTIONS)


def _rows(kind: str, rounds: list[dict[str, Load]]) -> list[Row]:
    failed = sum(load.failed for loads in rounds for load in loads.values())
    assert failed == 0, f"{failed} failed requests"
    rates = {
        way: [loads[way].requests_per_second for loads in rounds]
        for way in ("app", "proxied", "static")
    }
    medians = {way: statistics.median(values) for way, values in rates.items()}
    note = f"{medians['proxied']:,.0f} against {{:,.0f}} requests/s"
    return [
        Row(
            f"trivial route through nginx ({kind}) / {what}",
            [a / b for a, b in zip(rates["proxied"], rates[way], strict=True)],
            note=note.format(medians[way]),
        )
        for way, what in (("app", "the app alone"), ("static", "a static file"))
    ]
