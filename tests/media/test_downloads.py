"""Serving an item's bytes, on both back ends."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from sqlalchemy import update

from api import Api, Headers, assert_problem
from pictures import halves, saved
from service.folder import Folder
from service.media.models import MediaItem

pytestmark = pytest.mark.anyio

CONTENT = bytes(range(256)) * 4
HTML = b"<!doctype html><script>alert(document.domain)</script>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'
JPEG = saved(halves(), "JPEG")


@pytest.fixture
async def owner(api: Api) -> Headers:
    return await api.signed_in()


async def stored(api: Api, headers: Headers, **more: str) -> str:
    """The URL of CONTENT, uploaded."""
    url: str = (await api.upload(headers, CONTENT, "content.bin", **more))["url"]
    return url


async def ready(api: Api, headers: Headers, content: bytes, name: str) -> dict[str, Any]:
    return await api.done(headers, (await api.upload(headers, content, name))["id"])


async def test_the_bytes_are_those_that_were_sent(api: Api, owner: Headers) -> None:
    answer = await api.client.get(await stored(api, owner), headers=owner)
    assert answer.status_code == 200
    assert answer.content == CONTENT
    assert answer.headers["content-length"] == "1024"
    assert answer.headers["accept-ranges"] == "bytes"


async def test_private_bytes_are_404_for_everybody_else(api: Api, owner: Headers) -> None:
    url = await stored(api, owner)
    eve = await api.signed_in("eve@example.org")
    for headers in ({}, eve):
        assert_problem(await api.client.get(url, headers=headers), 404)
        assert (await api.client.head(url, headers=headers)).status_code == 404


async def test_a_token_that_is_void_is_401_rather_than_nobody(api: Api, owner: Headers) -> None:
    url = await stored(api, owner, public="true")
    answer = await api.client.get(url, headers={"Authorization": "Bearer void"})
    assert_problem(answer, 401)


async def test_public_bytes_need_no_token(api: Api, owner: Headers) -> None:
    answer = await api.client.get(await stored(api, owner, public="true"))
    assert answer.content == CONTENT
    assert answer.headers["cache-control"] == "public, max-age=60"


async def test_private_bytes_stay_out_of_shared_caches(api: Api, owner: Headers) -> None:
    answer = await api.client.get(await stored(api, owner), headers=owner)
    assert answer.headers["cache-control"] == "private, no-cache"


async def test_the_name_is_part_of_the_address(api: Api, owner: Headers) -> None:
    url = await stored(api, owner)
    base = url.rpartition("/")[0]
    for name in ("other.bin", "CONTENT.BIN", "content.bin%00", "content.bin%2F..", "x" * 3000):
        assert_problem(await api.client.get(f"{base}/{name}", headers=owner), 404)


async def test_an_item_that_is_not_there_is_404(api: Api, owner: Headers) -> None:
    for path in (f"/media/{uuid4()}/x", f"/media/{uuid4()}/thumbnail"):
        assert_problem(await api.client.get(path, headers=owner), 404)


@pytest.mark.parametrize("path", ["/media/1/x", "/media/x/thumbnail", "/media/%00/x"])
async def test_what_is_no_id_is_422(embedded_api: Api, path: str) -> None:
    assert_problem(await embedded_api.client.get(path), 422)


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1000-", 1000, 1024),
        ("bytes=-24", 1000, 1024),
        ("bytes=1000-999999", 1000, 1024),
    ],
)
async def test_a_range_is_served_as_206(
    api: Api, owner: Headers, asked: str, start: int, end: int
) -> None:
    url = await stored(api, owner)
    answer = await api.client.get(url, headers=owner | {"Range": asked})
    assert answer.status_code == 206
    assert answer.content == CONTENT[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/1024"
    assert answer.headers["content-length"] == str(end - start)
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_range_over_the_seams_of_reading_is_whole(api: Api, owner: Headers) -> None:
    content = os.urandom(1_500_000)
    item = await api.upload(owner, content)
    headers = owner | {"Range": "bytes=524280-1048600"}
    answer = await api.client.get(item["url"], headers=headers)
    assert answer.content == content[524280:1048601]


@pytest.mark.parametrize("asked", ["bytes=1024-", "bytes=5000-6000", "bytes=-0"])
async def test_a_range_beyond_the_end_is_416(api: Api, owner: Headers, asked: str) -> None:
    url = await stored(api, owner)
    answer = await api.client.get(url, headers=owner | {"Range": asked})
    assert_problem(answer, 416)
    assert answer.headers["content-range"] == "bytes */1024"


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,3-4", "pages=1-2", "bytes=9-1", "bytes=" + "9" * 6000]
)
async def test_another_range_is_ignored(api: Api, owner: Headers, asked: str) -> None:
    url = await stored(api, owner)
    answer = await api.client.get(url, headers=owner | {"Range": asked})
    assert (answer.status_code, answer.content) == (200, CONTENT)


async def test_a_client_that_has_the_bytes_gets_304(api: Api, owner: Headers) -> None:
    url = await stored(api, owner)
    first = await api.client.get(url, headers=owner)
    etag = first.headers["etag"]
    for given in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = await api.client.get(url, headers=owner | {"If-None-Match": given})
        assert (answer.status_code, answer.content) == (304, b"")
        assert "content-length" not in answer.headers
        for name in ("etag", "cache-control", "content-security-policy"):
            assert answer.headers[name] == first.headers[name]


@pytest.mark.parametrize("change", [lambda tag: tag[:-2] + '"', lambda tag: f'"x{tag[1:]}'])
async def test_an_etag_that_is_nearly_right_is_wrong(api: Api, owner: Headers, change: Any) -> None:
    url = await stored(api, owner)
    etag = (await api.client.get(url, headers=owner)).headers["etag"]
    headers = owner | {"If-None-Match": change(etag)}
    assert (await api.client.get(url, headers=headers)).status_code == 200


async def test_304_comes_before_the_range(api: Api, owner: Headers) -> None:
    url = await stored(api, owner)
    etag = (await api.client.get(url, headers=owner)).headers["etag"]
    for asked in ("bytes=0-1", "bytes=9999-"):
        headers = owner | {"If-None-Match": etag, "Range": asked}
        assert (await api.client.get(url, headers=headers)).status_code == 304


async def test_if_range_resumes_what_is_the_same(api: Api, owner: Headers) -> None:
    url = await stored(api, owner)
    etag = (await api.client.get(url, headers=owner)).headers["etag"]
    same = owner | {"Range": "bytes=1000-", "If-Range": etag}
    assert (await api.client.get(url, headers=same)).content == CONTENT[1000:]
    other = owner | {"Range": "bytes=1000-", "If-Range": '"other"'}
    answer = await api.client.get(url, headers=other)
    assert (answer.status_code, answer.content) == (200, CONTENT)


async def test_nobody_learns_an_etag_of_private_bytes(api: Api, owner: Headers) -> None:
    url = await stored(api, owner)
    answer = await api.client.get(url, headers={"If-None-Match": "*", "Range": "bytes=99999-"})
    assert_problem(answer, 404)
    assert "etag" not in answer.headers


async def test_head_tells_what_get_would(api: Api, owner: Headers) -> None:
    url = await stored(api, owner)
    got = await api.client.get(url, headers=owner)
    asked = await api.client.head(url, headers=owner)
    assert (asked.status_code, asked.content) == (200, b"")
    names = ("content-length", "content-type", "etag", "accept-ranges", "content-disposition")
    assert [asked.headers[name] for name in names] == [got.headers[name] for name in names]


async def test_head_knows_no_ranges(api: Api, owner: Headers) -> None:
    url = await stored(api, owner)
    answer = await api.client.head(url, headers=owner | {"Range": "bytes=0-1"})
    assert answer.status_code == 200
    assert answer.headers["content-length"] == "1024"


async def test_head_reads_no_bytes(api: Api, owner: Headers, monkeypatch: Any) -> None:
    url = await stored(api, owner)

    def read(*_: Any) -> None:
        raise AssertionError("the bytes were read")

    monkeypatch.setattr(type(api.resources.storage), "read", read)
    assert (await api.client.head(url, headers=owner)).status_code == 200


@pytest.mark.parametrize(
    ("content", "name", "content_type", "disposition"),
    [
        (JPEG, "photo.jpg", "image/jpeg", "inline"),
        (JPEG, "page.html", "image/jpeg", "inline"),
        (saved(halves(), "PNG"), "photo.jpg", "image/png", "inline"),
        (HTML, "page.html", "text/html", "attachment"),
        (HTML, "photo.jpg", "text/html", "attachment"),
        (SVG, "drawing.svg", "image/svg+xml", "attachment"),
        (SVG, "drawing.png", "image/svg+xml", "attachment"),
        (b"%PDF-1.7\n", "paper.pdf", "application/pdf", "attachment"),
        (b"hello", "hello.html", "application/octet-stream", "attachment"),
        (b"", "empty.jpg", "application/octet-stream", "attachment"),
    ],
)
async def test_the_type_is_that_of_the_content_and_nothing_runs(
    embedded_api: Api, content: bytes, name: str, content_type: str, disposition: str
) -> None:
    headers = await embedded_api.signed_in()
    item = await ready(embedded_api, headers, content, name)
    answer = await embedded_api.client.get(item["url"], headers=headers)
    assert answer.headers["content-type"] == content_type
    assert answer.headers["content-disposition"].startswith(f"{disposition};")
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert {"default-src 'none'", "sandbox"} <= set(policy.split("; "))


async def test_the_clients_word_for_the_type_counts_for_nothing(embedded_api: Api) -> None:
    headers = await embedded_api.signed_in()
    item = await embedded_api.upload(headers, HTML, "photo.jpg", content_type="image/jpeg")
    await embedded_api.done(headers, item["id"])
    answer = await embedded_api.client.get(item["url"], headers=headers)
    assert answer.headers["content-type"] == "text/html"


async def test_before_it_is_looked_at_content_is_only_bytes(quiet: Api) -> None:
    owner = await quiet.signed_in()
    item = await quiet.upload(owner, JPEG, "photo.jpg")
    async with quiet.resources.database.transaction() as session:
        await session.execute(update(MediaItem).values(content_type=None))
    answer = await quiet.client.get(item["url"], headers=owner)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")


async def test_the_etag_changes_with_the_type(embedded_api: Api) -> None:
    headers = await embedded_api.signed_in()
    item = await ready(embedded_api, headers, JPEG, "photo.jpg")
    after = (await embedded_api.client.head(item["url"], headers=headers)).headers["etag"]
    async with embedded_api.resources.database.transaction() as session:
        await session.execute(update(MediaItem).values(content_type=None))
    before = (await embedded_api.client.head(item["url"], headers=headers)).headers["etag"]
    assert before != after


@pytest.mark.parametrize(
    "name",
    [
        "r\u00e9sum\u00e9.pdf",
        "\u5199\u771f.jpg",
        'quote".txt',
        "a;b=c.txt",
        "100%.txt",
        "a b'c.txt",
    ],
)
async def test_a_download_has_its_name_in_every_language(
    api: Api, owner: Headers, name: str
) -> None:
    item = await api.upload(owner, b"hello", name)
    answer = await api.client.get(item["url"], headers=owner)
    encoded = quote(item["filename"], safe="")
    assert answer.headers["content-disposition"] == f"attachment; filename*=UTF-8''{encoded}"


async def test_an_image_has_a_thumbnail(embedded_api: Api) -> None:
    headers = await embedded_api.signed_in()
    item = await ready(embedded_api, headers, saved(halves((900, 300)), "PNG"), "photo.png")
    answer = await embedded_api.client.get(item["thumbnail_url"], headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/webp"
    assert answer.content[:4] == b"RIFF"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    again = headers | {"If-None-Match": answer.headers["etag"]}
    assert (await embedded_api.client.get(item["thumbnail_url"], headers=again)).status_code == 304
    part = headers | {"Range": "bytes=0-3"}
    assert (await embedded_api.client.get(item["thumbnail_url"], headers=part)).content == b"RIFF"
    assert (await embedded_api.client.head(item["thumbnail_url"], headers=headers)).is_success
    anonymous = await embedded_api.client.get(item["thumbnail_url"])
    assert_problem(anonymous, 404)
    assert anonymous.headers["cache-control"] == "public, max-age=1", "or nginx keeps an old one"


async def test_what_has_no_thumbnail_yet_or_never_is_404(api: Api, owner: Headers) -> None:
    url = await stored(api, owner)
    thumbnail = f"{url.rpartition('/')[0]}/thumbnail"
    assert_problem(await api.client.get(thumbnail, headers=owner), 404)


async def test_an_upload_named_thumbnail_does_not_hide_it(embedded_api: Api) -> None:
    headers = await embedded_api.signed_in()
    item = await ready(embedded_api, headers, JPEG, "thumbnail")
    assert item["url"].endswith("/thumbnail.file")
    assert (await embedded_api.client.get(item["url"], headers=headers)).content == JPEG
    shown = await embedded_api.client.get(item["thumbnail_url"], headers=headers)
    assert shown.headers["content-type"] == "image/webp"


async def test_bytes_that_are_lost_are_404_and_an_error_in_the_log(
    api: Api, owner: Headers, log_lines: list[dict[str, Any]]
) -> None:
    url = await stored(api, owner)
    shutil.rmtree(Path(api.resources.settings.upload_folder))
    assert_problem(await api.client.get(url, headers=owner), 404)
    (line,) = [line for line in log_lines if line["message"] == "media_bytes_missing"]
    assert line["level"] == "error"


@pytest.mark.parametrize(("error", "status"), [(OSError, 503), (FileNotFoundError, 404)])
async def test_a_store_that_goes_away_before_the_first_byte_is_an_error_and_no_cut_answer(
    api: Api, owner: Headers, monkeypatch: pytest.MonkeyPatch, error: type[OSError], status: int
) -> None:
    """It was there when it was asked for the size."""
    url = await stored(api, owner)

    def gone(*_: Any) -> bytes:
        raise error

    monkeypatch.setattr(Folder, "read", gone)
    assert_problem(await api.client.get(url, headers=owner), status)


@pytest.mark.parametrize("call", ["size", "chunks"])
async def test_a_store_that_is_away_is_503(
    api: Api, owner: Headers, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Also one that went away after it was asked for the size."""
    url = await stored(api, owner)

    def fails(*_: Any) -> Iterator[bytes]:
        raise OSError(5, "Input/output error")
        yield  # as reading does, at the first of its bytes

    def fails_at_once(*_: Any) -> int:
        raise OSError(5, "Input/output error")

    broken = {"size": fails_at_once, "chunks": fails}[call]
    monkeypatch.setattr(type(api.resources.storage.backend), call, broken)
    answer = await api.client.get(url, headers=owner)
    assert_problem(answer, 503)
    assert "retry-after" in answer.headers


async def test_bytes_that_are_lost_after_their_size_was_asked_for_are_404(
    api: Api, owner: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await stored(api, owner)
    monkeypatch.setattr(type(api.resources.storage.backend), "size", lambda *_: len(CONTENT))
    shutil.rmtree(Path(api.resources.settings.upload_folder))
    assert_problem(await api.client.get(url, headers=owner), 404)
