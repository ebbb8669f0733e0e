"""An outage from before its beginning to its end, and what is wrong about it."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import nlargest

from chaos import outages
from chaos.asking import KINDS, PROBES, Answer, Asking
from chaos.hang_rig import Rig, Service
from chaos.outages_others import redis_client
from chaos.outages_postgresql import OWN
from chaos.table import Row
from servers import wait_until

WARM = 16  # right answers of each kind before the outage: caches and pools fill
WARM_SECONDS = 90.0
OUTAGE_SECONDS = 14.0  # so that what hangs for twice the bound is seen
CALM_SECONDS = 2.0  # without anything wrong: it is over
LEFT_SECONDS = 60.0
TOLD_SECONDS = 6.0  # until health has to say so; what costs its target something is asked rarely
MOST_WELL_SECONDS = 5.0
RARELY_ASKED_SECONDS = 4.0  # between checks of mail and store
MOST_JOBS_SECONDS = 40.0  # a job that was delayed, or whose worker lost it, waits for five
MOST_LINES = 5  # with one message, of a process, in one outage
BUSY = 1.5  # times as slow as ever before, where the machine does something else as well
MOST_MIB = 40  # of all processes
READS = ("me", "list", "public", "download", "socket")
WRITES = ("upload", "login")
RIGHT = {"upload": 202, "socket": 101}
WELL = {"/health/live": (200, "ok"), "/health/ready": (200, "ok"), "/health": (200, "healthy")}
CHECKS = {
    "postgresql": "database",
    "redis": "cache",
    "mail": "mail",
    "store": "media_store",
    "disk": "disk_space",
}
PROCESSES = {"web": 2, "worker": 1}

Told = dict[str, tuple[int, str]]
Line = dict[str, str]


@dataclass(frozen=True)
class Way:
    """A dependency and how it fails: what `may_fail` then, with 503, what probes are `told` but for
    what they always are, and how many `seconds` a request may take more than ever before."""

    dependency: str
    how: str
    act: outages.Act
    may_fail: frozenset[str]
    told: Told
    seconds: float

    @property
    def name(self) -> str:
        return f"{self.dependency}: {self.how}"


class Observed:
    """One way of failing, done to a service that is asked all the while."""

    def __init__(self, way: Way, rig: Rig, service: Service, asking: Asking) -> None:
        self.way, self.rig, self.service, self.asking = way, rig, service, asking
        self.problems: list[str] = []

    def observe(self, outage: outages.Outage) -> None:
        with self.asking.running():
            self._wait_until_warm()
            pids = {process.pid for process in self.service.processes()}
            self.memory_before = self.service.memory_mib()
            self.connections_before = self._connections()
            self.began, self.began_at = time.monotonic(), datetime.now(UTC)
            with outage:
                time.sleep(OUTAGE_SECONDS)
                self.ended = time.monotonic()
            self.back = time.monotonic()
            self._wait_until_well()
            self.jobs_seconds = self._wait_for_jobs()
            self.connections_after = self._connections_after()
            self.memory_after = self.service.memory_mib()
        if pids != {process.pid for process in self.service.processes()}:
            self.problems.append("a process did not outlive it")

    def _wait_until_warm(self) -> None:
        try:
            wait_until(self._is_warm, seconds=WARM_SECONDS, every=0.2)
        except TimeoutError:
            self.problems.append("was not well before")

    def _is_warm(self) -> bool:
        right = Counter(
            answer.kind for answer in tuple(self.asking.answers) if self._is_well(answer)
        )
        return all(right[kind] >= WARM for kind in KINDS)

    def _is_well(self, answer: Answer) -> bool:
        """Also where something else is slow, or fails a check, on a machine that is busy."""
        failing = answer.told.split()[1:] if answer.kind == "/health" else []
        right = answer.status == RIGHT.get(answer.kind, 200)
        return right and CHECKS[self.way.dependency] not in failing

    def _wrong_since(self, began: float) -> list[Answer]:
        return [answer for answer in self.asking.since(began) if not self._is_well(answer)]

    def _wait_until_well(self) -> None:
        end = time.monotonic() + LEFT_SECONDS
        while (now := time.monotonic()) < end:
            if now - self.back > CALM_SECONDS and not self._wrong_since(now - CALM_SECONDS):
                self.well_at = now
                return
            time.sleep(0.2)
        self.well_at = end
        self.problems.append(f"not well within {LEFT_SECONDS:.0f} s")

    def _wait_for_jobs(self) -> float:
        """Seconds until what was accepted in the outage has been processed."""
        old = datetime.now(UTC).isoformat()
        left = f"status NOT IN ('ready', 'failed') AND created_at < '{old}'"
        count = f"SELECT count(*) FROM media_items WHERE {left}"
        try:
            wait_until(lambda: self.rig.query(count) == "0", seconds=LEFT_SECONDS, every=0.5)
        except TimeoutError:
            self.problems.append(f"jobs are not done within {LEFT_SECONDS:.0f} s")
        return time.monotonic() - self.back

    def _connections(self) -> int | None:
        """Of the service, as the server counts them."""
        if self.way.dependency == "postgresql":
            count = f"SELECT count(*) FROM pg_stat_activity WHERE {OWN}"
            return int(self.rig.query(count))
        if self.way.dependency == "redis":
            with redis_client(self.rig) as admin:
                names = [str(client["name"]) for client in admin.client_list()]
            return sum(name.startswith("service") for name in names)
        return None

    def _connections_after(self) -> int | None:
        """Once the server knows of none that the service does not hold."""
        if self.connections_before is None:
            return None
        try:
            wait_until(self._none_leaked, seconds=10, every=0.2)
        except TimeoutError:
            held = self.service.connections(self.way.dependency)
            self.problems.append(f"{self._connections()} connections, of which {held} are held")
        return self._connections()

    def _none_leaked(self) -> bool:
        counted = self._connections()
        return counted is not None and counted <= self.service.connections(self.way.dependency)

    def row(self) -> Row:
        during = [a for a in self.asking.since(self.began) if a.began < self.ended]
        wrong = [a for a in self._wrong_since(self.back) if a.began < self.well_at]
        well = max((a.began + a.seconds for a in wrong), default=self.back) - self.back
        lines = self.service.lines(self.began_at)
        told = {path: _told(during, path, self.began + TOLD_SECONDS) for path in PROBES}
        self.late = self.asking.latest_since(self.began)
        self._judge_answers(self.asking.since(self.began))
        self._judge_health(told, well)
        self._judge_what_is_left(lines)
        return {
            "scenario": self.way.name,
            "requests": sum(answer.kind in KINDS for answer in during),
            **_columns("reads", [a for a in during if a.kind in READS]),
            **_columns("writes", [a for a in during if a.kind in WRITES]),
            "late s": round(self.late, 2),
            "ready": " ".join(map(str, told["/health/ready"])),
            "health": " ".join(map(str, told["/health"])),
            "lines": len([line for line in lines if line["level"] != "info"]),
            "well after s": round(well, 1),
            "jobs after s": round(self.jobs_seconds, 1),
            "connections": _from_to(self.connections_before, self.connections_after),
            "MiB more": sum(self.memory_after) - sum(self.memory_before),
            "met": "NO" if self.problems else "yes",
            "problem": "; ".join(self.problems)[:120],
            "problems": self.problems,
            "each kind": [_summary(kind, during) for kind in (*KINDS, *PROBES)],
            "logged": _counted(lines),
        }

    def _judge_answers(self, all_answers: Sequence[Answer]) -> None:
        """Those after the outage too."""
        for kind in KINDS:
            answers = [answer for answer in all_answers if answer.kind == kind]
            if wrong := Counter(a.status for a in answers if not self._is_right(a)):
                self.problems.append(f"{kind}: {dict(wrong)}")
            before = [a.seconds for a in self.asking.answers if self._is_before(a, kind)]
            # The machine may be slow once; what hangs hangs for both clients of a kind.
            slowest = min(nlargest(2, (answer.seconds for answer in answers)), default=math.inf)
            if slowest > self.way.seconds + BUSY * max(before) + self.late:
                self.problems.append(f"{kind}: {slowest:.1f} s, before {max(before):.1f}")

    def _is_right(self, answer: Answer) -> bool:
        if answer.status == 503 and answer.retry_after and answer.kind in self.way.may_fail:
            return True
        return answer.status == RIGHT.get(answer.kind, 200)

    def _is_before(self, answer: Answer, kind: str) -> bool:
        return answer.kind == kind and answer.began + answer.seconds < self.began

    def _judge_health(self, told: Told, well: float) -> None:
        for path, (status, word) in (WELL | self.way.told).items():
            says = told[path]
            # Beside a busy machine's own complaints.
            if says[0] != status or ((status, word) != WELL[path] and not says[1].startswith(word)):
                self.problems.append(f"{path} says {says}")
        if any(a.kind == "/health/live" and a.status != 200 for a in self.asking.answers):
            self.problems.append("/health/live failed")
        rarely = self.way.dependency in ("mail", "store")
        if well > MOST_WELL_SECONDS + (RARELY_ASKED_SECONDS if rarely else 0):
            self.problems.append(f"well again after {well:.1f} s")

    def _judge_what_is_left(self, lines: Sequence[Line]) -> None:
        if self.jobs_seconds > MOST_JOBS_SECONDS:
            self.problems.append(f"jobs are done after {self.jobs_seconds:.0f} s")
        if sum(self.memory_after) - sum(self.memory_before) > MOST_MIB:
            self.problems.append(f"MiB from {self.memory_before} to {self.memory_after}")
        told = Counter((line["process"], line["message"]) for line in lines if _is_of_outage(line))
        for (process, message), count in told.items():
            if count > MOST_LINES * PROCESSES[process]:
                self.problems.append(f"{count} lines {message} of {process}")


def _is_of_outage(line: Line) -> bool:
    """Not of the machine, which makes things slow."""
    return line["level"] != "info" and line["message"] != "check_slow"


def _told(answers: Sequence[Answer], path: str, since: float) -> tuple[int, str]:
    """What a probe said most often, once it has had the time to find out."""
    told = Counter((a.status, a.told) for a in answers if a.kind == path and a.began >= since)
    return told.most_common(1)[0][0] if told else (0, "nothing")


def _columns(name: str, answers: Sequence[Answer]) -> dict[str, object]:
    failed = sum(answer.status != RIGHT.get(answer.kind, 200) for answer in answers)
    return {
        f"{name} failed": f"{100 * failed / len(answers):.0f} %",
        f"{name} p99 s": round(_p99(answers), 2),
        f"{name} max s": round(max(answer.seconds for answer in answers), 2),
    }


def _p99(answers: Sequence[Answer]) -> float:
    seconds = sorted(answer.seconds for answer in answers)
    return seconds[int(0.99 * (len(seconds) - 1))]


def _summary(kind: str, answers: Sequence[Answer]) -> str:
    own = [answer for answer in answers if answer.kind == kind]
    if not own:
        return f"{kind}: none"
    statuses = ", ".join(f"{n} x {s}" for s, n in Counter(a.status for a in own).most_common())
    longest = max(answer.seconds for answer in own)
    return f"{kind}: {statuses}; p99 {_p99(own):.2f} s, max {longest:.2f} s"


def _from_to(before: int | None, after: int | None) -> str:
    return "" if before is None else f"{before} to {after}"


def _counted(lines: Sequence[Line]) -> list[str]:
    """Each kind of line, and how often; of an exception its end."""
    told = Counter(
        (
            *(line[name] for name in ("process", "level", "message")),
            line.get("error", "")[:100],
            line.get("exception", "")[-300:],
        )
        for line in lines
    )
    return [f"{count} x {' '.join(words).rstrip()}" for words, count in told.items()]
