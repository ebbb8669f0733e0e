"""`/health/detailed`: everything an operator asks of one process, behind a token."""

import asyncio
import hmac
import json
import logging
import os
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from service import metrics, system
from service.health import Health, answer
from service.settings import Settings

log = logging.getLogger(__name__)

SAMPLE_SECONDS = 1.0


class Details:
    """Samples the machine and the workers in a thread; the endpoint only formats the latest."""

    def __init__(self, settings: Settings, health: Health) -> None:
        self.token = settings.health_token
        self.health = health
        self.folder = Path(settings.upload_folder)
        self.version = version("service")
        self._machine: dict[str, Any] = {}
        self._workers: list[dict[str, float | int]] = []

    async def sample_forever(self) -> None:
        """Without a token nobody can ask, and nothing is sampled."""
        if self.token is None:
            return
        sampler = system.Sampler(self.folder)
        while True:
            try:
                self._machine, self._workers = await asyncio.to_thread(self._sample, sampler)
            except Exception:
                log.exception("sampling_failed")
            await asyncio.sleep(SAMPLE_SECONDS)

    @staticmethod
    def _sample(sampler: system.Sampler) -> tuple[dict[str, Any], list[dict[str, float | int]]]:
        return asdict(sampler.sample()), metrics.worker_vitals()

    def authorised(self, scope: Scope) -> bool:
        """Whether the request carries the token, compared in constant time."""
        if self.token is None:
            return False
        wanted = f"Bearer {self.token.get_secret_value()}".encode()
        return any(
            name == b"authorization" and hmac.compare_digest(value, wanted)
            for name, value in scope["headers"]
        )

    async def report(self) -> tuple[int, dict[str, Any]]:
        """(HTTP status, body)."""
        status, _ = await self.health.overall()
        body = {
            "status": status,
            "state": self.health.not_ready() or "ready",
            "timestamp": time.time(),
            "uptime": round(system.process_uptime(), 3),
            "version": self.version,
            "pid": os.getpid(),
            **self._machine,
            "workers": self._workers,
            "checks": self.health.report(),
        }
        return (503 if status == "unhealthy" else 200), body

    def endpoint(self, fallback: ASGIApp) -> ASGIApp:
        """The ASGI endpoint; without a configured token `fallback` answers its own 404."""

        async def detailed(scope: Scope, receive: Receive, send: Send) -> None:
            if self.token is None or scope["method"] not in ("GET", "HEAD"):
                await fallback(scope, receive, send)
            elif not self.authorised(scope):
                headers = ((b"www-authenticate", b"Bearer"), (b"cache-control", b"no-store"))
                await answer(scope, send, 401, b"", headers)
            else:
                status, body = await self.report()
                await answer(scope, send, status, json.dumps(body).encode())

        return detailed
