"""/metrics of several processes, while they come and go."""

import contextlib
import fcntl
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from servers import Web, clean_environment, wait_until

pytestmark = pytest.mark.alone

MakeWeb = Callable[..., Web]
Environment = dict[str, str]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
REQUESTS = "http_request_duration_seconds_count"
RECYCLES = 100


def parsed(text: str) -> tuple[Samples, dict[str, str]]:
    """(every sample, the type of every family) of a scrape."""
    families = list(text_string_to_metric_families(text))
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }
    return samples, {family.name: family.type for family in families}


def scrape(web: Web) -> Samples:
    """503 while the aggregation is busy."""
    answer = wait_until(lambda: (a := web.get("/metrics")).status_code == 200 and a)
    return parsed(answer.text)[0]


def named(samples: Samples, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    return {labels: value for (found, labels), value in samples.items() if found == name}


def sums(samples: Samples) -> Samples:
    """Those that can only grow: counters and histograms."""
    endings = ("_total", "_bucket", "_count", "_sum")
    return {key: value for key, value in samples.items() if key[0].endswith(endings)}


def counted(samples: Samples, **labels: str) -> float:
    """Requests with all of these labels."""
    wanted = set(labels.items())
    return sum(value for given, value in named(samples, REQUESTS).items() if wanted <= set(given))


def pids(samples: Samples) -> set[int]:
    heartbeats = named(samples, "service_worker_heartbeat_timestamp_seconds")
    return {int(dict(labels)["pid"]) for labels, at in heartbeats.items() if at}


def exits(samples: Samples) -> dict[str, float]:
    """Workers that ended, by reason; those of which there are some."""
    found = named(samples, "service_worker_exits_total").items()
    return {dict(labels)["reason"]: count for labels, count in found if count}


def directory_of(tmp_path: Path) -> Path:
    [directory] = (tmp_path / "shm").glob("service-metrics-*")
    return directory


@pytest.fixture
def web(make_web: MakeWeb, embedded_environment: Environment) -> Web:
    """Two workers, both of which have begun."""
    web = make_web(embedded_environment | {"ACCESS_LOG": "false"})
    wait_until(lambda: pids(scrape(web)) == set(web.workers()))
    return web


def ask(web: Web, method: str, path: str) -> int:
    """The status of one request on a connection of its own, which any worker may take."""
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path)
        return connection.getresponse().status


def test_the_requests_of_all_workers_add_up(web: Web) -> None:
    """Whoever answers the scrape; also once one of them is gone."""
    for _ in range(60):
        assert ask(web, "GET", "/nowhere") == 404
    for _ in range(30):
        assert ask(web, "GET", "/api/accounts/me") == 401
    wait_until(lambda: counted(scrape(web)) == 90)
    for _ in range(6):
        samples = scrape(web)
        assert counted(samples, method="GET", status="404") == 60
        assert counted(samples, route="/api/accounts/me", status="401") == 30
    os.kill(web.workers()[0], signal.SIGKILL)
    wait_until(lambda: exits(scrape(web)))
    assert counted(scrape(web)) == 90


def test_requests_are_counted_by_template_not_by_path(web: Web) -> None:
    """An id in a path makes no series of its own."""
    for number in range(20):
        ask(web, "DELETE", f"/api/keys/00000000-0000-0000-0000-{number:012}")
    wait_until(lambda: counted(scrape(web)) == 20)
    assert counted(scrape(web), route="/api/keys/{key_id}") == 20


def test_strangers_cannot_make_series(web: Web) -> None:
    """A thousand random paths and every method there is: what is unknown is counted together."""
    rng = random.Random(4)
    methods = ["GET", "POST", "PROPFIND", "M-SEARCH", "BREW", "TRACE", "OPTIONS", "PURGE", "LINK"]
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=10)
    before = len(scrape(web))
    for number in range(1000):
        path = f"/{rng.randbytes(8).hex()}/{rng.randbytes(3).hex()}?{number}"
        connection.request(rng.choice(methods), path)
        connection.getresponse().read()
    connection.close()
    after = scrape(web)
    routes = {dict(labels)["route"] for labels in named(after, REQUESTS)}
    assert len(routes) == 1, routes
    assert counted(after) >= 600, "some are refused before they are requests"
    assert len(after) - before < 150


