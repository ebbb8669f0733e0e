"""Load from wrk on loopback, interleaved over rounds, and what became of it."""

import re
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """One run of wrk."""

    requests_per_second: float
    p99_ms: float
    failed: int


def run(url: str, *, seconds: int, connections: int, headers: Sequence[str] = ()) -> Load:
    """Bounded in time and connections; the address is always loopback."""
    assert url.startswith(("http://127.0.0.1:", "https://localhost:")), url
    extra = [item for header in headers for item in ("-H", header)]
    command = ["wrk", "--latency", "-t1", f"-c{connections}", f"-d{seconds}s", *extra, url]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    failed = sum(int(n) for n in re.findall(r"Non-2xx or 3xx responses: (\d+)", out))
    if errors := re.search(r"Socket errors: (.*)", out):
        failed += sum(map(int, re.findall(r"\d+", errors[1])))
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", out)
    if rate is None or p99 is None:
        raise RuntimeError(out)
    scale = {"us": 0.001, "ms": 1.0, "s": 1000.0}[p99[2]]
    return Load(float(rate[1]), float(p99[1]) * scale, failed)


def spread(values: Sequence[float]) -> str:
    """Median, and from lowest to highest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
