"""Prometheus metrics over all worker processes, bounded when workers come and go.

prometheus-client keeps a file a process and kind. Files of dead workers are merged into one, so
that a scrape's cost depends on the workers alive and not on all that ever lived.
"""

import asyncio
import fcntl
import glob
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.types import Receive, Scope, Send

from service.metric_files import DIRECTORY_VARIABLE

CONTENT_TYPE = CONTENT_TYPE_LATEST
MERGE_WAIT_SECONDS = 0.2  # the Gunicorn master waits no longer for a scrape to end

REQUESTS = Histogram(
    "http_request_duration_seconds",
    "Time to answer a request, by route template; _count is the number of requests",
    ["method", "route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
IN_PROGRESS = Gauge("http_requests_in_progress", "Requests running", multiprocess_mode="livesum")
HEARTBEAT = Gauge(
    "service_worker_heartbeat_timestamp_seconds",
    "When a worker last ran its loop",
    multiprocess_mode="liveall",
)
LOOP_LAG = Gauge(
    "service_event_loop_lag_seconds",
    "How late the loop ran its last timer",
    multiprocess_mode="liveall",
)
WORKER_EXITS = Counter("service_worker_exits", "Workers that ended, by reason", ["reason"])
CHECK_UP = Gauge(
    "service_check_up", "1 where a health check passes", ["check"], multiprocess_mode="livemin"
)
CHECK_LATENCY = Gauge(
    "service_check_latency_seconds",
    "Latest duration of a check",
    ["check"],
    multiprocess_mode="livemax",
)
POOL_SIZE = Gauge(
    "service_database_pool_size", "Connections requests may hold", multiprocess_mode="livesum"
)
POOL_IN_USE = Gauge(
    "service_database_pool_in_use", "Connections requests hold", multiprocess_mode="livesum"
)
JOBS = Gauge("service_jobs", "Jobs in the queue", ["status"], multiprocess_mode="livemostrecent")
JOBS_DONE = Counter("service_jobs_done", "Jobs this process finished", ["task", "outcome"])


@contextmanager
def _lock(directory: str, kind: int) -> Iterator[None]:
    """Keeps a scrape from seeing a dead worker's numbers twice or not at all."""
    with open(os.path.join(directory, "lock"), "a") as file:
        fcntl.flock(file, kind)
        yield


def render() -> bytes:
    """All metrics of all workers as Prometheus text. Reads files: call it in a thread."""
    directory = os.environ.get(DIRECTORY_VARIABLE)
    if not directory:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=directory)
    with _lock(directory, fcntl.LOCK_SH):
        return generate_latest(registry)


def leave_out_master() -> None:
    """Remove the gauges the master's import made: it preloads, but is no worker."""
    if directory := os.environ.get(DIRECTORY_VARIABLE):
        mark_process_dead(os.getpid(), path=directory)


def worker_ended(pid: int, *, timed_out: bool) -> None:
    """Called by the Gunicorn master for each worker that is gone."""
    WORKER_EXITS.labels("timeout" if timed_out else "other").inc()
    forget_worker(pid)


def forget_worker(pid: int) -> None:
    """Fold a dead worker's counters and histograms into those of all dead workers."""
    directory = os.environ.get(DIRECTORY_VARIABLE)
    if not directory:
        return
    mark_process_dead(pid, path=directory)
    Path(directory, f"dead-{pid}").touch()
    deadline = time.monotonic() + MERGE_WAIT_SECONDS
    while True:
        try:
            with _lock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB):
                _merge_dead(directory)
                return
        except BlockingIOError:
            # A worker stopped in the middle of a scrape must not stop the master: next time then.
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)


def _merge_dead(directory: str) -> None:
    marks = glob.glob(os.path.join(directory, "dead-*"))
    pids = [os.path.basename(mark).removeprefix("dead-") for mark in marks]
    for kind in ("counter", "histogram"):
        dead = [path for pid in pids if os.path.exists(path := f"{directory}/{kind}_{pid}.db")]
        merged = f"{directory}/{kind}_merged.db"
        if not dead:
            continue
        draft = f"{directory}/{kind}.draft"
        Path(draft).unlink(missing_ok=True)
        _write(draft, dead + [merged] * os.path.exists(merged))
        os.replace(draft, merged)
        for path in dead:
            os.unlink(path)
    for mark in marks:
        os.unlink(mark)


def _write(path: str, sources: list[str]) -> None:
    values = MmapedDict(path)
    try:
        for metric in MultiProcessCollector.merge(sources, accumulate=False):
            for sample in metric.samples:
                names, labels = list(sample.labels), list(sample.labels.values())
                key = mmap_key(metric.name, sample.name, names, labels, metric.documentation)
                values.write_value(key, sample.value, 0)
    finally:
        values.close()


def worker_vitals() -> list[dict[str, float | int]]:
    """Process id, heartbeat age and loop lag of each live worker. Reads files: use a thread."""
    directory = os.environ.get(DIRECTORY_VARIABLE)
    registry: CollectorRegistry = REGISTRY
    if directory:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=directory)
    vitals: dict[int, dict[str, float | int]] = {}
    fields = {
        "service_worker_heartbeat_timestamp_seconds": "heartbeat_age_seconds",
        "service_event_loop_lag_seconds": "event_loop_lag_seconds",
    }
    for metric in registry.collect():
        if (field := fields.get(metric.name)) is None:
            continue
        for sample in metric.samples:
            pid = int(sample.labels.get("pid", os.getpid()))
            value = sample.value
            if field == "heartbeat_age_seconds":
                value = max(0.0, time.time() - value)
            vitals.setdefault(pid, {"pid": pid})[field] = round(value, 3)
    return [vitals[pid] for pid in sorted(vitals)]


async def sample_forever(gauges: Callable[[], None], *, interval_seconds: float = 0.5) -> None:
    """Measure the loop's lag and refresh the gauges that are read rather than counted."""
    loop = asyncio.get_running_loop()
    while True:
        HEARTBEAT.set(time.time())
        gauges()
        due = loop.time() + interval_seconds
        await asyncio.sleep(interval_seconds)
        LOOP_LAG.set(max(0.0, loop.time() - due))


async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
    """`/metrics` as raw ASGI. nginx never publishes it."""
    body = await asyncio.to_thread(render)
    headers = [
        (b"content-type", CONTENT_TYPE.encode()),
        (b"cache-control", b"no-store"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
