"""Metric files: merged without a change of any sum, and bounded. Values are written here as
prometheus-client writes them, for processes that do not exist.
"""

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import values
from prometheus_client.parser import text_string_to_metric_families

from servers import children, has_ended, wait_until
from service import metric_files, metrics
from sockets import until

BUCKETS = ("0.1", "1.0", "+Inf")
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A master's directory, with the locks in it and no metrics."""
    monkeypatch.setenv(metric_files.DIRECTORY_VARIABLE, str(tmp_path))
    (tmp_path / metric_files.LOCK).touch()
    return tmp_path


def write(pid: int) -> Callable[..., None]:
    """A function that adds to metrics as the process `pid` would."""
    value_class = values.MultiProcessValue(lambda: pid)
    known: dict[Any, Any] = {}

    def add(amount: float, kind: str, metric: str, sample: str, mode: str = "", **labels: str):
        names, texts = tuple(labels), tuple(labels.values())
        key = (kind, metric, sample, texts)
        if key not in known:
            arguments = (kind, metric, sample, names, texts, "help")
            known[key] = value_class(*arguments, multiprocess_mode=mode)
        known[key].inc(amount)

    return add


def observe(add: Callable[..., None], seconds: float, **labels: str) -> None:
    """What a histogram writes for one observation."""
    add(seconds, "histogram", "latency", "latency_sum", **labels)
    first = next(text for text in BUCKETS if seconds <= float(text))
    for text in BUCKETS:
        add(text == first, "histogram", "latency", "latency_bucket", **labels, le=text)


def scrape() -> Samples:
    """Every sample of a scrape, as Prometheus would read it."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def without_exits(samples: Samples) -> Samples:
    return {key: value for key, value in samples.items() if "worker_exits" not in key[0]}


def end(pid: int, *, timed_out: bool = False) -> None:
    metrics.worker_ended(pid, timed_out=timed_out)


@pytest.mark.parametrize("seed", range(5))
def test_merging_changes_no_sum(directory: Path, seed: int) -> None:
    """Counters and histograms of any shape, merged in any order, add up to what they did."""
    rng = random.Random(seed)
    labels = [{"a": text, "b": text[::-1]} for text in ("x", 'q"\\', "ü\n", "", "a,b={}")]
    pids = range(100, 112)
    for pid in pids:
        add = write(pid)
        for _ in range(rng.randrange(60)):
            add(rng.choice((1, 0.25, 1e9)), "counter", "hits", "hits_total", **rng.choice(labels))
            observe(add, rng.choice((0.05, 0.5, 5)), **rng.choice(labels))
    before = scrape()
    assert before
    for pid in rng.sample(pids, len(pids)):
        end(pid)
        assert without_exits(scrape()) == pytest.approx(before)
    assert sorted(path.name for path in directory.glob("*_1??.db")) == []


def test_histograms_stay_consistent_when_merged_again_and_again(directory: Path) -> None:
    """Buckets are cumulative in a scrape but not in the files: summing up sums would multiply."""
    for pid in range(200, 220):
        observe(write(pid), 0.05)
        observe(write(pid), 5.0)
        end(pid)
    samples = scrape()
    assert samples["latency_count", ()] == 40
    assert samples["latency_bucket", (("le", "0.1"),)] == 20
    assert samples["latency_bucket", (("le", "1.0"),)] == 20
    assert samples["latency_bucket", (("le", "+Inf"),)] == 40
    assert samples["latency_sum", ()] == pytest.approx(20 * 5.05)


def test_what_a_merge_leaves_is_still_added_to(directory: Path) -> None:
    """Dead workers' sums and living workers' go together."""
    write(300)(2, "counter", "hits", "hits_total", a="x")
    end(300)
    write(301)(3, "counter", "hits", "hits_total", a="x")
    assert scrape()["hits_total", (("a", "x"),)] == 5


def test_gauges_of_a_dead_worker_are_gone(directory: Path) -> None:
    """Its heartbeat would only get older."""
    write(400)(1, "gauge", "beat", "beat", "liveall")
    assert scrape()["beat", (("pid", "400"),)] == 1
    end(400)
    assert not any(name == "beat" for name, _ in scrape())


def test_the_number_of_files_does_not_grow(directory: Path) -> None:
    """Whatever the number of workers that ever lived."""
    counts = []
    for pid in range(500, 540):
        add = write(pid)
        add(1, "counter", "hits", "hits_total")
        observe(add, 1.0)
        add(1, "gauge", "beat", "beat", "liveall")
        end(pid)
        counts.append(len(list(directory.iterdir())))
    assert max(counts) == counts[0]


def test_a_worker_killed_while_it_made_its_file_harms_nobody(directory: Path) -> None:
    """The file is empty then: a scrape passes over it, and so does the merge."""
    write(600)(1, "counter", "hits", "hits_total")
    for kind in ("counter", "histogram", "gauge_liveall"):
        (directory / f"{kind}_601.db").touch()
    assert scrape()["hits_total", ()] == 1
    end(601)
    end(600)
    assert scrape()["hits_total", ()] == 1
    assert not list(directory.glob("*_60?.db"))


def test_a_worker_killed_while_it_added_a_value_loses_that_one_alone(directory: Path) -> None:
    """The entry is written, and only then counted in the file's head."""
    add = write(700)
    add(4, "counter", "hits", "hits_total")
    path = directory / "counter_700.db"
    used = int.from_bytes(path.read_bytes()[:4], sys.byteorder)
    with path.open("r+b") as file:  # half an entry behind the last one
        file.seek(used)
        file.write(b'\x40\x00\x00\x00["hits')
    end(700)
    assert scrape()["hits_total", ()] == 4


