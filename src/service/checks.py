"""Asking one thing whether it is there: never two runs at once, and never longer than its deadline.

The deadline holds even where a driver ignores its cancellation, or where cancelling means asking
the server that does not answer: a run is a task of its own which is waited for, never awaited.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from service import metrics

log = logging.getLogger(__name__)


class CheckExited(Exception):
    """A check called for the end of the process, which it must not decide."""


@dataclass(frozen=True)
class Check:
    """One thing that can be away.

    `run` raises when it fails. `abort` makes a run that missed its deadline let go of what it holds
    (a driver whose cancellation asks the server first would hold it until the server is back).
    An `on_demand` check costs its target something (a mail server): it runs once a minute where
    nobody looks at `/health`. One that `takes_time` looks for longer than a probe may, which has
    its last result instead. One that is `named_when_failing` is absent from `/health` until then.
    """

    name: str
    run: Callable[[], Awaitable[object]]
    timeout_seconds: float
    abort: Callable[[], None] | None = None
    slow_seconds: float | None = None
    on_demand: bool = False
    takes_time: bool = False
    named_when_failing: bool = False


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
        self.closed = False

    def age(self, now: float) -> float:
        """Seconds since the latest result; infinite before the first."""
        finished_at = self.result.finished_at
        return float("inf") if finished_at is None else now - finished_at

    def due_in(self, now: float) -> float:
        """Seconds until the next run may start."""
        return self.started_at + self.interval_seconds - now

    def begin(self) -> asyncio.Task[None] | None:
        """The run under way, or a new one where the last began an interval ago."""
        if self.flight is None and not self.closed and self.due_in(time.monotonic()) <= 0:
            self.started_at = time.monotonic()
            self.flight = asyncio.create_task(self._fly(), name=f"check {self.check.name}")
            self.flight.add_done_callback(self._landed)
        return self.flight

    def close(self) -> list[asyncio.Task[None]]:
        """Begin no more runs and give up the one under way: the tasks that now end."""
        self.closed = True
        if self.flight is None:
            return []
        self.flight.cancel()
        return [self.flight]

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self.flight = None
        if not flight.cancelled() and (error := flight.exception()):
            self._record(_described(error), 0.0)

    async def _fly(self) -> None:
        if self.stuck is not None and not self.stuck.done():
            self._record("the last run is still stuck", self.result.latency_seconds)
            return
        began = time.monotonic()
        run = asyncio.create_task(self._run(), name=f"run of check {self.check.name}")
        try:
            await asyncio.wait({run}, timeout=self.check.timeout_seconds)
        finally:
            if not run.done():
                self._give_up(run)
        latency = time.monotonic() - began
        if run is self.stuck:
            self._record("timeout", latency)
        elif run.cancelled():
            self._record("cancelled", latency)
        else:
            self._record(_described(run.exception()), latency)

    async def _run(self) -> object:
        try:
            return await self.check.run()
        except SystemExit as error:  # asyncio would let it through, past everybody
            raise CheckExited from error

    def _give_up(self, run: asyncio.Task[object]) -> None:
        """Let go of the driver's resources first, then cancel; never wait for either."""
        self.stuck = run
        run.add_done_callback(_forget)
        try:
            if self.check.abort is not None:
                self.check.abort()
        finally:
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


def _described(error: BaseException | None) -> str:
    return "" if error is None else f"{type(error).__name__}: {error}".strip(": ")


def _forget(run: asyncio.Task[object]) -> None:
    if not run.cancelled():
        run.exception()  # or asyncio complains that nobody looked


class InThread:
    """A blocking function as a check's `run`, in a thread of its own.

    A thread cannot be cancelled: one that a dead file system holds stays behind when its run is
    given up, and the runs after it wait for that same thread instead of losing another. Being a
    daemon it does not keep the process from ending; and the threads of requests are left to them.
    """

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._outcome: Future[object] | None = None

    async def __call__(self) -> object:
        if self._outcome is None or self._outcome.done():
            self._outcome = Future()
            self._outcome.set_running_or_notify_cancel()  # from now on nobody can cancel it
            thread = threading.Thread(target=self._work, args=[self._outcome], daemon=True)
            thread.start()
        return await asyncio.wrap_future(self._outcome)

    def _work(self, outcome: Future[object]) -> None:
        try:
            outcome.set_result(self._function())
        except BaseException as error:
            outcome.set_exception(error)
