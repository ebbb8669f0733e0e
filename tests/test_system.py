"""Limits and usage, as the container's cgroup sees them: v1, v2, hybrid, nested, garbled."""

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import psutil
import pytest

from service.cgroups import Limits, cgroup_limits, memory_usage
from service.system import (
    Sampler,
    Snapshot,
    disk_usage,
    process_uptime,
    usable_cpus,
    worker_count,
)

MIB = 1024 * 1024
GIB = 1024 * MIB
V1_UNLIMITED = 9223372036854771712


class Machine:
    """A `/proc/self` and the cgroup filesystems it speaks of, below a temporary directory."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.proc = folder / "proc"
        self._self = self.proc / "self"
        self._self.mkdir(parents=True)
        self._mounts = ["27 1 254:0 / / rw,relatime - ext4 /dev/vda rw"]

    def member_of(self, *lines: str) -> None:
        (self._self / "cgroup").write_text("".join(f"{line}\n" for line in lines))

    def mount(
        self, point: str, kind: str = "cgroup2", options: str = "rw", root: str = "/"
    ) -> None:
        number = 31 + len(self._mounts)
        self._mounts.append(
            f"{number} 27 0:{number} {root} {point} rw,nosuid shared:9 - {kind} {kind} {options}"
        )
        (self._self / "mountinfo").write_text("\n".join(self._mounts) + "\n")

    def mount_v1(self, *, memory_root: str = "/", cpu_root: str = "/") -> None:
        self.mount("/sys/fs/cgroup", "tmpfs", "rw,mode=755")
        self.mount("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "rw,cpu,cpuacct", cpu_root)
        self.mount("/sys/fs/cgroup/memory", "cgroup", "rw,memory", memory_root)

    def write(self, group: str, **files: str | int) -> None:
        """Files of a group; a double underscore stands for the dot in a name."""
        directory = self.root / group.lstrip("/")
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (directory / name.replace("__", ".")).write_text(f"{content}\n")

    def limits(self) -> Limits:
        return cgroup_limits(self.proc, self.root)

    def memory_usage(self) -> int | None:
        return memory_usage(self.proc, self.root)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def v2(machine: Machine) -> Machine:
    """A process in /pod/app of a cgroup v2 host, with no limit anywhere yet."""
    machine.mount("/sys/fs/cgroup")
    machine.member_of("0::/pod/app")
    machine.write("/sys/fs/cgroup", cgroup__controllers="cpu memory")
    for group in ("/sys/fs/cgroup/pod", "/sys/fs/cgroup/pod/app"):
        machine.write(group, cpu__max="max 100000", memory__max="max")
    return machine


@pytest.fixture
def v1(machine: Machine) -> Machine:
    """A process in /pod/app of a cgroup v1 host, with no limit anywhere yet."""
    machine.mount_v1()
    machine.member_of(
        "4:memory:/pod/app", "3:cpuset:/", "2:cpu,cpuacct:/pod/app", "1:name=systemd:/"
    )
    for group in ("", "/pod", "/pod/app"):
        machine.write(
            f"/sys/fs/cgroup/cpu,cpuacct{group}", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000
        )
        machine.write(f"/sys/fs/cgroup/memory{group}", memory__limit_in_bytes=V1_UNLIMITED)
    return machine


# --- cgroup_limits: version 2


def test_v2_group_without_limits_is_unlimited(v2: Machine) -> None:
    """The word `max` in both files."""
    assert v2.limits() == Limits(cpus=None, memory_bytes=None)


def test_v2_own_limits_are_read(v2: Machine) -> None:
    """cpu.max is quota and period, memory.max is bytes."""
    v2.write("/sys/fs/cgroup/pod/app", cpu__max="200000 100000", memory__max=256 * MIB)
    assert v2.limits() == Limits(cpus=2.0, memory_bytes=256 * MIB)


@pytest.mark.parametrize(
    ("cpu_max", "cpus"), [("50000 100000", 0.5), ("250000 100000", 2.5), ("1000 1000000", 0.001)]
)
def test_v2_fractional_quota_stays_fractional(v2: Machine, cpu_max: str, cpus: float) -> None:
    """Nothing is rounded, down to the smallest quota that the kernel takes."""
    v2.write("/sys/fs/cgroup/pod/app", cpu__max=cpu_max)
    assert v2.limits().cpus == cpus


def test_v2_tighter_ancestor_wins(v2: Machine) -> None:
    """A pod's limit binds a container that has more of its own."""
    v2.write("/sys/fs/cgroup/pod", cpu__max="150000 100000", memory__max=100 * MIB)
    v2.write("/sys/fs/cgroup/pod/app", cpu__max="400000 100000", memory__max=900 * MIB)
    assert v2.limits() == Limits(cpus=1.5, memory_bytes=100 * MIB)


def test_v2_looser_ancestor_changes_nothing(v2: Machine) -> None:
    """The own limit stays the tightest."""
    v2.write("/sys/fs/cgroup/pod", cpu__max="400000 100000", memory__max=900 * MIB)
    v2.write("/sys/fs/cgroup/pod/app", cpu__max="150000 100000", memory__max=100 * MIB)
    assert v2.limits() == Limits(cpus=1.5, memory_bytes=100 * MIB)


