"""The layer around the application, on an application of a few lines."""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx2 as httpx
import pytest
from prometheus_client import REGISTRY
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from api import assert_problem
from service import logs, turns
from service.bodies import FORM_OVERHEAD_BYTES, SMALL_BODY_BYTES, is_utf_8
from service.middleware import (
    LONGEST_HOST,
    TRACEPARENT,
    Refusal,
    RequestLayer,
    host_matcher,
)
from service.settings import Settings

pytestmark = pytest.mark.anyio

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"

App = Callable[[Any, Any, Any], Awaitable[None]]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the size of the body it read."""
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


async def broken(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("a reason that is nobody's business")


async def broken_half_way(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-length", b"10")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"12345", "more_body": True})
    raise RuntimeError("half way")


async def broken_afterwards(scope: Any, receive: Any, send: Any) -> None:
    await echo(scope, receive, send)
    raise RuntimeError("after the answer")


def layer(app: App = echo, **settings: Any) -> RequestLayer:
    return RequestLayer(app, Settings(**settings), {("POST", "/large"): 100_000}, {})


def client_of(app: App) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


async def get(app: App, path: str = "/", **headers: str) -> httpx.Response:
    async with client_of(app) as client:
        return await client.get(path, headers={k.replace("_", "-"): v for k, v in headers.items()})


async def call(
    app: App, *, method: str = "POST", path: str = "/", headers: Any = (), messages: Any = ()
) -> list[dict[str, Any]]:
    """What an application sends to a request made of these messages."""
    waiting = iter(messages)
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        return next(waiting)  # to ask for more than there is fails the test

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(b"host", b"localhost"), *headers]
    await app({"type": "http", "method": method, "path": path, "headers": raw}, receive, send)
    return sent


@pytest.mark.parametrize("given", ["a" * 8, "A" * 64, TRACE_ID, "a.b_c-9x"])
async def test_a_well_formed_request_id_is_kept(given: str) -> None:
    assert (await get(layer(), x_request_id=given)).headers["x-request-id"] == given


@pytest.mark.parametrize(
    "given",
    ["", "short12", "a" * 65, "with space", "semi;colon", "a\ttab--", "<script>", "ü" * 9],
)
async def test_another_request_id_is_replaced(given: str) -> None:
    async with client_of(layer()) as client:
        answer = await client.get("/", headers={"X-Request-ID": given.encode()})
    assert answer.headers["x-request-id"] != given
    assert len(answer.headers["x-request-id"]) == 32


async def test_two_requests_have_two_ids() -> None:
    ids = {(await get(layer())).headers["x-request-id"] for _ in range(50)}
    assert len(ids) == 50


async def test_an_answer_has_one_request_id() -> None:
    answer = await get(layer(), x_request_id="the-only-one")
    assert answer.headers.get_list("x-request-id") == ["the-only-one"]


@pytest.mark.parametrize(
    ("app", "path", "headers", "status"),
    [
        (echo, "/", {"host": "evil.example"}, 421),
        (broken, "/", {}, 500),
        (echo, "/", {"content-length": str(SMALL_BODY_BYTES + 1)}, 413),
        (echo, "/", {"content-type": "multipart/form-data; boundary=b; charset=punycode"}, 415),
    ],
)
async def test_problems_of_the_layer_itself_carry_the_request_id(
    app: App, path: str, headers: dict[str, str], status: int
) -> None:
    async with client_of(layer(app)) as client:
        answer = await client.get(path, headers={**headers, "X-Request-ID": "my-own-request-id"})
    assert assert_problem(answer, status)["request_id"] == "my-own-request-id"


@pytest.mark.parametrize(
    ("content_type", "accepted"),
    [
        (None, True),
        (b"application/json", True),
        (b"application/json; charset=UTF-8", True),
        (b'text/plain;charset="utf-8"', True),
        (b"multipart/form-data; boundary=b; charset=us-ascii", True),
        (b"multipart/form-data; boundary=b; charset=idna", False),
        (b'multipart/form-data; boundary=b; CHARSET = "latin-1"', False),
        (b"multipart/form-data; charset=utf-8; boundary=b; charset=punycode", False),
        (b"multipart/form-data; boundary=b; charset=utf-8 of-a-name-to-remember", False),
        (b'multipart/form-data; boundary="charset=idna"', True),
    ],
)
def test_bodies_are_in_utf_8(content_type: bytes | None, accepted: bool) -> None:
    assert is_utf_8(content_type) is accepted


@pytest.mark.parametrize(
    ("allowed", "host"),
    [
        ("example.org", "example.org"),
        ("example.org", "EXAMPLE.org"),
        ("example.org", "example.org:8000"),
        ("example.org", "example.org:"),
        ("[::1]", "[::1]"),
        ("[::1]", "[::1]:8000"),
        ("*.example.org", "a.example.org"),
        ("*.example.org", "a.b.example.org:443"),
        ("*", "anything.example"),
        ("*", ""),
    ],
)
def test_an_allowed_host_is_answered(allowed: str, host: str) -> None:
    assert host_matcher((allowed,))(host.encode())


@pytest.mark.parametrize(
    ("allowed", "host"),
    [
        ("example.org", ""),
        ("example.org", "evil.org"),
        ("example.org", "example.org.evil.org"),
        ("example.org", "evil.org/example.org"),
        ("example.org", "evilexample.org"),
        ("example.org", "a.example.org"),
        ("example.org", "example.org:80:80"),
        ("example.org", "example.org:evil"),
        ("example.org", "user@example.org"),
        ("example.org", "example.org, evil.org"),
        ("example.org", "example.org\x00"),
        ("*.example.org", "example.org"),
        ("*.example.org", "evilexample.org"),
        ("[::1]", "::1"),
        ("[::1]", "[::2]:80"),
    ],
)
def test_another_host_is_not(allowed: str, host: str) -> None:
    matches = host_matcher((allowed,))
    assert not matches(host.encode())
    assert not matches(host.encode())  # nor the second time


def test_hosts_of_strangers_are_not_remembered() -> None:
    matches = host_matcher(("*.example.org",))
    for number in range(3000):
        matches(b"evil-%d.org" % number)
        matches(b"%d.example.org" % number)
        matches(b"%d.example.org:%s" % (number, b"1" * LONGEST_HOST))
    known = inspect.getclosurevars(matches).nonlocals["known"]
    assert len(known) <= 1000
    assert not any(b"evil" in host for host in known)
    assert max(map(len, known)) < LONGEST_HOST


async def test_a_request_without_a_host_is_misdirected() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await layer()({"type": "http", "method": "GET", "path": "/", "headers": []}, None, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 421


@pytest.mark.parametrize("second", [b"localhost", b"evil.example"])
async def test_a_request_with_two_hosts_is_malformed(second: bytes) -> None:
    """RFC 9112 section 3.2: whoever stands before may have gone by the other one."""
    for hosts in ((b"localhost", second), (second, b"localhost")):
        sent = await call(layer(), headers=[(b"host", host) for host in hosts])
        assert sent[0]["status"] == 400


async def test_a_request_with_two_content_types_is_malformed() -> None:
    """One would be looked at, and the other one read by."""
    types = (b"application/json", b"multipart/form-data; boundary=b; charset=punycode")
    sent = await call(layer(), headers=[(b"content-type", each) for each in types])
    assert sent[0]["status"] == 400


async def test_a_body_that_says_it_is_too_long_is_refused_unread() -> None:
    length = str(SMALL_BODY_BYTES + 1).encode()
    sent = await call(layer(), headers=[(b"content-length", length)])
    assert sent[0]["status"] == 413


async def test_the_connection_stays_open_for_a_client_that_is_still_sending() -> None:
    """Closing would reset it, and a client that writes first would never read why."""
    sent = await call(layer(), headers=[(b"content-length", b"99999999")])
    assert b"connection" not in dict(sent[0]["headers"])


@pytest.mark.parametrize(
    ("path", "limit"), [("/", SMALL_BODY_BYTES), ("/large", 100_000 + FORM_OVERHEAD_BYTES)]
)
async def test_the_limit_itself_is_allowed(path: str, limit: int) -> None:
    async with client_of(layer()) as client:
        assert (await client.post(path, content=b"x" * limit)).text == str(limit)
        assert_problem(await client.post(path, content=b"x" * (limit + 1)), 413)


async def test_the_limit_that_is_told_leaves_room_for_a_form_around_a_file() -> None:
    async with client_of(layer()) as client:
        answer = await client.post("/large", content=b"x" * 200_000)
    assert assert_problem(answer, 413)["detail"] == "The request brings more than 100000 bytes."


async def test_a_larger_limit_is_for_its_method_alone() -> None:
    async with client_of(layer()) as client:
        assert_problem(await client.put("/large", content=b"x" * 100_000), 413)


async def test_a_body_without_a_length_is_counted() -> None:
    chunk = {"type": "http.request", "body": b"x" * 40_000, "more_body": True}
    raised: list[HTTPException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await echo(scope, receive, send)
        except HTTPException as error:
            raised.append(error)

    headers = [(b"transfer-encoding", b"chunked")]
    await call(layer(app), headers=headers, messages=[chunk, chunk])  # a third is not asked for
    assert [error.status_code for error in raised] == [413]


async def test_a_short_body_without_a_length_passes() -> None:
    chunks = [
        {"type": "http.request", "body": b"x" * 30_000, "more_body": True},
        {"type": "http.request", "body": b"x" * 30_000, "more_body": False},
    ]
    sent = await call(layer(), headers=[(b"transfer-encoding", b"chunked")], messages=chunks)
    assert sent[1]["body"] == b"60000"


@pytest.mark.parametrize(
    "given",
    [
        f"00-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-00",
        f"cc-{TRACE_ID}-{SPAN_ID}-01",
        f"01-{TRACE_ID}-{SPAN_ID}-01-what-the-future-brings",
    ],
)
async def test_the_trace_id_is_in_the_log(given: str, log_lines: list[dict[str, Any]]) -> None:
    await get(layer(), traceparent=given)
    assert log_lines[-1]["trace_id"] == TRACE_ID


@pytest.mark.parametrize(
    "given",
    [
        "",
        "nonsense",
        f"00-{TRACE_ID}",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-01-more",
        f"01-{TRACE_ID}-{SPAN_ID}-01more",
        f"00-{TRACE_ID}-{SPAN_ID}-01\n",
    ],
)
def test_a_traceparent_that_w3c_forbids_is_ignored(given: str) -> None:
    assert not TRACEPARENT.fullmatch(given.encode())


async def test_a_pipelined_request_does_not_inherit_the_trace_of_the_one_before_it(
    log_lines: list[dict[str, Any]],
) -> None:
    logs.trace_id.set("of-the-request-before")
    await get(layer())
    assert "trace_id" not in log_lines[-1]


async def test_one_line_tells_of_a_request(log_lines: list[dict[str, Any]]) -> None:
    answer = await get(layer(), "/some/path?token=s3cret")
    (line,) = log_lines
    assert line["message"] == "request"
    assert line["request_id"] == answer.headers["x-request-id"]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/some/path", 200)
    assert line["client"] == "127.0.0.1"
    assert line["duration_ms"] >= 0
    assert "s3cret" not in str(line)


async def test_a_path_cannot_make_two_lines_of_one(log_lines: list[dict[str, Any]]) -> None:
    await get(layer(), "/a%0a2026-01-01 forged")
    assert log_lines[-1]["path"] == "/a%0a2026-01-01%20forged"
    assert log_lines[-1]["path"].isprintable()


async def test_no_line_where_nginx_writes_it(log_lines: list[dict[str, Any]]) -> None:
    await get(layer(access_log=False))
    assert log_lines == []


async def test_what_nobody_caught_is_one_entry_and_a_problem(
    log_lines: list[dict[str, Any]],
) -> None:
    answer = await get(layer(broken, access_log=False), "/x")
    body = assert_problem(answer, 500)
    assert "nobody's business" not in answer.text
    (line,) = log_lines
    assert line["level"] == "error"
    assert line["request_id"] == body["request_id"]
    assert (line["message"], line["method"], line["path"]) == ("unhandled_error", "GET", "/x")
    assert line["exception"].startswith("Traceback")
    assert "a reason that is nobody's business" in line["exception"]


async def test_an_error_in_the_middle_of_an_answer_is_left_to_the_server(
    log_lines: list[dict[str, Any]],
) -> None:
    """It logs the error and cuts the connection, which tells the client."""
    with pytest.raises(RuntimeError, match="half way"):
        await call(layer(broken_half_way, access_log=False))
    assert log_lines == []


async def test_an_error_after_the_answer_is_logged(log_lines: list[dict[str, Any]]) -> None:
    answer = await get(layer(broken_afterwards, access_log=False))
    assert answer.status_code == 200
    assert [line["message"] for line in log_lines] == ["unhandled_error"]


async def test_what_is_no_request_passes_through() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    await layer(app)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan"]


async def test_requests_under_way_are_counted_and_come_to_an_end() -> None:
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(counted.running)
        raise RuntimeError

    counted = layer(app)
    await get(counted)
    assert seen == [1]
    assert counted.running == 0


@contextlib.contextmanager
def counting(**labels: str) -> Iterator[Callable[[], float]]:
    """How many requests with these labels end inside a block."""

    def count() -> float:
        return REGISTRY.get_sample_value("http_request_duration_seconds_count", labels) or 0

    before = count()
    yield lambda: count() - before


async def test_paths_that_no_route_has_share_one_metric() -> None:
    with counting(method="GET", route="(unmatched)", status="200") as counted:
        for number in range(5):
            await get(layer(), f"/wp-admin/{number}")
        assert counted() == 5


async def test_a_strange_method_is_other_in_the_metrics() -> None:
    with counting(method="OTHER", route="(unmatched)", status="200") as counted:
        async with client_of(layer()) as client:
            await client.request("BREW", "/")
            await client.request("PROPFIND", "/")
        assert counted() == 2


class Slow:
    """Works on a request until it may go on; `begins` its answer before that, or reads its body."""

    def __init__(self, *, begins: bool = False, reads: bool = False) -> None:
        self.begins, self.reads = begins, reads
        self.working = 0
        self.may_go_on = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.working += 1
        if self.reads:
            await receive()
        if self.begins:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await self.may_go_on.wait()
        if not self.begins:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@contextlib.asynccontextmanager
async def busy_with(app: Slow, layer: RequestLayer, **request: Any) -> AsyncIterator[None]:
    """Requests that the application works on during a block: one of this kind."""
    begun = asyncio.create_task(call(layer, **request))
    while not app.working:  # noqa: ASYNC110
        await asyncio.sleep(0)
    yield
    app.may_go_on.set()
    await begun


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LONGEST_SECONDS", 0.01)


async def test_a_request_that_would_wait_for_too_long_is_refused(no_patience: None) -> None:
    app = Slow()
    full = layer(app, request_concurrency=1)
    labels = {"method": "GET", "route": "(unmatched)", "status": "503"}
    async with busy_with(app, full):
        with counting(**labels) as counted:
            answer = await get(full, x_request_id="my-own-request-id")
            assert counted() == 1
        assert assert_problem(answer, 503)["request_id"] == "my-own-request-id"
        assert answer.headers["retry-after"] == "1"
        assert app.working == 1
    assert (await get(full)).status_code == 200


def asked(full: RequestLayer, **request: Any) -> tuple[dict[str, Any], Refusal | None]:
    """As by a server, with the scope of the request."""
    headers = [(b"host", b"localhost"), (b"x-request-id", b"my-own-request-id")]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers} | request
    return scope, full.refusal(scope)


async def test_a_server_that_asks_first_hears_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "REFUSED_SECONDS", 0.0)
    app = Slow()
    full = layer(app, request_concurrency=1, access_log=False)
    labels = {"method": "GET", "route": "(unmatched)", "status": "503"}
    async with busy_with(app, full):
        waiting = asyncio.create_task(get(full))
        await asyncio.sleep(0.01)
        with counting(**labels) as counted:
            _, refusal = asked(full)
            assert counted() == 1
        assert refusal == Refusal(
            503,
            "The service is busy. Try again shortly.",
            "my-own-request-id",
            {"Retry-After": "1"},
        )
    assert (await waiting).status_code == 200


async def test_who_asked_first_has_a_place_already() -> None:
    app = Slow()
    app.may_go_on.set()
    full = layer(app, request_concurrency=2, access_log=False)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    for headers, status in (([(b"host", b"localhost")], 200), ([(b"host", b"elsewhere")], 421)):
        scope, refusal = asked(full, headers=headers)
        assert refusal is None
        assert full.turns.taken == 1
        await full(scope, receive, send)
        assert sent[-2]["status"] == status
        assert full.turns.taken == 0


async def test_with_an_access_log_the_layer_refuses_itself() -> None:
    """A server that asks first does not know the client yet."""
    full = layer(Slow(), request_concurrency=1, access_log=True)
    for _ in range(2):
        assert asked(full)[1] is None
    assert full.turns.taken == 0


async def test_a_request_waits_for_its_turn() -> None:
    app = Slow()
    full = layer(app, request_concurrency=1)
    async with busy_with(app, full):
        second = asyncio.create_task(get(full))
        await asyncio.sleep(0.05)
        assert not second.done()
        assert app.working == 1
    assert (await second).status_code == 200


async def test_an_answer_that_has_begun_takes_no_turn(no_patience: None) -> None:
    """Its client may read it as slowly as it likes."""
    app = Slow(begins=True)
    full = layer(app, request_concurrency=1)
    async with busy_with(app, full):
        second = asyncio.create_task(get(full))
        while app.working < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert (await second).status_code == 200


@pytest.mark.parametrize("framing", [(b"content-length", b"9"), (b"transfer-encoding", b"chunked")])
async def test_a_body_that_does_not_come_takes_no_turn(
    framing: tuple[bytes, bytes], no_patience: None
) -> None:
    app = Slow(reads=True)
    full = layer(app, request_concurrency=1)
    comes = asyncio.Event()

    async def receive() -> Any:
        await comes.wait()
        return {"type": "http.request", "body": b"123456789"}

    async def send(message: Any) -> None:
        pass

    head = [(b"host", b"localhost"), framing]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": head}
    slow = asyncio.create_task(full(scope, receive, send))
    while not app.working:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert full.turns.taken == 0
    comes.set()
    while not full.turns.taken:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert (await get(full)).status_code == 503  # now it is worked on
    app.may_go_on.set()
    await slow
    assert full.turns.taken == 0


async def test_what_has_a_line_of_its_own_holds_up_nothing_else(no_patience: None) -> None:
    app = Slow()
    lines = {("POST", "/heavy"): turns.Turns("test", 1)}
    two = RequestLayer(app, Settings(), {}, lines)
    async with busy_with(app, two, path="/heavy"):
        refused = await call(two, path="/heavy")
        assert refused[0]["status"] == 503
        other = asyncio.create_task(get(two))
        while app.working < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert (await other).status_code == 200
