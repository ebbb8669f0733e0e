"""What the container's control group allows this process, and what the group uses.

Sources: cgroups(7), proc_pid_mountinfo(5), and under https://docs.kernel.org/ the pages
admin-guide/cgroup-v2, admin-guide/cgroup-v1/memory and scheduler/sched-bwc.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

PROC = Path("/proc")
ROOT = Path("/")
UNLIMITED_BYTES = 2**62  # v1 writes "no limit" as 2**63 - 1 rounded down to a page


@dataclass(frozen=True)
class Limits:
    """What the cgroup allows: CPUs, fractions included, and bytes. None is unlimited."""

    cpus: float | None
    memory_bytes: int | None


class _Mount(NamedTuple):
    root: str  # the group that is mounted, by its path in the hierarchy
    point: str
    filesystem: str
    options: list[str]


class _Bound(NamedTuple):
    value: float
    group: str  # its path in the hierarchy
    directory: Path


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


def cpu_seconds(proc: Path = PROC, root: Path = ROOT) -> tuple[Path, float] | None:
    """(group, seconds used since it was made) of the group with the tightest CPU limit.

    None when unlimited or unreadable.
    """
    bound = _tightest("cpu", _cpu_limit, proc, root)
    if bound is None:
        return None
    microseconds = _field(_read(bound.directory / "cpu.stat"), "usage_usec")
    if microseconds is not None:
        return bound.directory, microseconds / 1e6
    # v1 may mount cpuacct apart from cpu.
    account = _groups("cpuacct", proc, root).get(bound.group, bound.directory)
    nanoseconds = _number(_read(account / "cpuacct.usage"))
    return None if nanoseconds is None else (account, nanoseconds / 1e9)
