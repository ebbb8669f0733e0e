"""Prometheus metrics over all worker processes, bounded when workers come and go.

prometheus-client keeps a file a process and kind. Files of dead workers are merged into one, so
that a scrape's cost depends on the workers alive and not on all that ever lived.
"""

import asyncio
import fcntl
import glob
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.types import Receive, Scope, Send

from service import errors, metric_files
from service.metric_files import LOCK

log = logging.getLogger(__name__)

MERGE_WAIT_SECONDS = 0.2  # the Gunicorn master waits no longer for a scrape to end
SCRAPE_WAIT_SECONDS = 2.0
HEARTBEAT_NAME = "service_worker_heartbeat_timestamp_seconds"
LAG_NAME = "service_event_loop_lag_seconds"
STARTED_AT = time.time()  # of the master, which imports this before it forks
VERSION = version("service")

REQUESTS = Histogram(
    "http_request_duration_seconds",
    "Time to answer a request, by route template; _count is the number of requests",
    ["method", "route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
IN_PROGRESS = Gauge("http_requests_in_progress", "Requests running", multiprocess_mode="livesum")
REFUSED = Counter(
    "service_refused", "What was refused as too many waited before it, by for what", ["turn"]
)
SOCKETS = Gauge("service_websockets_open", "WebSockets open", multiprocess_mode="livesum")
SOCKETS_CLOSED = Counter("service_websockets_closed", "WebSockets that ended, by why", ["reason"])
HEARTBEAT = Gauge(HEARTBEAT_NAME, "When a worker last ran its loop", multiprocess_mode="liveall")
LOOP_LAG = Gauge(LAG_NAME, "How late the loop ran its last timer", multiprocess_mode="liveall")
WORKER_REQUESTS = Gauge(
    "service_worker_requests", "Requests a worker has answered", multiprocess_mode="liveall"
)
WORKER_MEMORY = Gauge(
    "service_worker_memory_bytes",
    "Resident memory of a worker, what it shares with others included",
    multiprocess_mode="liveall",
)
WORKER_EXITS = Counter("service_worker_exits", "Workers that ended, by reason", ["reason"])
for reason in ("stopped", "reloaded", "recycled", "crashed", "timeout"):
    WORKER_EXITS.labels(reason)  # at 0, or the first would not be seen to be one more
CHECK_UP = Gauge(
    "service_check_up", "1 where a health check passes", ["check"], multiprocess_mode="livemin"
)
CHECK_LATENCY = Gauge(
    "service_check_latency_seconds",
    "Latest duration of a check",
    ["check"],
    multiprocess_mode="livemax",
)
# With labels, as what has none is 0 until it is set for the first time.
DISK_FREE = Gauge(
    "service_disk_free_ratio",
    "What is free where uploads are, of bytes and of inodes",
    ["resource"],
    multiprocess_mode="livemin",
)
STARTED = Gauge(
    "service_start_timestamp_seconds",
    "When the process was started that the workers come from",
    ["version"],
    multiprocess_mode="livemin",
)
POOL_SIZE = Gauge(
    "service_database_pool_size", "Connections requests may hold", multiprocess_mode="livesum"
)
POOL_IN_USE = Gauge(
    "service_database_pool_in_use", "Connections requests hold", multiprocess_mode="livesum"
)
JOBS = Gauge(
    "service_jobs",
    "Jobs in the queue, of each status; 10000 are those or more",
    ["status"],
    multiprocess_mode="livemostrecent",
)
JOBS_OLDEST = Gauge(
    "service_jobs_oldest_seconds",
    "How long the oldest job has waited that could run",
    multiprocess_mode="livemostrecent",
)
JOBS_DONE = Counter("service_jobs_done", "Jobs this process finished", ["task", "outcome"])


@contextmanager
def _locked(directory: str, kind: int, wait_seconds: float) -> Iterator[None]:
    """Keeps a scrape from seeing a dead worker's numbers twice or not at all.

    Raises TimeoutError, as a process may be stopped while it holds the lock.
    """
    deadline = time.monotonic() + wait_seconds
    with open(os.path.join(directory, LOCK)) as file:
        while True:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError("metric files are locked") from None
                time.sleep(0.005)
        yield


class _Files:
    """A collector of the metrics in all files. A file is empty for a moment after its making, and
    for good where its process was killed in that moment."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern

    def collect(self) -> Iterable[Metric]:
        files = [path for path in glob.glob(self.pattern) if _size(path)]
        metrics: Iterable[Metric] = MultiProcessCollector.merge(files)
        return metrics


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0


def render() -> bytes:
    """All metrics of all workers as Prometheus text. Reads files: call it in a thread.

    Raises OSError where the files are gone with their master, or locked for too long.
    """
    directory = metric_files.directory()
    if directory is None:
        return generate_latest(REGISTRY)
    with _locked(directory, fcntl.LOCK_SH, SCRAPE_WAIT_SECONDS):
        return generate_latest(_Files(f"{glob.escape(directory)}/*.db"))


def leave_out_master() -> None:
    """Remove the gauges the master's import made: it preloads, but is no worker. The counters and
    histograms that its import gave their labels stay, for every worker to read."""
    if directory := metric_files.directory():
        mark_process_dead(os.getpid(), path=directory)
        _open_to_workers(f"{glob.escape(directory)}/*_{os.getpid()}.db")


def worker_ending(reason: str) -> None:
    """Called by a worker that knows why it ends, for `worker_ended` to find."""
    if directory := metric_files.directory():
        with suppress(OSError):
            Path(directory, f"ending-{os.getpid()}").write_text(reason)


def worker_ended(pid: int, *, timed_out: bool) -> None:
    """Called by the Gunicorn master for each worker that is gone: count it and its reason, and
    fold its counters and histograms into those of all dead workers."""
    directory = metric_files.directory()
    if directory is None:
        return
    note = Path(directory, f"ending-{pid}")
    reason = note.read_text() if note.exists() else ""
    note.unlink(missing_ok=True)
    WORKER_EXITS.labels("timeout" if timed_out else reason or "crashed").inc()
    _open_to_workers(f"{glob.escape(directory)}/counter_{os.getpid()}.db")
    mark_process_dead(pid, path=directory)
    Path(directory, f"dead-{pid}").touch()
    # Where a worker is stopped in the middle of a scrape, it is left to the next end of one.
    with suppress(TimeoutError), _locked(directory, fcntl.LOCK_EX, MERGE_WAIT_SECONDS):
        _merge_dead(directory)


def _open_to_workers(pattern: str) -> None:
    """Workers may be another user's, whatever the master's umask; nobody else gets this far."""
    for path in glob.glob(pattern):
        os.chmod(path, 0o644)


def _merge_dead(directory: str) -> None:
    marks = glob.glob(f"{glob.escape(directory)}/dead-*")
    pids = [os.path.basename(mark).removeprefix("dead-") for mark in marks]
    for kind in ("counter", "histogram"):
        dead = [f"{directory}/{kind}_{pid}.db" for pid in pids]
        merged, draft = f"{directory}/{kind}_merged.db", f"{directory}/{kind}.draft"
        if any(map(_size, dead)):
            Path(draft).unlink(missing_ok=True)
            _write(draft, [path for path in (merged, *dead) if _size(path)])
            _open_to_workers(glob.escape(draft))
            os.replace(draft, merged)
        for path in dead:
            Path(path).unlink(missing_ok=True)
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


# What is told of each worker, by the name it has there.
VITALS = {
    LAG_NAME: "event_loop_lag_seconds",
    "service_worker_requests": "requests",
    "service_worker_memory_bytes": "memory_bytes",
}


def worker_vitals() -> list[dict[str, float | int]]:
    """Process id, heartbeat age, loop lag, requests and memory of each live worker. Reads files:
    use a thread."""
    directory = metric_files.directory()
    source = REGISTRY if directory is None else _Files(f"{glob.escape(directory)}/gauge_liveall_*")
    vitals: dict[int, dict[str, float | int]] = {}
    for metric in source.collect():
        for sample in metric.samples:
            pid = int(sample.labels.get("pid", os.getpid()))
            if metric.name in VITALS:
                vitals.setdefault(pid, {"pid": pid})[VITALS[metric.name]] = sample.value
            elif metric.name == HEARTBEAT_NAME and sample.value:
                age = max(0.0, time.time() - sample.value)
                vitals.setdefault(pid, {"pid": pid})["heartbeat_age_seconds"] = age
    return [
        {name: round(value, 3) for name, value in vitals[pid].items()} for pid in sorted(vitals)
    ]


def collected() -> list[Metric]:
    """All metrics of all workers, as `render` has them. Reads files: call it in a thread.

    Raises OSError.
    """
    directory = metric_files.directory()
    if directory is None:
        return list(REGISTRY.collect())
    with _locked(directory, fcntl.LOCK_SH, SCRAPE_WAIT_SECONDS):
        return list(_Files(f"{glob.escape(directory)}/*.db").collect())


async def sample_forever(gauges: Callable[[], None], *, interval_seconds: float = 0.5) -> None:
    """Measure the loop's lag and refresh the gauges that are read rather than counted."""
    loop = asyncio.get_running_loop()
    STARTED.labels(VERSION).set(STARTED_AT)
    while True:
        HEARTBEAT.set(time.time())
        try:
            gauges()
        except Exception as error:  # such as a file too many: the heart beats on
            log.exception("gauges_failed", extra={"seldom": type(error).__name__})
        due = loop.time() + interval_seconds
        await asyncio.sleep(interval_seconds)
        LOOP_LAG.set(max(0.0, loop.time() - due))


async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
    """`/metrics` as raw ASGI, for GET and HEAD. nginx never publishes it."""
    headers = [(b"cache-control", b"no-store")]
    status, kind = 200, errors.PROBLEM_JSON
    if scope["method"] not in ("GET", "HEAD"):
        status = 405
        headers.append((b"allow", b"GET, HEAD"))
    else:
        try:
            body = await asyncio.to_thread(render)
            kind = CONTENT_TYPE_LATEST
        except OSError:
            status = 503
            headers.append((b"retry-after", b"1"))
    if status != 200:
        body = errors.problem_body(status)
    headers.append((b"content-type", kind.encode()))
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
