"""The server that drains before it stops, in this process and without Gunicorn."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from uvicorn.config import Config

from service import lifecycle
from service.lifecycle import DrainingServer, Lifecycle, duplicates

pytestmark = pytest.mark.anyio
LONG = 30.0


async def eventually(condition: Callable[[], bool], *, seconds: float = 10) -> None:
    """Wait until it is true. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not true within {seconds} s")
        await asyncio.sleep(0.01)


class App:
    """`/wait` answers when the gate opens, `/stream` begins at once and ends then."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()
        self.closed = False
        self.cancelled = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        headers = [(b"content-length", b"2")]
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        if scope["path"] == "/stream":
            await send(start)
            await send({"type": "http.response.body", "body": b"o", "more_body": True})
        if scope["path"] in ("/stream", "/wait"):
            self.entered.set()
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        if scope["path"] == "/stream":
            await send({"type": "http.response.body", "body": b"k"})
        else:
            await send(start)
            await send({"type": "http.response.body", "body": b"ok"})

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.closed = True
        await send({"type": "lifespan.shutdown.complete"})


class Served:
    """A server that runs, and its clients."""

    def __init__(self, app: App, server: DrainingServer, port: int) -> None:
        self.app = app
        self.server = server
        self.port = port
        self.clients: list[Client] = []
        self.deadlines: list[float] = []
        self.beats = 0
        self.running: asyncio.Task[None] | None = None

    def terminate(self) -> None:
        self.server.handle_exit(signal.SIGTERM, None)

    def recycle(self) -> None:
        """What Uvicorn does when it has answered MAX_REQUESTS."""
        self.server.limit_max_requests = 0

    async def draining(self) -> None:
        """Wait until the server has noticed."""
        headers = self.server.server_state
        await eventually(lambda: (b"connection", b"close") in headers.default_headers)

    async def ended(self, seconds: float = 10) -> None:
        assert self.running is not None
        async with asyncio.timeout(seconds):
            await asyncio.shield(self.running)

    async def connect(self) -> "Client":
        self.clients.append(Client(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self.clients[-1]

    def accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Client:
    """One connection that is kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, path: str) -> None:
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    async def receive(self) -> tuple[int, str]:
        """(status, the Connection header); the body has to be whole."""
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            assert await self.reader.readexactly(2) == b"ok"
        lines = [line.partition(": ") for line in head.split("\r\n")[1:]]
        return int(head.split()[1]), {name: value for name, _, value in lines}.get("connection", "")

    async def ask(self, path: str = "/") -> tuple[int, str]:
        self.send(path)
        return await self.receive()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def is_closed(self, *, seconds: float = 0.1) -> bool:
        """Whether the server closes it within a moment."""
        try:
            async with asyncio.timeout(seconds):
                return await self.reader.read(1) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True


@asynccontextmanager
async def serving(
    *, drain_seconds: float = LONG, grace_seconds: float = 2 * LONG
) -> AsyncIterator[Served]:
    app = App()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        served = Served(app, server=None, port=listener.getsockname()[1])  # type: ignore[arg-type]

        async def beat() -> None:
            served.beats += 1

        config = Config(app, http="httptools", lifespan="on", log_config=None, callback_notify=beat)
        served.server = DrainingServer(
            config,
            Lifecycle(),
            drain_seconds=drain_seconds,
            grace_seconds=grace_seconds,
            parent=os.getppid(),
            exit_in=served.deadlines.append,
        )
        # Not serve(): at its end it would send the signals it was given to this process.
        served.running = asyncio.create_task(served.server._serve([listener.dup()]))
        await eventually(lambda: served.server.started)
        listener.close()
        try:
            yield served
        finally:
            served.server.handle_exit(signal.SIGQUIT, None)
            app.gate.set()
            await served.ended()
            for client in served.clients:
                await client.close()


async def test_before_the_drain_connections_are_kept() -> None:
    """Nothing says `Connection: close`."""
    async with serving() as served:
        client = await served.connect()
        assert await client.ask() == (200, "")
        assert await client.ask() == (200, "")


async def test_sigterm_fails_readiness_at_once() -> None:
    """The signal handler itself does it, not the next turn of the loop."""
    async with serving() as served:
        served.terminate()
        assert served.server.lifecycle.draining


async def test_new_requests_are_served_while_draining() -> None:
    """On a new connection; the answer says that it is the last one there."""
    async with serving() as served:
        served.terminate()
        await served.draining()
        client = await served.connect()
        assert await client.ask() == (200, "close")
        assert await client.is_closed(seconds=10)