def test_v2_each_resource_finds_its_own_tightest_group(v2: Machine) -> None:
    """CPU is bound by the ancestor and memory by the group itself."""
    v2.write("/sys/fs/cgroup/pod", cpu__max="100000 100000")
    v2.write("/sys/fs/cgroup/pod/app", memory__max=64 * MIB)
    assert v2.limits() == Limits(cpus=1.0, memory_bytes=64 * MIB)


def test_v2_sibling_groups_do_not_matter(v2: Machine) -> None:
    """Only ancestors bind."""
    v2.write("/sys/fs/cgroup/pod/sidecar", cpu__max="1000 100000", memory__max=MIB)
    assert v2.limits() == Limits(cpus=None, memory_bytes=None)


def test_v2_limit_on_the_mount_point_itself_counts(machine: Machine) -> None:
    """A container with its own cgroup namespace sees its group as `/`."""
    machine.mount("/sys/fs/cgroup")
    machine.member_of("0::/")
    machine.write("/sys/fs/cgroup", cpu__max="100000 100000", memory__max=64 * MIB)
    assert machine.limits() == Limits(cpus=1.0, memory_bytes=64 * MIB)


def test_v2_group_removed_while_in_use_leaves_its_ancestors_limits(v2: Machine) -> None:
    """The kernel adds ` (deleted)` to the path, which then leads nowhere."""
    v2.member_of("0::/pod/gone (deleted)")
    v2.write("/sys/fs/cgroup/pod", cpu__max="100000 100000")
    assert v2.limits().cpus == 1.0


def test_v2_path_with_colons_is_read_whole(v2: Machine) -> None:
    """Systemd and containerd put colons into names of groups."""
    v2.member_of("0::/pod/cri:app:1")
    v2.write("/sys/fs/cgroup/pod/cri:app:1", memory__max=64 * MIB)
    assert v2.limits().memory_bytes == 64 * MIB


# --- cgroup_limits: version 1 and hybrid hosts


def test_v1_group_without_limits_is_unlimited(v1: Machine) -> None:
    """A quota of -1, and a memory limit near 2**63."""
    assert v1.limits() == Limits(cpus=None, memory_bytes=None)


@pytest.mark.parametrize("limit", [2**63 - 1, 2**63 - 4096, 2**63 - 65536])
def test_v1_memory_is_unlimited_whatever_the_page_size(v1: Machine, limit: int) -> None:
    """Old kernels do not round; others round to pages of 4 or 64 KiB."""
    v1.write("/sys/fs/cgroup/memory/pod/app", memory__limit_in_bytes=limit)
    assert v1.limits().memory_bytes is None


def test_v1_own_limits_are_read(v1: Machine) -> None:
    """The quota over the period, and the memory limit in bytes."""
    v1.write("/sys/fs/cgroup/cpu,cpuacct/pod/app", cpu__cfs_quota_us=75000)
    v1.write("/sys/fs/cgroup/memory/pod/app", memory__limit_in_bytes=256 * MIB)
    assert v1.limits() == Limits(cpus=0.75, memory_bytes=256 * MIB)


def test_v1_tighter_ancestor_wins(v1: Machine) -> None:
    """As in v2, and for either controller."""
    v1.write("/sys/fs/cgroup/cpu,cpuacct/pod", cpu__cfs_quota_us=150000)
    v1.write("/sys/fs/cgroup/cpu,cpuacct/pod/app", cpu__cfs_quota_us=400000)
    v1.write("/sys/fs/cgroup/memory/pod", memory__limit_in_bytes=100 * MIB)
    v1.write("/sys/fs/cgroup/memory/pod/app", memory__limit_in_bytes=900 * MIB)
    assert v1.limits() == Limits(cpus=1.5, memory_bytes=100 * MIB)


def test_v1_cpu_mounted_without_cpuacct_is_found(machine: Machine) -> None:
    """Some hosts mount the two apart."""
    machine.mount("/cg/cpuacct", "cgroup", "rw,cpuacct")
    machine.mount("/cg/cpu", "cgroup", "rw,cpu")
    machine.member_of("2:cpuacct:/", "1:cpu:/app", "0::/")
    machine.write("/cg/cpu/app", cpu__cfs_quota_us=100000, cpu__cfs_period_us=50000)
    assert machine.limits().cpus == 2.0


def test_v1_cpuset_is_not_taken_for_cpu(machine: Machine) -> None:
    """Controllers are compared whole, not by their beginnings."""
    machine.mount("/cg/cpuset", "cgroup", "rw,cpuset")
    machine.member_of("1:cpuset:/")
    machine.write("/cg/cpuset", cpu__cfs_quota_us=100000, cpu__cfs_period_us=100000)
    assert machine.limits().cpus is None


def test_hybrid_host_keeps_its_limits_in_v1(v1: Machine) -> None:
    """Systemd's hybrid layout mounts v2 too, without controllers."""
    v1.mount("/sys/fs/cgroup/unified")
    v1.member_of("2:cpu,cpuacct:/pod/app", "1:memory:/pod/app", "0::/system.slice/app.service")
    v1.write("/sys/fs/cgroup/cpu,cpuacct/pod/app", cpu__cfs_quota_us=50000)
    v1.write("/sys/fs/cgroup/memory/pod", memory__limit_in_bytes=64 * MIB)
    assert v1.limits() == Limits(cpus=0.5, memory_bytes=64 * MIB)


