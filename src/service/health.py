"""Liveness, readiness, startup and health: probes that never lie and never hang.

Checks run beside the requests, in parallel, one run of each at a time, and every run has a deadline
that holds even where the driver ignores its cancellation: the run is a task of its own which is
waited for, never awaited. Probes read results, and wait only for a run that is already under way.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send

from service import metrics
from service.lifecycle import Lifecycle

log = logging.getLogger(__name__)

ON_DEMAND_SECONDS = 60  # an on-demand check is kept fresh this long after somebody asked
ON_DEMAND_INTERVAL_SECONDS = 4


@dataclass(frozen=True)
class Check:
    """One thing that can be away.

    `run` raises when it fails. `abort` makes a run that missed its deadline let go of what it holds
    (a driver whose cancellation asks the server first would hold it until the server is back).
    An `on_demand` check costs its target something (a mail server): it runs only while somebody
    looks at `/health`.
    """

    name: str
    run: Callable[[], Awaitable[object]]
    timeout_seconds: float
    abort: Callable[[], None] | None = None
    slow_seconds: float | None = None
    on_demand: bool = False


@dataclass
class Result:
    """The latest outcome of a check; times are `time.monotonic()` but for `changed_at`."""

    ok: bool = False
    slow: bool = False
    error: str = ""
    latency_seconds: float = 0.0
    finished_at: float | None = None
    failures_in_a_row: int = 0
    changed_at: float = field(default_factory=time.time)


class Watch:
    """Runs one check, at most one run at a time, and keeps its latest result."""

    def __init__(self, check: Check, interval_seconds: float) -> None:
        self.check = check
        self.interval_seconds = interval_seconds
        self.result = Result()
        self.started_at = float("-inf")
        self.flight: asyncio.Task[None] | None = None
        self.stuck: asyncio.Future[object] | None = None

    def due_in(self, now: float) -> float:
        """Seconds until the next run may start."""
        return self.started_at + self.interval_seconds - now

    def begin(self) -> asyncio.Task[None] | None:
        """The run under way, or a new one where the result is older than the interval."""
        if self.flight is None and self.due_in(time.monotonic()) <= 0:
            self.started_at = time.monotonic()
            self.flight = asyncio.create_task(self._fly(), name=f"check {self.check.name}")
            self.flight.add_done_callback(self._landed)
        return self.flight

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self.flight = None
        if not flight.cancelled() and (error := flight.exception()):
            log.error("check_broken", exc_info=error, extra={"check": self.check.name})

    async def _fly(self) -> None:
        if self.stuck is not None and not self.stuck.done():
            self._record("the last run is still stuck", 0.0)
            return
        began = time.monotonic()
        run = asyncio.ensure_future(self.check.run())
        try:
            await asyncio.wait({run}, timeout=self.check.timeout_seconds)
        finally:
            if not run.done():
                self._give_up(run)
        latency = time.monotonic() - began
        if run is self.stuck:
            self._record("timeout", latency)
        elif (error := run.exception()) is not None:
            self._record(f"{type(error).__name__}: {error}".strip(": "), latency)
        else:
            self._record("", latency)

    def _give_up(self, run: asyncio.Future[object]) -> None:
        """Let go of the driver's resources first, then cancel; never wait for either."""
        self.stuck = run
        run.add_done_callback(_forget)
        if self.check.abort is not None:
            self.check.abort()
        run.cancel()

    def _record(self, error: str, latency: float) -> None:
        check, last = self.check, self.result
        slow = not error and check.slow_seconds is not None and latency > check.slow_seconds
        changed = last.finished_at is None or (not error, slow) != (last.ok, last.slow)
        self.result = Result(
            ok=not error,
            slow=slow,
            error=error,
            latency_seconds=latency,
            finished_at=time.monotonic(),
            failures_in_a_row=last.failures_in_a_row + 1 if error else 0,
            changed_at=time.time() if changed else last.changed_at,
        )
        metrics.CHECK_UP.labels(check.name).set(not error)
        metrics.CHECK_LATENCY.labels(check.name).set(latency)
        if changed:
            self._log_change(first=last.finished_at is None)

    def _log_change(self, *, first: bool) -> None:
        result = self.result
        extra = {"check": self.check.name, "latency_ms": round(result.latency_seconds * 1000, 1)}
        if not result.ok:
            log.warning("check_failed", extra={**extra, "error": result.error})
        elif result.slow:
            log.warning("check_slow", extra=extra)
        elif not first:
            log.info("check_recovered", extra=extra)


def _forget(run: asyncio.Future[object]) -> None:
    if not run.cancelled():
        run.exception()  # or asyncio complains that nobody looked


