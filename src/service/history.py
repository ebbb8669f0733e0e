"""The last quarter of an hour of this replica, as its operators look at it.

One sample each five seconds, which all workers share: it lies beside their metric files, whoever
finds that it is time adds to it, and it outlives every one of them.
"""

import fcntl
import json
import os
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from service import metric_files, metrics

EVERY_SECONDS = 5.0
EARLY_SECONDS = 0.5  # as no two workers look at the same moment
KEPT_SECONDS = 900.0
NAME = "history"
# Metrics that samples have, by the names they have there; those with labels have theirs behind it.
PLAIN = {
    "service_refused_total": "refused",
    "http_requests_in_progress": "in_progress",
    "service_websockets_open": "websockets",
    "service_database_pool_size": "pool_size",
    "service_database_pool_in_use": "pool_in_use",
    "service_jobs_oldest_seconds": "oldest_job_seconds",
    metrics.LAG_NAME: "loop_lag_seconds",
}
LABELLED = {
    "service_jobs": "jobs",
    "service_check_up": "up",
    "service_check_latency_seconds": "latency",
}

Sample = dict[str, float]


class History:
    """`machine` gives what else belongs into a sample. Reads and writes files: use a thread."""

    def __init__(self, machine: Callable[[], Sample]) -> None:
        self.machine = machine
        self._own: list[str] = []  # of a process that has no others
        self._own_at = float("-inf")

    def add_if_due(self) -> None:
        """Raises OSError where the files are gone with their master."""
        directory = metric_files.directory()
        if directory is None:
            if _is_due(self._own_at):
                self._own_at = time.time()
                self._own = self._with_new(self._own)
            return
        path = Path(directory, NAME)
        if _is_due(_written_at(path)):
            with _locked(path.with_suffix(".lock")) as mine:
                if mine and _is_due(_written_at(path)):
                    _write(path, self._with_new(_read(path)))

    def _with_new(self, lines: Sequence[str]) -> list[str]:
        now = time.time()
        kept = [line for line in lines if now - KEPT_SECONDS < _at(line) <= now]
        sample = {"at": round(now, 1), **_totals(), **self.machine()}
        return [*kept, f"{sample['at']} {json.dumps(sample, separators=(',', ':'))}"]

    def since(self, moment: float) -> dict[str, Any]:
        """Samples later than a moment, as a column each; null where a sample has no such value."""
        directory = metric_files.directory()
        lines = self._own if directory is None else _read(Path(directory, NAME))
        newer = [json.loads(line.partition(" ")[2]) for line in lines if _at(line) > moment]
        names = dict.fromkeys(name for sample in newer for name in sample)
        return {name: [sample.get(name) for sample in newer] for name in names}


def _at(line: str) -> float:
    """When it was taken. A line has that before the sample, so that those which only move on need
    not be parsed."""
    return float(line.partition(" ")[0])


def _totals() -> Sample:
    """Over all live workers, and of counts over all that ever lived.

    `requests_2xx` and the like, `took_0.005` ... `took_+Inf` (requests that took no longer) and
    `refused` are counts since the master's start.
    """
    sums: Sample = defaultdict(float)
    for metric in metrics.collected():
        for sample in metric.samples:
            if name := _name(sample.name, sample.labels):
                largest = sample.name == metrics.LAG_NAME
                sums[name] = max(sums[name], sample.value) if largest else sums[name] + sample.value
    return {name: round(value, 6) for name, value in sums.items()}


def _name(metric: str, labels: Mapping[str, str]) -> str:
    if metric == "http_request_duration_seconds_count":
        return f"requests_{labels['status'][0]}xx"
    if metric == "http_request_duration_seconds_bucket":
        return f"took_{labels['le']}"
    if metric in LABELLED:
        return f"{LABELLED[metric]}_{next(iter(labels.values()))}"
    return PLAIN.get(metric, "")


def _is_due(written_at: float) -> bool:
    """Also where the clock was set back."""
    age = time.time() - written_at
    return age < 0 or age >= EVERY_SECONDS - EARLY_SECONDS


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("-inf")


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether this process may write: where another does, there is nothing left to do."""
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _read(path: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return path.read_text().splitlines()
    return []


def _write(path: Path, lines: list[str]) -> None:
    """Who reads it meanwhile sees all of it or the one before."""
    draft = path.with_suffix(f".{secrets.token_hex(4)}")
    try:
        draft.write_text("\n".join(lines))
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
