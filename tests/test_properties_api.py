"""Whatever is sent to whatever address of the whole application: never a 5xx, and never an answer
that a server could not send as it is."""

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from api import Api
from asgi import RawAnswer, ask
from hostile import PIECES, field_values, octets, texts

pytestmark = pytest.mark.anyio

ITEM = str(uuid4())
READING = [
    *("/", "/docs", "/openapi.json", "/confirm", "/reset", "/static/a.css"),
    *("/api/media", "/api/public/media", f"/api/media/{ITEM}"),  # media
    *(f"/media/{ITEM}/a.jpg", f"/media/{ITEM}/thumbnail"),  # media
    *("/api/keys", "/api/accounts/me", "/health", "/health/live", "/health/detailed", "/metrics"),
]
JSON_ROUTES = [
    *(("POST", "/api/accounts"), ("POST", "/api/accounts/confirm"), ("POST", "/api/keys")),
    *(("POST", "/api/accounts/password/forgot"), ("POST", "/api/accounts/password/reset")),
    ("PATCH", f"/api/media/{ITEM}"),  # media
]
NAMES = ["email", "password", "token", "name", "scopes", "expires_at", "title", "public"]
FORM_ROUTES = [
    *("/login", "/confirm", "/reset"),
    "/api/media",  # media
]
HEADERS = [
    *("authorization", "range", "if-range", "if-match", "if-none-match", "idempotency-key"),
    *("content-type", "accept", "cookie", "traceparent", "x-request-id", "x-forwarded-for"),
    *("origin", "user-agent", "expect", "x-http-method-override", "x-accel-redirect"),
]


class Sender:
    """Somebody who is logged in and means no good."""

    def __init__(self, api: Api, bearer: dict[str, str]) -> None:
        self.api = api
        self.bearer = bearer["Authorization"].encode()

    async def __call__(
        self,
        method: str,
        target: str | bytes,
        headers: Sequence[tuple[str, bytes]] = (),
        *body: bytes,
    ) -> RawAnswer:
        """The answer, which is no fault of the service's."""
        named = {name.encode(): value for name, value in headers}
        all_headers = {b"host": b"localhost", b"authorization": self.bearer} | named
        raw = target.encode() if isinstance(target, str) else target
        state = {"resources": self.api.resources}
        answer = await ask(self.api.app, state, method, raw, list(all_headers.items()), body)
        assert 200 <= answer.status < 500, answer
        assert_well_formed(answer)
        return answer


def assert_well_formed(answer: RawAnswer) -> None:
    """What a server can send as it is: no line break splits a header."""
    for name, value in answer.headers:
        assert not set(name + value) & set(b"\0\r\n"), (name, value)
    headers = dict(answer.headers)
    if headers.get(b"content-type", b"").endswith(b"json"):
        body = json.loads(answer.body.decode() or "null")
        assert answer.status < 400 or body is None or body["status"] == answer.status
    assert b"Traceback" not in answer.body


@pytest.fixture
async def send(api: Api) -> Sender:
    return Sender(api, await api.signed_in())


headers = st.lists(
    st.tuples(st.sampled_from(HEADERS), field_values | st.sampled_from([b"Bearer ", b"bytes=0-"])),
    max_size=4,
)


@given(path=st.sampled_from(READING), given_headers=headers)
async def test_any_headers(send: Sender, path: str, given_headers: list[tuple[str, bytes]]) -> None:
    await send("GET", path, given_headers)
    await send("HEAD", path, given_headers)


queries = st.lists(
    st.tuples(st.sampled_from(["limit", "cursor", "token", "x"]), texts | st.just("1")), max_size=4
).map(lambda pairs: "&".join(f"{name}={quote(value, errors='replace')}" for name, value in pairs))
raw_queries = octets.map(lambda query: bytes(byte for byte in query if 0x20 < byte < 0x7F))


@given(path=st.sampled_from(READING), query=queries.map(str.encode) | raw_queries)
async def test_any_query(send: Sender, path: str, query: bytes) -> None:
    await send("GET", path.encode() + b"?" + query)


segments = st.lists(
    texts.map(lambda text: quote(text.encode("utf-8", "surrogatepass"), safe="%/.:@"))
    | st.sampled_from(["api", "media", ITEM, "static", "thumbnail", "..", "%2e%2e", "etc/passwd"]),
    max_size=5,
)


@given(method=st.sampled_from(["GET", "HEAD", "PUT", "DELETE", "PATCH", "BREW"]), path=segments)
async def test_any_path(send: Sender, method: str, path: list[str]) -> None:
    answer = await send(method, "/" + "/".join(path).replace("?", ""))
    assert b"root:" not in answer.body


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | texts, inner, max_size=3)
    ),
    max_leaves=8,
)
bodies = json_values.map(lambda value: json.dumps(value).encode())
objects = st.dictionaries(st.sampled_from(NAMES) | texts, json_values, max_size=5).map(
    lambda value: json.dumps(value).encode()
)


@given(route=st.sampled_from(JSON_ROUTES), body=objects | bodies | octets)
@example(("PATCH", f"/api/media/{ITEM}"), b'{"\\ud800": 1}')  # media
@example(("POST", "/api/accounts"), b"[" * 60_000)
@example(("POST", "/api/accounts"), b'{"email":' * 7000)
@example(("POST", "/api/keys"), b"9" * 60_000)
@example(
    ("POST", "/api/keys"),
    b'{"name": "a", "scopes": ["read"], "expires_at": "9999-12-31T23:59:59-23:59"}',
)
@example(("POST", "/api/accounts"), '{"email": "ä'.encode("utf-16"))
async def test_any_json(send: Sender, route: tuple[str, str], body: bytes) -> None:
    await send(*route, [("content-type", b"application/json")], body)