async def test_idle_connections_stay_open_while_draining() -> None:
    """A proxy may be sending a request over one at this very moment."""
    async with serving() as served:
        client = await served.connect()
        assert await client.ask() == (200, "")
        served.terminate()
        await served.draining()
        assert not await client.is_closed()
        assert await client.ask() == (200, "close")


async def test_a_request_in_flight_is_answered_and_says_close() -> None:
    """It came before the signal and is answered after it."""
    async with serving() as served:
        client = await served.connect()
        client.send("/wait")
        await served.app.entered.wait()
        served.terminate()
        await served.draining()
        served.app.gate.set()
        assert await client.receive() == (200, "close")


async def test_a_connection_is_not_closed_behind_an_answer_that_did_not_say_so() -> None:
    """The answer's headers were out before the signal: the next answer says it."""
    async with serving() as served:
        client = await served.connect()
        client.send("/stream")
        await served.app.entered.wait()
        served.terminate()
        await served.draining()
        served.app.gate.set()
        assert await client.receive() == (200, "")
        assert not await client.is_closed()
        assert await client.ask() == (200, "close")


async def test_the_drain_lasts_its_full_time() -> None:
    """Load balancers have to see readiness fail, also where nobody is connected."""
    async with serving(drain_seconds=0.6) as served:
        began = time.monotonic()
        served.terminate()
        await served.ended()
        assert 0.6 <= time.monotonic() - began < 5
        assert not served.accepts()


async def test_the_lifespan_ends_after_the_last_request() -> None:
    """Resources are there as long as somebody may need them."""
    async with serving(drain_seconds=0) as served:
        client = await served.connect()
        client.send("/wait")
        await served.app.entered.wait()
        served.terminate()
        await eventually(lambda: not served.accepts())
        assert not served.app.closed
        served.app.gate.set()
        assert await client.receive() == (200, "close")
        await served.ended()
        assert served.app.closed


async def test_a_connection_accepted_but_not_read_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It came in just before the listener closed; its request arrives just after."""
    monkeypatch.setattr(lifecycle, "ACCEPTED_UNREAD_SECONDS", 10)
    async with serving(drain_seconds=2) as served:
        served.terminate()
        await served.draining()
        client = await served.connect()
        await eventually(lambda: not served.accepts())
        assert await client.ask() == (200, "close")


async def test_a_request_that_never_ends_is_given_up() -> None:
    """Within the grace time, and resources are closed in what is left of it."""
    async with serving(drain_seconds=0, grace_seconds=1) as served:
        client = await served.connect()
        client.send("/wait")
        await served.app.entered.wait()
        served.terminate()
        await served.ended()
        assert served.app.cancelled
        assert served.app.closed


async def test_sigterm_sets_a_last_moment_for_the_process() -> None:
    """Whatever hangs, even the loop: somebody else's clock ends it."""
    async with serving(grace_seconds=LONG) as served:
        served.terminate()
        assert served.deadlines == [LONG]
        served.terminate()
        assert served.deadlines == [LONG], "a second signal prolongs nothing"


async def test_the_heartbeat_goes_on_while_draining() -> None:
    """Or Gunicorn would take a request longer than its timeout for a blocked loop."""
    async with serving() as served:
        served.terminate()
        await served.draining()
        before = served.beats
        await asyncio.sleep(1.2)
        assert served.beats > before


