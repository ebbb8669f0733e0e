"""Load on a site, half of it reads and half uploads, from clients that keep their connections.

An upload's number makes its title and its content, and its key is its own: so what is in the
database tells which are missing or there twice. One that fails is a failure; then it is repeated
with its key, as a careful client does, until it is accepted. And half of them repeat, under its
key, one that was accepted before, and have to get its answer.
"""

import asyncio
import io
import itertools
import random
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx
from PIL import Image

from chaos.clients import running_clients

REPEATED_SECONDS = 60.0  # an upload that is not accepted by then is given up
REPEAT_PAUSE_SECONDS = 0.2
ANSWER_SECONDS = 70.0  # more than any proxy waits
LARGE_BYTES = 1_500_000  # more than the app keeps in memory


def is_picture(number: int) -> bool:
    return number % 20 == 1


def content(number: int) -> bytes:
    """The bytes of an upload: of twenty one is large, and one a picture."""
    if number % 20 == 10:
        return random.Random(number).randbytes(LARGE_BYTES)
    if is_picture(number):
        color = (number % 256, number // 256 % 256, 128)
        out = io.BytesIO()
        Image.new("RGB", (40, 30), color).save(out, "PNG")
        return out.getvalue()
    return random.Random(number).randbytes(100 + number % 4000)


@dataclass(frozen=True)
class Failure:
    """A request that was not answered as it should be, and when, in seconds from the beginning."""

    at: float
    method: str
    what: str


@dataclass
class Load:
    """Clients in a thread of their own; `name` sets their uploads apart from others'."""

    name: str
    url: str
    token: str
    tls: ssl.SSLContext | None = None
    clients: int = 12
    per_second: float = 24.0
    repeated_seconds: float = REPEATED_SECONDS
    accepted: dict[int, str] = field(default_factory=dict)  # ids by number
    given_up: list[int] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    requests: int = 0  # but for the repetitions of what failed
    slowest_seconds: float = 0.0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        assert self.url.startswith(("https://localhost:", "http://localhost:")), self.url
        self._numbers = itertools.count(1)
        self._stopping = threading.Event()
        self._began = self._next = time.monotonic()

    def title(self, number: int) -> str:
        return f"{self.name}-{number}"

    @contextmanager
    def running(self) -> Iterator[None]:
        """From the beginning of a block to its end; what is under way then is finished."""
        self._began = self._next = time.monotonic()
        patience = self.repeated_seconds + 2 * ANSWER_SECONDS
        with running_clients(self._run_clients, self._stopping, patience):
            try:
                yield
            finally:
                self.seconds = time.monotonic() - self._began

    async def _run_clients(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self.clients):
                group.create_task(self._run_client())

    async def _run_client(self) -> None:
        async with httpx.AsyncClient(
            base_url=self.url,
            verify=self.tls or False,
            headers={"Authorization": self.token},
            limits=httpx.Limits(max_connections=1),
            timeout=ANSWER_SECONDS,
        ) as client:
            while not self._stopping.is_set():
                await self._wait_for_turn()
                await random.choice((self._read, self._read, self._upload, self._again))(client)

    async def _wait_for_turn(self) -> None:
        """All clients together keep to the rate; what was missed while they waited is not made up
        for."""
        now = time.monotonic()
        self._next = max(self._next + 1 / self.per_second, now)
        await asyncio.sleep(self._next - now)

    async def _read(self, client: httpx.AsyncClient) -> None:
        paths = ["/api/accounts/me", "/api/media?limit=5", "/api/public/media?limit=5"]
        if self.accepted:
            number = random.choice(list(self.accepted)[-100:])
            item_id = self.accepted[number]
            paths += [f"/api/media/{item_id}", f"/media/{item_id}/{self.title(number)}.bin"]
        await self._ask(client, "GET", random.choice(paths), 200)

    async def _upload(self, client: httpx.AsyncClient) -> None:
        number = next(self._numbers)
        request = self._request(number)
        item_id = await self._post(client, request)
        end = time.monotonic() + self.repeated_seconds
        while item_id is None:
            await asyncio.sleep(REPEAT_PAUSE_SECONDS)
            item_id = await self._post(client, request, counted=False)
            if time.monotonic() > end:
                self.given_up.append(number)
                return
        self.accepted[number] = item_id

    async def _again(self, client: httpx.AsyncClient) -> None:
        if not self.accepted:
            return
        number = random.choice(list(self.accepted)[-100:])
        item_id = await self._post(client, self._request(number))
        if item_id not in (None, self.accepted[number]):
            self._fail("POST", "/api/media: a repetition got another answer")

    def _request(self, number: int) -> dict[str, Any]:
        title = self.title(number)
        return {
            "headers": {"Idempotency-Key": title},
            "files": {"file": (f"{title}.bin", content(number))},
            "data": {"title": title, "public": "true" if number % 3 == 0 else "false"},
        }

    async def _post(
        self, client: httpx.AsyncClient, request: dict[str, Any], *, counted: bool = True
    ) -> str | None:
        """The id of the item; None where it failed."""
        answer = await self._ask(client, "POST", "/api/media", 202, counted=counted, **request)
        return answer and str(answer.json()["id"])

    async def _ask(
        self,
        client: httpx.AsyncClient,
        method: str,
        path: str,
        status: int,
        *,
        counted: bool = True,
        **more: Any,
    ) -> httpx.Response | None:
        """The right answer, or None."""
        began = time.monotonic()
        answer, what = None, ""
        try:
            answer = await client.request(method, path, **more)
            if answer.status_code != status:
                what = str(answer.status_code)
        except httpx.HTTPError as error:
            what = repr(error)
        took = time.monotonic() - began
        self.slowest_seconds = max(self.slowest_seconds, took)
        if counted:
            self.requests += 1
            if what:
                self._fail(method, f"{path.partition('?')[0]}: {what} after {took:.2f} s")
        return None if what else answer

    def _fail(self, method: str, what: str) -> None:
        self.failures.append(Failure(time.monotonic() - self._began, method, what))
