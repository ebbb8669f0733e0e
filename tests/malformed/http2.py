"""The same over HTTP/2, through nginx: what HTTP/1.1 cannot say, and must not be made to say."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived, StreamReset
from h2.exceptions import H2Error

from malformed import CANARY, HOST, ID, new_id
from nginx import Nginx

Fields = tuple[tuple[bytes, bytes], ...]
LAX = H2Configuration(
    header_encoding=False,
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
    split_outbound_cookies=False,
)
SERVED = "404, 404"
CLOSED = "closed, closed"
INJECTED = b" HTTP/1.1\r\nHost: %b\r\n\r\nGET /smuggled-%b" % (HOST, ID)


@dataclass(frozen=True)
class Attack:
    """The fields of a request, and its body: `reset` is the stream alone, `closed` all of them."""

    name: str
    fields: Fields
    body: bytes | None = None
    nginx: str = "400, 404 or reset, 404"
    trailers: Fields = ()


def request(
    *more: tuple[bytes, bytes],
    method: bytes = b"GET",
    path: bytes = b"/reset/nowhere?token=" + CANARY.encode(),
    authority: bytes = HOST,
) -> Fields:
    pseudo = ((b":method", method), (b":scheme", b"https"), (b":authority", authority))
    own = ((b"authorization", b"Bearer " + CANARY.encode()),)
    return (*pseudo, (b":path", path), *own, *more)


def without(name: bytes) -> Fields:
    return tuple(field for field in request() if field[0] != name)


def posted(*more: tuple[bytes, bytes]) -> Fields:
    return request(*more, method=b"POST")


ATTACKS = [
    Attack("well-formed", request(), nginx=SERVED),
    Attack("TE", posted((b"transfer-encoding", b"chunked")), b"0\r\n\r\n", nginx=SERVED),
    Attack("connection", request((b"connection", b"close")), nginx=SERVED),
    Attack("upgrade", request((b"upgrade", b"websocket")), nginx=SERVED),
    Attack("a capital in a name", request((b"X-First", b"1"))),
    Attack("a line break in a name", request((b"x-first: 1\r\nx-second", b"2"))),
    Attack("a colon in a name", request((b"x-first:1", b"2"))),
    Attack("a space in a name", request((b"x first", b"1"))),
    Attack("no name", request((b"", b"1")), nginx=CLOSED),
    Attack("a line break in a value", request((b"x-first", b"1\r\nhost: evil.example"))),
    Attack("a line feed in a value", request((b"x-first", b"1\nhost: evil.example"))),
    Attack("a NUL in a value", request((b"x-first", b"1\0"))),
    Attack("a request in the path", request(path=b"/nowhere" + INJECTED)),
    Attack("a request in the method", request(method=b"GET /nowhere" + INJECTED)),
    Attack("a request in the authority", request(authority=HOST + INJECTED)),
    Attack("a space in the path", request(path=b"/now here")),
    Attack("an empty path", request(path=b"")),
    Attack("a path without a slash", request(path=b"nowhere")),
    Attack("an address in the path", request(path=b"http://evil.example/")),
    Attack("dots in the path", request(path=b"/static/../../etc/passwd")),
    Attack("no path", without(b":path")),
    Attack("no method", without(b":method")),
    Attack("no scheme", without(b":scheme")),
    Attack("no authority", without(b":authority")),
    Attack("two paths", request((b":path", b"/smuggled-" + ID))),
    Attack("a field of another kind", request((b":unknown", b"1"))),
    Attack("another host", request((b"host", b"evil.example"))),
    Attack("another authority", request(authority=b"evil.example"), nginx="421, 404"),
    Attack("a host for an authority", (*without(b":authority"), (b"host", HOST)), nginx=SERVED),
    Attack(
        "a user in the authority",
        request(authority=b"evil@example.org"),
        nginx="421, 404 or 400, 404",
    ),
    Attack("a body longer than it says", posted((b"content-length", b"2")), b"hello"),
    Attack("a body shorter than it says", posted((b"content-length", b"9")), b"hello"),
    Attack("two lengths", posted((b"content-length", b"5"), (b"content-length", b"9")), b"hello"),
    Attack("a negative length", posted((b"content-length", b"-1")), b"hello"),
    Attack("a field of 70 KB", request((b"x-long", b"a" * 70_000)), nginx=CLOSED),
    Attack(
        "2,000 fields",
        request(*[(b"x-many-%d" % number, b"1") for number in range(2000)]),
        nginx="431, 404",
    ),
    # nginx takes no trailers over HTTP/2
    Attack("trailers", posted(), b"hello", CLOSED, ((b"host", b"evil.example"),)),
    Attack("a path in the trailers", posted(), b"hello", CLOSED, ((b":path", b"/smuggled"),)),
]


def send(nginx: Nginx, attack: Attack) -> tuple[str, str]:
    """(id, what came back): the attack, and a request to nowhere on the next stream."""
    name = new_id()
    http = H2Connection(LAX)
    http.initiate_connection()
    fields = [(k, v.replace(ID, name.encode())) for k, v in attack.fields]
    http.send_headers(1, fields, end_stream=attack.body is None)
    if attack.body is not None:
        http.send_data(1, attack.body, end_stream=not attack.trailers)
    if attack.trailers:
        http.send_headers(1, list(attack.trailers), end_stream=True)
    http.send_headers(3, list(request(path=b"/next-" + name.encode())), end_stream=True)
    context = nginx.tls()
    context.set_alpn_protocols(["h2"])
    ended: dict[int, str] = {}
    with nginx.connect(context=context) as connection, contextlib.suppress(OSError, H2Error):
        connection.sendall(http.data_to_send())
        while len(ended) < 2 and (data := connection.recv(65536)):
            for event in http.receive_data(data):
                if isinstance(event, ResponseReceived):
                    ended[event.stream_id] = dict(event.headers)[b":status"].decode()
                elif isinstance(event, StreamReset):
                    ended[event.stream_id] = ended.get(event.stream_id, "reset")
    return name, ", ".join(ended.get(stream, "closed") for stream in (1, 3))