def test_hybrid_host_may_keep_one_controller_in_each_version(machine: Machine) -> None:
    """CPU still in v1 while memory has moved to v2."""
    machine.mount("/cg/cpu", "cgroup", "rw,cpu,cpuacct")
    machine.mount("/cg/unified")
    machine.member_of("1:cpu,cpuacct:/one", "0::/two")
    machine.write("/cg/cpu/one", cpu__cfs_quota_us=50000, cpu__cfs_period_us=100000)
    machine.write("/cg/unified/two", memory__max=64 * MIB)
    assert machine.limits() == Limits(cpus=0.5, memory_bytes=64 * MIB)


# --- cgroup_limits: where the groups are mounted


def test_v1_docker_without_cgroup_namespace_is_understood(machine: Machine) -> None:
    """The path is the host's; the mount's root field says which part of it the mount point is."""
    machine.mount_v1(memory_root="/docker/4f1c", cpu_root="/docker/4f1c")
    machine.member_of("2:memory:/docker/4f1c", "1:cpu,cpuacct:/docker/4f1c")
    machine.write("/sys/fs/cgroup/cpu,cpuacct", cpu__cfs_quota_us=150000, cpu__cfs_period_us=100000)
    machine.write("/sys/fs/cgroup/memory", memory__limit_in_bytes=64 * MIB)
    assert machine.limits() == Limits(cpus=1.5, memory_bytes=64 * MIB)


def test_v2_docker_without_cgroup_namespace_is_understood(machine: Machine) -> None:
    """The same with one hierarchy."""
    machine.mount("/sys/fs/cgroup", root="/system.slice/docker-4f1c.scope")
    machine.member_of("0::/system.slice/docker-4f1c.scope")
    machine.write("/sys/fs/cgroup", cpu__max="150000 100000", memory__max=64 * MIB)
    assert machine.limits() == Limits(cpus=1.5, memory_bytes=64 * MIB)


def test_group_nested_below_the_mounts_root_is_found(machine: Machine) -> None:
    """A supervisor in the container made groups of its own."""
    machine.mount("/sys/fs/cgroup", root="/docker/4f1c")
    machine.member_of("0::/docker/4f1c/web/one")
    machine.write("/sys/fs/cgroup", memory__max=512 * MIB)
    machine.write("/sys/fs/cgroup/web", memory__max=64 * MIB)
    machine.write("/sys/fs/cgroup/web/one", memory__max=128 * MIB)
    assert machine.limits().memory_bytes == 64 * MIB


def test_mounts_root_is_compared_by_whole_names(machine: Machine) -> None:
    """/docker/4f1c does not lie below /docker/4f."""
    machine.mount("/other", root="/docker/4f")
    machine.mount("/sys/fs/cgroup", root="/docker/4f1c")
    machine.member_of("0::/docker/4f1c")
    machine.write("/other", memory__max=MIB)
    machine.write("/sys/fs/cgroup", memory__max=64 * MIB)
    assert machine.limits().memory_bytes == 64 * MIB


def test_widest_mount_of_a_hierarchy_is_used(machine: Machine) -> None:
    """With the host's hierarchy mounted as well, the limits above the container can be seen."""
    machine.mount("/sys/fs/cgroup", root="/pod/app")
    machine.mount("/host/cgroup")
    machine.member_of("0::/pod/app")
    machine.write("/sys/fs/cgroup", memory__max=512 * MIB)
    machine.write("/host/cgroup/pod/app", memory__max=512 * MIB)
    machine.write("/host/cgroup/pod", memory__max=64 * MIB)
    assert machine.limits().memory_bytes == 64 * MIB


@pytest.mark.parametrize(
    ("path", "root"), [("/../other", "/"), ("/user.slice", "/docker/4f1c"), ("/", "/../..")]
)
def test_group_outside_the_mount_falls_back_to_the_mount_point(
    machine: Machine, path: str, root: str
) -> None:
    """A process that was moved still sees its container's limits, and nothing above the mount."""
    machine.mount("/sys/fs/cgroup", root=root)
    machine.member_of(f"0::{path}")
    machine.write("/sys/fs/cgroup", memory__max=64 * MIB)
    machine.write("/sys/fs/other", memory__max=MIB)
    assert machine.limits().memory_bytes == 64 * MIB


def test_mount_covered_by_another_is_not_used(machine: Machine) -> None:
    """What is mounted last over a path is what the path leads to."""
    machine.mount("/sys/fs/cgroup")
    machine.mount("/sys/fs/cgroup", root="/pod")
    machine.member_of("0::/pod/app")
    machine.write("/sys/fs/cgroup/pod/app", memory__max=MIB)
    machine.write("/sys/fs/cgroup/app", memory__max=64 * MIB)
    assert machine.limits().memory_bytes == 64 * MIB


@pytest.mark.parametrize(
    ("escaped", "plain"),
    [("/my\\040groups", "/my groups"), ("/a\\011b", "/a\tb"), ("/back\\134040s", "/back\\040s")],
)
def test_escaped_mount_point_is_found(machine: Machine, escaped: str, plain: str) -> None:
    """Mountinfo writes space, tab and backslash in octal; nothing is decoded twice."""
    machine.mount(escaped)
    machine.member_of("0::/app")
    machine.write(f"{plain}/app", memory__max=64 * MIB)
    assert machine.limits().memory_bytes == 64 * MIB


def test_escaped_mount_root_is_understood(machine: Machine) -> None:
    """/proc/self/cgroup does not escape what mountinfo does."""
    machine.mount("/sys/fs/cgroup", root="/my\\040app")
    machine.member_of("0::/my app/web")
    machine.write("/sys/fs/cgroup/web", memory__max=64 * MIB)
    assert machine.limits().memory_bytes == 64 * MIB


