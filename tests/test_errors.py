"""Errors as callers see them: problems, and nothing that is not theirs to know."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from starlette.responses import StreamingResponse

from api import Api, assert_problem, running_api
from servers import free_port
from service.errors import ServiceError, phrase
from service.fields import SecretUrl
from service.settings import Settings

pytestmark = pytest.mark.anyio

SECRET = "s3cret-that-must-not-come-back"
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"]
ITEM = "/api/media/00000000-0000-4000-8000-000000000000"  # media
BYTES = "/media/00000000-0000-4000-8000-000000000000"  # media
JSON = {"Content-Type": "application/json"}
ACCOUNT = {"email": "ada@example.org", "password": SECRET}


class Teapot(ServiceError):
    status = 418
    title = "I'm a teapot"
    headers = {"X-Tea": "green"}


@pytest.fixture
async def breakable(embedded_settings: Settings) -> AsyncIterator[Api]:
    """The application with routes that fail in every way."""
    async with running_api(embedded_settings) as api:

        async def boom() -> None:
            raise RuntimeError(f"reason: {SECRET}")

        async def teapot() -> None:
            raise Teapot("Short and stout.")

        async def cut() -> StreamingResponse:
            async def chunks() -> AsyncIterator[bytes]:
                yield b"the beginning"
                await asyncio.sleep(0)
                raise RuntimeError("in the middle")

            return StreamingResponse(chunks(), headers={"Content-Length": "1000"})

        for endpoint in (boom, teapot, cut):
            api.app.api.add_api_route(f"/test/{endpoint.__name__}", endpoint)
        yield api


@pytest.mark.parametrize("method", METHODS)
async def test_an_unknown_path_is_404_with_every_method(embedded_api: Api, method: str) -> None:
    answer = await embedded_api.client.request(method, "/no/such/path")
    assert assert_problem(answer, 404)["title"] == "Not Found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/api/keys", "GET, HEAD, POST"),
        ("PUT", "/api/keys", "GET, HEAD, POST"),
        ("OPTIONS", "/login", "POST"),
        ("GET", "/login", "POST"),
        ("POST", "/api/accounts/me", "GET, HEAD"),
        ("POST", ITEM, "DELETE, GET, HEAD, PATCH"),  # media
        ("PATCH", f"{BYTES}/thumbnail", "GET, HEAD"),  # media
        ("DELETE", f"{BYTES}/name", "GET, HEAD"),  # media
        ("PUT", "/confirm", "GET, HEAD, POST"),
        ("PUT", "/reset", "GET, HEAD, POST"),
        ("GET", "/api/keys/x", "DELETE"),
        ("POST", "/openapi.json", "GET, HEAD"),
    ],
)
async def test_405_names_every_method_of_the_path(
    embedded_api: Api, method: str, path: str, allowed: str
) -> None:
    answer = await embedded_api.client.request(method, path)
    assert_problem(answer, 405)
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("host", ["[", "[::1", "a b", "@", "localhost:x", "\u00e4"])
async def test_an_odd_host_is_no_error_where_every_host_is_answered(
    embedded_settings: Settings, host: str
) -> None:
    settings = embedded_settings.model_copy(update={"allowed_hosts": ("*",)})
    async with running_api(settings) as api:
        for method, path, status in (("PUT", "/login", 405), ("GET", "/x", 404)):
            headers = {"Host": host.encode()}
            assert_problem(await api.client.request(method, path, headers=headers), status)


@pytest.mark.parametrize(
    ("method", "path", "more"),
    [
        ("POST", "/api/accounts", {"json": ACCOUNT}),
        ("POST", "/login", {"data": {"username": "ada@example.org", "password": SECRET}}),
        ("POST", "/api/accounts/password/forgot", {"json": ACCOUNT}),
        ("POST", "/logout", {}),
        ("GET", "/api/accounts/me", {}),
        ("GET", "/api/keys", {}),
        ("GET", "/api/media", {}),  # media
        ("POST", "/api/media", {"files": {"file": b"hello"}}),  # media
        ("GET", ITEM, {}),  # media
        ("GET", f"{BYTES}/name", {}),  # media
        ("GET", f"{BYTES}/thumbnail", {}),  # media
    ],
)
async def test_a_database_that_is_away_is_503_and_soon(
    embedded_settings: Settings, method: str, path: str, more: dict[str, Any]
) -> None:
    url = SecretUrl(f"postgresql://service:{SECRET}@127.0.0.1:{free_port()}/service")
    settings = embedded_settings.model_copy(update={"database_url": url})
    async with running_api(settings) as api, asyncio.timeout(10):
        headers = {"Authorization": "Bearer x"}
        answer = await api.client.request(method, path, headers=headers, **more)
    assert_problem(answer, 503)
    assert int(answer.headers["retry-after"]) > 0
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/api/accounts/me/",
        "//api/accounts/me",
        "/API/accounts/me",
        "/api/accounts/x/%2e%2e/me",
        "/api/media/%2e%2e",  # media
    ],
)
async def test_a_path_is_taken_as_it_is(embedded_api: Api, path: str) -> None:
    answer = await embedded_api.client.get(path, follow_redirects=False)
    assert answer.status_code in (401, 404, 422)  # and no redirect


async def test_a_foreign_host_is_421(embedded_api: Api) -> None:
    answer = await embedded_api.client.get("/api/accounts/me", headers={"Host": "evil.example"})
    assert_problem(answer, 421)


async def test_no_token_is_401_and_says_how_to_come_in(embedded_api: Api) -> None:
    answer = await embedded_api.client.get("/api/accounts/me")
    assert_problem(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_large_body_is_413_whatever_the_path(embedded_api: Api) -> None:
    for path in ("/api/accounts", "/login", "/confirm", "/no/such/path"):
        assert_problem(await embedded_api.client.post(path, content=b"x" * 70_000), 413)


async def test_a_large_body_in_chunks_is_413(embedded_api: Api) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    answer = await embedded_api.client.post("/api/accounts", content=chunks(), headers=JSON)
    assert_problem(answer, 413)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b'{"email": "ada@example.org", "password": "' + SECRET.encode(), 422),
        (b"null", 422),
        (b"[]", 422),
        (b"[[]]", 422),
        (b'"text"', 422),
        (b"1", 422),
        (b"{}", 422),
        (b"NaN", 422),
        (b'{"email": NaN, "password": Infinity}', 422),
        (b'{"email": 1, "password": 2}', 422),
        (b'{"email": null, "password": null}', 422),
        (b'{"email": ["ada@example.org"], "password": {"a": "b"}}', 422),
        (b'{"email": true, "password": false}', 422),
        (b'{"email": 1e400, "password": -0}', 422),
        (b'{"email": "ada@example.org\\u0000", "password": "12345678"}', 422),
        (b'{"email": "\\ud800@example.org", "password": "12345678"}', 422),
        (b'{"email": "ada@example.org", "password": "\\ud800\\ud800\\ud800\\ud800xxxx"}', 422),
        (b'{"email": "ada@example.org", "password": "\\udfff\\ud83d1234567"}', 422),
        (b'{"\\ud800": 1, "email": "x"}', 422),
        (b'{"email": "ada@example.org", "password": "1234567"}', 422),
        (b'{"email": "ada@example.org", "password": "' + b"x" * 1025 + b'"}', 422),
        (b'{"email": ' + b"9" * 5000 + b"}", 400),
        (b"[" * 60_000, 400),
        (b'{"a":' * 12_000, 400),
        (b"[" * 30_000 + b"]" * 30_000, 400),
        (b'{"email": "\xff\xfe\xfd"}', 400),
        (b"\x00", 422),
        (b"\xef\xbb\xbf\xef\xbb\xbf{}", 422),
    ],
)
async def test_an_unusable_json_body_is_a_problem(
    embedded_api: Api, body: bytes, status: int
) -> None:
    answer = await embedded_api.client.post("/api/accounts", content=body, headers=JSON)
    assert_problem(answer, status)
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"email": "\xff"}', "body: expected JSON in UTF-8; it is not at byte 12"),
        (b'{"a":' * 12_000, "body: expected JSON; it is nested too deeply"),
        (b"9" * 5000, "body: expected JSON; one of its numbers has too many digits"),
        (b'{"a": 1', "body: expected JSON; it is not valid at character 8"),
    ],
)
async def test_what_is_wrong_with_json_is_told(embedded_api: Api, body: bytes, detail: str) -> None:
    answer = await embedded_api.client.post("/api/accounts", content=body, headers=JSON)
    assert answer.json()["detail"] == detail


# media: from here
async def test_of_thousands_of_mistakes_some_are_told(embedded_api: Api) -> None:
    """An answer is not many times as long as what it answers."""
    body = {f"{number:x}": 1 for number in range(7000)}
    bearer = await embedded_api.signed_in()
    url = "/api/media/00000000-0000-0000-0000-000000000000"
    answer = await embedded_api.client.patch(url, json=body, headers=bearer)
    assert len(assert_problem(answer, 422)["errors"]) == 20
    assert len(answer.content) < 5000


# media: to here


async def test_a_lone_surrogate_in_a_token_is_refused(embedded_api: Api) -> None:
    body = b'{"token": "\\ud800"}'
    answer = await embedded_api.client.post("/api/accounts/confirm", content=body, headers=JSON)
    assert_problem(answer, 422)


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/xml", "multipart/form-data", "json", "é", ";;;"]
)
async def test_json_under_another_name_is_refused(embedded_api: Api, content_type: str) -> None:
    """A form of another site can send text/plain without asking the browser's permission."""
    body, headers = json.dumps(ACCOUNT), {"Content-Type": content_type.encode()}
    answer = await embedded_api.client.post("/api/accounts", content=body, headers=headers)
    problem = assert_problem(answer, 415)
    assert problem["detail"] == "The body has to be application/json."
    assert answer.headers["accept"] == "application/json"
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    "content_type",
    ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.a+json"],
)
async def test_json_is_known_by_its_content_type(embedded_api: Api, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    answer = await embedded_api.client.post("/api/accounts", json=ACCOUNT, headers=headers)
    assert answer.status_code == 202


async def test_a_validation_error_names_each_place_and_no_value(embedded_api: Api) -> None:
    body = {"email": f"{SECRET} at example.org", "password": SECRET[:7]}
    answer = await embedded_api.client.post("/api/accounts", json=body)
    problem = assert_problem(answer, 422)
    assert [mistake["in"] for mistake in problem["errors"]] == ["body.email", "body.password"]
    assert all(set(mistake) == {"in", "message"} for mistake in problem["errors"])
    assert "body.email: " in problem["detail"]
    assert SECRET[:7] not in answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", f"/api/keys/{SECRET}"),
        ("GET", f"/api/media/{SECRET}"),  # media
        ("GET", f"/media/{SECRET}/x"),  # media
        ("GET", f"/api/media?limit={SECRET}"),  # media
    ],
)
async def test_a_validation_error_of_a_path_or_a_query_has_no_value(
    embedded_api: Api, method: str, path: str
) -> None:
    headers = await embedded_api.signed_in()
    answer = await embedded_api.client.request(method, path, headers=headers)
    assert_problem(answer, 422)
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    ("request_line", "body", "headers", "place", "expected"),
    [
        ("POST /api/keys", {"name": " ", "scopes": ["read"]}, {}, "body.name", "not blank"),
        ("GET /api/media?cursor=x", None, {}, "query.cursor", "next_cursor"),  # media
        ("GET /ws/media?cursor=x", None, {}, "query.cursor", "earlier message"),  # media
        (  # media: from here
            *("POST /api/media", None, {"Idempotency-Key": "a b", "Content-Length": "0"}),
            *("header.Idempotency-Key", "1 to 200 printable ASCII characters"),
        ),
        # media: to here
    ],
)
async def test_a_text_of_another_form_is_told_in_words(
    embedded_api: Api,
    request_line: str,
    body: object,
    headers: dict[str, str],
    place: str,
    expected: str,
) -> None:
    method, _, path = request_line.partition(" ")
    headers = {**await embedded_api.signed_in(), **headers}
    answer = await embedded_api.client.request(method, path, json=body, headers=headers)
    [mistake] = assert_problem(answer, 422)["errors"]
    assert mistake["in"] == place
    assert mistake["message"].startswith("expected ")
    assert expected in mistake["message"]


