"""The media library on object stores: who is sent there, with what, and what stays here."""

import io
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import httpx2 as httpx
import pytest

from api import Api, Headers, assert_problem, running_api
from items import erase, process
from object_stores import BUCKET, ObjectStore
from objects import keys_older_than, settings_of
from pictures import halves, saved
from service.bucket import LINK_SECONDS
from service.jobs import Job
from service.media import sweep
from service.settings import Settings
from service.storage import StorageUnavailable, open_storage

pytestmark = pytest.mark.anyio

CONTENT = bytes(range(256)) * 4
JPEG = saved(halves(), "JPEG")
HTML = b"<!doctype html><script>alert(document.domain)</script>"
Lines = list[dict[str, Any]]


def stored_in(server: ObjectStore, settings: Settings, **more: str) -> Settings:
    """These settings, with an object store in place of the folder."""
    found = settings_of(server.variables(**more))
    names = [name for name in Settings.model_fields if name.startswith(("media_store", "aws_"))]
    return settings.model_copy(update={name: getattr(found, name) for name in names})


@pytest.fixture
def unprocessed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(_: Any) -> None:
        return None

    monkeypatch.setattr("service.embedded.Runner._claim", nothing)


@pytest.fixture
async def api(
    object_store: ObjectStore, embedded_settings: Settings, unprocessed: None
) -> AsyncIterator[Api]:
    """The application on each object store in turn, where tests do the worker's part."""
    async with running_api(stored_in(object_store, embedded_settings)) as running:
        yield running


@pytest.fixture
async def owner(api: Api) -> Headers:
    return await api.signed_in()


async def ready(api: Api, headers: Headers, content: bytes, name: str, **more: str) -> Any:
    item = await api.upload(headers, content, name, **more)
    await process(api, item["id"])
    return await api.done(headers, item["id"])


async def link(api: Api, url: str, headers: Headers, method: str = "GET") -> str:
    answer = await api.client.request(method, url, headers=headers)
    assert (answer.status_code, answer.content) == (307, b""), answer.text
    return answer.headers["location"]


async def test_the_owner_is_sent_to_the_very_bytes(api: Api, owner: Headers) -> None:
    item = await ready(api, owner, CONTENT, "content.bin")
    assert item["status"] == "ready"
    answer = httpx.get(await link(api, item["url"], owner))
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''content.bin"
    assert answer.headers["cache-control"] == "private, no-cache"