async def test_the_heartbeat_goes_on_after_the_clock_was_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or Gunicorn would kill every worker at its timeout."""
    async with serving() as served:
        await eventually(lambda: served.beats > 0)
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() - 3600)
        before = served.beats
        await eventually(lambda: served.beats > before + 1)


async def test_sigquit_ends_at_once_and_closes_resources() -> None:
    """A request in flight does not hold it up."""
    async with serving() as served:
        client = await served.connect()
        client.send("/wait")
        await served.app.entered.wait()
        served.server.handle_exit(signal.SIGQUIT, None)
        await served.ended(3)
        assert served.app.closed


async def test_sigint_ends_a_drain() -> None:
    """The second Ctrl-C of somebody who does not want to wait."""
    async with serving() as served:
        served.terminate()
        await served.draining()
        served.server.handle_exit(signal.SIGINT, None)
        await served.ended(3)


async def test_a_recycled_worker_without_connections_ends_at_once() -> None:
    """No load balancer has to notice: there are other workers, or a new one in a moment."""
    async with serving() as served:
        served.recycle()
        await served.ended(3)
        assert served.app.closed
        assert not served.server.lifecycle.draining


async def test_a_recycled_worker_waits_for_idle_connections_to_go() -> None:
    """Their next answer says `Connection: close`; then it ends."""
    async with serving() as served:
        client = await served.connect()
        await client.ask()
        served.recycle()
        await served.draining()
        assert not await client.is_closed()
        assert await client.ask() == (200, "close")
        await served.ended(3)


async def test_a_recycled_worker_does_not_wait_for_idle_connections_for_ever() -> None:
    """No longer than the drain, in which a proxy lets go of them."""
    async with serving(drain_seconds=0.5) as served:
        client = await served.connect()
        await client.ask()
        served.recycle()
        await served.ended(5)
        assert await client.is_closed(seconds=10)


async def test_a_recycled_worker_serves_on_while_a_long_request_runs() -> None:
    """A single worker's successor starts only when it has ended."""
    async with serving(drain_seconds=0.2, grace_seconds=1) as served:
        slow = await served.connect()
        slow.send("/wait")
        await served.app.entered.wait()
        served.recycle()
        await served.draining()
        end = time.monotonic() + 2.5  # past the drain, the grace time and a short request
        while time.monotonic() < end:
            assert await (await served.connect()).ask() == (200, "close")
            await asyncio.sleep(0.05)
        served.app.gate.set()
        assert await slow.receive() == (200, "close")
        await served.ended(5)
        assert not served.app.cancelled


async def test_a_recycled_worker_ends_under_steady_load() -> None:
    """Something always runs, but nothing for long."""
    async with serving(drain_seconds=0.2) as served:
        stopping = asyncio.create_task(served.server.lifecycle.wait_for_drain())

        async def load() -> None:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    client = await served.connect()
                    served.app.gate.clear()
                    client.send("/wait")
                    await asyncio.sleep(0.2)
                    served.app.gate.set()
                    assert await client.receive() == (200, "close")
            assert stopping.done(), "no request fails before"

        served.recycle()
        await served.draining()
        clients = [asyncio.create_task(load()) for _ in range(3)]
        await served.ended()
        await asyncio.gather(*clients)


async def test_sigterm_while_recycling_begins_a_drain() -> None:
    """With its own, shorter limit for the request that held the worker up."""
    async with serving(drain_seconds=0, grace_seconds=1) as served:
        client = await served.connect()
        client.send("/wait")
        await served.app.entered.wait()
        served.recycle()
        await served.draining()
        served.terminate()
        await served.ended(5)
        assert served.app.cancelled
        assert 1 in served.deadlines


async def test_a_replaced_worker_stays_ready_until_the_service_itself_stops() -> None:
    """However often it is told to end: Gunicorn does so every second."""
    async with serving() as served:
        client = await served.connect()
        client.send("/wait")
        await served.app.entered.wait()
        served.server.replaced = lambda: True
        for _ in range(3):
            served.terminate()
            await served.draining()
        assert not served.server.lifecycle.draining
        served.server.replaced = lambda: False
        served.terminate()
        assert served.server.lifecycle.draining


async def test_long_lived_connections_are_asked_to_end_when_a_worker_is_recycled() -> None:
    """The service stays ready meanwhile."""
    async with serving() as served:
        waiting = asyncio.create_task(served.server.lifecycle.wait_for_drain())
        served.recycle()
        async with asyncio.timeout(3):
            await waiting
        assert not served.server.lifecycle.draining


async def test_an_orphan_gives_up_the_port_before_it_drains() -> None:
    """The master was killed; the next one waits for the port."""
    async with serving() as served:
        client = await served.connect()
        served.server.parent = -1
        await eventually(lambda: not served.accepts())
        assert served.server.lifecycle.draining
        assert await client.ask() == (200, "close"), "who is connected is still served"


def test_a_burst_of_connections_is_accepted_in_few_turns_of_the_loop(tmp_path: Path) -> None:
    """uvloop accepts one a listener in each of its turns, which take long where there is load."""
    made: list[asyncio.Transport] = []

    class Accepted(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            made.append(transport)

    async def accept() -> int:
        """How many turns it took."""
        path = str(tmp_path / "socket")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(200)
        with contextlib.ExitStack() as clients:
            for _ in range(160):
                clients.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
            loop = asyncio.get_running_loop()
            listeners = [listener, *duplicates([listener])]
            servers = [await loop.create_server(Accepted, sock=sock) for sock in listeners]
            count = 0
            while len(made) < 160 and count < 1000:
                await asyncio.sleep(0)
                count += 1
            for closing in (*made, *servers):
                closing.close()
            await asyncio.sleep(0)
        for sock in listeners:
            sock.close()
        return count

    assert uvloop.run(accept()) < 40
