"""Probes, asked all the while as an orchestrator does, of a service that is well and only busy."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2 as httpx

from chaos.stack import Stack

EVERY_SECONDS = 0.2
LIVE, READY, HEALTH = "/health/live", "/health/ready", "/health"


@dataclass
class Probing:
    """`wrong` is each answer that is not the truth, with its time since the beginning."""

    count: int = 0
    wrong: list[str] = field(default_factory=list)
    slowest_live_seconds: float = 0.0

    def ask(self, stack: Stack, path: str, at: float) -> None:
        began = time.monotonic()
        self.count += 1
        try:
            answer = stack.nginx.internal(path)
            wrong = "" if _is_true(path, answer) else f"{answer.status_code} {answer.text[:200]}"
        except httpx.HTTPError as error:
            wrong = repr(error)
        took = time.monotonic() - began
        if wrong:
            self.wrong.append(f"{at:.1f} s: {path} {wrong} after {took:.2f} s")
        if path == LIVE:
            self.slowest_live_seconds = max(self.slowest_live_seconds, took)


def _is_true(path: str, answer: httpx.Response) -> bool:
    """A service that has too much to do is alive and ready, and its database is there."""
    if answer.status_code != 200:
        return False
    if path != HEALTH:
        return bool(answer.json()["status"] == "pass")
    found = answer.json()
    return found["status"] in ("healthy", "degraded") and bool(found["checks"]["database"])


@contextmanager
def probing(stack: Stack) -> Iterator[Probing]:
    """Through nginx's internal port, for as long as a block lasts."""
    found, ending = Probing(), threading.Event()
    began = time.monotonic()

    def ask_on() -> None:
        while not ending.wait(EVERY_SECONDS):
            for path in (LIVE, READY, HEALTH):
                found.ask(stack, path, time.monotonic() - began)

    thread = threading.Thread(target=ask_on)
    thread.start()
    try:
        yield found
    finally:
        ending.set()
        thread.join()
