"""What the layer around the application and the protocol below it do for WebSockets."""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed

from service import turns
from service.errors import Unavailable
from service.middleware import RequestLayer
from service.settings import Settings
from sockets import connecting, refused, served, until

pytestmark = pytest.mark.anyio

PATH = "/ws/test"
Endpoint = Callable[[WebSocket], Awaitable[None]]


def layer(endpoint: Endpoint, **settings: Any) -> RequestLayer:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await endpoint(WebSocket(scope, receive, send))

    return RequestLayer(app, Settings(**settings), {}, {})


async def silent(websocket: WebSocket) -> None:
    """Says nothing until the client goes."""
    await websocket.accept()
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


async def closing(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close(4000)


async def broken_before(websocket: WebSocket) -> None:
    raise RuntimeError("before")


async def broken_after(websocket: WebSocket) -> None:
    await websocket.accept()
    raise RuntimeError("after")


async def talking(websocket: WebSocket) -> None:
    """Until the client is gone, which `send` raises."""
    await websocket.accept()
    while True:
        await websocket.send_text("hello")
        await asyncio.sleep(0.01)


async def unavailable_after(websocket: WebSocket) -> None:
    """As the application's handler of errors answers one."""
    await websocket.accept()
    await PlainTextResponse("away", Unavailable.status)(
        websocket.scope, websocket.receive, websocket.send
    )


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """Answers what is no WebSocket, by its method."""
    if scope["type"] == "websocket":
        await silent(WebSocket(scope, receive, send))
    else:
        await PlainTextResponse(scope["method"], 426)(scope, receive, send)


def closed(reason: str) -> float:
    labels = {"reason": reason}
    return REGISTRY.get_sample_value("service_websockets_closed_total", labels) or 0


async def test_another_host_is_misdirected() -> None:
    async with served(layer(silent, allowed_hosts="example.org")) as port:
        await refused(port, PATH, {}, 421)


async def test_a_handshake_with_two_hosts_is_malformed() -> None:
    async with served(layer(silent)) as port:
        await refused(port, PATH, {"Host": "example.org"}, 400)


async def test_a_client_may_name_its_socket() -> None:
    chosen = {"X-Request-ID": "client-chosen"}
    async with served(layer(silent)) as port, connecting(port, PATH, chosen) as socket:
        assert socket.response is not None
        assert socket.response.headers["X-Request-ID"] == "client-chosen"


async def test_an_error_before_the_handshake_is_a_problem_and_logged(
    log_lines: list[dict[str, Any]],
) -> None:
    async with served(layer(broken_before)) as port:
        problem = await refused(port, PATH, {}, 500)
    (line,) = [line for line in log_lines if line["message"] == "unhandled_error"]
    assert line["request_id"] == problem["request_id"]


@pytest.mark.parametrize("endpoint", [broken_after, unavailable_after])
async def test_an_error_afterwards_ends_the_socket(endpoint: Endpoint) -> None:
    async with served(layer(endpoint)) as port, connecting(port, PATH, {}) as socket:
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1011


async def test_a_handshake_and_an_end_write_one_line_each_without_the_query(
    log_lines: list[dict[str, Any]],
) -> None:
    async with served(layer(silent)) as port:
        async with connecting(port, f"{PATH}?token=s3cr3t", {}):
            pass
        await until(lambda: len(log_lines) == 2)
    request, end = log_lines
    assert (request["message"], request["status"]) == ("request", 101)
    assert request["path"] == PATH
    assert (end["message"], end["reason"]) == ("websocket_closed", "client")
    assert request["request_id"] == end["request_id"]
    assert "s3cr3t" not in str(log_lines)


async def test_open_sockets_are_counted_and_why_they_end() -> None:
    counted = layer(silent)
    async with served(counted) as port:
        before = closed("client")
        async with connecting(port, PATH, {}):
            assert counted.sockets == 1
        await until(lambda: counted.sockets == 0)
        assert closed("client") == before + 1
    async with served(layer(closing)) as port:
        before = closed("4000")
        async with connecting(port, PATH, {}) as socket:
            with pytest.raises(ConnectionClosed):
                await socket.recv()
        await until(lambda: closed("4000") == before + 1)


async def test_a_client_that_goes_while_it_is_sent_something_is_no_error(
    log_lines: list[dict[str, Any]],
) -> None:
    counted = layer(talking)
    async with served(counted) as port:
        async with connecting(port, PATH, {}) as socket:
            await socket.recv()
        await until(lambda: counted.sockets == 0)
    assert [line["message"] for line in log_lines] == ["request", "websocket_closed"]


async def test_a_refusal_is_no_error_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    async with served(layer(silent, allowed_hosts="example.org")) as port:
        await refused(port, PATH, {}, 421)
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


async def test_neither_headers_nor_the_query_are_logged_at_any_level(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "uvicorn.error")
    async with served(layer(silent)) as port:
        headers = {"Authorization": "Bearer s3cr3t"}
        async with connecting(
            port, f"{PATH}?token=s3cr3t", headers, subprotocols=["bearer", "s3cr3t"]
        ):
            pass
    server_lines = [record for record in caplog.records if record.name.startswith("uvicorn")]
    assert "s3cr3t" not in str([record.getMessage() for record in server_lines])


async def test_a_client_that_answers_no_ping_is_dropped() -> None:
    silence = closed("silent")
    pings = {"ws_ping_interval": 0.2, "ws_ping_timeout": 0.2}
    async with served(layer(silent), **pings) as port:
        reader, writer = await handshake(port)
        async with asyncio.timeout(10):
            while await reader.read(100):
                pass  # and no pong
        await until(lambda: closed("silent") == silence + 1)
        writer.close()


async def test_pongs_are_not_heaped_up_for_who_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.socket_protocol.SLOW_SECONDS", 1.0)
    slowness = closed("slow")
    async with served(layer(silent)) as port:
        _, writer = await handshake(port)
        ping = b"\x89\xfd" + bytes(4) + bytes(125)  # of 125 bytes, masked with zeros
        with pytest.raises((ConnectionError, TimeoutError)):
            async with asyncio.timeout(30):
                while True:
                    writer.write(ping * 1000)
                    await writer.drain()
        await until(lambda: closed("slow") == slowness + 1)
        writer.close()


async def handshake(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that does nothing by itself, after the server's answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(HANDSHAKE)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    return reader, writer


HANDSHAKE = "\r\n".join(
    (
        *(f"GET {PATH} HTTP/1.1", "Host: localhost", "Connection: Upgrade"),
        *("Upgrade: websocket", "Sec-WebSocket-Version: 13"),
        *("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "", ""),
    )
).encode()
KEY, VERSION = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", b"Version: 13"


@pytest.mark.parametrize(
    ("sent", "method"),
    [
        (HANDSHAKE.replace(KEY, b"X-Many: 1\r\n" * 129 + KEY), b"GET"),
        (HANDSHAKE.replace(KEY, b"X-Long: " + b"x" * 9000 + b"\r\n" + KEY), b"GET"),
        (HANDSHAKE.replace(b"/ws/test", b"/ws/test?" + b"x" * 9000), b"GET"),
        (HANDSHAKE.replace(b"GET", b"POST"), b"POST"),
        (HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.0"), b"GET"),
        (HANDSHAKE.replace(VERSION, b"Version: 8"), b"GET"),
        (HANDSHAKE.replace(KEY + b"\r\n", b""), b"GET"),
        (HANDSHAKE.replace(KEY, KEY[:-6]), b"GET"),
        (HANDSHAKE.replace(KEY, b"Sec-WebSocket-Protocol: ,;\r\n" + KEY), b"GET"),
    ],
    ids=["many", "long", "address", "POST", "1.0", "8", "keyless", "key", "sub"],
)
async def test_what_is_no_whole_handshake_is_a_request_like_any_other(
    sent: bytes, method: bytes
) -> None:
    """And the last one, as the parser takes what follows for the other protocol."""
    counted = RequestLayer(plain, Settings(), {}, {})
    async with served(counted) as port:
        head, _, body = (await everything(port, sent)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 426 ")
    assert b"\r\nx-request-id: " in head
    assert b"\r\nconnection: close" in head
    assert body == method
    assert counted.answered == 1


@pytest.mark.parametrize("field", [b"Content-Length: 40", b"Transfer-Encoding: chunked"])
async def test_an_offer_with_a_body_is_malformed(field: bytes) -> None:
    """The parser would take the body for the next request."""
    for offer in (HANDSHAKE, HANDSHAKE.replace(b"websocket", b"h2c")):
        counted = RequestLayer(plain, Settings(), {}, {})
        async with served(counted) as port:
            answer = await everything(port, offer[:-2] + field + b"\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"\r\nx-request-id: " in head
        assert json.loads(body)["status"] == 400
        assert counted.answered == 0


async def test_a_handshake_does_not_overtake_the_answer_before_it() -> None:
    gate = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/":
            await gate.wait()
        await plain(scope, receive, send)

    async with served(RequestLayer(app, Settings(), {}, {})) as port:
        reading = everything(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + HANDSHAKE)
        answers = asyncio.create_task(reading)
        await asyncio.sleep(0.2)
        gate.set()
        assert re.findall(rb"HTTP/1.1 \d+", await answers) == [b"HTTP/1.1 426"] * 2


async def everything(port: int, sent: bytes) -> bytes:
    """That comes until the connection is closed. Raises TimeoutError where it is not."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


async def test_an_open_socket_is_no_idle_connection() -> None:
    app = layer(silent)
    async with served(app, timeout_keep_alive=0) as port, connecting(port, PATH, {}) as socket:
        await asyncio.sleep(0.2)
        await (await socket.ping())


async def test_an_open_socket_takes_no_turn_but_its_handshake_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "LONGEST_SECONDS", 0.01)
    app = layer(silent, request_concurrency=1)
    async with served(app) as port, connecting(port, PATH, {}), connecting(port, PATH, {}):
        assert app.turns.taken == 0
        await app.turns.take()
        problem = await refused(port, PATH, {}, 503)
        assert problem["headers"]["Retry-After"] == "1"
        app.turns.give_back()
