"""The HTTP protocol's own bounds, on connections within this process."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from service import logs, protocol
from service.middleware import Refusal
from service.protocol import BoundedHttp
from sockets import until

pytestmark = pytest.mark.anyio
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


class App:
    """Answers a request once it has all of it and the gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.early = False
        self.refusal: Callable[[Any], Refusal | None] = lambda scope: None
        self.bodies: list[bytes | None] = []
        self.headers: list[dict[bytes, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        length = [(b"content-length", b"2")]
        if self.early:
            await send({"type": "http.response.start", "status": 200, "headers": length})
            await send({"type": "http.response.body", "body": b"o", "more_body": True})
        await self.gate.wait()
        self.bodies.append(await self._body(receive))
        self.headers.append(dict(scope["headers"]))
        if not self.early:
            await send({"type": "http.response.start", "status": 200, "headers": length})
            await send({"type": "http.response.body", "body": b"o", "more_body": True})
        await send({"type": "http.response.body", "body": b"k"})

    async def _body(self, receive: Any) -> bytes | None:
        """None where the client went away before it was complete."""
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                return body
        return None


class Waiting(App):
    """Answers nothing, and waits until its client leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.left = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left.set()


class Client:
    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connections: set[Any]
    ) -> None:
        self._reader = reader
        self._connections = connections
        self.send = writer.write
        self.leave = writer.close

    async def served_by(self) -> BoundedHttp:
        """The other end of its connection."""
        (connection,) = await until(lambda: self._connections)
        assert isinstance(connection, BoundedHttp)
        return connection

    async def until_closed(self) -> bytes:
        """All that comes. Raises TimeoutError where the server keeps the connection."""
        async with asyncio.timeout(20):
            return await self._reader.read()

    async def until(self, text: bytes) -> bytes:
        async with asyncio.timeout(20):
            return await self._reader.readuntil(text)


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
async def client(app: App) -> AsyncIterator[Client]:
    async with connected(app) as client:
        yield client


@asynccontextmanager
async def connected(
    app: App, default_headers: Sequence[tuple[bytes, bytes]] = (), **more: Any
) -> AsyncIterator[Client]:
    config = Config(app, http=BoundedHttp, lifespan="off", log_config=None, **more)
    config.load()
    state = ServerState()
    state.default_headers = list(default_headers)
    make: Callable[[], Any] = lambda: BoundedHttp(config, state, {})  # noqa: E731
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    streams = await asyncio.open_connection(*server.sockets[0].getsockname())
    client = Client(*streams, state.connections)
    yield client
    client.leave()
    app.gate.set()
    server.close()
    for connection in list(state.connections):
        connection.transport.abort()
    await asyncio.gather(*state.tasks)


BUSY = Refusal(503, "Busy.", "id-of-the-request", {"Retry-After": "1"})


async def test_what_the_application_refuses_is_answered_without_it(
    app: App, client: Client
) -> None:
    app.refusal = lambda scope: BUSY if scope["path"] == "/" else None
    body = b"Content-Length: 5\r\n\r\nhello"
    last = b"GET /last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    for sent in (GET, POST + body, b"HEAD" + GET[3:]):
        client.send(sent)
        head = await client.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nx-request-id: id-of-the-request\r\n" in head
        assert b"\r\nretry-after: 1\r\n" in head
        assert b"connection: close" not in head
        if not sent.startswith(b"HEAD"):
            problem = json.loads(await client.until(b"}"))
            assert (problem["status"], problem["detail"]) == (503, "Busy.")
            assert problem["request_id"] == BUSY.request_id
    client.send(last)
    answer = await client.until_closed()
    assert answer.startswith(OK)
    assert answer.endswith(b"ok")
    assert app.bodies == [b""]


async def test_a_refused_request_may_be_the_last(app: App, client: Client) -> None:
    app.refusal = lambda scope: BUSY
    client.send(GET[:-2] + b"Connection: close\r\n\r\n")
    head, _, body = (await client.until_closed()).partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    assert json.loads(body)["status"] == 503


async def test_in_a_drain_a_refused_request_is_the_last(app: App) -> None:
    app.refusal = lambda scope: BUSY
    async with connected(app, [(b"connection", b"close")]) as client:
        client.send(GET)
        head, _, body = (await client.until_closed()).partition(b"\r\n\r\n")
    assert head.count(b"\r\nconnection: close") == 1
    assert json.loads(body)["status"] == 503


async def test_of_pipelined_requests_each_has_an_answer_in_its_order(
    app: App, client: Client
) -> None:
    """Many are asked at once, of which the application refuses what it is asked about."""
    app.refusal = lambda scope: BUSY
    client.send(GET * 90 + GET[:-2] + b"Connection: close\r\n\r\n")
    answers = await client.until_closed()
    assert answers.count(b"HTTP/1.1 ") == 91
    assert answers.count(b"HTTP/1.1 503 ") + answers.count(OK) == 91


async def test_a_connection_ends_behind_the_most_that_is_pipelined(
    app: App, client: Client
) -> None:
    """Each that waits costs much more than its bytes."""
    app.gate.clear()
    connection = await client.served_by()
    client.send(GET * 1000)
    await until(lambda: connection.pipeline)
    assert len(connection.pipeline) == protocol.MOST_PIPELINED
    app.gate.set()
    answers = await client.until_closed()
    assert answers.count(OK) == answers.count(b"HTTP/1.1 ") == 1 + protocol.MOST_PIPELINED
    assert answers.count(b"connection: close") == 1


async def test_refusals_are_not_heaped_up_for_who_does_not_read(app: App, client: Client) -> None:
    refused = 0

    def refusal(_: Any) -> Refusal:
        nonlocal refused
        refused += 1
        return BUSY

    app.refusal = refusal
    connection = await client.served_by()
    client.send(GET * 50_000)
    await until(lambda: refused == 50_000 or connection.flow.read_paused, seconds=60)
    assert connection.flow.write_paused
    assert connection.transport.get_write_buffer_size() < 1_000_000


async def test_who_leaves_is_gone_for_the_first_of_pipelined_requests() -> None:
    app = Waiting()
    async with connected(app) as client:
        client.send(GET * 2)
        connection = await client.served_by()
        await until(lambda: connection.pipeline)
        client.leave()
        async with asyncio.timeout(20):
            await app.left.wait()


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"nonsense\r\n\r\n", 400), (GET[:-2] + b"X: " + b"x" * 70_000 + b"\r\n\r\n", 431)],
)
async def test_what_is_no_request_has_an_id_in_header_body_and_log_alike(
    client: Client, logged_ids: list[str], sent: bytes, status: int
) -> None:
    client.send(sent)
    head, _, body = (await client.until_closed()).partition(b"\r\n\r\n")
    problem = json.loads(body)
    assert problem["status"] == status
    assert f"x-request-id: {problem['request_id']}".encode() in head.split(b"\r\n")
    assert logged_ids == [problem["request_id"]]


@pytest.fixture
def logged_ids() -> Iterator[list[str]]:
    """The request ids of Uvicorn's lines from here on."""
    ids: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda _: ids.append(logs.request_id.get())  # type: ignore[method-assign]
    logging.getLogger("uvicorn.error").addHandler(handler)
    yield ids
    logging.getLogger("uvicorn.error").removeHandler(handler)


async def test_a_body_that_pauses_ends_its_connection(
    app: App, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "BODY_PAUSE_SECONDS", 0.2)
    client.send(POST + b"Content-Length: 5\r\n\r\nhe")
    assert await client.until_closed() == b""
    assert app.bodies == [None]


async def test_a_slow_body_that_goes_on_is_received(
    app: App, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "BODY_PAUSE_SECONDS", 2.0)
    client.send(POST + b"Content-Length: 5\r\n\r\n")
    for letter in b"hello":
        await asyncio.sleep(0.6)
        client.send(bytes([letter]))
    assert (await client.until(b"ok")).startswith(OK)
    assert app.bodies == [b"hello"]


async def test_a_pause_of_the_app_is_not_the_clients(
    app: App, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "BODY_PAUSE_SECONDS", 0.2)
    app.gate.clear()
    client.send(POST + b"Content-Length: 1000000\r\n\r\n" + bytes(900_000))
    await asyncio.sleep(0.7)
    monkeypatch.setattr(protocol, "BODY_PAUSE_SECONDS", 20)
    app.gate.set()
    client.send(bytes(100_000))
    assert (await client.until(b"ok")).startswith(OK)
    assert app.bodies == [bytes(1_000_000)]


async def test_a_head_that_takes_too_long_ends_its_connection(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    for start in (b"", b"GET / HTTP/1.1\r\nHost:", GET + b"GET / HT"):
        async with connected(app) as client:
            client.send(start)
            assert (await client.until_closed())[:17] == (OK if GET in start else b"")


async def test_an_idle_connection_is_kept_longer_than_a_head_may_take(
    app: App, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    client.send(GET)
    await client.until(b"ok")
    await asyncio.sleep(0.5)
    client.send(GET)
    assert (await client.until(b"ok")).startswith(OK)


async def test_an_idle_connection_ends_whatever_blank_lines_come(app: App) -> None:
    async with connected(app, timeout_keep_alive=1) as client:
        client.send(GET)
        await client.until(b"ok")

        async def send_forever() -> None:
            while True:
                client.send(b"\r\n")
                await asyncio.sleep(0.1)

        sending = asyncio.create_task(send_forever())
        with suppress(ConnectionResetError):
            assert await client.until_closed() == b""
        sending.cancel()


async def test_a_connection_is_idle_once_the_body_ends_of_what_was_answered_before(
    app: App,
) -> None:
    app.refusal = lambda scope: BUSY
    async with connected(app, timeout_keep_alive=1) as client:
        client.send(POST + b"Content-Length: 5\r\n\r\nhe")
        await client.until(b"}")
        client.send(b"llo")
        assert await client.until_closed() == b""


async def test_a_trailer_is_no_header(app: App, client: Client) -> None:
    """It may come past whoever checked the headers."""
    trailers = b"Host: evil.example\r\nAuthorization: Bearer x\r\n"
    client.send(CHUNKED + b"5\r\nhello\r\n0\r\n" + trailers + b"\r\n")
    await client.until(b"ok")
    assert app.bodies == [b"hello"]
    assert app.headers == [{b"host": b"localhost", b"transfer-encoding": b"chunked"}]


@pytest.mark.parametrize("coding", [b"identity, chunked", b"gzip, chunked", b"chunked ,chunked"])
async def test_a_coding_that_nobody_decodes_is_refused(
    app: App, client: Client, coding: bytes
) -> None:
    client.send(POST + b"Transfer-Encoding: %b\r\n\r\n0\r\n\r\n" % coding + GET)
    received = await client.until_closed()
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("piece", [b"X: 1\r\n", b"a" * 999], ids=["many", "long"])
async def test_what_is_neither_head_nor_body_is_bounded(client: Client, piece: bytes) -> None:
    client.send(CHUNKED + b"0\r\nX-First: " + piece * (80_000 // len(piece)))
    assert (await client.until_closed()).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("fault", [b"\xde\xad\r\n\r\n", b"GET / HTTP/1.1\r\nHost : x\r\n\r\n"])
async def test_a_fault_behind_a_request_is_not_answered_in_its_place(
    app: App, client: Client, fault: bytes
) -> None:
    app.gate.clear()
    client.send(GET)
    await asyncio.sleep(0.1)
    client.send(fault)
    await asyncio.sleep(0.1)
    app.gate.set()
    received = await client.until_closed()
    assert received.startswith(OK)
    assert received.count(b"HTTP/1.1 ") == 1
    assert received.endswith(b"ok")


async def test_a_body_that_turns_malformed_in_the_middle_of_its_answer_gets_no_other(
    app: App, client: Client
) -> None:
    app.early = True
    client.send(CHUNKED + b"5\r\nhello\r\n")
    await client.until(b"\r\n\r\no")
    client.send(b"nonsense\r\n")
    assert await client.until_closed() == b""


async def test_an_offer_to_speak_something_else_is_passed_over(app: App, client: Client) -> None:
    """The connection ends, as the parser takes what follows for the other protocol."""
    client.send(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + GET)
    received = await client.until_closed()
    assert received.startswith(OK)
    assert received.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in received


async def test_a_connection_ends_after_such_an_offer_also_where_it_is_refused(app: App) -> None:
    app.refusal = lambda scope: BUSY
    async with connected(app, timeout_keep_alive=60) as client:
        client.send(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        assert (await client.until_closed()).startswith(b"HTTP/1.1 503 ")