# --- cgroup_limits: nothing to read, or nothing readable


@pytest.mark.parametrize(
    "text",
    ["", "max", "50000", "1 2 3", "half 100000", "100000 0", "0 100000", "-5 -5", "9" * 400 + " 1"],
)
def test_garbled_v2_quota_is_unlimited(v2: Machine, text: str) -> None:
    """Whatever stands there, it never raises."""
    v2.write("/sys/fs/cgroup/pod/app", cpu__max=text)
    assert v2.limits().cpus is None


@pytest.mark.parametrize("text", ["", "lots", "-1", "0", "12.5", "1 2", "9" * 5000])
def test_garbled_v2_memory_limit_is_unlimited(v2: Machine, text: str) -> None:
    """5,000 digits are more than Python converts."""
    v2.write("/sys/fs/cgroup/pod/app", memory__max=text)
    assert v2.limits().memory_bytes is None


@pytest.mark.parametrize(("quota", "period"), [("", ""), ("x", 100000), (100000, ""), (100000, 0)])
def test_garbled_v1_quota_is_unlimited(v1: Machine, quota: str | int, period: str | int) -> None:
    """Either file may be the bad one."""
    v1.write(
        "/sys/fs/cgroup/cpu,cpuacct/pod/app", cpu__cfs_quota_us=quota, cpu__cfs_period_us=period
    )
    assert v1.limits().cpus is None


def test_garbled_group_leaves_its_ancestors_limits(v2: Machine) -> None:
    """One bad file does not hide a good one."""
    v2.write("/sys/fs/cgroup/pod", cpu__max="100000 100000")
    v2.write("/sys/fs/cgroup/pod/app", cpu__max="garbage")
    assert v2.limits().cpus == 1.0


def test_limit_that_cannot_be_read_is_unlimited(v2: Machine) -> None:
    """A directory in its place stands for any error of the system; root may read all else."""
    (v2.root / "sys/fs/cgroup/pod/app/memory.max").unlink()
    (v2.root / "sys/fs/cgroup/pod/app/memory.max").mkdir()
    assert v2.limits().memory_bytes is None


def test_machine_without_proc_is_unlimited(tmp_path: Path) -> None:
    """Nothing there at all."""
    assert cgroup_limits(tmp_path / "proc", tmp_path) == Limits(cpus=None, memory_bytes=None)


def test_absent_list_of_groups_is_unlimited(machine: Machine) -> None:
    """A mounted hierarchy alone does not say that the process is in it."""
    machine.mount("/sys/fs/cgroup")
    machine.write("/sys/fs/cgroup", memory__max=MIB)
    assert machine.limits().memory_bytes is None


def test_hierarchy_that_is_not_mounted_is_unlimited(machine: Machine) -> None:
    """Some sandboxes list groups and mount none."""
    machine.mount("/dev/shm", "tmpfs")
    machine.member_of("1:cpu,cpuacct,memory:/app", "0::/app")
    assert machine.limits() == Limits(cpus=None, memory_bytes=None)


@pytest.mark.parametrize("name", ["cgroup", "mountinfo"])
@pytest.mark.parametrize(
    "content", [b"\0\0\0", b"\xff\xfe:\xff:\xff", b":::::\n- - - -\n\n", b"0::"]
)
def test_garbled_proc_files_never_raise(v2: Machine, name: str, content: bytes) -> None:
    """Garbage in either file is unlimited."""
    (v2.proc / "self" / name).write_bytes(content)
    assert v2.limits() == Limits(cpus=None, memory_bytes=None)


def test_nul_in_a_path_never_raises(v2: Machine) -> None:
    """Python refuses such paths with another error than the system's."""
    v2.member_of("0::/pod/\0app")
    assert v2.limits() == Limits(cpus=None, memory_bytes=None)


def test_group_name_that_is_not_utf8_is_found(v2: Machine) -> None:
    """Paths are bytes."""
    (v2.proc / "self/cgroup").write_bytes(b"0::/caf\xe9\n")
    v2.write(os.fsdecode(b"/sys/fs/cgroup/caf\xe9"), memory__max=64 * MIB)
    assert v2.limits().memory_bytes == 64 * MIB


def test_limits_of_this_machine_are_sane() -> None:
    """The real files of wherever the tests run."""
    limits = cgroup_limits()
    assert limits.cpus is None or 0 < limits.cpus < 100_000
    assert limits.memory_bytes is None or MIB <= limits.memory_bytes < 2**62


# --- memory_usage


def test_v2_memory_use_leaves_out_reclaimable_cache(v2: Machine) -> None:
    """memory.current less inactive_file."""
    v2.write(
        "/sys/fs/cgroup/pod/app",
        memory__max=256 * MIB,
        memory__current=100 * MIB,
        memory__stat=f"anon {60 * MIB}\ninactive_file {30 * MIB}\nactive_file {5 * MIB}",
    )
    assert v2.memory_usage() == 70 * MIB


def test_v1_memory_use_leaves_out_the_cache_of_descendants_too(v1: Machine) -> None:
    """usage_in_bytes less total_inactive_file: the bare name counts the group alone."""
    v1.write(
        "/sys/fs/cgroup/memory/pod/app",
        memory__limit_in_bytes=256 * MIB,
        memory__usage_in_bytes=100 * MIB,
        memory__stat=f"inactive_file {10 * MIB}\ntotal_inactive_file {40 * MIB}",
    )
    assert v1.memory_usage() == 60 * MIB


