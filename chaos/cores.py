"""The machine's cores, some for the web processes and the others for what surrounds them."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from statistics import mean

import psutil

from chaos.vitals import thread_ids

EVERY_SECONDS = 0.5


def divide() -> tuple[list[int], list[int]]:
    """One half for the web processes, and the other; the same where there is only one core."""
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    return cores[:half] or cores, cores[half:]


def keep_to(cores: list[int], processes: Iterable[int] = (0,)) -> None:
    """Those processes, or this one, and whatever they start from here on."""
    for pid in processes:
        for thread in thread_ids(pid) if pid else [0]:
            os.sched_setaffinity(thread, cores)


@contextmanager
def watched() -> Iterator[Callable[[float], float]]:
    """During a block: what share of their time this process's cores had nothing to do, over so many
    last seconds."""
    cores = os.sched_getaffinity(0)
    samples: list[float] = []
    ending = threading.Event()

    def sample() -> None:
        while not ending.is_set():
            told = psutil.cpu_times_percent(EVERY_SECONDS, percpu=True)
            samples.append(mean(told[core].idle / 100 for core in cores))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield lambda seconds: mean(samples[-round(seconds / EVERY_SECONDS) :])
    finally:
        ending.set()
        thread.join()
