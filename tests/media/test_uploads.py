"""Receiving an upload, on both back ends."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any
from uuid import UUID

import httpx2 as httpx
import pytest
from pydantic import ByteSize
from sqlalchemy import func, select

from api import Api, Headers, assert_problem, running_api
from items import stored
from servers import Postgresql
from service.bodies import FORM_OVERHEAD_BYTES
from service.database_errors import DatabaseUnavailable
from service.fields import SecretUrl
from service.media.models import MediaItem
from service.media.uploads import MAX_FIELDS
from service.migrate import migrate
from service.resources import Resources
from service.settings import Settings
from service.storage import StorageUnavailable

pytestmark = pytest.mark.anyio

LIMIT = 300_000
BOUNDARY = b"frontier"
MULTIPART = {"Content-Type": "multipart/form-data; boundary=frontier"}


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    head = f"Content-Disposition: {disposition}\r\n\r\n".encode()
    return b"--" + BOUNDARY + b"\r\n" + head + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


FILE = part("file", b"hello", "hello.txt")


@pytest.fixture
async def small(settings: Settings) -> AsyncIterator[Api]:
    """The application with a limit that is quickly reached."""
    limited = settings.model_copy(update={"max_content_length": ByteSize(LIMIT)})
    async with running_api(limited) as api:
        yield api


async def send(api: Api, body: Any, headers: Headers | None = None, **more: str) -> httpx.Response:
    headers = await api.signed_in() if headers is None else headers
    return await api.client.post("/api/media", content=body, headers=MULTIPART | headers | more)


async def rows(api: Api) -> int:
    async with api.resources.database.transaction() as session:
        return await session.scalar(select(func.count()).select_from(MediaItem)) or 0


async def test_an_upload_is_accepted_and_says_where_it_is(api: Api) -> None:
    headers = await api.signed_in()
    answer = await send(api, form(FILE), headers)
    assert answer.status_code == 202
    item = answer.json()
    assert answer.headers["location"] == f"/api/media/{item['id']}"
    assert (await api.client.get(answer.headers["location"], headers=headers)).status_code == 200
    assert (item["title"], item["filename"]) == ("hello.txt", "hello.txt")
    assert (item["size"], item["status"], item["public"]) == (5, "received", False)
    assert item["url"] == f"/media/{item['id']}/hello.txt"


async def test_what_is_accepted_is_stored_as_it_was_sent(api: Api) -> None:
    headers = await api.signed_in()
    content = bytes(range(256)) * 8000  # more than fits into memory at once
    item = await api.upload(headers, content)
    assert (await api.client.get(item["url"], headers=headers)).content == content
    assert len(stored(api)) == 1


async def test_nothing_can_be_uploaded_without_a_token(api: Api) -> None:
    assert_problem(await send(api, form(FILE), {}), 401)
    assert_problem(await send(api, form(FILE), {"Authorization": "Bearer x"}), 401)
    assert await rows(api) == 0


async def test_the_token_is_checked_before_the_body_is_read(embedded_api: Api) -> None:
    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    length = {"Content-Length": "10000000"}
    for authorization in ({}, {"Authorization": "Bearer nobody's"}):
        answer = await send(embedded_api, body(), authorization, **length)
        assert_problem(answer, 401)


async def test_a_length_over_the_limit_is_refused_before_the_body_is_read(small: Api) -> None:
    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    length = str(LIMIT + FORM_OVERHEAD_BYTES + 1)
    answer = await send(small, body(), await small.signed_in(), **{"Content-Length": length})
    assert f" {LIMIT} bytes" in assert_problem(answer, 413)["detail"]


async def test_chunks_over_the_limit_are_refused_when_it_is_reached(small: Api) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        yield part("file", b"", "endless")[:-2]
        for _ in range(1000):
            sent += 10_000
            yield b"x" * 10_000

    assert f" {LIMIT} bytes" in assert_problem(await send(small, body()), 413)["detail"]
    assert LIMIT < sent < LIMIT + FORM_OVERHEAD_BYTES + 20_000
    assert stored(small) == []
    assert await rows(small) == 0


async def test_a_file_of_exactly_the_limit_is_accepted(small: Api) -> None:
    headers = await small.signed_in()
    item = await small.upload(headers, b"x" * LIMIT, "a" * 255)
    assert item["size"] == LIMIT


async def test_a_file_of_one_byte_more_is_not(small: Api) -> None:
    answer = await send(small, form(part("file", b"x" * (LIMIT + 1), "large")))
    problem = assert_problem(answer, 413)
    assert problem["detail"] == f"The file is larger than {LIMIT} bytes."
    assert stored(small) == []


async def test_a_file_of_exactly_the_limit_may_come_in_chunks(small: Api) -> None:
    async def body() -> AsyncIterator[bytes]:
        whole = form(part("file", b"x" * LIMIT, "chunked"))
        for start in range(0, len(whole), 7000):
            yield whole[start : start + 7000]

    assert (await send(small, body())).status_code == 202


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (form(), "body.file"),
        (form(part("title", b"only a title")), "body.file"),
        (form(part("file", b"no name, so a field")), "body.file"),
        (form(part("File", b"hello", "hello.txt")), "body.file"),
        (form(FILE, part("title", b"x" * 201)), "body.title"),
        (form(FILE, part("title", b"a\x00b")), "body.title"),
        (form(FILE, part("title", b"a\nb")), "body.title"),
        (form(FILE, part("title", b"a\x1b[2Jb")), "body.title"),
        (form(FILE, part("public", b"perhaps")), "body.public"),
        (form(FILE, part("public", b"")), "body.public"),
    ],
)
async def test_a_mistake_in_the_form_is_422_and_names_the_field(
    embedded_api: Api, body: bytes, place: str
) -> None:
    problem = assert_problem(await send(embedded_api, body), 422)
    assert [mistake["in"] for mistake in problem["errors"]] == [place]
    assert await rows(embedded_api) == 0
    assert stored(embedded_api) == []


@pytest.mark.parametrize(
    "body",
    [
        form(FILE, FILE),
        form(FILE, part("other", b"", "other.txt")),
        form(FILE, part("title", b"a", "title.txt")),
        form(FILE, *(part(f"field{n}", b"") for n in range(MAX_FIELDS + 1))),
        form(FILE, part("title", b"x" * 5000)),
        b"",
        b"not multipart at all",
        FILE,
        form(FILE)[:-4],
        form(FILE)[:60],
        b"--wrong\r\n" + form(FILE)[10:],
        b"--frontier\r\n\r\nno disposition\r\n--frontier--\r\n",
        b"--frontier\r\nContent-Disposition: form-data\r\n\r\nno name\r\n--frontier--\r\n",
        form(part("file", b"", "x" * 5000)),
        b"\x00" * 1000,
    ],
    ids=lambda body: ascii(body[-24:]),
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_form_that_cannot_be_read_is_a_problem(embedded_api: Api, body: bytes) -> None:
    """The parser leaves the file of a form without an end to the reference counter to close."""
    answer = await send(embedded_api, body)
    assert answer.status_code in (400, 422)
    assert_problem(answer, answer.status_code)
    assert await rows(embedded_api) == 0
    assert stored(embedded_api) == []


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "text/plain",
        "application/octet-stream",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "x" * 1000,
        "multipart/mixed; boundary=frontier",
        "multipart/form-data; boundary=other",
        "application/x-www-form-urlencoded",
    ],
)
async def test_another_content_type_is_a_problem(embedded_api: Api, content_type: str) -> None:
    answer = await send(embedded_api, form(FILE), **{"Content-Type": content_type})
    known = content_type.startswith("multipart/form-data")
    assert answer.status_code in ((400, 422) if known else (415,))
    assert_problem(answer, answer.status_code)


@pytest.mark.parametrize(("lines", "status"), [(90, 202), (200, 400)])
async def test_content_has_few_lines_that_begin_with_the_boundary(
    embedded_api: Api, lines: int, status: int
) -> None:
    """The parser takes hundreds of times as long for them."""
    answer = await send(embedded_api, form(part("file", b"\r\n--frontierx" * lines, "x.txt")))
    assert answer.status_code == status, answer.text
    if status == 400:
        assert "boundary" in assert_problem(answer, 400)["detail"]


@pytest.mark.parametrize(
    "charset",
    [
        "undefined",
        "idna",
        "punycode",
        "utf-7",
        "utf-16",
        "zlib_codec",
        "hex",
        "unicode_escape",
        "no",
    ],
)
async def test_no_form_is_read_in_other_characters_than_utf_8(
    embedded_api: Api, charset: str
) -> None:
    """The parser would decode fields with whatever codec Python has."""
    body = form(FILE, part("title", b"a.\\ud800..\\q" + b"x" * 80), part("public", b"true"))
    content_type = f"{MULTIPART['Content-Type']}; charset={charset}"
    answer = await send(embedded_api, body, **{"Content-Type": content_type})
    assert_problem(answer, 415)


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("photo.jpg", "photo.jpg"),
        ("\u5199\u771f \U0001f600.jpg", "\u5199\u771f \U0001f600.jpg"),
        ("re\u0301sume\u0301.pdf", "r\u00e9sum\u00e9.pdf"),
        ("../../../etc/passwd", "passwd"),
        ("C:\\\\temp\\\\x.txt", "x.txt"),
        ("..", "file"),
        ("", "file"),
        ("thumbnail", "thumbnail.file"),
        ("a\x00b\x7f.txt", "ab.txt"),
        ("x" * 400 + ".jpeg", "x" * 250 + ".jpeg"),
        ("?a=b&c#d%2F%00.txt", "?a=b&c#d%2F%00.txt"),
        ("<script>.html", "<script>.html"),
    ],
    ids=lambda name: ascii(name)[:20],
)
async def test_a_file_is_found_again_whatever_its_name(
    api: Api, filename: str, expected: str
) -> None:
    headers = await api.signed_in()
    answer = await send(api, form(part("file", b"hello", filename)), headers)
    item = answer.json()
    assert item["filename"] == expected
    assert item["title"] == expected[:200]
    assert (await api.client.get(item["url"], headers=headers)).content == b"hello"


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("My photo", "My photo"),
        ("  spaces ", "spaces"),
        ("\u5199\u771f \U0001f600 \u202e", "\u5199\u771f \U0001f600 \u202e"),
        ("x" * 200, "x" * 200),
        ("\U0001f600" * 200, "\U0001f600" * 200),
        ("", "hello.txt"),
        (" ", "hello.txt"),
        ("'; DROP TABLE media_items; --", "'; DROP TABLE media_items; --"),
        ("{title}%s\\u0000", "{title}%s\\u0000"),
    ],
    ids=ascii,
)
async def test_a_title_may_be_any_text(api: Api, title: str, expected: str) -> None:
    headers = await api.signed_in()
    item = await api.upload(headers, title=title)
    assert item["title"] == expected
    found = (await api.client.get(f"/api/media/{item['id']}", headers=headers)).json()
    assert found["title"] == expected


@pytest.mark.parametrize(
    ("word", "public"), [("true", True), ("1", True), ("on", True), ("false", False), ("0", False)]
)
async def test_public_is_a_word_for_yes_or_no(embedded_api: Api, word: str, public: bool) -> None:
    item = await embedded_api.upload(await embedded_api.signed_in(), public=word)
    assert item["public"] is public


async def test_an_empty_file_is_a_file(api: Api) -> None:
    headers = await api.signed_in()
    item = await api.upload(headers, b"", "empty.txt")
    assert item["size"] == 0
    answer = await api.client.get(item["url"], headers=headers)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("name", ["account_id", "status", "Title", "titel", ""])
async def test_a_field_that_nobody_asked_for_is_a_mistake(embedded_api: Api, name: str) -> None:
    """Ignored, a misspelt one would have no effect that anybody sees."""
    problem = assert_problem(await send(embedded_api, form(FILE, part(name, b"ready"))), 422)
    assert [mistake["in"] for mistake in problem["errors"]] == [f"body.{name}"]
    assert await rows(embedded_api) == 0


async def test_ten_uploads_at_once_are_ten_items(api: Api) -> None:
    headers = await api.signed_in()
    items = await asyncio.gather(
        *(api.upload(headers, bytes([n]) * 100_000, f"{n}.bin") for n in range(10))
    )
    assert len({item["id"] for item in items}) == 10
    for number, item in enumerate(items):
        answer = await api.client.get(item["url"], headers=headers)
        assert answer.content == bytes([number]) * 100_000


class BrokenStorage:
    """A store that is away."""

    async def put(self, key: str, file: IO[bytes]) -> None:
        raise StorageUnavailable


async def test_a_store_that_is_away_is_503_and_leaves_no_row(settings: Settings) -> None:
    def broken(resources: Resources) -> Resources:
        return replace(resources, storage=BrokenStorage())  # type: ignore[arg-type]

    async with running_api(settings, change=broken) as api:
        answer = await send(api, form(FILE))
        assert_problem(answer, 503)
        assert int(answer.headers["retry-after"]) > 0
        assert await rows(api) == 0


async def test_a_folder_that_became_a_file_is_503(
    api: Api, log_lines: list[dict[str, Any]]
) -> None:
    folder = Path(api.resources.settings.upload_folder)
    shutil.rmtree(folder)
    folder.write_text("in the way")
    assert_problem(await send(api, form(FILE)), 503)
    assert await rows(api) == 0
    assert "storage_unavailable" in [line["message"] for line in log_lines]


async def test_a_full_temporary_directory_is_503(
    embedded_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    answer = await send(embedded_api, form(part("file", b"x" * 2_000_000, "large")))
    assert_problem(answer, 503)


async def test_a_database_that_goes_away_after_the_bytes_were_stored_is_503(
    api: Api, monkeypatch: pytest.MonkeyPatch, log_lines: list[dict[str, Any]]
) -> None:
    """The bytes stay: the commit may have succeeded without the answer coming through."""
    headers = await api.signed_in()

    async def gone(*_: Any, **__: Any) -> None:
        raise DatabaseUnavailable

    monkeypatch.setattr(api.resources.jobs, "enqueue", gone)
    assert_problem(await send(api, form(FILE), headers), 503)
    assert await rows(api) == 0
    assert len(stored(api)) == 1
    (line,) = [line for line in log_lines if line["message"] == "upload_without_row"]
    assert UUID(line["media_id"]).hex in str(stored(api)[0])


async def test_a_database_server_that_stops_after_the_bytes_were_stored_is_503(
    own_postgresql: Postgresql, server_settings: Settings
) -> None:
    url = SecretUrl(own_postgresql.new_database())
    settings = server_settings.model_copy(update={"database_url": url})
    await migrate(settings)

    class Stopping:
        async def put(self, key: str, file: IO[bytes]) -> None:
            own_postgresql.stop()

    def stopping(resources: Resources) -> Resources:
        return replace(resources, storage=Stopping())  # type: ignore[arg-type]

    async with running_api(settings, change=stopping) as api:
        answer = await send(api, form(FILE))
        assert_problem(answer, 503)
        assert int(answer.headers["retry-after"]) > 0


async def test_a_row_and_its_job_come_together_or_not_at_all(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(api.resources.jobs, "enqueue", broken)
    assert_problem(await send(api, form(FILE)), 500)
    assert await rows(api) == 0


async def test_a_client_that_gives_up_leaves_nothing_and_is_no_error(
    api: Api, log_lines: list[dict[str, Any]]
) -> None:
    headers = await api.signed_in()
    raw = [(name.lower().encode(), value.encode()) for name, value in (headers | MULTIPART).items()]
    messages = iter(
        [
            {"type": "http.request", "body": form(FILE)[:50], "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> Any:
        return next(messages)

    async def sending(_: Any) -> None:
        return None

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/media",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-length", b"1000"), *raw],
        "state": {"resources": api.resources},
    }
    await api.app(scope, receive, sending)
    assert [line["status"] for line in log_lines if line["message"] == "request"] == [499]
    assert not [line for line in log_lines if line["level"] in ("warning", "error")]
    assert await rows(api) == 0
    assert stored(api) == []