def test_memory_use_is_that_of_the_tightest_group(v2: Machine) -> None:
    """What the neighbours in the pod use counts against the pod's limit."""
    v2.write("/sys/fs/cgroup/pod", memory__max=100 * MIB, memory__current=80 * MIB)
    v2.write("/sys/fs/cgroup/pod/app", memory__max=200 * MIB, memory__current=20 * MIB)
    assert v2.memory_usage() == 80 * MIB


def test_of_equal_limits_the_outer_group_counts(v2: Machine) -> None:
    """It holds the other's use and more, so it fills up first."""
    v2.write("/sys/fs/cgroup/pod", memory__max=100 * MIB, memory__current=80 * MIB)
    v2.write("/sys/fs/cgroup/pod/app", memory__max=100 * MIB, memory__current=20 * MIB)
    assert v2.memory_usage() == 80 * MIB


def test_memory_use_without_a_limit_is_none(v2: Machine) -> None:
    """There is then no group to measure against."""
    v2.write("/sys/fs/cgroup/pod/app", memory__current=20 * MIB)
    assert v2.memory_usage() is None


def test_memory_use_that_cannot_be_read_is_none(v2: Machine) -> None:
    """A limit without its usage file."""
    v2.write("/sys/fs/cgroup/pod/app", memory__max=100 * MIB)
    assert v2.memory_usage() is None


def test_memory_use_without_statistics_counts_the_cache(v2: Machine) -> None:
    """Rather too much than nothing."""
    v2.write("/sys/fs/cgroup/pod/app", memory__max=100 * MIB, memory__current=80 * MIB)
    assert v2.memory_usage() == 80 * MIB


def test_memory_use_is_never_negative(v2: Machine) -> None:
    """The two files are read at two moments."""
    v2.write("/sys/fs/cgroup/pod/app", memory__max=100 * MIB, memory__current=MIB)
    v2.write("/sys/fs/cgroup/pod/app", memory__stat=f"inactive_file {2 * MIB}")
    assert v2.memory_usage() == 0


# --- usable_cpus and worker_count


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 8 CPUs and 4 GiB, all of them this process's."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=4 * GIB))


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize(("quota", "cpus"), [(None, 8.0), (2.5, 2.5), (64.0, 8.0)])
def test_usable_cpus_are_the_quota_or_the_affinity(quota: float | None, cpus: float) -> None:
    """Whichever is less."""
    assert usable_cpus(Limits(cpus=quota, memory_bytes=None)) == cpus


def test_usable_cpus_of_this_machine_follow_its_affinity() -> None:
    """The real mask, which a cpuset or taskset narrows."""
    assert usable_cpus(Limits(None, None)) == len(os.sched_getaffinity(0))


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize(
    ("quota", "workers"), [(None, 8), (4.0, 4), (2.5, 2), (1.99, 1), (0.25, 1)]
)
def test_workers_are_the_whole_cpus_and_at_least_one(quota: float | None, workers: int) -> None:
    """Rounded down, as the docstring argues."""
    assert worker_count(Limits(cpus=quota, memory_bytes=None)) == workers


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize(
    ("memory_bytes", "workers"), [(GIB, 8), (512 * MIB, 4), (500 * MIB, 3), (64 * MIB, 1)]
)
def test_memory_limit_bounds_the_workers(memory_bytes: int, workers: int) -> None:
    """128 MiB each, and one even where there is less."""
    assert worker_count(Limits(cpus=None, memory_bytes=memory_bytes)) == workers


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize("memory_bytes", [None, 64 * GIB])
def test_machines_memory_bounds_the_workers_too(memory_bytes: int | None) -> None:
    """Without a limit, or with one that the machine cannot fill."""
    limits = Limits(cpus=None, memory_bytes=memory_bytes)
    assert worker_count(limits, memory_per_worker_bytes=GIB) == 4


# --- Sampler: CPU


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def many_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no quota of these tests exceeds the CPUs of the machine they run on."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))


def sampler(machine: Machine, clock: Callable[[], float]) -> Sampler:
    return Sampler(machine.root, proc=machine.proc, root=machine.root, clock=clock)


@pytest.mark.usefixtures("many_cpus")
def test_v2_cpu_percent_is_of_the_quota(v2: Machine, clock: Clock) -> None:
    """3 CPU-seconds in 10 seconds of half a CPU are 60 %."""
    v2.write("/sys/fs/cgroup/pod/app", cpu__max="50000 100000", cpu__stat="usage_usec 7000000")
    watching = sampler(v2, clock)
    v2.write("/sys/fs/cgroup/pod/app", cpu__stat="usage_usec 10000000\nuser_usec 1")
    clock.seconds += 10
    assert watching.sample().cpu_percent == pytest.approx(60)


@pytest.mark.usefixtures("many_cpus")
def test_cpu_percent_is_of_the_time_since_the_previous_sample(v2: Machine, clock: Clock) -> None:
    """Not since the start."""
    v2.write("/sys/fs/cgroup/pod/app", cpu__max="200000 100000", cpu__stat="usage_usec 0")
    watching = sampler(v2, clock)
    clock.seconds += 100
    watching.sample()
    v2.write("/sys/fs/cgroup/pod/app", cpu__stat="usage_usec 5000000")
    clock.seconds += 5
    assert watching.sample().cpu_percent == pytest.approx(50)


