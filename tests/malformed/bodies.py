"""What is wrong with the length of a body, or with its chunks."""

from __future__ import annotations

from typing import Any

from malformed import HOST, ID, Attack
from malformed.heads import BOTH_SERVED, SERVED, get, head, post

SMUGGLED = b"GET /smuggled-%b HTTP/1.1\r\nHost: %b\r\n\r\n" % (ID, HOST)
CHUNKED = b"Transfer-Encoding: chunked"
EMPTY = b"0\r\n\r\n"


def framed(name: str, *fields: bytes, body: bytes = EMPTY + SMUGGLED, **expected: Any) -> Attack:
    """A body whose end may be seen in different places; behind one of them is another request."""
    return Attack(name, post(*fields) + body, **expected)


def chunks(name: str, body: bytes, **expected: Any) -> Attack:
    return Attack(name, post(CHUNKED) + body, **expected)


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
    framed(
        "a length with leading zeros",
        b"Content-Length: 000%d" % len(EMPTY + SMUGGLED),
        **BOTH_SERVED,
    ),
    framed(
        "a length of 10^15",
        b"Content-Length: 1000000000000000",
        waits=True,
        nginx="413, waits",
        app="413, waits",
    ),
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
    framed("TE in capitals", b"TRANSFER-ENCODING: CHUNKED", body=EMPTY, **BOTH_SERVED),
    framed("a space before the colon", b"Transfer-Encoding : chunked"),
    framed("a tab before the colon", b"Transfer-Encoding\t: chunked"),
    framed("a space before the name", b"X-First: 1", b" Transfer-Encoding: chunked"),
    framed("a folded value", b"Transfer-Encoding:", b" chunked"),
    framed("a folded length", b"Content-Length:", b" 5"),
    framed("an underscore in the name", LENGTH, b"Transfer_Encoding: chunked", **BOTH_SERVED),
    framed("a field behind a line feed", LENGTH, b"X-First: 1\nTransfer-Encoding: chunked"),
    framed("a field behind a carriage return", LENGTH, b"X-First: 1\rTransfer-Encoding: chunked"),
    framed("a NUL in a name", b"Content-Length\0: 5"),
    Attack(
        "chunked in HTTP/1.0",
        head(b"POST /nowhere HTTP/1.0", CHUNKED) + EMPTY + SMUGGLED,
        app="404",
    ),
    Attack("a body that GET has", get(LENGTH) + EMPTY + SMUGGLED, **BOTH_SERVED),
    Attack(
        "a body that is short",
        post(b"Content-Length: 5000"),
        waits=True,
        nginx="waits",
        app="404, waits",
    ),
]
CHUNKS = [
    chunks("well-formed", b"5\r\nhello\r\n" + EMPTY, **BOTH_SERVED),
    chunks("a negative size", b"-1\r\nhello\r\n" + EMPTY + SMUGGLED),
    chunks("a signed size", b"+5\r\nhello\r\n" + EMPTY + SMUGGLED),
    chunks("a size with 0x", b"0x5\r\nhello\r\n" + EMPTY + SMUGGLED),
    chunks("a size that is none", b"g\r\nhello\r\n" + EMPTY + SMUGGLED),
    chunks("no size", b"\r\nhello\r\n" + EMPTY + SMUGGLED),
    chunks("a size over 64 bits", b"10000000000000005\r\nhello\r\n" + EMPTY + SMUGGLED),
    chunks(
        "a size of 2^63",
        b"8000000000000000\r\nhello\r\n" + EMPTY + SMUGGLED,
        waits=True,
        app="404, waits",
    ),
    chunks("a size of many zeros", b"0" * 5000 + b"5\r\nhello\r\n" + EMPTY, **BOTH_SERVED),
    chunks("a size and a space", b"5 \r\nhello\r\n" + EMPTY, nginx=SERVED),
    chunks("an extension", b'5;a="b;c"\r\nhello\r\n' + EMPTY, **BOTH_SERVED),
    chunks(
        "an extension with a line feed",
        b"5;a\nhello\r\n" + EMPTY + SMUGGLED,
        nginx="404, 404, 404 or 400",
    ),
    chunks("an extension with a carriage return", b"5;a\rb\r\nhello\r\n" + EMPTY + SMUGGLED),
    chunks(
        "an extension of 100 KB",
        b"5;" + b"a" * 100_000 + b"\r\nhello\r\n" + EMPTY,
        **BOTH_SERVED,
    ),
    chunks("line feeds alone", b"5\nhello\n0\n\n" + SMUGGLED, nginx="404, 404, 404 or 400"),
    chunks("a carriage return alone", b"5\rhello\r0\r\r" + SMUGGLED),
    chunks("more than its size", b"5\r\nhello, world\r\n" + EMPTY + SMUGGLED),
    chunks("two bytes for a line break", b"5\r\nhelloxx" + EMPTY + SMUGGLED),
    chunks(
        "more than is taken",
        b"11170\r\n" + b"a" * 70_000 + b"\r\n" + EMPTY + SMUGGLED,
        nginx="413",
        app="404, 404, 404",
    ),
    chunks(
        "trailers", EMPTY[:-2] + b"Host: evil.example\r\nContent-Length: 99\r\n\r\n", nginx=SERVED
    ),
    chunks(
        "trailers that name a client",
        EMPTY[:-2]
        + b"Host: evil.example\r\nX-Forwarded-For: 6.6.6.6\r\nX-Request-ID: a-trailer\r\n\r\n",
        **BOTH_SERVED,
    ),
    chunks(
        "a trailer without a colon",
        EMPTY[:-2] + b"nonsense\r\n\r\n" + SMUGGLED,
        nginx="404, 404, 404",
    ),
    chunks(
        "a trailer of 1 MB",
        EMPTY[:-2] + b"X-Long: " + b"a" * 1_000_000 + b"\r\n\r\n",
        nginx=SERVED,
        app="431 or 404",  # the answer may be sent before the trailer has come
    ),
    chunks(
        "10,000 trailers",
        EMPTY[:-2] + b"X-Many: 1\r\n" * 10_000 + b"\r\n",
        **BOTH_SERVED,
    ),
]
