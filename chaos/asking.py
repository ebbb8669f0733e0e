"""Each kind of request, and each probe, asked again and again by clients of its own; every answer
is kept with its time."""

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidStatus

from chaos.clients import running_clients

CLIENTS_EACH = 2
EVERY_SECONDS = 0.5
PROBE_SECONDS = 0.2
TICK_SECONDS = 0.05
PATIENCE_SECONDS = 30.0  # more than any bound: what takes longer counts as no answer
KINDS = ("me", "list", "public", "upload", "download", "login", "socket")
PROBES = ("/health/live", "/health/ready", "/health")


@dataclass(frozen=True)
class Answer:
    """To one request: 0 is none at all. `began` is `time.monotonic()`; `told` is a probe's word."""

    kind: str
    began: float
    seconds: float
    status: int
    retry_after: bool = False
    told: str = ""


@dataclass(frozen=True)
class Person:
    """Who asks, and an item of theirs."""

    email: str
    password: str
    token: str
    item_path: str = ""

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@dataclass
class Asking:
    """Clients in a thread of their own, from the beginning of a block to its end."""

    port: int
    person: Person
    answers: list[Answer] = field(default_factory=list)
    accepted: int = 0
    late: list[tuple[float, float]] = field(default_factory=list)  # when, and by how many seconds

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._numbers = itertools.count()
        self.kinds: dict[str, Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]] = {
            "me": lambda client: client.get("/api/accounts/me", headers=self.person.bearer),
            "list": lambda client: client.get("/api/media?limit=5", headers=self.person.bearer),
            "public": lambda client: client.get("/api/public/media?limit=5"),
            "upload": self._upload,
            "download": lambda client: client.get(
                self.person.item_path, headers=self.person.bearer
            ),
            "login": self._log_in,
        }

    @contextmanager
    def running(self) -> Iterator[None]:
        with running_clients(self._ask_all, self._stopping, 2 * PATIENCE_SECONDS):
            yield

    def since(self, began: float) -> list[Answer]:
        """Answers to what was asked from then on."""
        return [answer for answer in tuple(self.answers) if answer.began >= began]

    def latest_since(self, began: float) -> float:
        """By how many seconds these clients were late themselves, once, as all was that runs here:
        an answer may have taken that much longer than the service did."""
        return max((late for at, late in tuple(self.late) if at >= began), default=0.0)

    async def _tick(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            self.late.append((now, now - began - TICK_SECONDS))

    async def _ask_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tick())
            for kind in self.kinds:
                for _ in range(CLIENTS_EACH):
                    group.create_task(self._ask(kind))
            for _ in range(CLIENTS_EACH):
                group.create_task(self._shake_hands())
            for path in PROBES:
                group.create_task(self._probe(path))

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}",
            verify=False,  # no TLS here: reading certificates would take longer than a request
            limits=httpx.Limits(max_connections=1),
            timeout=PATIENCE_SECONDS,
        )

    async def _ask(self, kind: str) -> None:
        async with self._client() as client:
            while not self._stopping.is_set():
                await self._record(kind, self.kinds[kind], client)
                await asyncio.sleep(EVERY_SECONDS)

    async def _probe(self, path: str) -> None:
        """Each time on a new connection, so that both workers are asked."""
        while not self._stopping.is_set():
            async with self._client() as client:
                await self._record(path, lambda client: client.get(path), client)
            await asyncio.sleep(PROBE_SECONDS)

    async def _record(
        self,
        kind: str,
        ask: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]],
        client: httpx.AsyncClient,
    ) -> None:
        began, answer = time.monotonic(), None
        with suppress(httpx.HTTPError):  # which is a status of 0
            answer = await ask(client)
        seconds = time.monotonic() - began
        if answer is None:
            self.answers.append(Answer(kind, began, seconds, 0))
            return
        told = _told(answer) if kind in PROBES else ""
        again = "Retry-After" in answer.headers
        self.answers.append(Answer(kind, began, seconds, answer.status_code, again, told))

    async def _upload(self, client: httpx.AsyncClient) -> httpx.Response:
        number = next(self._numbers)
        answer = await client.post(
            "/api/media",
            headers=self.person.bearer,
            files={"file": (f"{number}.txt", f"upload {number}".encode())},
            data={"title": str(number), "public": "false"},
        )
        self.accepted += answer.status_code == 202
        return answer

    async def _log_in(self, client: httpx.AsyncClient) -> httpx.Response:
        form = {"username": self.person.email, "password": self.person.password}
        return await client.post("/login", data=form)

    async def _shake_hands(self) -> None:
        """101 where the socket is accepted; it is closed at once."""
        url = f"ws://127.0.0.1:{self.port}/ws/media"
        options: dict[str, Any] = {"proxy": None, "compression": None}
        while not self._stopping.is_set():
            began, status, again, seconds = time.monotonic(), 0, False, None
            try:
                async with connect(
                    url,
                    additional_headers=self.person.bearer,
                    open_timeout=PATIENCE_SECONDS,
                    close_timeout=1,
                    **options,
                ):
                    status, seconds = 101, time.monotonic() - began
            except InvalidStatus as error:
                status = error.response.status_code
                again = "Retry-After" in error.response.headers
            except (OSError, InvalidHandshake, TimeoutError):
                pass  # which is a status of 0
            took = time.monotonic() - began if seconds is None else seconds
            self.answers.append(Answer("socket", began, took, status, again))
            await asyncio.sleep(EVERY_SECONDS)


def _told(answer: httpx.Response) -> str:
    """`ready`'s reason, or what of `/health` is not well, such as `degraded cache`."""
    try:
        body = answer.json()
    except json.JSONDecodeError:
        return "no JSON"
    if "reason" in body:
        return str(body["reason"])
    failing = [name for name, passes in body["checks"].items() if not passes]
    return " ".join([body["status"], *failing])
