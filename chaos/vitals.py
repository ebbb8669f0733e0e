"""What a process holds, read from /proc."""

import os
import re
from pathlib import Path


def pss_bytes(pid: int) -> int:
    """Its memory, with its share of what it has in common with others. Without that of files, of
    which its share changes as others come and go."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss_Anon: +(\d+) kB", text, re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    return len(thread_ids(pid))


def thread_ids(pid: int) -> list[int]:
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
