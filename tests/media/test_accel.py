"""Bytes that nginx sends in the application's place."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from api import Api, Headers, assert_problem, image, running_api
from service.media.models import MediaItem
from service.settings import Settings

pytestmark = pytest.mark.anyio

JPEG = image()


@pytest.fixture
async def api(embedded_settings: Settings) -> AsyncIterator[Api]:
    settings = embedded_settings.model_copy(update={"x_accel_redirect": True})
    async with running_api(settings) as running:
        yield running


@pytest.fixture
async def owner(api: Api) -> Headers:
    return await api.signed_in()


async def processed(api: Api, owner: Headers, **more: str) -> dict[str, Any]:
    item = await api.upload(owner, JPEG, "photo 100%.jpg", **more)
    return await api.done(owner, item["id"])


async def set_values(api: Api, **values: Any) -> None:
    async with api.resources.database.transaction() as session:
        await session.execute(update(MediaItem).values(**values))


def file_of(api: Api, address: str) -> Path:
    """The file nginx would send."""
    assert address.startswith("/_media/")
    return Path(api.resources.settings.upload_folder) / address.removeprefix("/_media/")


async def test_nginx_is_told_which_file_to_send_and_as_what(api: Api, owner: Headers) -> None:
    item = await processed(api, owner)
    answer = await api.client.get(item["url"], headers=owner)
    assert (answer.status_code, answer.content) == (200, b"")
    assert file_of(api, answer.headers["x-accel-redirect"]).read_bytes() == JPEG
    assert answer.headers["content-type"] == "image/jpeg"
    name = "inline; filename*=UTF-8''photo%20100%25.jpg"
    assert answer.headers["content-disposition"] == name
    assert answer.headers["cache-control"] == "private, no-cache"


async def test_a_thumbnail_is_sent_for_nginx_to_keep(api: Api, owner: Headers) -> None:
    """Which it would not do with a redirect."""
    item = await processed(api, owner, public="true")
    answer = await api.client.get(item["thumbnail_url"])
    assert "x-accel-redirect" not in answer.headers
    assert answer.content.startswith(b"RIFF")
    assert answer.headers["content-type"] == "image/webp"
    assert answer.headers["cache-control"] == "public, max-age=60"


@pytest.mark.parametrize(
    "asked",
    [
        {"Range": "bytes=0-3"},
        {"Range": "bytes=9999999-", "If-Range": '"nginx-1"'},
        {"Range": "bytes=9999999-", "If-None-Match": '"nginx-1"'},
    ],
)
async def test_ranges_are_left_to_nginx(api: Api, owner: Headers, asked: Headers) -> None:
    item = await processed(api, owner)
    answer = await api.client.get(item["url"], headers=owner | asked)
    assert answer.status_code == 200
    assert "x-accel-redirect" in answer.headers


async def test_a_range_that_cannot_be_had_is_a_problem(api: Api, owner: Headers) -> None:
    """With an error's caching, and not with the file's beside it, as nginx would have it."""
    item = await processed(api, owner)
    headers = owner | {"Range": "bytes=9999999-"}
    answer = await api.client.get(item["url"], headers=headers)
    assert_problem(answer, 416)
    assert "cache-control" not in answer.headers
    assert (await api.client.head(item["url"], headers=headers)).status_code == 200


async def test_conditions_are_left_to_nginx(api: Api, owner: Headers) -> None:
    """It has an ETag of its own, and passes on what clients ask."""
    item = await processed(api, owner)
    answer = await api.client.get(item["url"], headers=owner | {"If-None-Match": "*"})
    assert answer.status_code == 200
    assert "etag" not in answer.headers
    assert "accept-ranges" not in answer.headers


async def test_head_is_left_to_nginx(api: Api, owner: Headers) -> None:
    item = await processed(api, owner)
    got = await api.client.get(item["url"], headers=owner)
    head = await api.client.head(item["url"], headers=owner)
    assert head.headers["x-accel-redirect"] == got.headers["x-accel-redirect"]


@pytest.mark.parametrize("status", ["received", "processing", "failed"])
async def test_what_is_not_ready_is_sent_by_nginx_too_and_kept_by_nobody(
    api: Api, owner: Headers, status: str
) -> None:
    """As mere bytes. Its type is not known for good, of which nginx's ETag knows nothing."""
    item = await processed(api, owner, public="true")
    await set_values(api, status=status, content_type=None)
    answer = await api.client.get(item["url"])
    assert answer.content == b""
    assert file_of(api, answer.headers["x-accel-redirect"]).read_bytes() == JPEG
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment;")


async def test_nginx_learns_nothing_for_those_who_may_not(api: Api, owner: Headers) -> None:
    item = await processed(api, owner)
    eve = await api.signed_in("eve@example.org")
    for url in (item["url"], item["thumbnail_url"], f"{item['url']}x"):
        answer = await api.client.get(url, headers=eve)
        assert_problem(answer, 404)
        assert "x-accel-redirect" not in answer.headers


async def test_bytes_that_are_lost_are_404_and_an_error_in_the_log(
    api: Api, owner: Headers, log_lines: list[dict[str, Any]]
) -> None:
    item = await processed(api, owner)
    shutil.rmtree(Path(api.resources.settings.upload_folder))
    assert_problem(await api.client.get(item["url"], headers=owner), 404)
    (line,) = [line for line in log_lines if line["message"] == "media_bytes_missing"]
    assert line["level"] == "error"


async def test_without_the_setting_the_application_sends_everything(
    embedded_settings: Settings,
) -> None:
    async with running_api(embedded_settings) as api:
        owner = await api.signed_in()
        item = await processed(api, owner)
        answer = await api.client.get(item["url"], headers=owner)
        assert answer.content == JPEG
        assert "x-accel-redirect" not in answer.headers