def test_values_are_never_seen_torn(directory: Path) -> None:
    """One process counts under the eyes of another: never back, and never by a part."""
    program = (
        "from prometheus_client import Counter\n"
        "c = Counter('hits', 'help')\n"
        "print('ready', flush=True)\n"
        "while True: c.inc(4096.5)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        last = 0.0
        for _ in range(200):
            value = scrape()["hits_total", ()]
            assert value >= last
            assert value % 4096.5 == 0
            last = value
        process.kill()
        process.wait()
        end(process.pid)
        final = scrape()["hits_total", ()]
        assert final >= last
        assert final % 4096.5 == 0


def test_scrapes_during_merges_never_go_back(directory: Path) -> None:
    """Readers run while workers die: a sum is never missing nor counted twice."""
    stop = threading.Event()
    seen: list[float] = []

    def watch() -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                seen.append(scrape()["hits_total", ()])

    write(800)(1, "counter", "hits", "hits_total")
    reader = threading.Thread(target=watch)
    reader.start()
    for pid in range(801, 880):
        write(pid)(1, "counter", "hits", "hits_total")
        end(pid)
    stop.set()
    reader.join()
    assert seen == sorted(seen)
    assert scrape()["hits_total", ()] == 80


def exits() -> dict[str, float]:
    name = "service_worker_exits_total"
    return {
        sample.labels["reason"]: sample.value
        for sample in metrics.WORKER_EXITS.collect()[0].samples
        if sample.name == name
    }


@pytest.mark.parametrize(
    ("note", "timed_out", "reason"),
    [
        ("recycled", False, "recycled"),
        ("stopped", False, "stopped"),
        ("", False, "crashed"),
        ("stopped", True, "timeout"),
        ("", True, "timeout"),
    ],
)
def test_every_end_of_a_worker_is_counted_once(
    directory: Path, note: str, timed_out: bool, reason: str
) -> None:
    """Under the reason it gave itself, if Gunicorn did not have to end it."""
    if note:
        (directory / "ending-900").write_text(note)
    before = exits()
    end(900, timed_out=timed_out)
    after = exits()
    assert after.pop(reason) == before.pop(reason, 0) + 1
    assert after == before
    assert not (directory / "ending-900").exists()


def test_a_worker_notes_why_it_ends(directory: Path) -> None:
    """Where its master will look."""
    metrics.worker_ending("recycled")
    assert (directory / f"ending-{os.getpid()}").read_text() == "recycled"


@contextlib.contextmanager
def stopped_scrape(directory: Path, kind: int) -> Iterator[None]:
    """Somebody who holds the lock and does not go on."""
    with (directory / metric_files.LOCK).open() as file:
        fcntl.flock(file, kind)
        yield


def test_a_stopped_scrape_does_not_stop_the_master(directory: Path) -> None:
    """It has workers to replace; the merge is made up for when the next worker ends."""
    write(1000)(1, "counter", "hits", "hits_total")
    with stopped_scrape(directory, fcntl.LOCK_SH):
        began = time.monotonic()
        end(1000)
        assert time.monotonic() - began < 1
        assert scrape()["hits_total", ()] == 1
    end(1001)
    assert scrape()["hits_total", ()] == 1
    assert not list(directory.glob("dead-*"))
    assert not (directory / "counter_1000.db").exists()


def test_a_stopped_merge_does_not_stop_scrapes_for_ever(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is 503, and the thread is free again."""
    monkeypatch.setattr(metrics, "SCRAPE_WAIT_SECONDS", 0.1)
    with stopped_scrape(directory, fcntl.LOCK_EX):
        status, headers, body = ask("GET")
    assert (status, headers[b"retry-after"]) == (503, b"1")
    assert headers[b"content-type"] == b"application/problem+json"
    assert json.loads(body)["status"] == 503
    assert ask("GET")[0] == 200


def ask(method: str) -> tuple[int, dict[bytes, bytes], bytes]:
    """The answer of the endpoint."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    asyncio.run(metrics.endpoint({"type": "http", "method": method}, receive, send))
    start, body = sent
    return start["status"], dict(start["headers"]), body["body"]


def test_the_endpoint_answers_in_the_format_of_prometheus(directory: Path) -> None:
    """With a type that says so, and never from a cache."""
    write(1100)(1, "counter", "hits", "hits_total")
    status, headers, body = ask("GET")
    assert status == 200
    assert headers[b"content-type"].startswith(b"text/plain; version=")
    assert headers[b"cache-control"] == b"no-store"
    assert body.endswith(b"hits_total 1.0\n")
    assert int(headers[b"content-length"]) == len(body)


def test_head_has_the_headers_of_get_and_no_body(directory: Path) -> None:
    """RFC 9110 section 9.3.2."""
    write(1101)(1, "counter", "hits", "hits_total")
    status, headers, body = ask("HEAD")
    assert (status, body) == (200, b"")
    assert headers[b"content-length"] == ask("GET")[1][b"content-length"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(directory: Path, method: str) -> None:
    """With the methods that are not."""
    status, headers, body = ask(method)
    assert (status, headers[b"allow"]) == (405, b"GET, HEAD")
    assert headers[b"content-type"] == b"application/problem+json"
    assert json.loads(body)["title"] == "Method Not Allowed"


def test_a_scrape_of_a_master_that_is_gone_is_answered(directory: Path) -> None:
    """Its workers drain a little longer than its directory lasts."""
    (directory / metric_files.LOCK).unlink()
    assert ask("GET")[0] == 503


def test_vitals_read_only_what_they_need(directory: Path) -> None:
    """They are read every second; the files of requests may be large."""
    now = time.time()
    add = write(1200)
    add(now - 2, "gauge", metrics.HEARTBEAT_NAME, metrics.HEARTBEAT_NAME, "liveall")
    add(0.25, "gauge", metrics.LAG_NAME, metrics.LAG_NAME, "liveall")
    (directory / "histogram_1200.db").write_bytes(b"\xff" * 100)  # would be noticed
    [vitals] = metrics.worker_vitals()
    assert vitals.pop("heartbeat_age_seconds") == pytest.approx(2, abs=1)
    assert vitals == {"pid": 1200, "event_loop_lag_seconds": 0.25}


def test_a_worker_that_has_not_begun_has_no_age(directory: Path) -> None:
    """Zero is where its clock stands, not when its heart beat."""
    add = write(1300)
    add(0, "gauge", metrics.HEARTBEAT_NAME, metrics.HEARTBEAT_NAME, "liveall")
    add(0, "gauge", metrics.LAG_NAME, metrics.LAG_NAME, "liveall")
    assert metrics.worker_vitals() == [{"pid": 1300, "event_loop_lag_seconds": 0.0}]


def test_the_heart_beats_from_the_first_moment() -> None:
    """And the gauges that are read are, before anybody can ask."""
    before = metrics.HEARTBEAT._value.get()
    read: list[float] = []

    async def sample() -> None:
        running = asyncio.create_task(metrics.sample_forever(lambda: read.append(time.time())))
        await asyncio.sleep(0)
        running.cancel()

    asyncio.run(sample())
    assert len(read) == 1
    assert metrics.HEARTBEAT._value.get() > before


def test_the_heart_beats_on_where_a_gauge_cannot_be_read(
    log_lines: list[dict[str, Any]],
) -> None:
    beats: list[float] = []

    def fail() -> None:
        beats.append(time.time())
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def sample() -> None:
        running = asyncio.create_task(metrics.sample_forever(fail, interval_seconds=0.01))
        await until(lambda: running.done() or len(beats) > 2)
        running.cancel()

    asyncio.run(sample())
    assert len(beats) > 2
    assert log_lines[0]["message"] == "gauges_failed"


PREPARE = """
import json, os, sys, time
from service import metric_files
metric_files.prepare_directory(sys.argv[1], os.getuid(), os.getgid())
first = metric_files.directory()
metric_files.prepare_directory(sys.argv[1], os.getuid(), os.getgid())
assert metric_files.directory() == first
from service import metrics
metrics.REQUESTS.labels("GET", "/", "200").observe(1)
metrics.leave_out_master()
print(json.dumps([first, sorted(os.listdir(first))]), flush=True)
if sys.argv[2:] == ["fork"] and os.fork() == 0:
    time.sleep(60)
sys.stdin.read()
"""


@contextlib.contextmanager
def preparing(
    parent: Path, *more: str
) -> Iterator[tuple[subprocess.Popen[bytes], Path, list[str]]]:
    """(a process with a directory of its own, the directory, the names in it)."""
    command = [sys.executable, "-c", PREPARE, str(parent), *more]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        path, names = json.loads(process.stdout.readline())
        yield process, Path(path), names
        process.kill()


def test_a_directory_is_closed_to_others_and_goes_with_its_master(tmp_path: Path) -> None:
    """Also of one that never got as far as serving: `gunicorn --check-config`."""
    with preparing(tmp_path) as (process, path, _):
        assert path.stat().st_mode & 0o077 == 0
        process.communicate(b"")
        assert process.returncode == 0
        assert list(tmp_path.iterdir()) == []


def test_the_master_is_not_listed_as_a_worker(tmp_path: Path) -> None:
    """Its import of the metrics made gauges."""
    with preparing(tmp_path) as (process, _, names):
        kinds = ("counter", "histogram")
        assert names == [*(f"{kind}_{process.pid}.db" for kind in kinds), "lock", "owner"]


def test_a_killed_masters_directory_is_removed_by_the_next_master(tmp_path: Path) -> None:
    """Or memory would fill with every crash."""
    with preparing(tmp_path) as (process, path, _):
        process.kill()
        process.wait()
        assert path.exists()
        with preparing(tmp_path) as (_, second, _):
            assert [second] == list(tmp_path.iterdir())


def test_the_directory_of_a_living_master_is_left_alone(tmp_path: Path) -> None:
    """Two services may share a machine, and two containers this directory."""
    with preparing(tmp_path) as (_, first, _), preparing(tmp_path) as (_, second, _):
        assert {first, second} == set(tmp_path.iterdir())


def test_a_directory_in_use_by_orphaned_workers_is_left_alone(tmp_path: Path) -> None:
    """They drain, and are scraped a last time."""
    with preparing(tmp_path, "fork") as (process, first, _):
        [worker] = wait_until(lambda: children(process.pid))
        process.kill()
        process.wait()
        with preparing(tmp_path):
            assert first.exists()
        os.kill(worker, 9)
        wait_until(lambda: has_ended(worker))
        with preparing(tmp_path):
            assert not first.exists()


def test_what_somebody_else_put_there_is_left_alone(tmp_path: Path) -> None:
    """A name is no proof."""
    stranger = tmp_path / f"{metric_files.PREFIX}stranger"
    stranger.mkdir()
    (stranger / "file").touch()
    with preparing(tmp_path):
        assert (stranger / "file").exists()


def test_a_new_master_does_not_take_the_directory_it_inherits(tmp_path: Path) -> None:
    """USR2 starts one with the environment of the old, which goes on serving."""
    program = (
        "import os, sys\n"
        "from service import metric_files\n"
        "metric_files.prepare_directory(sys.argv[1], os.getuid(), os.getgid())\n"
        "print(metric_files.directory(), flush=True)\n"
        "if len(sys.argv) == 2:\n"
        "    os.execv(sys.executable, [sys.executable, '-c', sys.orig_argv[2], sys.argv[1], 'x'])\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    first, second = out.split()
    assert first != second