async def test_a_script_gets_the_link_itself(api: Api, owner: Headers) -> None:
    """Which it could not see in a redirect."""
    item = await ready(api, owner, JPEG, "photo.jpg")
    answer = await api.client.get(item["url"], headers={**owner, "Accept": "text/uri-list"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/uri-list")
    assert answer.headers["cache-control"] == "private, no-store"
    assert answer.headers["vary"] == "Accept"
    (shown,) = answer.text.split()
    assert httpx.get(shown).content == JPEG


async def test_an_upload_can_be_had_before_it_is_processed(api: Api, owner: Headers) -> None:
    item = await api.upload(owner, CONTENT)
    assert httpx.get(await link(api, item["url"], owner)).content == CONTENT


async def test_ranges_are_the_stores_to_answer(api: Api, owner: Headers) -> None:
    item = await api.upload(owner, CONTENT)
    asked = {"Range": "bytes=10-19"}
    answer = await api.client.get(item["url"], headers=owner | asked)
    assert answer.status_code == 307
    assert httpx.get(answer.headers["location"], headers=asked).content == CONTENT[10:20]


async def test_head_is_sent_to_a_link_of_its_own(api: Api, owner: Headers) -> None:
    item = await api.upload(owner, CONTENT)
    answer = httpx.head(await link(api, item["url"], owner, "HEAD"))
    assert (answer.status_code, answer.headers["content-length"]) == (200, "1024")


async def test_strangers_are_sent_nowhere(api: Api, owner: Headers) -> None:
    item = await api.upload(owner, CONTENT)
    eve = await api.signed_in("eve@example.org")
    for headers in ({}, eve):
        answer = await api.client.get(item["url"], headers=headers)
        assert_problem(answer, 404)
        assert "location" not in answer.headers
        assert (await api.client.head(item["url"], headers=headers)).status_code == 404
    assert_problem(await api.client.get(item["url"] + "x", headers=owner), 404)


async def test_a_private_redirect_is_nobodys_to_keep(api: Api, owner: Headers) -> None:
    item = await api.upload(owner, CONTENT)
    answer = await api.client.get(item["url"], headers=owner)
    assert answer.headers["cache-control"] == "private, no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "etag" not in answer.headers
    again = await api.client.get(item["url"], headers=owner | {"If-None-Match": "*"})
    assert again.status_code == 307, "a 304 would lead to a link that has expired"


async def test_a_public_redirect_is_kept_for_less_than_its_link_is_good(
    api: Api, owner: Headers
) -> None:
    item = await api.upload(owner, CONTENT, public="true")
    answer = await api.client.get(item["url"])
    kept = re.fullmatch(r"public, max-age=(\d+)", answer.headers["cache-control"])
    asked = parse_qs(urlsplit(answer.headers["location"]).query)
    assert kept
    assert 2 * int(kept[1]) < int(asked["X-Amz-Expires"][0]) == LINK_SECONDS
    assert httpx.get(answer.headers["location"]).headers["cache-control"] == kept[0]


async def test_only_pictures_are_shown_by_the_store(api: Api, owner: Headers) -> None:
    """Nothing forbids a browser to run a page there: the store sends no policy."""
    told = {}
    for name, content in (("a.jpg", JPEG), ("a.html", HTML)):
        item = await ready(api, owner, content, name)
        headers = httpx.get(await link(api, item["url"], owner)).headers
        told[name] = (headers["content-type"], headers["content-disposition"].partition(";")[0])
    assert told == {
        "a.jpg": ("image/jpeg", "inline"),
        "a.html": ("application/octet-stream", "attachment"),
    }


async def test_a_name_of_any_alphabet_comes_along(api: Api, owner: Headers) -> None:
    item = await api.upload(owner, CONTENT, "Zürich & “Größe” 100%;.txt")
    headers = httpx.get(await link(api, item["url"], owner)).headers
    name = "Z%C3%BCrich%20%26%20%E2%80%9CGr%C3%B6%C3%9Fe%E2%80%9D%20100%25%3B.txt"
    assert headers["content-disposition"] == f"attachment; filename*=UTF-8''{name}"


async def test_thumbnails_come_from_here(api: Api, owner: Headers) -> None:
    """Pages may show pictures of their own origin alone."""
    item = await ready(api, owner, JPEG, "a.jpg")
    answer = await api.client.get(item["thumbnail_url"], headers=owner)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; sandbox")
    assert answer.headers["etag"]


async def test_without_redirects_the_bytes_come_from_here(
    moto_store: ObjectStore, embedded_settings: Settings, unprocessed: None
) -> None:
    settings = stored_in(moto_store, embedded_settings, MEDIA_STORE_REDIRECT="false")
    async with running_api(settings) as api:
        owner = await api.signed_in()
        item = await api.upload(owner, CONTENT)
        answer = await api.client.get(item["url"], headers=owner)
        assert (answer.status_code, answer.content) == (200, CONTENT)
        answer = await api.client.get(item["url"], headers=owner | {"Range": "bytes=10-19"})
        assert (answer.status_code, answer.content) == (206, CONTENT[10:20])


async def test_a_link_is_in_no_log_line(api: Api, owner: Headers, log_lines: Lines) -> None:
    item = await ready(api, owner, JPEG, "a.jpg")
    url = await link(api, item["url"], owner)
    signature = parse_qs(urlsplit(url).query)["X-Amz-Signature"][0]
    assert log_lines
    assert signature not in str(log_lines)
    assert "X-Amz" not in str(log_lines)


async def test_deleting_erases_the_bytes(api: Api, owner: Headers) -> None:
    item = await ready(api, owner, JPEG, "a.jpg")
    url = await link(api, item["url"], owner)
    assert len(await keys_older_than(api.resources.storage, -60)) == 2
    await api.client.delete(f"/api/media/{item['id']}", headers=owner)
    await erase(api, item["id"])
    assert await keys_older_than(api.resources.storage, -60) == []
    assert httpx.get(url).status_code in (403, 404)
    await erase(api, item["id"])


async def test_the_sweep_takes_what_no_item_has_and_nothing_outside_the_prefix(
    api: Api, owner: Headers, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = await ready(api, owner, JPEG, "a.jpg")
    storage = api.resources.storage
    orphans = [f"{uuid4().hex}/original" for _ in range(3)]
    for key in orphans:
        await storage.put(key, io.BytesIO(b"x"))
    whole = settings_of(object_store.variables(MEDIA_STORE_URL=f"s3://{BUCKET}"))
    beside = f"{uuid4().hex}/original"
    async with open_storage(whole) as other:
        await other.put(beside, io.BytesIO(b"x"))
        job = Job(1, sweep.SWEEP, 1, {})
        await sweep.sweep(api.resources, job)
        assert len(await keys_older_than(storage, -60)) == 5, "all of it is too new"
        monkeypatch.setattr(sweep, "UNCLAIMED_SECONDS", -60)
        await sweep.sweep(api.resources, job)
        name = kept["id"].replace("-", "")
        assert await keys_older_than(storage, -60) == [f"{name}/original", f"{name}/thumbnail"]
        assert await other.size(beside) == 1


async def test_while_the_store_is_away_uploads_are_503_and_a_job_is_left_for_later(
    own_object_store: ObjectStore, embedded_settings: Settings, unprocessed: None
) -> None:
    async with running_api(stored_in(own_object_store, embedded_settings)) as api:
        owner = await api.signed_in()
        item = await api.upload(owner, CONTENT)
        own_object_store.stop()
        files = {"file": ("a.txt", CONTENT)}
        answer = await api.client.post("/api/media", headers=owner, files=files)
        assert_problem(answer, 503)
        assert answer.headers["retry-after"]
        with pytest.raises(StorageUnavailable):
            await process(api, item["id"])
        answer = await api.client.get(item["url"], headers=owner)
        assert answer.status_code == 307, "a link needs no store"


async def test_probes_cost_the_store_nothing_and_people_little(
    moto_store: ObjectStore, embedded_settings: Settings
) -> None:
    settings = stored_in(moto_store, embedded_settings)
    ping = f"{settings.media_store_url.removeprefix('s3:/')}/ping "

    def asked() -> int:
        return moto_store.log_path.read_text().count(ping)

    async with running_api(settings) as api:
        for _ in range(50):
            assert (await api.client.get("/health/ready")).status_code == 200
        assert asked() == 0
        for _ in range(50):
            assert "media_store" not in (await api.client.get("/health")).json()["checks"]
        assert 1 <= asked() <= 2, "one in four seconds"


async def test_a_store_that_is_away_degrades_and_no_more(
    embedded_settings: Settings, own_object_store: ObjectStore, log_lines: Lines
) -> None:
    async with running_api(stored_in(own_object_store, embedded_settings)) as api:
        own_object_store.stop()
        health = (await api.client.get("/health")).json()
        assert (health["status"], health["checks"]["media_store"]) == ("degraded", False)
        assert (await api.client.get("/health/ready")).status_code == 200
    [failed] = [line for line in log_lines if line["message"] == "check_failed"]
    assert failed["check"] == "media_store"
    assert "Debug" not in failed["error"]
    assert "\n" not in failed["error"]
