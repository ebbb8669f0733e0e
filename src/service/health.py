"""Liveness, readiness, startup and health: probes that never lie and never hang.

Checks run beside the requests and in parallel. Probes read results, and wait only for a run that is
already under way, and not for one of a check that is known to fail.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from starlette.types import Receive, Scope, Send

from service import errors
from service.checks import Check, Watch
from service.lifecycle import Lifecycle

# An on-demand check is kept fresh this long after somebody asked, and else runs this often: metrics
# and their alerts are to know as well.
ON_DEMAND_SECONDS = 60
ON_DEMAND_SHARE = 0.8  # of the time after which a result is stale: as rarely as can be
FIRST_RESULTS_SECONDS = 0.1  # dependencies that are there answer within it: ready at once
LET_GO_SECONDS = 0.25  # for a run that was given up, at the end


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
        self._needed: list[Watch] = []
        self._started = False
        self._asked_at = float("-inf")

    def add(self, check: Check) -> None:
        """Register a check, beside the line that opens what it checks."""
        interval = self.interval_seconds
        if check.on_demand:
            interval = max(interval, ON_DEMAND_SHARE * self.stale_seconds)
        watch = self.watches[check.name] = Watch(check, interval)
        if check.name in self.required:
            self._needed.append(watch)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Health"]:
        """Keep results fresh while the service runs."""
        tasks = [asyncio.create_task(self._keep_fresh(watch)) for watch in self.watches.values()]
        try:
            flights = [flight for watch in self._needed if (flight := watch.begin())]
            if flights:
                await asyncio.wait(flights, timeout=FIRST_RESULTS_SECONDS)
            self.open = True
            yield self
        finally:
            for task in tasks:
                task.cancel()
            for watch in self.watches.values():
                tasks += watch.close()
            if tasks:
                await asyncio.wait(tasks)
            # Else a driver might still connect, or let go, after its resource was closed.
            if stuck := [watch.stuck for watch in self.watches.values() if watch.stuck]:
                await asyncio.wait(stuck, timeout=LET_GO_SECONDS)

    async def _keep_fresh(self, watch: Watch) -> None:
        always = not watch.check.on_demand or watch in self._needed
        looked_at = time.monotonic()
        while True:
            now = time.monotonic()
            asked = now - self._asked_at < ON_DEMAND_SECONDS
            if always or asked or now - looked_at >= ON_DEMAND_SECONDS:
                looked_at = now
                if flight := watch.begin():
                    await asyncio.wait({flight})
                await asyncio.sleep(max(0.0, watch.due_in(time.monotonic())))
            else:
                await asyncio.sleep(self.interval_seconds)

    def _worth_waiting_for(self, watch: Watch) -> bool:
        if watch.age(time.monotonic()) > self.stale_seconds:
            return True
        return watch.result.ok and not (watch.check.on_demand or watch.check.takes_time)

    async def _refresh(self, watches: Iterable[Watch]) -> None:
        """Results no older than the interval, but for checks that are known to fail."""
        flights = [
            flight
            for watch in watches
            if (flight := watch.begin()) and self._worth_waiting_for(watch)
        ]
        if flights:
            await asyncio.wait(flights)

    def passes(self, watch: Watch) -> bool:
        """A pass that is not too old to be believed."""
        return watch.result.ok and watch.age(time.monotonic()) <= self.stale_seconds

    @property
    def started(self) -> bool:
        """Whether every required check has had its first result. Latched: a dependency that goes
        away later must not make the orchestrator start the process anew."""
        if not self._started:
            self._started = self.open and all(
                watch.result.finished_at is not None for watch in self._needed
            )
        return self._started

    def not_ready(self) -> str:
        """Why no traffic should come: `draining`, `starting`, `dependency`; or nothing."""
        if self.lifecycle.draining:
            return "draining"
        if not self.started:
            return "starting"
        for watch in self._needed:
            if not self.passes(watch):
                return "dependency"
        return ""

    async def ready(self) -> str:
        """`not_ready()` on results no older than the interval."""
        if self.started and not self.lifecycle.draining:
            await self._refresh(self._needed)
        return self.not_ready()

    async def overall(self) -> tuple[str, dict[str, bool]]:
        """(`healthy`, `degraded` or `unhealthy`; whether each check passes)."""
        self._asked_at = time.monotonic()
        if self.started and not self.lifecycle.draining:
            await self._refresh(self.watches.values())
        watches = self.watches.values()
        passes = {watch.check.name: self.passes(watch) for watch in watches}
        shown = {
            name: ok
            for name, ok in passes.items()
            if not (ok and self.watches[name].check.named_when_failing)
        }
        if self.not_ready():
            return "unhealthy", shown
        well = all(passes.values()) and not any(watch.result.slow for watch in watches)
        return ("healthy" if well else "degraded"), shown

    def report(self) -> dict[str, dict[str, Any]]:
        """Every check in full, for `/health/detailed`; ages and latencies in seconds."""
        now = time.monotonic()
        checks = {}
        for name, watch in self.watches.items():
            result, age = watch.result, watch.age(now)
            state = "unknown" if result.finished_at is None else "fail"
            if self.passes(watch):
                state = "slow" if result.slow else "pass"
            checks[name] = {
                "state": state,
                "required": name in self.required,
                "latency_seconds": round(result.latency_seconds, 6),
                "age_seconds": None if result.finished_at is None else round(age, 3),
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
PROBLEM = (b"content-type", errors.PROBLEM_JSON.encode())
ALLOW = (PROBLEM, (b"allow", b"GET, HEAD"), NO_STORE)


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
            await answer(scope, send, 405, errors.problem_body(405), ALLOW)
        else:
            await answer(scope, send, *what)
