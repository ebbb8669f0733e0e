"""Whatever the files of the kernel hold: a limit, or none."""

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hostile import octets
from service.cgroups import cgroup_limits, cpu_seconds, memory_usage

FILES = (
    *("proc/self/cgroup", "proc/self/mountinfo"),
    *("sys/fs/cgroup/cpu.max", "sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
    *("sys/fs/cgroup/memory.stat", "sys/fs/cgroup/cpu.stat", "sys/fs/cgroup/cpu.cfs_quota_us"),
    *("sys/fs/cgroup/cpu.cfs_period_us", "sys/fs/cgroup/memory.limit_in_bytes"),
)
PIECES = [
    *(
        b"0::/\n",
        b"0::/../x\n",
        b"4:cpu,memory:/a\n",
        b":::\n",
        b"0::\n",
        b"\\040",
        b"\\777",
        b"\0",
    ),
    *(b"31 27 0:31 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", b"x - y - z\n", b" - \n"),
    *(b"32 27 0:32 /a /sys/fs/cgroup rw - cgroup cgroup rw,cpu,memory\n", b"max", b"max 100000"),
    *(b"0", b"-1", b" ", b"\n", b"1 0", b"50000 100000", b"9" * 30, b"9" * 5000, b"1e9", b"1_0"),
    *(b"inactive_file 1\n", b"total_inactive_file -5\n", b"usage_usec 10\n", b"\xff", b"\xd9\xa3"),
]
contents = st.lists(st.sampled_from(PIECES) | octets, max_size=5).map(b"".join)


@given(files=st.dictionaries(st.sampled_from(FILES), contents))
def test_any_content(files: dict[str, bytes], tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(files.get(name, b""))
    proc = tmp_path / "proc"
    limits = cgroup_limits(proc, tmp_path)
    assert limits.cpus is None or limits.cpus > 0
    assert limits.memory_bytes is None or limits.memory_bytes > 0
    used = memory_usage(proc, tmp_path)
    assert used is None or used >= 0
    found = cpu_seconds(proc, tmp_path)
    assert found is None or isinstance(found[0], os.PathLike)