@pytest.mark.parametrize(
    ("body", "position"), [(b" ", 2), (b"x", 1), (b'{"token": oops}', 11), (b'{"token": "', 11)]
)
async def test_a_body_that_is_no_json_is_told_in_words(
    embedded_api: Api, body: bytes, position: int
) -> None:
    answer = await embedded_api.client.post("/api/accounts/confirm", content=body, headers=JSON)
    message = f"expected JSON; it is not valid at character {position}"
    assert assert_problem(answer, 422)["errors"] == [{"in": "body", "message": message}]


async def test_500_says_nothing_and_the_log_everything_once(
    breakable: Api, log_lines: list[dict[str, Any]]
) -> None:
    answer = await breakable.client.get("/test/boom")
    problem = assert_problem(answer, 500)
    assert problem["detail"] == "Internal Server Error"
    assert SECRET not in answer.text
    (line,) = [line for line in log_lines if line["level"] == "error"]
    assert line["request_id"] == problem["request_id"]
    assert "Traceback" in line["exception"]
    assert f"reason: {SECRET}" in line["exception"]


async def test_an_error_has_the_title_detail_and_headers_of_its_class(breakable: Api) -> None:
    answer = await breakable.client.get("/test/teapot")
    problem = assert_problem(answer, 418)
    assert problem["title"] == "I'm a teapot"
    assert problem["detail"] == "Short and stout."
    assert answer.headers["x-tea"] == "green"


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[int]:
    """An application behind a real server in this loop; gives its port."""
    port = free_port()
    config = uvicorn.Config(app, port=port, lifespan="off", log_config=None, http="httptools")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    yield port
    server.should_exit = True
    await serving