def test_probes_and_scrapes_are_not_counted_as_requests(web: Web) -> None:
    """They would drown the rest, and make every latency look good."""
    for path in ("/health", "/health/live", "/health/ready", "/health/startup", "/metrics"):
        ask(web, "GET", path)
    time.sleep(0.2)
    assert counted(scrape(web)) == 0


def test_everything_one_wants_to_see_is_there(web: Web) -> None:
    """Pool, jobs, checks, loop lag, heartbeat, requests running and ended workers."""
    os.kill(web.workers()[0], signal.SIGKILL)
    wait_until(lambda: exits(scrape(web)))
    ask(web, "GET", "/nowhere")
    wait_until(lambda: named(scrape(web), "service_jobs"), seconds=15)
    wait_until(lambda: pids(scrape(web)) == set(web.workers()))
    text = web.get("/metrics").text
    samples, types = parsed(text)
    assert types == {
        "http_request_duration_seconds": "histogram",
        "http_requests_in_progress": "gauge",
        "service_check_latency_seconds": "gauge",
        "service_check_up": "gauge",
        "service_database_pool_in_use": "gauge",
        "service_database_pool_size": "gauge",
        "service_disk_free_ratio": "gauge",
        "service_event_loop_lag_seconds": "gauge",
        "service_jobs": "gauge",
        "service_refused": "counter",
        "service_start_timestamp_seconds": "gauge",
        "service_worker_exits": "counter",
        "service_websockets_open": "gauge",
        "service_worker_heartbeat_timestamp_seconds": "gauge",
        "service_worker_memory_bytes": "gauge",
        "service_worker_requests": "gauge",
    } | {name: kind for name, kind in types.items() if name.startswith("service_jobs_")}
    assert text.count("# HELP ") == len(types)
    checks = {dict(labels)["check"] for labels in named(samples, "service_check_up")}
    assert {"database", "cache", "disk_space"} <= checks
    assert named(samples, "service_database_pool_size") == {(): 10.0}, "both pools"
    statuses = {dict(labels)["status"] for labels in named(samples, "service_jobs")}
    assert {"todo", "doing", "failed"} <= statuses
    assert exits(samples) == {"crashed": 1.0}
    free = named(samples, "service_disk_free_ratio")
    assert {dict(labels)["resource"] for labels in free} == {"bytes", "inodes"}
    assert all(0 < ratio <= 1 for ratio in free.values())
    [(labels, started_at)] = named(samples, "service_start_timestamp_seconds").items()
    assert dict(labels) == {"version": version("service")}
    assert 0 < time.time() - started_at < 120
    heartbeats = named(samples, "service_worker_heartbeat_timestamp_seconds").values()
    assert all(abs(time.time() - beat) < 5 for beat in heartbeats)


def test_the_master_is_not_listed_as_a_worker(web: Web) -> None:
    """It preloads, and so has metrics; nobody waits for its heartbeat."""
    assert web.process
    for _ in range(4):
        assert pids(scrape(web)) == set(web.workers())
    assert f'pid="{web.process.pid}"' not in web.get("/metrics").text


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGTERM, "stopped"), (signal.SIGKILL, "crashed")]
)
def test_a_worker_that_ended_is_counted_by_its_reason(web: Web, number: int, reason: str) -> None:
    """Each once."""
    os.kill(web.workers()[0], number)
    wait_until(lambda: exits(scrape(web)))
    assert exits(scrape(web)) == {reason: 1.0}


