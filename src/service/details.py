"""What an operator asks of one process, and of all workers over the last quarter of an hour, behind
a token. Like probes, it is answered before any middleware, and so in an overload."""

import asyncio
import hmac
import json
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from service import errors, metrics, system
from service.checks import InThread
from service.health import NO_STORE, PROBLEM, Health, answer
from service.history import History
from service.settings import Settings

log = logging.getLogger(__name__)

REPLICA = socket.gethostname()  # a container's own, and a pod's
SAMPLE_SECONDS = 1.0
FIRST_SAMPLE_SECONDS = 1.0  # a request that comes before the first sample waits so long for it
NOT_SAMPLED = {field.name: None for field in fields(system.Snapshot)}
CHALLENGE = (PROBLEM, (b"www-authenticate", b"Bearer"), NO_STORE)
REFUSED = (PROBLEM, NO_STORE)
NO_MOMENT = errors.problem_body(422, detail="since: expected seconds since 1970")

Report = Callable[[dict[str, list[str]]], Awaitable[tuple[int, dict[str, Any]]]]


class Details:
    """Samples the machine and the workers in a thread; the endpoint only formats the latest."""

    def __init__(self, settings: Settings, health: Health) -> None:
        self.token = settings.health_token
        self.health = health
        self.folder = Path(settings.upload_folder)
        self.version = version("service")
        self._machine: dict[str, Any] = dict(NOT_SAMPLED)
        self._workers: list[dict[str, float | int]] = []
        self._sampled_at: float | None = None
        self._tried = asyncio.Event(), asyncio.Event()
        self.history = History(self._for_history)

    async def sample_forever(self) -> None:
        """Without a token nobody can ask, and nothing is sampled."""
        if self.token is None:
            return
        machine = partial(self._sample_machine, system.Sampler(self.folder))
        # Apart: the folder's disk may hang, and the workers are to be seen then as well.
        samples: tuple[Callable[[], None], ...] = (machine, self._sample_workers)
        async with asyncio.TaskGroup() as group:
            for sample, tried in zip(samples, self._tried, strict=True):
                group.create_task(self._repeat(sample, tried))

    async def _repeat(self, sample: Callable[[], None], tried: asyncio.Event) -> None:
        in_thread = InThread(sample)
        failing = False
        while True:
            try:
                await in_thread()
                failing = False
            except Exception:
                if not failing:
                    log.exception("sampling_failed")
                failing = True
            tried.set()
            await asyncio.sleep(SAMPLE_SECONDS)

    def _sample_machine(self, sampler: system.Sampler) -> None:
        self._machine = asdict(sampler.sample())
        self._sampled_at = time.monotonic()

    def _sample_workers(self) -> None:
        self._workers = metrics.worker_vitals()
        self.history.add_if_due()

    def _for_history(self) -> dict[str, float]:
        found = {"cpu_percent": self._machine["cpu_percent"], "workers": len(self._workers)}
        for name in ("memory", "disk"):
            found[f"{name}_percent"] = (self._machine[name] or {}).get("percent")
        return {name: value for name, value in found.items() if value is not None}

    async def report(self) -> tuple[int, dict[str, Any]]:
        """(HTTP status, body). Times are in seconds, `timestamp` and `last_change` since 1970."""
        status, _ = await self.health.overall()
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SAMPLE_SECONDS):
                for tried in self._tried:
                    await tried.wait()
        body = {
            "status": status,
            "state": self.health.not_ready() or "ready",
            "timestamp": time.time(),
            "uptime": round(system.process_uptime(), 3),
            "version": self.version,
            "pid": os.getpid(),
            "replica": REPLICA,
            **self._machine,
            "sample_age_seconds": self._sample_age(),
            "workers": self._workers,
            "checks": self.health.report(),
        }
        return (503 if status == "unhealthy" else 200), body

    def _sample_age(self) -> float | None:
        at = self._sampled_at
        return None if at is None else round(time.monotonic() - at, 3)

    async def recent(self, since: str) -> tuple[int, dict[str, Any]]:
        """(HTTP status, body): what `history` has that is later than a time in seconds since 1970.
        Raises ValueError."""
        moment = float(since)
        columns = await asyncio.to_thread(self.history.since, moment)
        now = time.time()
        return 200, {"replica": REPLICA, "now": now, "columns": columns}

    def endpoints(self, fallback: ASGIApp) -> dict[str, ASGIApp]:
        """ASGI endpoints by path; without a configured token `fallback` answers its own 404."""
        detailed = self._guarded(fallback, lambda _: self.report())
        return {
            "/health/detailed": detailed,
            "/api/operations/health": detailed,  # the same, where a proxy publishes it
            "/api/operations/history": self._guarded(
                fallback, lambda query: self.recent(query.get("since", ["0"])[-1])
            ),
        }

    def _guarded(self, fallback: ASGIApp, report: Report) -> ASGIApp:
        async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
            if self.token is None or scope["method"] not in ("GET", "HEAD"):
                await fallback(scope, receive, send)
            elif not authorised(self.token, scope):
                await answer(scope, send, 401, errors.problem_body(401), CHALLENGE)
            else:
                try:
                    status, body = await report(parse_qs(scope["query_string"].decode("latin-1")))
                except ValueError:
                    await answer(scope, send, 422, NO_MOMENT, REFUSED)
                else:
                    await answer(scope, send, status, json.dumps(body).encode())

        return endpoint


def authorised(token: SecretStr, scope: Scope) -> bool:
    """Whether a request carries the operators' token, compared in constant time."""
    wanted = token.get_secret_value().encode()
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    return len(given) == 1 and _is_bearer(given[0], wanted)


def _is_bearer(header: bytes, wanted: bytes) -> bool:
    scheme, _, token = header.partition(b" ")
    return hmac.compare_digest(token.strip(), wanted) and scheme.lower() == b"bearer"
