"""What sends an `Order`, in a process of its own: `python -m chaos.generator` reads it as JSON from
standard input and prints what became of it."""

import asyncio
import dataclasses
import itertools
import json
import re
import ssl
import sys
import time
from collections import deque
from typing import cast

import uvloop

from chaos.arrivals import REFUSALS, WHOLE_SECONDS, Order, Outcome

TICK_SECONDS = 0.002
HANDSHAKES = 32  # at once
LATE_SECONDS = 10.0  # for answers after the last arrival
HEAD_END = b"\r\n\r\n"
LAST = b"\r\nconnection: close"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class _Connection(asyncio.Protocol):
    """Asks one thing after another."""

    def __init__(self, generator: "_Generator") -> None:
        self.generator = generator
        self.transport: asyncio.Transport | None = None
        self.due = 0.0
        self.busy = False
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def ask(self, due: float) -> None:
        assert self.transport is not None
        self.due, self.busy = due, True
        self.transport.write(next(self.generator.requests))

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        end = received.find(HEAD_END)
        if end < 0:
            return
        head = bytes(received[:end])
        length = LENGTH.search(head)
        if len(received) < end + len(HEAD_END) + (int(length[1]) if length else 0):
            return
        received.clear()
        self.busy = False
        head = head.lower()
        self.generator.answered(int(head[9:12]), head, time.monotonic() - self.due)
        assert self.transport is not None
        if LAST in head:  # it closes: what is asked now nobody would read
            self.transport.close()
        elif not self.transport.is_closing():
            self.generator.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.generator.closed(self)


class _Generator:
    def __init__(self, order: Order) -> None:
        self.order = order
        self.requests = itertools.cycle([text.encode("latin-1") for text in order.requests])
        self.outcome = Outcome()
        self.tls = ssl.create_default_context()
        self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE
        self.idle: list[_Connection] = []
        self.waiting: deque[float] = deque()
        self.under_way = self.asked = 0
        self.ending = False
        self._opening: set[asyncio.Task[None]] = set()
        self._handshakes = asyncio.Semaphore(HANDSHAKES)
        self._end = 0.0

    def answered(self, status: int, head: bytes, seconds: float) -> None:
        self.under_way -= 1
        self.outcome.seconds.setdefault(status, []).append(seconds)
        if status in REFUSALS and b"\r\nretry-after:" not in head:
            self.outcome.no_retry_after += 1

    def free(self, connection: _Connection) -> None:
        if self.order.per_second is None and self._goes_on():
            self._ask(connection, time.monotonic())
        elif self.waiting:
            connection.ask(self.waiting.popleft())
        else:
            self.idle.append(connection)

    def _goes_on(self) -> bool:
        if not self._end:
            return False  # it has not begun
        if self.order.seconds is None:
            return self.asked < len(self.order.requests)
        return time.monotonic() < self._end

    def closed(self, connection: _Connection) -> None:
        if connection.busy:
            self.under_way -= 1
            self.outcome.lost += 1
        elif connection in self.idle:
            self.idle.remove(connection)
        if not self.ending:
            self._open()

    def _open(self) -> None:
        task = asyncio.create_task(self._connect())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        address = {"host": "127.0.0.1", "port": self.order.port, "server_hostname": "localhost"}
        while not self.ending:
            try:
                async with self._handshakes:
                    _, connection = await loop.create_connection(
                        lambda: _Connection(self), ssl=self.tls, **address
                    )
            except OSError:
                await asyncio.sleep(0.1)
            else:
                self.free(connection)
                return

    def _ask(self, connection: _Connection, due: float) -> None:
        self.under_way += 1
        self.asked += 1
        connection.ask(due)

    def _due(self, due: float) -> None:
        self.under_way += 1
        if self.idle:
            self.idle.pop().ask(due)
        else:
            self.waiting.append(due)

    async def run(self) -> Outcome:
        for _ in range(self.order.connections):
            self._open()
        await asyncio.gather(*self._opening)
        began = time.monotonic()
        self._end = began + (self.order.seconds or WHOLE_SECONDS)
        await (self._at_a_rate(began) if self.order.per_second else self._one_by_one())
        self.outcome.took_seconds = time.monotonic() - began
        end = time.monotonic() + LATE_SECONDS
        while self.under_way > 0 and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        self.outcome.lost += max(0, self.under_way)
        self.ending = True
        return self.outcome

    async def _one_by_one(self) -> None:
        connections, self.idle = self.idle, []
        for connection in connections:
            self._ask(connection, time.monotonic())
        while self._goes_on() and time.monotonic() < self._end:  # noqa: ASYNC110
            await asyncio.sleep(TICK_SECONDS)

    async def _at_a_rate(self, began: float) -> None:
        rate = self.order.per_second or 0
        arrived = 0
        while (now := time.monotonic()) < self._end:
            due = int((now - began) * rate)
            self.outcome.lag_seconds = max(self.outcome.lag_seconds, now - began - arrived / rate)
            for number in range(arrived, due):
                self._due(began + number / rate)
            arrived = due
            await asyncio.sleep(TICK_SECONDS)


async def _main() -> None:
    outcome = await _Generator(Order(**json.load(sys.stdin))).run()
    print(json.dumps(dataclasses.asdict(outcome)))


if __name__ == "__main__":
    uvloop.run(_main())
