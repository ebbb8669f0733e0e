"""More requests than the service can do, at several levels: what is good of them, how fast, and how
the others are refused."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from chaos import cores
from chaos.arrivals import Order, Outcome, arrive
from chaos.parts import Options
from chaos.people import COUNT, request
from chaos.probing import Probing, probing
from chaos.stack import Stack
from chaos.table import Row

PEAK_CONNECTIONS = 32
PEAK_SECONDS = 6.0
CROWD_SECONDS = 2.0  # until all of it is there
CROWD_CONNECTIONS = 256
QUIET_SHARE = 0.3  # of the peak: how fast the service is when it has time
QUIET_SECONDS = 4.0
LEVEL_SECONDS = 12.0
SHORT_SECONDS = 8.0
AFTER_SECONDS = 5.0
GOODPUT = 0.8
ACCEPTED_SECONDS = 1.0
REFUSED_SECONDS = 1.0
MOST_CONNECTIONS = 3000
NOISE_SECONDS = 0.02
# Of the cores of nginx, PostgreSQL and the generator: with less, these are what is measured.
IDLE_SHARE = 0.15


@dataclass(frozen=True)
class Usual:
    """What a service does that has time, and what it can do."""

    quiet: Outcome
    peak: float  # good answers a second


@dataclass(frozen=True)
class Level:
    """What became of so many times the peak."""

    name: str
    usual: Usual
    rate: float
    beside: float
    found: Outcome
    others_idle: float
    after: Outcome
    probes: Probing

    def row(self) -> Row:
        found, probes = self.found, self.probes
        return {
            "scenario": self.name,
            "peak /s": round(self.usual.peak),
            "asked /s": round(self.rate),
            "peak beside /s": round(self.beside),
            "good /s": round(found.good_per_second),
            "good / peak": round(found.good_per_second / self.usual.peak, 2),
            "goodput": round(self._goodput, 2),
            "p99 s": round(found.quantile(0.99), 2),
            "refused": found.refused,
            "refused p99 s": round(found.refused_quantile(0.99), 2),
            "no Retry-After": found.no_retry_after,
            "other answers": found.other,
            "probes": probes.count,
            "wrong probes": len(probes.wrong),
            "slowest live s": round(probes.slowest_live_seconds, 2),
            "p50 before ms": round(self.usual.quiet.quantile(0.5) * 1000, 1),
            "p50 after ms": round(self.after.quantile(0.5) * 1000, 1),
            "others idle": f"{self.others_idle:.0%}",
            "met": self._met(),
            "generator behind s": round(found.lag_seconds, 2),
            "first wrong probes": probes.wrong[:10],
        }

    @property
    def _goodput(self) -> float:
        return self.found.good_per_second / self.beside

    def _met(self) -> str:
        """Nothing where what surrounds the service had nothing left."""
        found, probes = self.found, self.probes
        before_seconds, after_seconds = self.usual.quiet.quantile(0.5), self.after.quantile(0.5)
        if (
            after_seconds > 1.5 * before_seconds + NOISE_SECONDS
            or found.no_retry_after
            or found.other
            or probes.wrong
        ):
            return "NO"
        if (
            self._goodput >= GOODPUT
            and found.quantile(0.99) <= ACCEPTED_SECONDS
            and found.refused_quantile(0.99) <= REFUSED_SECONDS
        ):
            return "yes"
        return "NO" if self.others_idle >= IDLE_SHARE else ""


def find_usual(port: int, requests: list[str]) -> Usual:
    arrive(Order(port, requests, 2, PEAK_CONNECTIONS))  # connections, plans, caches
    peak = arrive(Order(port, requests, PEAK_SECONDS, PEAK_CONNECTIONS)).good_per_second
    return Usual(ask_quietly(port, requests, peak), peak)


def ask_quietly(port: int, requests: list[str], peak: float) -> Outcome:
    share = QUIET_SHARE * peak
    return arrive(Order(port, requests, QUIET_SECONDS, PEAK_CONNECTIONS, share))


def overload(
    make: Callable[[Stack], list[str]], levels: tuple[int, ...], stack: Stack, options: Options
) -> list[Row]:
    """A row a level; the short form has the last one."""
    port, requests = stack.nginx.port, make(stack)
    usual = find_usual(port, requests)
    rows = []
    for times in levels[-1:] if options.short else levels:
        rate = usual.peak * times
        seconds = SHORT_SECONDS if options.short else LEVEL_SECONDS
        connections = min(MOST_CONNECTIONS, int(rate) + PEAK_CONNECTIONS)
        before = _peak_beside(port, requests, rate - usual.peak)
        with probing(stack) as probes:
            with cores.watched() as idle:
                found = arrive(Order(port, requests, seconds, connections, rate))
                others_idle = idle(seconds)
            time.sleep(AFTER_SECONDS)
        after = ask_quietly(port, requests, usual.peak)
        # Twice, as the speed of a machine that others use as well changes meanwhile.
        beside = (before + _peak_beside(port, requests, rate - usual.peak)) / 2
        name = f"{make.__name__}, {times} times"
        rows.append(Level(name, usual, rate, beside, found, others_idle, after, probes).row())
    return rows


def _peak_beside(port: int, requests: list[str], rate: float) -> float:
    """Good answers a second, while so many other requests are answered by nginx itself: what the
    same crowd costs the machine, whoever answers it. Cores may be two halves of one."""
    others = [request("GET", "/metrics", n) for n in range(COUNT)]
    crowd = Order(port, others, PEAK_SECONDS + 2 * CROWD_SECONDS, CROWD_CONNECTIONS, rate)
    with ThreadPoolExecutor(1) as pool:
        crowded = pool.submit(arrive, crowd)
        time.sleep(CROWD_SECONDS)
        peak = arrive(Order(port, requests, PEAK_SECONDS, PEAK_CONNECTIONS)).good_per_second
        crowded.result()
    return peak