async def conversation(port: int, request: bytes) -> bytes:
    """All that a server answers until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def test_an_error_in_the_middle_of_an_answer_cuts_the_connection_and_is_logged_once(
    breakable: Api, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(breakable.app) as port:
        request = b"GET /test/cut HTTP/1.1\r\nHost: localhost\r\n\r\n"
        answer = await conversation(port, request)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"the beginning")  # 987 bytes are missing, as the client can tell
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert errors[0].exc_info
    assert "in the middle" in str(errors[0].exc_info[1])


@pytest.mark.parametrize(("debug", "lines"), [(True, 1), (False, 0)])
async def test_debug_logs_where_a_handled_error_came_from(
    embedded_settings: Settings, log_lines: list[dict[str, Any]], debug: bool, lines: int
) -> None:
    settings = embedded_settings.model_copy(update={"debug": debug})
    async with running_api(settings) as api:
        await api.client.get("/api/accounts/me")
    handled = [line for line in log_lines if line["message"] == "handled_error"]
    assert len(handled) == lines
    assert all("Traceback" in line["exception"] for line in handled)


async def test_debug_does_not_log_what_was_sent(
    embedded_settings: Settings, log_lines: list[dict[str, Any]]
) -> None:
    settings = embedded_settings.model_copy(update={"debug": True})
    async with running_api(settings) as api:
        await api.client.post("/api/accounts", json={"email": SECRET, "password": SECRET[:7]})
        await api.client.post("/login", data={"username": SECRET, "pass": SECRET})
        await api.client.post("/login", data={"username": SECRET, "password": SECRET})
    assert SECRET[:7] not in json.dumps(log_lines)


async def test_docs_can_be_hidden(embedded_settings: Settings) -> None:
    settings = embedded_settings.model_copy(update={"docs_enabled": False})
    async with running_api(settings) as api:
        for path in ("/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"):
            assert_problem(await api.client.get(path), 404)


@pytest.mark.parametrize(
    ("status", "title"),
    [
        (400, "Bad Request"),
        (404, "Not Found"),
        (413, "Content Too Large"),
        (416, "Range Not Satisfiable"),
        (421, "Misdirected Request"),
        (422, "Unprocessable Content"),
        (500, "Internal Server Error"),
        (503, "Service Unavailable"),
        (599, "Error"),
    ],
)
def test_a_status_has_the_name_of_rfc_9110_on_every_python(status: int, title: str) -> None:
    assert phrase(status) == title
