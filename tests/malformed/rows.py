"""The attacks."""

from __future__ import annotations

from malformed import CANARY, HOST, ID, Attack

SMUGGLED = b"GET /smuggled-%b HTTP/1.1\r\nHost: %b\r\n\r\n" % (ID, HOST)
CHUNKED = b"Transfer-Encoding: chunked"
EMPTY = b"0\r\n\r\n"


def head(line: bytes, *fields: bytes, host: bytes | None = b"Host: " + HOST) -> bytes:
    """A request's head, with a secret in it."""
    own = (b"Authorization: Bearer " + CANARY.encode(), b"X-Request-ID: " + ID)
    lines = [line, *([] if host is None else [host]), *own, *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(*fields: bytes) -> bytes:
    return head(b"POST /nowhere?token=%b HTTP/1.1" % CANARY.encode(), *fields)


def get(*fields: bytes, line: bytes = b"GET /nowhere HTTP/1.1", **more: bytes | None) -> bytes:
    return head(line, *fields, **more)


def framed(name: str, *fields: bytes, body: bytes = EMPTY + SMUGGLED, nginx: str = "400", app: str = "400", waits: bool = False) -> Attack:
    """A body whose end may be seen in different places; between them stands another request."""
    return Attack(name, post(*fields) + body, nginx, app, waits)


def chunks(name: str, body: bytes, nginx: str = "400", app: str = "400", waits: bool = False) -> Attack:
    return Attack(name, post(CHUNKED) + body, nginx, app, waits)


LENGTH = b"Content-Length: %d" % len(EMPTY + SMUGGLED)
FRAMING = [
    framed("CL and TE", b"Content-Length: 5", CHUNKED),
    framed("TE and CL", CHUNKED, b"Content-Length: 5"),
    framed("two lengths", b"Content-Length: 5", b"Content-Length: 6"),
    framed("the same length twice", LENGTH, LENGTH),
    framed("a list of lengths", b"Content-Length: 5, 5"),
    framed("no length", b"Content-Length:"),
    framed("a signed length", b"Content-Length: +5"),
    framed("a negative length", b"Content-Length: -1"),
    framed("a length in hexadecimal", b"Content-Length: 0x5"),
    framed("a length with a point", b"Content-Length: 5.0"),
    framed("a length with an underscore", b"Content-Length: 1_0"),
    framed("a length with a space", b"Content-Length: 1 0"),
    framed("a length in other digits", "Content-Length: ٥".encode()),
    framed("a length of 2^64", b"Content-Length: 18446744073709551621"),
    framed("a length of 5000 digits", b"Content-Length: " + b"9" * 5000),
    framed("a length with leading zeros", b"Content-Length: 000%d" % len(EMPTY + SMUGGLED)),
    framed("a length of 10^15", b"Content-Length: 1000000000000000", nginx="413, waits", app="413, waits", waits=True),
    framed("a length and a NUL", b"Content-Length: 5\0"),
    framed("TE identity", b"Transfer-Encoding: identity"),
    framed("TE xchunked", b"Transfer-Encoding: xchunked"),
    framed("TE gzip, chunked", b"Transfer-Encoding: gzip, chunked"),
    framed("TE chunked, identity", b"Transfer-Encoding: chunked, identity"),
    framed("TE identity, chunked", b"Transfer-Encoding: identity, chunked"),
    framed("TE chunked twice in a list", b"Transfer-Encoding: chunked, chunked"),
    framed("TE chunked twice", CHUNKED, CHUNKED),
    framed("TE chunked, then another", CHUNKED, b"Transfer-Encoding: identity"),
    framed("TE with a vertical tab", b"Transfer-Encoding: \x0bchunked"),
    framed("TE with a NUL", b"Transfer-Encoding: chunked\0"),
    framed("TE in quotes", b'Transfer-Encoding: "chunked"'),
    framed("TE with a parameter", b"Transfer-Encoding: chunked;q=1"),
    framed("TE in capitals", b"TRANSFER-ENCODING: CHUNKED", body=EMPTY),
    framed("a space before the colon", b"Transfer-Encoding : chunked"),
    framed("a tab before the colon", b"Transfer-Encoding\t: chunked"),
    framed("a space before the name", b"X-First: 1", b" Transfer-Encoding: chunked"),
    framed("a folded value", b"Transfer-Encoding:", b" chunked"),
    framed("a folded length", b"Content-Length:", b" 5"),
    framed("an underscore in the name", LENGTH, b"Transfer_Encoding: chunked"),
    framed("a field behind a line feed", LENGTH, b"X-First: 1\nTransfer-Encoding: chunked"),
    framed("a field behind a carriage return", LENGTH, b"X-First: 1\rTransfer-Encoding: chunked"),
    framed("a NUL in a name", b"Content-Length\0: 5"),
    Attack("chunked in HTTP/1.0", head(b"POST /nowhere HTTP/1.0", CHUNKED) + EMPTY + SMUGGLED, "400", "400"),
    Attack("a body that GET has", get(LENGTH) + EMPTY + SMUGGLED, "400", "400"),
    Attack("a body that is short", post(b"Content-Length: 5000"), "waits", "waits", waits=True),
]
CHUNKS = [
    chunks("well-formed", b"5\r\nhello\r\n" + EMPTY),
    chunks("a negative size", b"-1\r\nhello\r\n" + EMPTY + SMUGGLED),
    chunks("a signed size", b"+5\r\nhello\r\n" + EMPTY + SMUGGLED),
    chunks("a size with 0x", b"0x5\r\nhello\r\n" + EMPTY + SMUGGLED),
    chunks("a size that is none", b"g\r\nhello\r\n" + EMPTY + SMUGGLED),
    chunks("no size", b"\r\nhello\r\n" + EMPTY + SMUGGLED),
    chunks("a size over 64 bits", b"10000000000000005\r\nhello\r\n" + EMPTY + SMUGGLED),
    chunks("a size of 2^63", b"8000000000000000\r\nhello\r\n" + EMPTY + SMUGGLED, app="404, waits", waits=True),
    chunks("a size of many zeros", b"0" * 5000 + b"5\r\nhello\r\n" + EMPTY),
    chunks("a size and a space", b"5 \r\nhello\r\n" + EMPTY),
    chunks("an extension", b'5;a="b;c"\r\nhello\r\n' + EMPTY),
    chunks("an extension with a line feed", b"5;a\nhello\r\n" + EMPTY + SMUGGLED),
    chunks("an extension with a carriage return", b"5;a\rb\r\nhello\r\n" + EMPTY + SMUGGLED),
    chunks("an extension of 100 KB", b"5;" + b"a" * 100_000 + b"\r\nhello\r\n" + EMPTY),
    chunks("line feeds alone", b"5\nhello\n0\n\n" + SMUGGLED),
    chunks("a carriage return alone", b"5\rhello\r0\r\r" + SMUGGLED),
    chunks("more than its size", b"5\r\nhello, world\r\n" + EMPTY + SMUGGLED),
    chunks("two bytes for a line break", b"5\r\nhelloxx" + EMPTY + SMUGGLED),
    chunks("more than is taken", b"11170\r\n" + b"a" * 70_000 + b"\r\n" + EMPTY + SMUGGLED),
    chunks("trailers", EMPTY[:-2] + b"Host: evil.example\r\nContent-Length: 99\r\n\r\n"),
    chunks("trailers that name a client", EMPTY[:-2] + b"Host: evil.example\r\nX-Forwarded-For: 6.6.6.6\r\nX-Request-ID: a-trailer\r\n\r\n"),
    chunks("a trailer without a colon", EMPTY[:-2] + b"nonsense\r\n\r\n" + SMUGGLED),
    chunks("a trailer of 1 MB", EMPTY[:-2] + b"X-Long: " + b"a" * 1_000_000 + b"\r\n\r\n"),
    chunks("10,000 trailers", EMPTY[:-2] + b"X-Many: 1\r\n" * 10_000 + b"\r\n"),
]
LINES = [
    Attack("line feeds alone", get().replace(b"\r\n", b"\n"), "404, 404", "400"),
    Attack("carriage returns alone", get().replace(b"\r\n", b"\r"), "400", "400"),
    Attack("line breaks before it", b"\r\n\r\n" + get(), "404, 404", "404, 404"),
    Attack("a space before it", b" " + get(), "400", "400"),
    Attack("tabs in its line", get(line=b"GET\t/nowhere\tHTTP/1.1"), "400", "400"),
    Attack("two spaces in its line", get(line=b"GET  /nowhere  HTTP/1.1"), "400", "400"),
    Attack("a space in the target", get(line=b"GET /now here HTTP/1.1"), "400", "400"),
    Attack("a NUL in the target", get(line=b"GET /now\0here HTTP/1.1"), "400", "400"),
    Attack("a carriage return in the target", get(line=b"GET /now\rhere HTTP/1.1"), "400", "400"),
    Attack("bytes beyond ASCII in the target", get(line=b"GET /\xff\xfe HTTP/1.1"), "400", "400"),
    Attack("an escaped NUL", get(line=b"GET /%00 HTTP/1.1"), "400", "404, 404"),
    Attack("an escape that is none", get(line=b"GET /%zz HTTP/1.1"), "400", "404, 404"),
    Attack("a fragment", get(line=b"GET /nowhere#a HTTP/1.1"), "404, 404", "404, 404"),
    Attack("no target", get(line=b"GET HTTP/1.1"), "400", "400"),
    Attack("no version", get(line=b"GET /nowhere"), "400", "400"),
    Attack("HTTP/0.9", b"GET /nowhere\r\n", "400", "400"),
    Attack("HTTP/1.10", get(line=b"GET /nowhere HTTP/1.10"), "400", "400"),
    Attack("HTTP/1.2", get(line=b"GET /nowhere HTTP/1.2"), "400", "400"),
    Attack("HTTP/2.0", get(line=b"GET /nowhere HTTP/2.0"), "400", "400"),
    Attack("HTTP/9.9", get(line=b"GET /nowhere HTTP/9.9"), "400", "400"),
    Attack("http/1.1", get(line=b"GET /nowhere http/1.1"), "400", "400"),
    Attack("a word behind it", get(line=b"GET /nowhere HTTP/1.1 x"), "400", "400"),
    Attack("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400", "400"),
    Attack("a method in lower case", get(line=b"get /nowhere HTTP/1.1"), "400", "400"),
    Attack("an unknown method", get(line=b"BREW /nowhere HTTP/1.1"), "400", "400"),
    Attack("a method of 10 KB", get(line=b"A" * 10_000 + b" /nowhere HTTP/1.1"), "400", "400"),
    Attack("TRACE", get(line=b"TRACE /nowhere HTTP/1.1"), "405", "404, 404"),
    Attack("CONNECT", get(line=b"CONNECT example.org:443 HTTP/1.1"), "405", "404, 404"),
    Attack("OPTIONS *", get(line=b"OPTIONS * HTTP/1.1"), "400", "404, 404"),
    Attack("a handshake of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40, "400", "400"),
    Attack("nonsense", b"\xde\xad\xbe\xef\r\n\r\n", "400", "400"),
    Attack("a folded field", get(b"X-First: 1", b" 2"), "400", "400"),
    Attack("a field without a colon", get(b"nonsense"), "400", "400"),
    Attack("a field without a name", get(b": nonsense"), "400", "400"),
    Attack("a space in a name", get(b"X First: 1"), "400", "400"),
    Attack("a name beyond ASCII", get(b"X-\xff: 1"), "400", "400"),
    Attack("a NUL in a value", get(b"X-First: a\0b"), "400", "400"),
    Attack("a carriage return in a value", get(b"X-First: a\rb"), "400", "400"),
    Attack("a control character in a value", get(b"X-First: a\x01\x1b[2Jb"), "404, 404", "404, 404"),
    Attack("an address of 9 KB", get(line=b"GET /" + b"a" * 9000 + b" HTTP/1.1"), "414", "404, 404"),
    Attack("an address of 70 KB", get(line=b"GET /" + b"a" * 70_000 + b" HTTP/1.1"), "414", "431"),
    Attack("a field of 9 KB", get(b"X-Long: " + b"a" * 9000), "431", "404, 404"),
    Attack("a field of 70 KB", get(b"X-Long: " + b"a" * 70_000), "431", "431"),
    Attack("a name of 70 KB", get(b"a" * 70_000 + b": 1"), "431", "431"),
    Attack("10,000 fields", get(*[b"X-Many: 1"] * 10_000), "431", "431"),
    Attack("1,000 fields", get(*[b"X-Many: 1"] * 1000), "404, 404", "404, 404"),
    Attack("Expect of something else", get(b"Expect: 200-ok"), "404, 404", "404, 404"),
    Attack("h2c", get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"), "404, 404", "404, 404"),
    Attack("a field that Connection takes away", get(b"Connection: X-Forwarded-For, Authorization, Host"), "404, 404", "404, 404"),
]
HOSTS = [
    Attack("no Host", get(host=None), "400", "400"),
    Attack("no Host in HTTP/1.0", get(line=b"GET /nowhere HTTP/1.0", host=None), "400", "400"),
    Attack("Host twice", get(b"Host: " + HOST), "400", "400"),
    Attack("another Host behind it", get(b"Host: evil.example"), "400", "400"),
    Attack("another Host before it", get(b"Host: " + HOST, host=b"Host: evil.example"), "400", "400"),
    Attack("an empty Host", get(host=b"Host:"), "400", "400"),
    Attack("a foreign Host", get(host=b"Host: evil.example"), "421", "421"),
    Attack("two names in one", get(host=b"Host: example.org, evil.example"), "400", "421"),
    Attack("a user before it", get(host=b"Host: example.org@evil.example"), "400", "421"),
    Attack("a user that looks like it", get(host=b"Host: evil.example@example.org"), "400", "421"),
    Attack("a path behind it", get(host=b"Host: example.org/evil"), "400", "421"),
    Attack("a port that is none", get(host=b"Host: example.org:evil"), "400", "421"),
    Attack("a port beyond all", get(host=b"Host: example.org:99999"), "404, 404", "404, 404"),
    Attack("a NUL in it", get(host=b"Host: example.org\0.evil.example"), "400", "400"),
    Attack("a tab in it", get(host=b"Host: example.org\tevil"), "400", "421"),
    Attack("bytes beyond ASCII in it", get(host=b"Host: ex\xc3\xa4mple.org"), "421", "421"),
    Attack("a script in it", get(host=b'Host: "><script>alert(1)</script>'), "400", "421"),
    Attack("a dot behind it", get(host=b"Host: example.org."), "404, 404", "421"),
    Attack("a space before its colon", get(host=b"Host : example.org"), "400", "400"),
    Attack("a folded Host", get(host=b"Host:\r\n example.org"), "400", "400"),
    Attack("our address, a foreign Host", get(line=b"GET http://example.org/nowhere HTTP/1.1", host=b"Host: evil.example"), "404, 404", "421"),
    Attack("a foreign address, our Host", get(line=b"GET http://evil.example/nowhere HTTP/1.1"), "421", "404, 404"),
    Attack("an address with a user", get(line=b"GET http://evil@example.org/nowhere HTTP/1.1"), "400", "404, 404"),
    Attack("X-Forwarded-Host", get(b"X-Forwarded-Host: evil.example", b"X-Forwarded-Port: 1"), "404, 404", "404, 404"),
]


def at(name: str, target: bytes, nginx: str = "404, 404", app: str = "404, 404") -> Attack:
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
    Attack("a line in the user agent", get(b'User-Agent: a"}\\n{"level":"error","message":"forged"'), "404, 404", "404, 404"),
    Attack("bytes in the user agent", get(b"User-Agent: \xff\xfe\x01"), "404, 404", "404, 404"),
    Attack("a forged trace", get(b'traceparent: 00-"}\\n{"-x-01'), "404, 404", "404, 404"),
    Attack("an address that is none", get(b'X-Forwarded-For: "}{"client":"root", 127.0.0.1'), "404, 404", "404, 404"),
    Attack("10,000 addresses", get(b"X-Forwarded-For: " + b"1.1.1.1," * 900), "404, 404", "404, 404"),
    Attack("an id with quotes", get().replace(b"X-Request-ID: ", b'X-Request-ID: "}{"a":"'), "404, 404", "404, 404"),
    Attack("two ids", get(b"X-Request-ID: the-second-id"), "404, 404", "404, 404"),
    Attack("two secrets", get(b"Authorization: Bearer second-Kanarienvogel"), "404, 404", "404, 404"),
]
TABLE = {
    "framing": FRAMING,
    "chunks": CHUNKS,
    "lines": LINES,
    "hosts": HOSTS,
    "paths": PATHS,
    "fields": FIELDS,
}
