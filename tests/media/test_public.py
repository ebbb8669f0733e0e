"""The listing for everybody, on both back ends."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx2 as httpx
import pytest
from pydantic import SecretStr

from api import Api, Headers, assert_problem, running_api
from items import process
from pictures import halves, saved
from servers import RedisServer
from service.fields import SecretUrl
from service.media import public
from service.media.models import MediaItem
from service.media.schemas import PublicItem, PublicPage
from service.settings import Settings

pytestmark = pytest.mark.anyio

PATH = "/api/public/media"
NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


@pytest.fixture
async def owner(quiet: Api) -> Headers:
    return await quiet.signed_in()


async def shown(api: Api, **query: Any) -> list[dict[str, Any]]:
    answer = await api.client.get(PATH, params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


async def ids(api: Api) -> list[str]:
    return [item["id"] for item in await shown(api)]


async def published(api: Api, headers: Headers, **more: str) -> dict[str, Any]:
    item = await api.upload(headers, public="true", **more)
    await process(api, item["id"])
    return item


async def add(api: Api, created_at: datetime, account_id: UUID | None = None) -> str:
    """A public item without bytes."""
    row = MediaItem(
        id=uuid4(),
        account_id=account_id or await api.account(f"{uuid4().hex}@example.org"),
        title="title",
        filename="file",
        public=True,
        size=0,
        status="ready",
        content_type="text/plain",
        created_at=created_at,
        updated_at=created_at,
    )
    async with api.resources.database.transaction() as session:
        session.add(row)
    await public.listing_changed(api.resources)
    return str(row.id)


async def test_nothing_is_public_at_first(quiet: Api) -> None:
    answer = await quiet.client.get(PATH)
    assert answer.json() == {"items": [], "next_cursor": None}


async def test_anybody_sees_what_is_public_and_ready(quiet: Api, owner: Headers) -> None:
    ready = await published(quiet, owner)
    await quiet.upload(owner, public="true")
    hidden = await quiet.upload(owner)
    await process(quiet, hidden["id"])
    failed = await quiet.upload(owner, b"\x89PNG\r\n\x1a\nnot really", public="true")
    await process(quiet, failed["id"])
    assert await ids(quiet) == [ready["id"]]


async def test_it_tells_nothing_of_the_owner(quiet: Api) -> None:
    account_id = await quiet.account("ada@example.org")
    headers = await quiet.token(account_id)
    await published(quiet, headers, title="A title")
    text = (await quiet.client.get(PATH)).text
    assert "A title" in text
    for secret in ("ada@", "example.org", str(account_id), account_id.hex, "sha256", "account"):
        assert secret not in text


async def test_it_is_of_the_shape_that_is_documented(quiet: Api, owner: Headers) -> None:
    item = await quiet.upload(owner, saved(halves(), "PNG"), "photo.png", public="true")
    await process(quiet, item["id"])
    answer = await quiet.client.get(PATH)
    PublicPage.model_validate_json(answer.content, strict=True)
    (found,) = answer.json()["items"]
    assert set(found) == set(PublicItem.model_fields)
    for url in (found["url"], found["thumbnail_url"]):
        assert (await quiet.client.get(url)).status_code == 200


async def test_deployments_that_share_a_redis_have_a_listing_each(
    server_settings: Settings, embedded_settings: Settings
) -> None:
    theirs = {"redis_url": server_settings.redis_url, "secret_key": SecretStr("theirs" * 8)}
    other = embedded_settings.model_copy(update=theirs)
    async with running_api(server_settings) as here, running_api(other) as there:
        item = await add(here, NOON)
        assert await ids(here) == [item]
        assert await ids(there) == []


async def test_items_of_all_are_in_one_order(quiet: Api) -> None:
    moments = [NOON + timedelta(seconds=n) for n in (3, 1, 2)]
    made = [await add(quiet, moment) for moment in moments]
    assert await ids(quiet) == [made[0], made[2], made[1]]


async def walk(api: Api, limit: int, between: Any = None) -> list[str]:
    found: list[str] = []
    path = f"{PATH}?limit={limit}"
    while True:
        answer = await api.client.get(path)
        found += [item["id"] for item in answer.json()["items"]]
        if "next" not in answer.links:
            return found
        path = answer.links["next"]["url"]
        if between:
            await between()


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
async def test_pages_hold_every_item_once(quiet: Api, limit: int) -> None:
    account_id = await quiet.account()
    made = {await add(quiet, NOON, account_id) for _ in range(5)}
    found = await walk(quiet, limit)
    assert len(found) == 5
    assert set(found) == made
    assert await walk(quiet, limit) == found  # from the cache, where there is one


async def test_what_is_added_or_removed_meanwhile_moves_no_page(quiet: Api) -> None:
    account_id = await quiet.account()
    headers = await quiet.token(account_id)
    made = [await add(quiet, NOON, account_id) for _ in range(8)]
    removed: list[str] = []

    async def between() -> None:
        await add(quiet, NOON + timedelta(hours=1), account_id)
        await add(quiet, NOON, account_id)  # before or behind the page, as chance has it
        if not removed:
            removed.append(found_first)
            await quiet.client.delete(f"/api/media/{found_first}", headers=headers)

    found_first = (await ids(quiet))[0]
    found = await walk(quiet, 2, between)
    assert len(found) == len(set(found))
    assert set(made) <= set(found)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "cursor=x", "cursor="])
async def test_another_question_is_422(quiet: Api, query: str) -> None:
    answer = await quiet.client.get(f"{PATH}?{query}")
    assert_problem(answer, 422)
    assert "cache-control" not in answer.headers


async def test_caches_may_keep_it_a_little_while(quiet: Api) -> None:
    caching = (await quiet.client.get(PATH)).headers["cache-control"]
    assert caching == "public, max-age=10, stale-while-revalidate=30"


async def test_who_has_it_gets_304(quiet: Api, owner: Headers) -> None:
    etag = (await quiet.client.get(PATH)).headers["etag"]
    for _ in range(2):
        again = await quiet.client.get(PATH, headers={"If-None-Match": etag})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["cache-control"].startswith("public")
    await published(quiet, owner)
    changed = await quiet.client.get(PATH, headers={"If-None-Match": etag})
    assert changed.status_code == 200


async def test_it_is_the_same_for_all(quiet: Api, owner: Headers) -> None:
    """Whoever asks, and with what token: nginx keeps one answer for everybody."""
    await published(quiet, owner)
    headers: list[Headers] = [{}, owner, {"Authorization": "Bearer x"}]
    answers = [await quiet.client.get(PATH, headers=each) for each in headers]
    assert len({answer.content for answer in answers}) == 1
    head = await quiet.client.head(PATH)
    assert (head.status_code, head.headers["etag"]) == (200, answers[0].headers["etag"])


async def test_every_change_is_seen_at_once(quiet: Api, owner: Headers) -> None:
    item = await quiet.upload(owner)
    path = f"/api/media/{item['id']}"

    async def patch(**changes: Any) -> None:
        assert (await quiet.client.patch(path, headers=owner, json=changes)).status_code == 200

    assert await shown(quiet) == []
    await patch(public=True)
    assert await shown(quiet) == []
    await process(quiet, item["id"])
    assert [found["title"] for found in await shown(quiet)] == ["hello.txt"]
    await patch(title="Dawn")
    assert [found["title"] for found in await shown(quiet)] == ["Dawn"]
    await patch(public=False)
    assert await shown(quiet) == []
    await patch(public=True)
    assert len(await shown(quiet)) == 1
    await quiet.client.delete(path, headers=owner)
    assert await shown(quiet) == []


async def test_a_reader_that_is_slower_than_a_change_leaves_nothing_old(
    quiet: Api, owner: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = await published(quiet, owner)
    read = public.read_page
    has_read, may_go_on = asyncio.Event(), asyncio.Event()

    async def slowly(*given: Any) -> Any:
        rows = await read(*given)
        has_read.set()
        await may_go_on.wait()
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(public, "read_page", slowly)
        reader = asyncio.create_task(ids(quiet))
        await has_read.wait()
    await quiet.client.delete(f"/api/media/{item['id']}", headers=owner)
    may_go_on.set()
    assert await reader == [item["id"]]
    assert await ids(quiet) == []


async def failing(*_: Any) -> Any:
    raise AssertionError("the database was asked")


async def test_a_page_is_read_once(server_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await add(server_api, NOON)
    await add(server_api, NOON)
    first = await server_api.client.get(PATH, params={"limit": 1})
    monkeypatch.setattr(public, "read_page", failing)
    again = await server_api.client.get(PATH, params={"limit": 1})
    assert (again.content, again.headers["link"]) == (first.content, first.headers["link"])
    assert again.headers["etag"] == first.headers["etag"]


async def test_cursors_that_are_made_up_fill_no_redis(server_api: Api) -> None:
    await add(server_api, NOON)
    await ids(server_api)
    redis = server_api.resources.cache.redis
    assert redis is not None
    pattern = f"{redis.prefix}{public.GROUP}:*"
    kept = sorted(await redis.client.keys(pattern))
    assert len(kept) == 2  # the first page, and its generation
    for number in range(10):
        assert len(await shown(server_api, cursor=f"{2**53 + number}-{'0' * 32}")) == 1
    assert sorted(await redis.client.keys(pattern)) == kept


@pytest.fixture
async def own(server_settings: Settings, own_redis: RedisServer) -> AsyncIterator[Api]:
    """The application with a Redis that the test may freeze."""
    changes = {"redis_url": SecretUrl(own_redis.url), "redis_timeout_seconds": 0.25}
    async with running_api(server_settings.model_copy(update=changes)) as api:
        yield api


@pytest.mark.parametrize("how", ["freeze", "stop"])
async def test_without_redis_it_is_right_and_quick(
    own: Api, own_redis: RedisServer, how: str
) -> None:
    headers = await own.signed_in()
    first = await published(own, headers)
    assert await ids(own) == [first["id"]]
    getattr(own_redis, how)()
    began = time.monotonic()
    second = await published(own, headers)
    for _ in range(20):
        assert await ids(own) == [second["id"], first["id"]]
    await own.client.delete(f"/api/media/{first['id']}", headers=headers)
    assert await ids(own) == [second["id"]]
    assert time.monotonic() - began < 15


async def test_two_processes_see_each_others_changes(server_settings: Settings) -> None:
    async with running_api(server_settings) as one, running_api(server_settings) as other:
        headers = await one.signed_in()
        item = await published(one, headers)
        answers: list[httpx.Response] = [await api.client.get(PATH) for api in (one, other)]
        assert answers[0].content == answers[1].content
        await other.client.delete(f"/api/media/{item['id']}", headers=headers)
        assert await ids(one) == []