MEASURE = """
import json, resource, time
from service import metrics
metrics.render()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
times = []
for _ in range(10):
    began = time.perf_counter()
    text = metrics.render()
    times.append(time.perf_counter() - began)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([min(times), after - before, len(text)]))
"""


def cost_of_a_scrape(web: Web, directory: Path) -> tuple[float, float, int]:
    """(seconds of it, seconds by HTTP, KiB that ten of them add)."""
    environment = clean_environment(PROMETHEUS_MULTIPROC_DIR=str(directory))
    command = [sys.executable, "-c", MEASURE]
    measured = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds, kilobytes, length = json.loads(measured.stdout)
    assert length > 1000
    by_http = min(web.get("/metrics").elapsed.total_seconds() for _ in range(10))
    return seconds, by_http, kilobytes


@pytest.mark.timeout(300)
def test_a_hundred_recycled_workers_leave_exact_bounded_metrics(
    make_web: MakeWeb, tmp_path: Path, embedded_environment: Environment
) -> None:
    """No sum ever goes back or gets lost, and a scrape costs what it cost before."""
    often = {"MAX_REQUESTS": "4", "MAX_REQUESTS_JITTER": "4", "ACCESS_LOG": "false"}
    web = make_web(embedded_environment | often | {"WEB_CONCURRENCY": "4"})
    directory = directory_of(tmp_path)
    last: Samples = {}
    asked = ended = 0
    for _ in range(8):
        assert ask(web, "GET", "/nowhere") == 404
        asked += 1
    before, before_by_http, _ = cost_of_a_scrape(web, directory)
    end = time.monotonic() + 220
    while ended < RECYCLES:
        assert time.monotonic() < end, f"only {ended} were recycled"
        for _ in range(8):
            assert ask(web, "GET", "/nowhere") == 404
            asked += 1
        samples = sums(scrape(web))
        assert all(samples.get(key, 0) >= value for key, value in last.items())
        last = samples
        ended = int(named(samples, "service_worker_exits_total").get((("reason", "recycled"),), 0))
    wait_until(lambda: counted(scrape(web)) == asked)
    wait_until(lambda: len(web.workers()) == 4)
    # For each of four workers and the master counters, histograms and gauges of six kinds.
    wait_until(lambda: len(list(directory.iterdir())) < 50)
    seconds, by_http, kilobytes = cost_of_a_scrape(web, directory)
    assert seconds <= 3 * before + 0.01
    assert by_http <= 3 * before_by_http + 0.01
    assert kilobytes <= 10 * 1024
    print(f"{asked} requests, {ended} recycled, {len(list(directory.iterdir()))} files")
    print(f"scrape {seconds * 1000:.1f} ms, {by_http * 1000:.1f} ms by HTTP, {kilobytes} KiB")
    print(f"before {before * 1000:.1f} ms, {before_by_http * 1000:.1f} ms by HTTP")


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_worker_stopped_in_the_middle_of_a_scrape_stops_nobody_else(
    web: Web, tmp_path: Path
) -> None:
    """It holds the lock on the files; the master goes on replacing workers, and merges later."""
    directory = directory_of(tmp_path)
    for _ in range(10):
        ask(web, "GET", "/nowhere")
    wait_until(lambda: counted(scrape(web)) == 10)
    [frozen, _] = web.workers()
    with (directory / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # what the worker would hold at that moment
        with stopped(frozen):
            for _ in range(3):
                [victim] = set(web.workers()) - {frozen}
                os.kill(victim, signal.SIGKILL)
                killed = time.monotonic()
                wait_until(lambda old=victim: len(set(web.workers()) - {frozen, old}) == 1)
                assert time.monotonic() - killed < 5
    wait_until(lambda: pids(scrape(web)) == set(web.workers()))
    os.kill(frozen, signal.SIGKILL)
    wait_until(lambda: not list(directory.glob("dead-*")))
    wait_until(lambda: sum(exits(scrape(web)).values()) == 4)
    assert counted(scrape(web)) == 10
