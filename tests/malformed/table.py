"""All attacks by what is wrong with them, among them well-formed ones that mean no good."""

from __future__ import annotations

from malformed import Attack
from malformed.bodies import CHUNKED, CHUNKS, EMPTY, FRAMING, LENGTH, SMUGGLED
from malformed.heads import BOTH_SERVED, HOSTS, LINES, SERVED, get


def at(name: str, target: bytes, nginx: str = SERVED, app: str = SERVED) -> Attack:
    return Attack(name, get(line=b"GET %b HTTP/1.1" % target), nginx, app)


PATHS = [
    at("dots", b"/static/../../../../etc/passwd", nginx="400"),
    at("dots above the root", b"/../../etc/passwd", nginx="400"),
    at("escaped dots", b"/static/%2e%2e/%2e%2e/etc/passwd", nginx="400"),
    at("escaped slashes", b"/static/..%2f..%2fetc%2fpasswd", nginx="400"),
    at("escaped twice", b"/static/%252e%252e%252fetc/passwd"),
    at("backslashes", b"/static/..\\..\\etc\\passwd"),
    at("dots in too many bytes", b"/static/%c0%ae%c0%ae/etc/passwd"),
    at("a folder's neighbour", b"/static../etc/passwd"),
    at("the file that nginx keeps to itself", b"/_media/x"),
    at("the problem page", b"/_problem"),
    at("a slash more", b"//etc/passwd"),
    at("a semicolon", b"/static/..;/..;/etc/passwd"),
    at("a NUL behind a name", b"/static/a.css%00.png", nginx="400"),
    at("a line in the log", b'/a%0d%0a{"level":"error","message":"forged"}'),
    at("a header in a redirect", b"/%0d%0aSet-Cookie:%20a=b"),
    at("an escape of a terminal", b"/%1b[2J%1b]0;x%07"),
    at("quotes and backslashes", b"/\\\"','%22}"),
]
FIELDS = [
    Attack(
        "a line in the user agent",
        get(b'User-Agent: a"}\\n{"level":"error","message":"forged"'),
        **BOTH_SERVED,
    ),
    Attack("bytes in the user agent", get(b"User-Agent: \xff\xfe\x01"), nginx="400, 404"),
    Attack("a forged trace", get(b'traceparent: 00-"}\\n{"-x-01'), **BOTH_SERVED),
    Attack(
        "an address that is none",
        get(b'X-Forwarded-For: "}{"client":"root", 127.0.0.1'),
        **BOTH_SERVED,
    ),
    Attack("10,000 addresses", get(b"X-Forwarded-For: " + b"1.1.1.1," * 900), **BOTH_SERVED),
    Attack(
        "an id with quotes",
        get().replace(b"X-Request-ID: ", b'X-Request-ID: "}{"a":"'),
        **BOTH_SERVED,
    ),
    Attack("two ids", get(b"X-Request-ID: the-second-id"), **BOTH_SERVED),
    Attack("two secrets", get(b"Authorization: Bearer second-Kanarienvogel"), app=SERVED),
]
HELLO = b"5\r\nhello\r\n" + EMPTY
KEY, VERSION = b"Sec-WebSocket-Key: " + b"A" * 22 + b"==", b"Sec-WebSocket-Version: 13"


def offer(
    name: str,
    *fields: bytes,
    to: bytes = b"websocket",
    line: bytes = b"GET /ws/nowhere HTTP/1.1",
    body: bytes = b"",
    nginx: str = SERVED,
    app: str = "404",
) -> Attack:
    """To speak another protocol, which the app takes for its connection's end."""
    head = get(b"Connection: Upgrade", b"Upgrade: " + to, *fields, line=line)
    return Attack(name, head + body, nginx, app)


OFFERS = [
    offer("a whole handshake", KEY, VERSION),
    offer("no key", VERSION),
    offer("a key that is short", KEY[:-6], VERSION),
    offer("two keys", KEY, KEY, VERSION),
    offer("another version", KEY, b"Sec-WebSocket-Version: 8"),
    offer("another method", KEY, VERSION, line=b"POST /ws/nowhere HTTP/1.1"),
    offer("HTTP/1.0", KEY, VERSION, line=b"GET /ws/nowhere HTTP/1.0", nginx="404"),
    offer("150 fields", KEY, VERSION, *[b"X-Many: 1"] * 150),
    offer("a field of 9 KB", KEY, VERSION, b"X-Long: " + b"a" * 9000, nginx="431"),
    offer("a protocol that is none", KEY, VERSION, b"Sec-WebSocket-Protocol: ,;"),
    offer("a body", KEY, VERSION, LENGTH, body=EMPTY + SMUGGLED, nginx="400, 404", app="400"),
    offer("a body in chunks", KEY, VERSION, CHUNKED, body=HELLO, nginx="400, 404", app="400"),
    offer("h2c with a body", LENGTH, to=b"h2c", body=EMPTY + SMUGGLED, app="400"),
]
TABLE = {
    "framing": FRAMING,
    "chunks": CHUNKS,
    "lines": LINES,
    "hosts": HOSTS,
    "paths": PATHS,
    "fields": FIELDS,
    "offers": OFFERS,
}
