"""Requests to nowhere, and what is wrong with a head."""

from __future__ import annotations

from malformed import CANARY, HOST, ID, Attack

SERVED = "404, 404"  # it and the request that follows: nothing is there
BOTH_SERVED = {"nginx": SERVED, "app": SERVED}


def head(line: bytes, *fields: bytes, host: bytes | None = b"Host: " + HOST) -> bytes:
    """A request's head, with a secret in it."""
    own = (b"Authorization: Bearer " + CANARY.encode(), b"X-Request-ID: " + ID)
    lines = [line, *([] if host is None else [host]), *own, *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(*fields: bytes) -> bytes:
    return head(b"POST /reset/nowhere?token=%b HTTP/1.1" % CANARY.encode(), *fields)


def get(*fields: bytes, line: bytes = b"GET /nowhere HTTP/1.1", **more: bytes | None) -> bytes:
    return head(line, *fields, **more)


LINES = [
    Attack("line feeds alone", get().replace(b"\r\n", b"\n"), nginx=SERVED),
    Attack("carriage returns alone", get().replace(b"\r\n", b"\r")),
    Attack("line breaks before it", b"\r\n\r\n" + get(), **BOTH_SERVED),
    Attack("a space before it", b" " + get()),
    Attack("tabs in its line", get(line=b"GET\t/nowhere\tHTTP/1.1")),
    Attack("two spaces in its line", get(line=b"GET  /nowhere  HTTP/1.1"), **BOTH_SERVED),
    Attack("a space in the target", get(line=b"GET /now here HTTP/1.1")),
    Attack("a NUL in the target", get(line=b"GET /now\0here HTTP/1.1")),
    Attack("a carriage return in the target", get(line=b"GET /now\rhere HTTP/1.1")),
    Attack(
        "bytes beyond ASCII in the target", get(line=b"GET /\xff\xfe HTTP/1.1"), nginx="400, 404"
    ),
    Attack("an escaped NUL", get(line=b"GET /%00 HTTP/1.1"), app=SERVED),
    Attack("an escape that is none", get(line=b"GET /%zz HTTP/1.1"), app=SERVED),
    Attack("a fragment", get(line=b"GET /nowhere#a HTTP/1.1"), **BOTH_SERVED),
    Attack("no target", get(line=b"GET HTTP/1.1")),
    Attack("no version", get(line=b"GET /nowhere"), nginx="no HTTP/1", app="404"),
    Attack("HTTP/0.9", b"GET /nowhere\r\n", nginx="no HTTP/1"),
    Attack("HTTP/1.10", get(line=b"GET /nowhere HTTP/1.10"), nginx=SERVED),
    Attack("HTTP/1.2", get(line=b"GET /nowhere HTTP/1.2"), nginx=SERVED),
    Attack("HTTP/2.0", get(line=b"GET /nowhere HTTP/2.0"), app="404"),
    Attack("HTTP/9.9", get(line=b"GET /nowhere HTTP/9.9")),
    Attack("http/1.1", get(line=b"GET /nowhere http/1.1")),
    Attack("a word behind it", get(line=b"GET /nowhere HTTP/1.1 x")),
    Attack("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    Attack("a method in lower case", get(line=b"get /nowhere HTTP/1.1")),
    Attack("an unknown method", get(line=b"BREW /nowhere HTTP/1.1"), nginx="400, 404"),
    Attack("a method of 10 KB", get(line=b"A" * 10_000 + b" /nowhere HTTP/1.1"), nginx="414"),
    Attack("TRACE", get(line=b"TRACE /nowhere HTTP/1.1"), nginx="405", app=SERVED),
    Attack("CONNECT", get(line=b"CONNECT example.org:443 HTTP/1.1"), nginx="400 or 405"),
    Attack("OPTIONS *", get(line=b"OPTIONS * HTTP/1.1"), app=SERVED),
    Attack("a handshake of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40),
    Attack("nonsense", b"\xde\xad\xbe\xef\r\n\r\n"),
    Attack("a folded field", get(b"X-First: 1", b" 2")),
    Attack("a field without a colon", get(b"nonsense"), nginx=SERVED),
    Attack("a field without a name", get(b": nonsense")),
    Attack("a space in a name", get(b"X First: 1")),
    Attack("a name beyond ASCII", get(b"X-\xff: 1"), nginx=SERVED),
    Attack("a NUL in a value", get(b"X-First: a\0b")),
    Attack("a carriage return in a value", get(b"X-First: a\rb")),
    Attack("a control character in a value", get(b"X-First: a\x01\x1b[2Jb"), nginx="400, 404"),
    Attack(
        "an address of 9 KB",
        get(line=b"GET /" + b"a" * 9000 + b" HTTP/1.1"),
        nginx="414",
        app=SERVED,
    ),
    Attack(
        "an address of 70 KB",
        get(line=b"GET /" + b"a" * 70_000 + b" HTTP/1.1"),
        nginx="414",
        app="431",
    ),
    Attack("a field of 9 KB", get(b"X-Long: " + b"a" * 9000), nginx="431", app=SERVED),
    Attack("a field of 70 KB", get(b"X-Long: " + b"a" * 70_000), nginx="431", app="431"),
    Attack("a name of 70 KB", get(b"a" * 70_000 + b": 1"), nginx="431", app="431"),
    Attack("10,000 fields", get(*[b"X-Many: 1"] * 10_000), nginx="431", app="431"),
    Attack("1,000 fields", get(*[b"X-Many: 1"] * 1000), nginx="431", app=SERVED),
    Attack("Expect of something else", get(b"Expect: 200-ok"), **BOTH_SERVED),
    Attack(
        "h2c",
        get(
            b"Connection: Upgrade, HTTP2-Settings",
            b"Upgrade: h2c",
            b"HTTP2-Settings: AAMAAABkAAQAAP__",
        ),
        nginx=SERVED,
        app="404",
    ),
    Attack(
        "a field that Connection takes away",
        get(b"Connection: X-Forwarded-For, Authorization, Host"),
        **BOTH_SERVED,
    ),
]
HOSTS = [
    Attack("no Host", get(host=None), app="421, 404"),
    Attack(
        "no Host in HTTP/1.0", get(line=b"GET /nowhere HTTP/1.0", host=None), nginx="421", app="421"
    ),
    Attack("Host twice", get(b"Host: " + HOST), app="400, 404"),
    Attack("another Host behind it", get(b"Host: evil.example"), app="400, 404"),
    Attack(
        "another Host before it", get(b"Host: " + HOST, host=b"Host: evil.example"), app="400, 404"
    ),
    Attack("an empty Host", get(host=b"Host:"), app="421, 404"),
    Attack("a foreign Host", get(host=b"Host: evil.example"), nginx="421, 404", app="421, 404"),
    Attack("two names in one", get(host=b"Host: example.org, evil.example"), app="421, 404"),
    Attack(
        "a user before it",
        get(host=b"Host: example.org@evil.example"),
        nginx="421, 404 or 400",
        app="421, 404",
    ),
    Attack(
        "a user that looks like it",
        get(host=b"Host: evil.example@example.org"),
        nginx="421, 404 or 400",
        app="421, 404",
    ),
    Attack("a path behind it", get(host=b"Host: example.org/evil"), app="421, 404"),
    Attack(
        "a port that is none",
        get(host=b"Host: example.org:evil"),
        nginx="404, 404 or 400",
        app="421, 404",
    ),
    Attack(
        "a port beyond all",
        get(host=b"Host: example.org:99999"),
        nginx="404, 404 or 400",
        app=SERVED,
    ),
    Attack("a NUL in it", get(host=b"Host: example.org\0.evil.example")),
    Attack("a tab in it", get(host=b"Host: example.org\tevil"), app="421, 404"),
    Attack(
        "bytes beyond ASCII in it",
        get(host=b"Host: ex\xc3\xa4mple.org"),
        nginx="421, 404 or 400",
        app="421, 404",
    ),
    Attack("a script in it", get(host=b'Host: "><script>alert(1)</script>'), app="421, 404"),
    Attack("a dot behind it", get(host=b"Host: example.org."), nginx=SERVED, app="421, 404"),
    Attack("a space before its colon", get(host=b"Host : example.org")),
    Attack("a folded Host", get(host=b"Host:\r\n example.org")),
    Attack(
        "our address, a foreign Host",
        get(line=b"GET http://example.org/nowhere HTTP/1.1", host=b"Host: evil.example"),
        nginx=SERVED,
        app="421, 404",
    ),
    Attack(
        "a foreign address, our Host",
        get(line=b"GET http://evil.example/nowhere HTTP/1.1"),
        nginx="421, 404",
        app=SERVED,
    ),
    Attack(
        "an address with a user",
        get(line=b"GET http://evil@example.org/nowhere HTTP/1.1"),
        app=SERVED,
    ),
    Attack(
        "X-Forwarded-Host",
        get(b"X-Forwarded-Host: evil.example", b"X-Forwarded-Port: 1"),
        **BOTH_SERVED,
    ),
]
