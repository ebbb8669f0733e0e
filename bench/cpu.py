"""What answers and jobs cost, in CPU time of the processes that make them: unlike their rate, it
does not depend on what else runs on the machine's cores."""

import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psutil

from bench.load import Load, run


@dataclass(frozen=True)
class Cost:
    """`each` is in microseconds, `connections` the most at the server meanwhile."""

    rate: float
    each: float
    connections: int = 0


def seconds(roots: Iterable[subprocess.Popen[bytes] | None]) -> float:
    """CPU time of processes and of all their children, also of those that have ended."""
    total = 0.0
    for root in roots:
        assert root is not None
        of_root = psutil.Process(root.pid)
        for process in (of_root, *of_root.children(recursive=True)):
            times = process.cpu_times()
            total += times.user + times.system
        times = of_root.cpu_times()
        total += times.children_user + times.children_system
    return total


def most(count: Callable[[], int], work: Callable[[], None]) -> int:
    """The highest count while something is done, looked at twice a second and at its end."""
    done = threading.Event()
    seen: list[int] = []

    def look() -> None:
        while not done.wait(0.5):
            seen.append(count())
        seen.append(count())

    with ThreadPoolExecutor(1) as threads:
        looking = threads.submit(look)
        try:
            work()
        finally:
            done.set()
        looking.result()
    return max(seen)


def of_requests(
    processes: Sequence[subprocess.Popen[bytes] | None],
    urls: Sequence[str],
    count: Callable[[], int],
    *,
    seconds_long: int,
    connections: int,
    header: str,
) -> Cost:
    """Load on all addresses at once, the connections divided among them."""
    loads: list[Load] = []

    def ask() -> None:
        with ThreadPoolExecutor(len(urls)) as threads:
            each = max(1, connections // len(urls))
            loads.extend(
                threads.map(
                    lambda url: run(url, seconds=seconds_long, connections=each, headers=(header,)),
                    urls,
                )
            )

    before = seconds(processes)
    highest = most(count, ask)
    used = seconds(processes) - before
    failed = sum(load.failed for load in loads)
    assert failed == 0, f"{failed} failed requests"
    rate = sum(load.requests_per_second for load in loads)
    return Cost(rate, used / (rate * seconds_long) * 1e6, highest)