pairs = st.lists(
    st.tuples(
        st.sampled_from(["username", "password", "token", "title", "file", "grant_type", "scope"]),
        octets,
    ),
    max_size=4,
)


@given(path=st.sampled_from(FORM_ROUTES), fields=pairs, tail=octets)
async def test_any_form(
    send: Sender, path: str, fields: list[tuple[str, bytes]], tail: bytes
) -> None:
    body = "&".join(f"{name}={quote(value)}" for name, value in fields).encode() + tail
    await send("POST", path, [("content-type", b"application/x-www-form-urlencoded")], body)


dispositions = st.sampled_from(
    [
        b'form-data; name="file"; filename="a.txt"',
        b'form-data; name="file"',
        b'form-data; name="title"',
        b'form-data; name="public"',
        b"form-data",
        b"attachment",
        b"form-data; name=\"file\"; filename*=UTF-8''%00%ff.txt",
        b'form-data; name="file"; filename="\xff\xfe"',
        b'form-data; name="file"; filename="a\\"b.txt"; filename="c"',
        b'form-data; name="file"; name="title"; filename="../../x"',
        b"form-data; name*=utf-16''file; filename=x",
    ]
)
parts = st.tuples(
    dispositions | field_values.map(lambda value: b'form-data; name="file"; filename="%b"' % value),
    st.sampled_from([b"", b"Content-Type: text/plain; charset=utf-7\r\n", b"X-A : b\r\n", b"\r\n"])
    | field_values.map(lambda value: b"Content-Type: %b\r\n" % value),
    octets,
).map(lambda part: b"Content-Disposition: %b\r\n%b\r\n%b\r\n" % part)
types = st.sampled_from(
    [
        b"multipart/form-data; boundary=x",
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b'multipart/form-data; boundary=""',
        b"multipart/form-data; boundary=x; charset=utf-16",
        b"multipart/form-data; boundary=x; charset=undefined",
        b"multipart/form-data; boundary=x; charset=idna",
        b"multipart/form-data; boundary=x; charset=zlib",
        b"multipart/form-data; boundary=x; charset=utf-7",
        b"multipart/form-data; boundary=x; charset*=utf-8''%00",
        b"multipart/form-data; boundary*=utf-8''x",
        b"multipart/form-data; boundary*0=x; boundary*1=y",
        b"multipart/mixed; boundary=x",
        b"multipart/form-data; boundary=" + b"x" * 300,
        b"multipart/form-data; boundary=\xff",
    ]
) | field_values.map(lambda value: b"multipart/form-data; boundary=x; " + value)


# Starlette leaves the file of a part without an end to its destructor.
@pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")
@given(
    path=st.sampled_from(FORM_ROUTES),
    content_type=types,
    given_parts=st.lists(parts | octets, max_size=4),
    end=st.sampled_from([b"--x--\r\n", b"--x--", b"--x", b"", b"\r\n--x--garbage"]),
    cut=st.integers(0, 200),
)
async def test_any_multipart(
    send: Sender, path: str, content_type: bytes, given_parts: list[bytes], end: bytes, cut: int
) -> None:
    body = b"".join(b"--x\r\n" + part for part in given_parts) + end
    await send("POST", path, [("content-type", content_type)], body[:cut], body[cut:])


# media: from here
well_formed_parts = st.tuples(dispositions, octets).map(
    lambda part: b"--x\r\nContent-Disposition: %b\r\n\r\n%b\r\n" % part
)


@given(
    file=field_values, title=octets, key=field_values, more=st.lists(well_formed_parts, max_size=2)
)
async def test_any_upload_that_is_accepted_can_be_read_again(
    send: Sender, file: bytes, title: bytes, key: bytes, more: list[bytes]
) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="title"\r\n\r\n' + title + b"\r\n"
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="' + file + b'"\r\n\r\n'
        b"content\r\n" + b"".join(more) + b"--x--\r\n"
    )
    once = key + uuid4().hex.encode()
    given_headers = [
        ("content-type", b"multipart/form-data; boundary=x"),
        ("idempotency-key", once),
    ]
    answer = await send("POST", "/api/media", given_headers, body)
    if answer.status == 202:
        item = json.loads(answer.body)
        url = f"/api/media/{item['id']}"
        assert (await send("GET", url)).status == 200
        assert (await send("GET", item["url"])).body == b"content"
        renamed = json.dumps({"filename": title.decode("latin-1") or "x"}).encode()
        await send("PATCH", url, [("content-type", b"application/json")], renamed)
        assert (await send("DELETE", url)).status == 204


# media: to here

tokens = field_values | st.sampled_from(PIECES).map(
    lambda piece: b"key_" + piece.encode("utf-8", "replace") * 43
)


@given(scheme=st.sampled_from([b"Bearer", b"bearer", b"Basic", b""]), token=tokens)
@example(b"Bearer", b"key_" + b"a" * 43)
@example(b"Bearer", b"a" * 60_000)
@example(b"Bearer", b"\xff" * 43)
async def test_any_bearer_token_is_a_stranger(send: Sender, scheme: bytes, token: bytes) -> None:
    given_header = [("authorization", scheme + b" " + token)]
    for method, path in (
        *(("GET", "/api/media"), ("POST", "/api/media")),  # media
        *(("GET", "/api/keys"), ("POST", "/logout"), ("GET", "/health/detailed")),
    ):
        answer = await send(method, path, given_header)
        assert answer.status in (401, 404)
        assert token not in answer.body or len(token) < 5