class Health:
    """All checks of a process and what follows from them."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        *,
        required: Iterable[str] = ("database",),
        interval_seconds: float = 1.0,
        stale_seconds: float = 5.0,
    ) -> None:
        self.lifecycle = lifecycle
        self.required = frozenset(required)
        self.interval_seconds = interval_seconds
        self.stale_seconds = stale_seconds
        self.watches: dict[str, Watch] = {}
        self.open = False
        self._started = False
        self._asked_at = float("-inf")

    def add(self, check: Check) -> None:
        """Register a check, beside the line that opens what it checks."""
        interval = ON_DEMAND_INTERVAL_SECONDS if check.on_demand else self.interval_seconds
        self.watches[check.name] = Watch(check, interval)

    @contextlib.asynccontextmanager
    async def running(self) -> Any:
        """Keep results fresh while the service runs."""
        self.open = True
        task = asyncio.create_task(self._keep_fresh(), name="health")
        try:
            yield self
        finally:
            task.cancel()
            flights = [watch.flight for watch in self.watches.values() if watch.flight]
            for flight in flights:
                flight.cancel()
            await asyncio.wait([task, *flights])

    async def _keep_fresh(self) -> None:
        while True:
            now = time.monotonic()
            asked = now - self._asked_at < ON_DEMAND_SECONDS
            watches = [
                watch
                for name, watch in self.watches.items()
                if asked or not watch.check.on_demand or name in self.required
            ]
            for watch in watches:
                watch.begin()
            pause = min((watch.due_in(time.monotonic()) for watch in watches), default=1.0)
            await asyncio.sleep(min(max(pause, 0.01), self.interval_seconds))

    async def refresh(self, watches: Iterable[Watch]) -> None:
        """Wait for runs under way or due; not for those of checks already known to fail."""
        flights = [(watch, watch.begin()) for watch in watches]
        waiting = [
            f for watch, f in flights if f and (watch.result.ok or watch.result.finished_at is None)
        ]
        if waiting:
            await asyncio.wait(waiting)

    def passes(self, watch: Watch) -> bool:
        """A pass that is not too old to be believed."""
        result = watch.result
        if not result.ok or result.finished_at is None:
            return False
        return time.monotonic() - result.finished_at <= self.stale_seconds

    def _required(self) -> list[Watch]:
        return [watch for name, watch in self.watches.items() if name in self.required]

    @property
    def started(self) -> bool:
        """Whether every required check has had its first result. Latched: a dependency that goes
        away later must not make the orchestrator start the process anew."""
        if not self._started:
            self._started = self.open and all(
                watch.result.finished_at is not None for watch in self._required()
            )
        return self._started

    def not_ready(self) -> str:
        """Why no traffic should come: `draining`, `starting`, `dependency`; or nothing."""
        if self.lifecycle.draining:
            return "draining"
        if not self.started:
            return "starting"
        if not all(self.passes(watch) for watch in self._required()):
            return "dependency"
        return ""

    async def ready(self) -> str:
        """`not_ready()` on results no older than the interval."""
        if not self.lifecycle.draining:
            await self.refresh(self._required())
        return self.not_ready()

    async def overall(self) -> tuple[str, dict[str, bool]]:
        """(`healthy`, `degraded` or `unhealthy`; whether each check passes)."""
        self._asked_at = time.monotonic()
        if not self.lifecycle.draining:
            await self.refresh(self.watches.values())
        passes = {name: self.passes(watch) for name, watch in self.watches.items()}
        if self.not_ready():
            return "unhealthy", passes
        slow = any(watch.result.slow for watch in self.watches.values())
        return ("healthy" if all(passes.values()) and not slow else "degraded"), passes

    def report(self) -> dict[str, dict[str, Any]]:
        """Every check in full, for `/health/detailed`; ages and latencies in seconds."""
        now = time.monotonic()
        checks = {}
        for name, watch in self.watches.items():
            result = watch.result
            state = "unknown" if result.finished_at is None else "fail"
            if self.passes(watch):
                state = "slow" if result.slow else "pass"
            age = None if result.finished_at is None else round(now - result.finished_at, 3)
            checks[name] = {
                "state": state,
                "required": name in self.required,
                "latency_seconds": round(result.latency_seconds, 6),
                "age_seconds": age,
                "failures_in_a_row": result.failures_in_a_row,
                "last_change": result.changed_at,
            }
        return checks


Headers = Sequence[tuple[bytes, bytes]]
NO_STORE = (b"cache-control", b"no-store")
JSON = (b"content-type", b"application/json")


async def answer(
    scope: Scope, send: Send, status: int, body: bytes, headers: Headers = (JSON, NO_STORE)
) -> None:
    """Send a whole response; HEAD gets the headers alone."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _pass_or_fail(reason: str) -> tuple[int, bytes]:
    return 503, json.dumps({"status": "fail", "reason": reason}).encode()


PASS = (200, b'{"status": "pass", "reason": "ok"}')
FAIL = {reason: _pass_or_fail(reason) for reason in ("starting", "draining", "dependency")}
ALLOW = ((b"allow", b"GET, HEAD"), NO_STORE)


class Probes:
    """The endpoints for orchestrators and load balancers: raw ASGI, before all middleware."""

    def __init__(self, health: Health) -> None:
        self.health = health
        self.paths = {
            "/health": self.overall,
            "/health/live": self.live,
            "/health/ready": self.ready,
            "/health/startup": self.startup,
        }

    async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The loop runs, or this would not be answered. Dependencies have no say."""
        await self._answer(scope, send, PASS)

    async def ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = await self.health.ready()
        await self._answer(scope, send, FAIL[reason] if reason else PASS)

    async def startup(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(scope, send, PASS if self.health.started else FAIL["starting"])

    async def overall(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, checks = await self.health.overall()
        body = json.dumps({"status": status, "checks": checks}).encode()
        await self._answer(scope, send, (503 if status == "unhealthy" else 200, body))

    async def _answer(self, scope: Scope, send: Send, what: tuple[int, bytes]) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await answer(scope, send, 405, b"", ALLOW)
        else:
            await answer(scope, send, *what)
