"""What this process may use of the machine, and what it uses: CPU, memory, disk.

psutil reports the host's figures and knows nothing of cgroups: their limits come first.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypedDict

import psutil

from service.cgroups import PROC, ROOT, Limits, cgroup_limits, cpu_seconds, memory_usage
from service.settings import Settings

WORKER_BYTES = 128 * 1024 * 1024
MIN_WINDOW_SECONDS = 0.1  # /proc/stat counts ticks of 10 ms: a shorter window is mostly rounding


@dataclass(frozen=True)
class Disk:
    """One filesystem: bytes and inodes, and how much of them is left to an unprivileged process.

    The percentages are 100 less the Use% of `df`: what is kept back for root is neither used
    nor free. A filesystem that does not count inodes (btrfs) has 100 % of them free.
    """

    total: int
    free: int
    free_percent: float
    inodes_total: int
    inodes_free: int
    inodes_free_percent: float


class Memory(TypedDict):
    """Bytes, within the tighter of the cgroup's limit and the machine; percent in use."""

    total: int
    available: int
    percent: float


class Space(TypedDict):
    """Bytes or inodes; percent in use."""

    total: int
    free: int
    percent: float


class Process(TypedDict):
    """This process without its children; CPU time is user and system together."""

    rss_bytes: int
    open_fds: int
    threads: int
    cpu_seconds: float


@dataclass(frozen=True)
class Snapshot:
    """One sample; `dataclasses.asdict` makes it ready for JSON.

    `cpu_percent` is 0..100 of `cpus`, the CPUs that may be used. `load_average`, over 1, 5 and
    15 minutes, is the whole machine's: the kernel keeps none for a cgroup.
    """

    cpu_percent: float
    cpus: float
    load_average: tuple[float, float, float]
    memory: Memory
    disk: Space
    inodes: Space
    process: Process


class _CpuReading(NamedTuple):
    source: Path | None  # the group measured; None is the machine
    used_seconds: float
    at_seconds: float


def usable_cpus(limits: Limits) -> float:
    """CPUs: the quota, or those that the scheduler may put this process on if they are fewer."""
    allowed = float(len(os.sched_getaffinity(0)))
    return allowed if limits.cpus is None else min(limits.cpus, allowed)


def worker_count(limits: Limits, *, memory_per_worker_bytes: int = WORKER_BYTES) -> int:
    """Web workers that the CPUs and the memory allow; at least 1.

    Rounded down: one event loop can fill one CPU, so with 2.5 CPUs three busy workers would use
    up the quota before its period ends and then all stand still at once, probes included. The
    fraction left over serves thread pools and Gunicorn itself.
    """
    machine_bytes = psutil.virtual_memory().total
    by_memory = min(limits.memory_bytes or machine_bytes, machine_bytes) // memory_per_worker_bytes
    return max(1, min(int(usable_cpus(limits)), by_memory))


def _statvfs(folder: Path) -> os.statvfs_result:
    try:
        return os.statvfs(folder)
    except (FileNotFoundError, NotADirectoryError):
        if folder == folder.parent:
            raise
        return _statvfs(folder.parent)


def _free_percent(total: int, free: int, available: int) -> float:
    return 100.0 * available / max(1, total - free + available) if total > 0 else 100.0


def disk_usage(folder: Path) -> Disk:
    """The filesystem of `folder`, or of its nearest ancestor that exists.

    Raises OSError when the filesystem does not answer.
    """
    found = _statvfs(folder)
    return Disk(
        total=found.f_blocks * found.f_frsize,
        free=found.f_bavail * found.f_frsize,
        free_percent=_free_percent(found.f_blocks, found.f_bfree, found.f_bavail),
        inodes_total=found.f_files,
        inodes_free=found.f_favail,
        inodes_free_percent=_free_percent(found.f_files, found.f_ffree, found.f_favail),
    )


def resident_bytes() -> int:
    """Memory of this process, what it shares with others included."""
    rss: int = psutil.Process().memory_info().rss
    return rss