@pytest.mark.usefixtures("many_cpus")
def test_cpu_percent_is_measured_where_the_quota_is(v2: Machine, clock: Clock) -> None:
    """The pod's quota is used up by all that is in the pod."""
    v2.write("/sys/fs/cgroup/pod", cpu__max="100000 100000", cpu__stat="usage_usec 0")
    v2.write("/sys/fs/cgroup/pod/app", cpu__max="200000 100000", cpu__stat="usage_usec 0")
    watching = sampler(v2, clock)
    v2.write("/sys/fs/cgroup/pod", cpu__stat="usage_usec 9000000")
    clock.seconds += 10
    assert watching.sample().cpu_percent == pytest.approx(90)


@pytest.mark.usefixtures("many_cpus")
def test_v1_cpu_percent_is_of_the_quota(v1: Machine, clock: Clock) -> None:
    """cpuacct.usage is in nanoseconds; v1 has a cpu.stat too, without usage."""
    group = "/sys/fs/cgroup/cpu,cpuacct/pod/app"
    v1.write(group, cpu__cfs_quota_us=200000, cpuacct__usage=5 * 10**9, cpu__stat="nr_periods 7")
    watching = sampler(v1, clock)
    v1.write(group, cpuacct__usage=10 * 10**9)
    clock.seconds += 10
    assert watching.sample().cpu_percent == pytest.approx(25)


@pytest.mark.usefixtures("many_cpus")
def test_v1_cpu_percent_is_found_where_cpuacct_is_mounted_apart(
    machine: Machine, clock: Clock
) -> None:
    """The same group, in the other hierarchy."""
    machine.mount("/cg/cpu", "cgroup", "rw,cpu")
    machine.mount("/cg/cpuacct", "cgroup", "rw,cpuacct")
    machine.member_of("2:cpuacct:/pod/app", "1:cpu:/pod/app")
    machine.write("/cg/cpu/pod", cpu__cfs_quota_us=100000, cpu__cfs_period_us=100000)
    machine.write("/cg/cpuacct/pod", cpuacct__usage=0)
    machine.write("/cg/cpuacct/pod/app", cpuacct__usage=0)
    watching = sampler(machine, clock)
    machine.write("/cg/cpuacct/pod", cpuacct__usage=10**9)
    clock.seconds += 10
    assert watching.sample().cpu_percent == pytest.approx(10)


@pytest.mark.usefixtures("many_cpus")
@pytest.mark.parametrize(("usage_usec", "percent"), [(10**9, 100.0), (0, 0.0)])
def test_cpu_percent_stays_within_bounds(
    v2: Machine, clock: Clock, usage_usec: int, percent: float
) -> None:
    """Bursts exceed a quota, and a group made anew counts from zero."""
    v2.write("/sys/fs/cgroup/pod/app", cpu__max="100000 100000", cpu__stat="usage_usec 5000000")
    watching = sampler(v2, clock)
    v2.write("/sys/fs/cgroup/pod/app", cpu__stat=f"usage_usec {usage_usec}")
    clock.seconds += 10
    assert watching.sample().cpu_percent == percent


@pytest.mark.usefixtures("many_cpus")
def test_samples_in_quick_succession_keep_the_last_cpu_percent(v2: Machine, clock: Clock) -> None:
    """A window of no length says nothing, and may be no divisor."""
    v2.write("/sys/fs/cgroup/pod/app", cpu__max="100000 100000", cpu__stat="usage_usec 0")
    watching = sampler(v2, clock)
    v2.write("/sys/fs/cgroup/pod/app", cpu__stat="usage_usec 4000000")
    clock.seconds += 10
    first = watching.sample().cpu_percent
    assert watching.sample().cpu_percent == first == pytest.approx(40)


@pytest.mark.usefixtures("many_cpus")
def test_quota_that_appears_is_not_compared_with_the_machine(v2: Machine, clock: Clock) -> None:
    """The machine's counter and the group's have nothing to do with each other."""
    watching = sampler(v2, clock)
    usage = f"usage_usec {10**18}"
    v2.write("/sys/fs/cgroup/pod/app", cpu__max="100000 100000", cpu__stat=usage)
    clock.seconds += 10
    assert watching.sample().cpu_percent == 0


@pytest.mark.usefixtures("many_cpus")
def test_quota_that_appears_is_measured_from_the_next_sample(v2: Machine, clock: Clock) -> None:
    """That sample began a new measurement."""
    watching = sampler(v2, clock)
    v2.write("/sys/fs/cgroup/pod/app", cpu__max="100000 100000", cpu__stat="usage_usec 0")
    clock.seconds += 10
    watching.sample()
    v2.write("/sys/fs/cgroup/pod/app", cpu__stat="usage_usec 3000000")
    clock.seconds += 10
    assert watching.sample().cpu_percent == pytest.approx(30)


def cpu_times(busy: float, idle: float) -> SimpleNamespace:
    """psutil's tuple of one CPU; time spent on a guest is part of the user time."""
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    values = (busy, 0.0, 0.0, idle / 2, idle / 2, 0.0, 0.0, 0.0, busy / 2, 0.0)

    class Times(SimpleNamespace):
        def __iter__(self) -> Iterator[float]:
            return iter(values)

    return Times(**dict(zip((*names, "guest", "guest_nice"), values, strict=True)))


