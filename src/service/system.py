"""What this process may use of the machine, and what it uses: CPU, memory, disk.

psutil reports the host's figures and knows nothing of cgroups, so the limits are read here.
Sources: cgroups(7), proc_pid_mountinfo(5), and under https://docs.kernel.org/ the pages
admin-guide/cgroup-v2, admin-guide/cgroup-v1/memory and scheduler/sched-bwc.
"""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypedDict

import psutil

from service.settings import Settings

PROC = Path("/proc")
ROOT = Path("/")
WORKER_BYTES = 128 * 1024 * 1024
UNLIMITED_BYTES = 2**62  # v1 writes "no limit" as 2**63 - 1 rounded down to a page
MIN_WINDOW_SECONDS = 0.1  # /proc/stat counts ticks of 10 ms: a shorter window is mostly rounding


@dataclass(frozen=True)
class Limits:
    """What the cgroup allows: CPUs, fractions included, and bytes. None is unlimited."""

    cpus: float | None
    memory_bytes: int | None


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


class _Mount(NamedTuple):
    root: str  # the group that is mounted, by its path in the hierarchy
    point: str
    filesystem: str
    options: list[str]


class _Bound(NamedTuple):
    value: float
    group: str  # its path in the hierarchy
    directory: Path


class _CpuReading(NamedTuple):
    source: Path | None  # the group measured; None is the machine
    used_seconds: float
    at_seconds: float


def _read(path: Path) -> str:
    """The file's text; empty when absent or unreadable, since either way it sets no limit."""
    try:
        return os.fsdecode(path.read_bytes())
    except (OSError, ValueError):  # ValueError: a NUL in a garbled path
        return ""


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _field(text: str, name: str) -> int | None:
    """The number beside `name` in a flat keyed file such as `memory.stat`."""
    lines = (line.partition(" ") for line in text.split("\n"))
    return next((_number(value) for key, _, value in lines if key == name), None)


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)


def _mounts(proc: Path) -> list[_Mount]:
    mounts: dict[str, _Mount] = {}
    for line in _read(proc / "self/mountinfo").split("\n"):
        left, _, right = line.partition(" - ")
        place, kind = left.split(" "), right.split(" ")
        if len(place) > 4 and len(kind) > 2:
            point = _unescape(place[4])
            # By mount point: of several mounted over each other only the last can be reached.
            mounts[point] = _Mount(_unescape(place[3]), point, kind[0], kind[2].split(","))
    return list(mounts.values())


def _groups(controller: str, proc: Path, root: Path) -> dict[str, Path]:
    """The process's own group and its visible ancestors, outermost first: path to directory."""
    paths: dict[str, str] = {}
    for line in _read(proc / "self/cgroup").split("\n"):
        _, _, names_and_path = line.partition(":")
        names, colon, path = names_and_path.partition(":")
        if colon:
            paths.update(dict.fromkeys(names.split(","), path))
    # On a hybrid host a controller is in one hierarchy only: v1 names it, v2 goes without a name.
    filesystem, name = ("cgroup", controller) if controller in paths else ("cgroup2", "")
    if name not in paths:
        return {}
    mounts = [
        mount
        for mount in _mounts(proc)
        if mount.filesystem == filesystem and (not name or name in mount.options)
    ]
    mounts.sort(key=lambda mount: len(mount.root))  # the widest mount shows the most ancestors
    for mount in mounts:
        if PurePosixPath(paths[name]).is_relative_to(mount.root):
            below = PurePosixPath(paths[name]).relative_to(mount.root).parts
            if ".." not in below:  # outside this cgroup namespace
                return _lineage(mount, below, root)
    # The process was moved since: what a container sees mounted is still the container's group.
    return _lineage(mounts[0], (), root) if mounts else {}


def _lineage(mount: _Mount, below: tuple[str, ...], root: Path) -> dict[str, Path]:
    directory = root / mount.point.lstrip("/")
    depths = [below[:depth] for depth in range(len(below) + 1)]
    return {str(PurePosixPath(mount.root, *parts)): directory.joinpath(*parts) for parts in depths}


def _cpu_limit(group: Path) -> float | None:
    version_1 = (group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us")
    text = _read(group / "cpu.max") or " ".join(map(_read, version_1))
    try:
        quota, period = map(int, text.split())
        return quota / period if quota > 0 and period > 0 else None
    except (ValueError, OverflowError):  # "max", absent or garbage
        return None


def _memory_limit(group: Path) -> int | None:
    limit = _number(_read(group / "memory.max") or _read(group / "memory.limit_in_bytes"))
    return limit if limit is not None and 0 < limit < UNLIMITED_BYTES else None


def _tightest(
    controller: str, limit: Callable[[Path], float | None], proc: Path, root: Path
) -> _Bound | None:
    """The lowest limit that applies; of equal ones the outermost, which fills up first."""
    bounds = [
        _Bound(value, group, directory)
        for group, directory in _groups(controller, proc, root).items()
        if (value := limit(directory)) is not None
    ]
    return min(bounds, key=lambda bound: bound.value, default=None)


def cgroup_limits(proc: Path = PROC, root: Path = ROOT) -> Limits:
    """The tightest limits among the process's own group and every ancestor that can be seen.

    Reads cgroup v1, v2 and hybrid hosts. What is missing, unreadable or garbled is unlimited.
    """
    cpu = _tightest("cpu", _cpu_limit, proc, root)
    memory = _tightest("memory", _memory_limit, proc, root)
    return Limits(
        cpus=None if cpu is None else cpu.value,
        memory_bytes=None if memory is None else int(memory.value),
    )


def memory_usage(proc: Path = PROC, root: Path = ROOT) -> int | None:
    """Bytes used in the group with the tightest limit; None when unlimited or unreadable.

    Page cache that the kernel would drop first is not counted, which is what the kubelet calls
    the working set: https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/
    """
    bound = _tightest("memory", _memory_limit, proc, root)
    if bound is None:
        return None
    group = bound.directory
    used = _number(_read(group / "memory.current") or _read(group / "memory.usage_in_bytes"))
    stat = _read(group / "memory.stat")
    cache = _field(stat, "total_inactive_file")  # v1, where the bare name leaves out descendants
    if cache is None:
        cache = _field(stat, "inactive_file") or 0
    return None if used is None else max(0, used - cache)


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
        bound = _tightest("cpu", _cpu_limit, self._proc, self._root)
        if bound is not None:
            microseconds = _field(_read(bound.directory / "cpu.stat"), "usage_usec")
            if microseconds is not None:
                return _CpuReading(bound.directory, microseconds / 1e6, self._clock())
            # v1 may mount cpuacct apart from cpu.
            accounts = _groups("cpuacct", self._proc, self._root)
            account = accounts.get(bound.group, bound.directory)
            nanoseconds = _number(_read(account / "cpuacct.usage"))
            if nanoseconds is not None:
                return _CpuReading(account, nanoseconds / 1e9, self._clock())
        return _CpuReading(None, _machine_cpu_seconds(), self._clock())

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