def process_uptime() -> float:
    """Seconds since this process started, to within a second: the kernel's boot time is whole."""
    return max(0.0, time.time() - psutil.Process().create_time())


def _process() -> Process:
    process = psutil.Process()  # not kept: after a fork it would still describe the parent
    with process.oneshot():
        cpu = process.cpu_times()
        return Process(
            rss_bytes=process.memory_info().rss,
            open_fds=process.num_fds(),
            threads=process.num_threads(),
            cpu_seconds=cpu.user + cpu.system,
        )


def _machine_cpu_seconds() -> float:
    """Busy seconds since boot of the CPUs that this process may run on."""
    every_cpu = psutil.cpu_times(percpu=True)
    allowed = os.sched_getaffinity(0)
    times = [cpu for index, cpu in enumerate(every_cpu) if index in allowed] or every_cpu
    # Guests are already counted in user and nice: proc_stat(5).
    return sum(sum(t) - t.idle - t.iowait - t.guest - t.guest_nice for t in times)


class Sampler:
    """Samples the machine without ever waiting; for one caller at a time, from any thread.

    psutil.cpu_percent is not used: it remembers the last call by thread, so that in a pool of
    threads each would measure from its own last turn, and begin with 0.
    """

    def __init__(
        self,
        folder: Path,
        *,
        proc: Path = PROC,
        root: Path = ROOT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._proc = proc
        self._root = root
        self._clock = clock
        self._percent = 0.0
        self._previous = self._read_cpu()

    def sample(self) -> Snapshot:
        """What is in use now; CPU since the previous sample, the first time since construction.

        Raises OSError when the filesystem of the folder does not answer.
        """
        limits = cgroup_limits(self._proc, self._root)
        cpus = usable_cpus(limits)
        disk = disk_usage(self._folder)
        return Snapshot(
            cpu_percent=self._cpu_percent(cpus),
            cpus=cpus,
            load_average=os.getloadavg(),
            memory=self._memory(limits),
            disk=Space(total=disk.total, free=disk.free, percent=100.0 - disk.free_percent),
            inodes=Space(
                total=disk.inodes_total,
                free=disk.inodes_free,
                percent=100.0 - disk.inodes_free_percent,
            ),
            process=_process(),
        )

    def _cpu_percent(self, cpus: float) -> float:
        now, before = self._read_cpu(), self._previous
        elapsed_seconds = now.at_seconds - before.at_seconds
        if now.source != before.source:  # moved to another group, or a limit came or went
            self._percent = 0.0
        elif elapsed_seconds < MIN_WINDOW_SECONDS:
            return self._percent
        else:
            used_seconds = now.used_seconds - before.used_seconds
            self._percent = min(100.0, max(0.0, 100.0 * used_seconds / (elapsed_seconds * cpus)))
        self._previous = now
        return self._percent

    def _read_cpu(self) -> _CpuReading:
        group, used_seconds = cpu_seconds(self._proc, self._root) or (None, _machine_cpu_seconds())
        return _CpuReading(group, used_seconds, self._clock())

    def _memory(self, limits: Limits) -> Memory:
        machine = psutil.virtual_memory()
        total, available = machine.total, machine.available
        if limits.memory_bytes is not None and limits.memory_bytes < total:
            total = limits.memory_bytes
            used = memory_usage(self._proc, self._root) or 0
            available = min(available, max(0, total - used))
        return Memory(total=total, available=available, percent=100.0 * (total - available) / total)


def web_workers(settings: Settings) -> int:
    """Web workers Gunicorn starts: WEB_CONCURRENCY, or what the container's limits allow.

    The in-process stand-ins exist once a process, so with them it is one.
    """
    if settings.web_concurrency is not None:
        return settings.web_concurrency
    if settings.embedded or settings.redis_url.get_secret_value().startswith("memory:"):
        return 1
    return worker_count(cgroup_limits())
