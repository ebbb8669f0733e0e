"""Requests that arrive at a constant rate, whether those before them were answered or not.

A request's time counts from when it was due, so that one that had to wait for a connection has
waited. The connections are there before the clock starts.
"""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

WHOLE_SECONDS = 600.0  # for all that is asked once
REFUSALS = (429, 503)


@dataclass(frozen=True)
class Order:
    """`requests` are whole ones, asked in their order and then from the beginning; without a rate
    every connection asks again once it is answered. Without `seconds` each is asked once."""

    port: int
    requests: Sequence[str]
    seconds: float | None
    connections: int
    per_second: float | None = None


@dataclass
class Outcome:
    """Seconds of each answer by status, and what else happened."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    no_retry_after: int = 0
    lost: int = 0  # no answer at all
    lag_seconds: float = 0.0  # of the generator itself
    took_seconds: float = 0.0

    @property
    def good(self) -> list[float]:
        return [took for status in (200, 202) for took in self.seconds.get(status, ())]

    @property
    def good_per_second(self) -> float:
        return len(self.good) / self.took_seconds

    @property
    def refused(self) -> int:
        return sum(len(self.seconds.get(status, ())) for status in REFUSALS)

    @property
    def other(self) -> int:
        """Answers that are neither, and those that did not come."""
        return sum(map(len, self.seconds.values())) - len(self.good) - self.refused + self.lost

    def quantile(self, share: float) -> float:
        """Seconds within which this share of the good ones was answered."""
        return _quantile(self.good, share)

    def refused_quantile(self, share: float) -> float:
        return _quantile([took for s in REFUSALS for took in self.seconds.get(s, ())], share)


def _quantile(times: Sequence[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def arrive(order: Order) -> Outcome:
    """Run an order in a process of its own."""
    command = [sys.executable, "-m", "chaos.generator"]
    done = subprocess.run(
        command,
        check=False,
        input=json.dumps(dataclasses.asdict(order)),
        capture_output=True,
        text=True,
        timeout=(order.seconds or WHOLE_SECONDS) + 120,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found = json.loads(done.stdout)
    found["seconds"] = {int(status): times for status, times in found["seconds"].items()}
    return Outcome(**found)