def test_without_a_quota_cpu_percent_is_of_the_cpus_allowed(
    v2: Machine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bound to CPUs 1 and 2, one of them half busy; what the others do is not ours."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {1, 2})
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: [cpu_times(0, 0)] * 4)
    watching = sampler(v2, clock)
    after = [cpu_times(10, 0), cpu_times(5, 5), cpu_times(0, 10), cpu_times(10, 0)]
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: after)
    clock.seconds += 10
    assert watching.sample().cpu_percent == pytest.approx(25)


def test_samples_from_changing_threads_share_one_measurement(v2: Machine) -> None:
    """psutil.cpu_percent would begin with 0 in each of them."""
    watching = Sampler(v2.root, proc=v2.proc, root=v2.root)
    done = time.monotonic() + 0.5
    while time.monotonic() < done:
        pass
    samples: list[Snapshot] = []
    thread = threading.Thread(target=lambda: samples.append(watching.sample()))
    thread.start()
    thread.join()
    assert samples[0].cpu_percent > 0


# --- Sampler: memory, disk, process


def host_memory(monkeypatch: pytest.MonkeyPatch, total: int, available: int) -> None:
    figures = SimpleNamespace(total=total, available=available)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: figures)


def test_memory_is_that_of_the_cgroup_where_it_is_tighter(
    v2: Machine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container's limit and use, not the host's."""
    host_memory(monkeypatch, total=8 * GIB, available=4 * GIB)
    v2.write("/sys/fs/cgroup/pod/app", memory__max=400 * MIB, memory__current=100 * MIB)
    memory = sampler(v2, clock).sample().memory
    assert memory == {"total": 400 * MIB, "available": 300 * MIB, "percent": 25.0}


@pytest.mark.parametrize("limit", ["max", 64 * GIB])
def test_memory_is_the_machines_where_the_limit_is_no_tighter(
    v2: Machine, clock: Clock, monkeypatch: pytest.MonkeyPatch, limit: str | int
) -> None:
    """A limit that the machine cannot fill is none."""
    host_memory(monkeypatch, total=8 * GIB, available=2 * GIB)
    v2.write("/sys/fs/cgroup/pod/app", memory__max=limit, memory__current=100 * MIB)
    memory = sampler(v2, clock).sample().memory
    assert memory == {"total": 8 * GIB, "available": 2 * GIB, "percent": 75.0}


def test_memory_available_is_no_more_than_the_machine_has_left(
    v2: Machine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an overcommitted host the neighbours run it out first."""
    host_memory(monkeypatch, total=8 * GIB, available=100 * MIB)
    v2.write("/sys/fs/cgroup/pod/app", memory__max=400 * MIB, memory__current=100 * MIB)
    memory = sampler(v2, clock).sample().memory
    assert memory == {"total": 400 * MIB, "available": 100 * MIB, "percent": 75.0}


def test_memory_use_above_the_limit_leaves_nothing(v2: Machine, clock: Clock) -> None:
    """As after a limit was lowered."""
    v2.write("/sys/fs/cgroup/pod/app", memory__max=4 * MIB, memory__current=9 * MIB)
    memory = sampler(v2, clock).sample().memory
    assert memory == {"total": 4 * MIB, "available": 0, "percent": 100.0}


def test_process_figures_follow_this_process(v2: Machine, clock: Clock) -> None:
    """One more file open is one more descriptor."""
    watching = sampler(v2, clock)
    before = watching.sample().process
    with (v2.root / "open").open("w"):
        assert watching.sample().process["open_fds"] == before["open_fds"] + 1


def test_sample_of_this_machine_is_sane(tmp_path: Path) -> None:
    """Every figure within what it can be."""
    found = Sampler(tmp_path).sample()
    assert 0 <= found.cpu_percent <= 100
    assert 0 < found.cpus <= len(os.sched_getaffinity(0))
    assert all(load >= 0 for load in found.load_average)
    assert 0 < found.memory["available"] < found.memory["total"]
    assert 0 < found.memory["percent"] < 100
    for space in (found.disk, found.inodes):
        assert 0 <= space["free"] <= space["total"]
        assert 0 <= space["percent"] <= 100
    assert MIB < found.process["rss_bytes"] < found.memory["total"]
    assert found.process["threads"] >= 1
    assert found.process["cpu_seconds"] > 0


def test_snapshot_becomes_plain_fields_for_json(tmp_path: Path) -> None:
    """The names that monitors of this kind expect."""
    fields = asdict(Sampler(tmp_path).sample())
    assert {name: set(fields[name]) for name in ("memory", "disk", "inodes", "process")} == {
        "memory": {"total", "available", "percent"},
        "disk": {"total", "free", "percent"},
        "inodes": {"total", "free", "percent"},
        "process": {"rss_bytes", "open_fds", "threads", "cpu_seconds"},
    }


def test_full_sample_is_quick(tmp_path: Path) -> None:
    """Below a millisecond as measured; the bound leaves room for a busy machine."""
    watching = Sampler(tmp_path)
    durations = []
    for _ in range(5):
        started = time.perf_counter()
        watching.sample()
        durations.append(time.perf_counter() - started)
    assert min(durations) < 0.1


def test_sample_never_waits_or_walks_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of the calls that sleep or look at other processes is made."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError

    for module, name in (
        (time, "sleep"),
        (psutil, "cpu_percent"),
        (psutil, "process_iter"),
        (psutil, "pids"),
        (psutil, "net_connections"),
    ):
        monkeypatch.setattr(module, name, refuse)
    Sampler(tmp_path).sample()


# --- disk_usage


@pytest.fixture
def small_filesystem(tmp_path: Path) -> Iterator[Path]:
    """A real filesystem of 1 MiB and 20 inodes."""
    point = tmp_path / "small"
    point.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1m,nr_inodes=20", "small", str(point)]
    try:
        subprocess.run(["mount", *options], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("small_filesystem: mounting a tmpfs needs root (CAP_SYS_ADMIN)")
    yield point
    subprocess.run(["umount", str(point)], check=True, capture_output=True, timeout=10)


def test_empty_filesystem_is_all_free(small_filesystem: Path) -> None:
    """Total and free in bytes."""
    found = disk_usage(small_filesystem)
    assert (found.total, found.free, found.free_percent) == (MIB, MIB, 100.0)


def test_filesystem_that_fills_up_has_less_free(small_filesystem: Path) -> None:
    """Three quarters written."""
    (small_filesystem / "upload").write_bytes(b"x" * (768 * 1024))
    assert disk_usage(small_filesystem).free_percent == pytest.approx(25)


def test_full_filesystem_has_nothing_free(small_filesystem: Path) -> None:
    """Filled until the kernel refuses."""
    with pytest.raises(OSError, match="No space left"):
        (small_filesystem / "upload").write_bytes(b"x" * (2 * MIB))
    assert disk_usage(small_filesystem).free_percent == 0


def test_filesystem_without_inodes_left_shows_it(small_filesystem: Path) -> None:
    """Many empty files fill a disk that has all of its bytes free."""
    with pytest.raises(OSError, match="No space left"):
        for number in range(30):
            (small_filesystem / str(number)).touch()
    found = disk_usage(small_filesystem)
    assert (found.free_percent, found.inodes_free_percent) == (100.0, 0.0)


def test_sample_shows_the_disk_of_its_folder(small_filesystem: Path) -> None:
    """Not the disk that the program is on."""
    (small_filesystem / "upload").write_bytes(b"x" * (256 * 1024))
    found = Sampler(small_filesystem).sample()
    assert found.disk == {"total": MIB, "free": 768 * 1024, "percent": 25.0}


def test_folder_that_does_not_exist_yet_stands_for_its_ancestor(small_filesystem: Path) -> None:
    """Uploads make their folder with the first of them."""
    assert disk_usage(small_filesystem / "not" / "yet").total == MIB


def test_relative_folder_that_does_not_exist_is_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the embedded defaults, under `var/`."""
    monkeypatch.chdir(tmp_path)
    assert disk_usage(Path("var/uploads")).total == disk_usage(tmp_path).total


def test_folder_below_a_file_stands_for_the_files_filesystem(tmp_path: Path) -> None:
    """The system has another error for this one."""
    (tmp_path / "file").touch()
    assert disk_usage(tmp_path / "file" / "uploads").total == disk_usage(tmp_path).total


def statvfs(**changed: int) -> Callable[[object], SimpleNamespace]:
    """A filesystem of 1,000 blocks and 1,000 inodes, none of them used."""
    figures = dict.fromkeys(("f_blocks", "f_bfree", "f_bavail"), 1000)
    figures |= dict.fromkeys(("f_files", "f_ffree", "f_favail"), 1000)
    return lambda _folder: SimpleNamespace(f_frsize=4096, **(figures | changed))


def test_filesystem_that_does_not_count_inodes_has_them_all_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Btrfs reports 0 of 0."""
    monkeypatch.setattr(os, "statvfs", statvfs(f_files=0, f_ffree=0, f_favail=0))
    assert disk_usage(tmp_path).inodes_free_percent == 100


def test_space_kept_back_for_root_is_not_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """550 used, 450 free of which 50 are root's: 400 of 950, as `df` has it."""
    monkeypatch.setattr(os, "statvfs", statvfs(f_bfree=450, f_bavail=400))
    found = disk_usage(tmp_path)
    assert found.free == 400 * 4096
    assert found.free_percent == pytest.approx(100 * 400 / 950)


def test_filesystem_with_only_roots_space_left_has_nothing_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when it is empty, which must not divide by zero."""
    monkeypatch.setattr(os, "statvfs", statvfs(f_bavail=0))
    assert disk_usage(tmp_path).free_percent == 0


def test_filesystem_that_does_not_answer_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale network disk must not be mistaken for the one it is mounted on."""
    healthy = os.statvfs

    def stale(folder: Path) -> os.statvfs_result:
        if folder.name == "uploads":
            raise OSError(errno.ESTALE, "Stale file handle", str(folder))
        return healthy(folder)

    monkeypatch.setattr(os, "statvfs", stale)
    with pytest.raises(OSError, match="Stale"):
        disk_usage(tmp_path / "uploads")


# --- process_uptime


def test_uptime_is_that_of_a_process_just_started() -> None:
    """Not the host's; the kernel's boot time in whole seconds accounts for one of the bound."""
    program = "from service.system import process_uptime; print(process_uptime())"
    started = time.monotonic()
    answer = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=30
    )
    assert 0 <= float(answer.stdout) <= time.monotonic() - started + 1.1


def test_uptime_grows_with_time() -> None:
    """By about as much as passes."""
    began, first = time.monotonic(), process_uptime()
    time.sleep(0.2)
    grown, passed = process_uptime() - first, time.monotonic() - began
    assert 0.1 < grown <= passed + 0.05
