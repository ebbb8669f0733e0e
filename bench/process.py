"""What a process costs: probes from cache, memory, start-up, uploads."""

import asyncio
import contextlib
import os
import secrets
import signal
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil

from bench.account import Bearer
from bench.requests import migrate
from bench.table import Row
from servers import Postgresql, RedisServer, Web, running, wait_until

CALLS = 20_000
UPLOAD_BYTES = 16 * 1024 * 1024  # media
PARALLEL_UPLOADS = 4  # media


def probes(directory: Path) -> list[Row]:
    """Microseconds of live and ready, called as ASGI inside one process, from cached results."""
    from asgi import lifespan
    from service.app import create_app
    from service.migrate import migrate
    from service.settings import Settings

    settings = Settings(
        database_url=f"sqlite:///{directory}/probes.sqlite3",
        upload_folder=str(directory / "uploads"),
        secret_key=secrets.token_urlsafe(32),
        health_interval_seconds=4,
    )

    async def measure() -> dict[str, list[float]]:
        await migrate(settings)
        app = create_app(settings)
        async with lifespan(app):
            while app.health.not_ready():
                await asyncio.sleep(0.01)
            found: dict[str, list[float]] = {}
            for _ in range(7):
                for state in ("live", "ready"):
                    found.setdefault(state, []).append(await _time_calls(app, state))
        return found

    times = asyncio.run(measure())
    return [
        Row("live, microseconds in process", times["live"], at_most=10),
        Row("ready from cache, microseconds in process", times["ready"], at_most=25),
    ]


async def _time_calls(app: Any, state: str) -> float:
    scope = {"type": "http", "method": "GET", "path": f"/health/{state}", "headers": []}

    async def send(message: Any) -> None:
        return None

    began = time.perf_counter()
    for _ in range(CALLS):
        await app(scope, None, send)
    return (time.perf_counter() - began) / CALLS * 1e6


def memory(directory: Path, postgresql: Postgresql, redis: RedisServer) -> list[Row]:
    """Unique memory of a worker, preloaded against not, four workers, after some requests."""
    environment = {"DATABASE_URL": postgresql.new_database(), "REDIS_URL": redis.url}
    environment |= {"WEB_CONCURRENCY": "4", "ACCESS_LOG": "false"}
    shared = Web(directory / "preload", environment)
    alone = Web(directory / "no-preload", environment, config=_without_preload(directory))
    ratios = []
    for _ in range(3):
        sizes = []
        for web in (shared, alone):
            with running(web):
                wait_until(lambda web=web: len(web.workers()) == 4)
                for _ in range(200):
                    web.status("/openapi.json")
                sizes.append(statistics.mean(_unique_mib(pid) for pid in web.workers()))
        ratios.append(sizes)
    note = f"{statistics.median(a for a, _ in ratios):.1f} against "
    note += f"{statistics.median(b for _, b in ratios):.1f} MiB a worker"
    values = [a / b for a, b in ratios]
    return [Row("unique memory, preloaded / not", values, at_most=0.45, note=note)]


def _without_preload(directory: Path) -> Path:
    from servers import ROOT

    path = directory / "no_preload_config.py"
    source = (ROOT / "gunicorn_async_config.py").read_text()
    source = source.replace("preload_app = True", "preload_app = False")
    path.write_text(source.replace("    gc.freeze()\n", ""))
    return path


def _unique_mib(pid: int) -> float:
    return float(psutil.Process(pid).memory_full_info().uss) / 2**20


def startup(directory: Path, postgresql: Postgresql, redis: RedisServer) -> list[Row]:
    """Seconds from exec to the first ready 200, of the service against FastAPI with SQLAlchemy."""
    environment = {"DATABASE_URL": postgresql.new_database(), "REDIS_URL": redis.url}
    ours, theirs = [], []
    for number in range(7):
        for app, times in ((None, ours), ("bench.apps:bare_database()", theirs)):
            arguments = (app,) if app else ()
            web = Web(directory / f"start-{number}", environment, arguments=arguments)
            config = directory / "bare_config.py"
            if app:
                config.write_text(_BARE_CONFIG)
                web.config = config
            times.append(_seconds_to_ready(web))
    ratios = [a / b for a, b in zip(ours[1:], theirs[1:], strict=True)]
    note = f"{statistics.median(ours[1:]):.2f} against {statistics.median(theirs[1:]):.2f} s"
    return [Row("exec to first ready, service / bare", ratios, at_most=1.5, note=note)]


_BARE_CONFIG = """
import os
bind = os.environ["BIND"]
workers = 1
worker_class = "uvicorn_worker.UvicornWorker"
control_socket_disable = True
"""


def _seconds_to_ready(web: Web) -> float:
    began = time.monotonic()
    try:
        web.start(wait=None)
        wait_until(lambda: web.status("/health/ready", timeout=1) == 200, seconds=30, every=0.005)
        return time.monotonic() - began
    finally:
        web.stop(signal.SIGTERM)  # the stock worker would outlive a master that is killed


# media: from here
def upload(directory: Path, postgresql: Postgresql, redis: RedisServer) -> list[Row]:
    """Peak extra memory of the web process for each of several 16 MiB uploads at once."""
    url = postgresql.new_database()
    environment = {"DATABASE_URL": url, "REDIS_URL": redis.url, "ACCESS_LOG": "false"}
    web = Web(directory / "upload", environment)
    migrate(web)
    bearer = Bearer()
    bearer.insert(postgresql, url)
    path = directory / "16MiB.bin"
    path.write_bytes(os.urandom(UPLOAD_BYTES))
    values = []
    with running(web, wait="/health/ready"):
        [worker] = web.workers()
        for _ in range(2):  # warm up: code, pools and threads are not the upload's
            _send(web, bearer, path)
        for _ in range(5):
            before = _reset_peak(worker)
            threads = [
                threading.Thread(target=_send, args=(web, bearer, path))
                for _ in range(PARALLEL_UPLOADS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            values.append((_peak(worker) - before) / PARALLEL_UPLOADS / 1024)
    note = f"{PARALLEL_UPLOADS} at once"
    return [Row("16 MiB upload, extra MiB a request", values, at_most=2.0, note=note)]


def _send(web: Web, bearer: Bearer, path: Path) -> None:
    with path.open("rb") as file:
        answer = httpx.post(
            f"{web.url}/api/media",
            headers={"Authorization": bearer.header},
            files={"file": ("16MiB.bin", file)},
            timeout=60,
        )
    assert answer.status_code == 202, answer.text


def _status_kib(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise LookupError(field)


def _reset_peak(pid: int) -> int:
    """Make the process's peak its present size, and return that in KiB."""
    with contextlib.suppress(PermissionError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _status_kib(pid, "VmRSS")


def _peak(pid: int) -> int:
    return _status_kib(pid, "VmHWM")


# media: to here
