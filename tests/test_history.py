"""The last quarter of an hour, as all workers of a master keep it together."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from service import history, metrics
from service.history import EVERY_SECONDS, KEPT_SECONDS, History


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a master's workers have their files; what they count is left out."""
    monkeypatch.setattr(history.metric_files, "directory", lambda: str(tmp_path))
    monkeypatch.setattr(metrics, "collected", list)
    return tmp_path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which stands still."""
    now = [1_800_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def kept(directory: Path) -> list[dict[str, float]]:
    """The samples, each after its time."""
    lines = [line.split(" ", 1) for line in (directory / "history").read_text().splitlines()]
    found = [json.loads(sample) for _, sample in lines]
    assert [float(at) for at, _ in lines] == [sample["at"] for sample in found]
    return found


def add(directory: Path, clock: list[float], seconds: float = EVERY_SECONDS) -> None:
    """A sample, after some time, where it is due."""
    clock[0] += seconds
    History(lambda: {"cpu_percent": 7.0}).add_if_due()
    newest = kept(directory)[-1]["at"]
    os.utime(directory / "history", (newest, newest))  # for the kernel it is another time


def test_it_is_added_to_every_five_seconds_whoever_looks(
    directory: Path, clock: list[float]
) -> None:
    for seconds in (0, 1, 3.6, 1, 4.6):
        add(directory, clock, seconds)
    assert [round(sample["at"] - clock[0], 1) for sample in kept(directory)] == [-10.2, -5.6, 0]


def test_it_ends_a_quarter_of_an_hour_ago(directory: Path, clock: list[float]) -> None:
    for _ in range(200):
        add(directory, clock)
    samples = kept(directory)
    assert len(samples) == KEPT_SECONDS / EVERY_SECONDS
    assert samples[-1]["at"] - samples[0]["at"] < KEPT_SECONDS


def test_a_clock_that_was_set_back_stops_nothing(directory: Path, clock: list[float]) -> None:
    add(directory, clock)
    add(directory, clock, -3600)
    add(directory, clock)
    assert [sample["at"] for sample in kept(directory)] == [clock[0] - 5, clock[0]]


def test_who_asks_again_gets_what_is_new(directory: Path, clock: list[float]) -> None:
    for _ in range(3):
        add(directory, clock)
    shown = History(dict).since(clock[0] - EVERY_SECONDS)
    assert shown == {"at": [clock[0]], "cpu_percent": [7.0]}
    assert History(dict).since(clock[0]) == {}
    assert len(History(dict).since(0)["at"]) == 3


def test_a_value_that_was_not_there_before_is_null_there(
    directory: Path, clock: list[float]
) -> None:
    add(directory, clock)
    clock[0] += EVERY_SECONDS
    History(lambda: {"memory_percent": 3.0}).add_if_due()
    columns = History(dict).since(0)
    assert columns["memory_percent"] == [None, 3.0]
    assert columns["cpu_percent"] == [7.0, None]


def test_of_workers_that_look_at_once_one_adds(directory: Path) -> None:
    barrier = multiprocessing.get_context("fork").Barrier(4)

    def look() -> None:
        barrier.wait()
        for _ in range(20):
            History(dict).add_if_due()

    workers = [multiprocessing.get_context("fork").Process(target=look) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len(kept(directory)) == 1
    assert {path.name for path in directory.iterdir()} == {"history", "history.lock"}


def test_its_numbers_are_those_of_the_metrics(clock: list[float]) -> None:
    """Of a process that is alone."""
    alone = History(dict)
    alone.add_if_due()
    for status, seconds in (("200", 0.003), ("404", 0.02), ("503", 20)):
        metrics.REQUESTS.labels("GET", "/of-the-test", status).observe(seconds)
    metrics.LOOP_LAG.set(0.25)
    clock[0] += EVERY_SECONDS
    alone.add_if_due()
    columns = alone.since(0)

    def gained(name: str) -> float:
        before, after = columns[name]
        return (after or 0) - (before or 0)

    assert [gained(f"requests_{n}xx") for n in (2, 4, 5)] == [1, 1, 1]
    assert [gained(f"took_{le}") for le in ("0.005", "0.025", "10.0", "+Inf")] == [1, 2, 2, 3]
    assert columns["loop_lag_seconds"][-1] == 0.25
