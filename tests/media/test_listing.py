"""One's own items, one or a page at a time, on both back ends."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import pytest

from api import Api, Headers, assert_problem
from service.media.listing import CURSOR, decode_cursor, encode_cursor
from service.media.models import MediaItem
from service.media.schemas import MediaPage, MediaView

pytestmark = pytest.mark.anyio

ITEM = "5f3c9a0e4b7d4d7a9d0c1b2a3e4f5061"
NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


def item(account_id: UUID, created_at: datetime, **more: Any) -> MediaItem:
    values: dict[str, Any] = {
        "id": uuid4(),
        "account_id": account_id,
        "title": "title",
        "filename": "file",
        "public": False,
        "size": 0,
        "status": "received",
        "progress": 0,
        "attempt": 0,
        "has_thumbnail": False,
        "created_at": created_at,
        "updated_at": created_at,
    }
    return MediaItem(**values | more)


async def add(api: Api, *items: MediaItem) -> list[str]:
    async with api.resources.database.transaction() as session:
        session.add_all(items)
    return [str(row.id) for row in items]


async def page(api: Api, headers: Headers, **query: Any) -> dict[str, Any]:
    answer = await api.client.get("/api/media", headers=headers, params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def walk(api: Api, headers: Headers, limit: int) -> list[str]:
    """The ids of all pages, by the `Link` header as a careful client follows it."""
    found: list[str] = []
    path = f"/api/media?limit={limit}"
    while True:
        answer = await api.client.get(path, headers=headers)
        found += [row["id"] for row in answer.json()["items"]]
        assert len(answer.json()["items"]) <= limit
        if "link" not in answer.headers:
            assert answer.json()["next_cursor"] is None
            return found
        link = re.fullmatch(r'<(/api/media\?[^>]+)>; rel="next"', answer.headers["link"])
        assert link
        path = link[1]
        assert parse_qs(urlsplit(path).query)["cursor"] == [answer.json()["next_cursor"]]


async def test_nothing_yet_is_an_empty_page(api: Api) -> None:
    assert await page(api, await api.signed_in()) == {"items": [], "next_cursor": None}


async def test_a_page_shows_the_newest_first(api: Api) -> None:
    account_id = await api.account()
    ids = await add(api, *(item(account_id, NOON + timedelta(seconds=n)) for n in range(5)))
    found = await page(api, await api.token(account_id))
    assert [row["id"] for row in found["items"]] == ids[::-1]


async def test_a_list_tells_of_an_item_what_the_item_tells(api: Api) -> None:
    headers = await api.signed_in()
    uploaded = await api.upload(headers, title="A title", public="true")
    (listed,) = (await page(api, headers))["items"]
    one = (await api.client.get(f"/api/media/{uploaded['id']}", headers=headers)).json()
    assert set(listed) == set(one) == set(uploaded)
    assert {listed[name] for name in ("id", "title")} == {uploaded["id"], "A title"}


async def test_moments_are_in_utc_on_every_back_end(api: Api) -> None:
    account_id = await api.account()
    await add(api, item(account_id, NOON.replace(microsecond=123456)))
    (row,) = (await page(api, await api.token(account_id)))["items"]
    assert row["created_at"] == "2026-07-01T12:00:00.123456Z"


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
async def test_pages_hold_every_item_once(api: Api, limit: int) -> None:
    account_id = await api.account()
    ids = await add(api, *(item(account_id, NOON + timedelta(seconds=n)) for n in range(7)))
    assert await walk(api, await api.token(account_id), limit) == ids[::-1]


async def test_items_of_one_moment_are_neither_skipped_nor_repeated(api: Api) -> None:
    account_id = await api.account()
    ids = await add(api, *(item(account_id, NOON) for _ in range(9)))
    found = await walk(api, await api.token(account_id), 2)
    assert len(found) == 9
    assert sorted(found) == sorted(ids)


async def test_moments_a_microsecond_apart_are_told_apart(api: Api) -> None:
    account_id = await api.account()
    moments = [NOON + timedelta(microseconds=n) for n in range(5)]
    ids = await add(api, *(item(account_id, moment) for moment in moments))
    assert await walk(api, await api.token(account_id), 1) == ids[::-1]


async def test_what_is_added_meanwhile_moves_no_page(api: Api) -> None:
    account_id = await api.account()
    headers = await api.token(account_id)
    ids = await add(api, *(item(account_id, NOON + timedelta(seconds=n)) for n in range(6)))
    found: list[str] = []
    cursor: str | None = None
    for number in range(3):
        answer = await page(api, headers, limit=2, **({"cursor": cursor} if cursor else {}))
        found += [row["id"] for row in answer["items"]]
        cursor = answer["next_cursor"]
        await add(api, item(account_id, NOON + timedelta(hours=number + 1)))
    assert found == ids[::-1]
    assert cursor is None


async def test_what_is_added_at_the_same_moment_repeats_and_hides_nothing(api: Api) -> None:
    """Its id may place it before or behind the page that was read last."""
    account_id = await api.account()
    headers = await api.token(account_id)
    ids = await add(api, *(item(account_id, NOON) for _ in range(20)))
    found: list[str] = []
    cursor: str | None = None
    while len(found) < 20 or cursor:
        answer = await page(api, headers, limit=3, **({"cursor": cursor} if cursor else {}))
        found += [row["id"] for row in answer["items"]]
        cursor = answer["next_cursor"]
        if len(found) < 40:
            await add(api, *(item(account_id, NOON) for _ in range(2)))
    assert len(found) == len(set(found))
    assert set(ids) <= set(found)


async def test_a_page_goes_on_where_an_item_was_that_is_deleted(api: Api) -> None:
    account_id = await api.account()
    headers = await api.token(account_id)
    ids = (await add(api, *(item(account_id, NOON + timedelta(seconds=n)) for n in range(6))))[::-1]
    first = await page(api, headers, limit=3)
    for gone in (ids[2], ids[3]):  # the last one seen, and the one behind it
        assert (await api.client.delete(f"/api/media/{gone}", headers=headers)).status_code == 204
    rest = await page(api, headers, cursor=first["next_cursor"])
    assert [row["id"] for row in rest["items"]] == ids[4:]


async def test_a_page_is_of_the_shape_that_is_documented(api: Api) -> None:
    account_id = await api.account()
    facts = {"sha256": b"\xab" * 32, "width": 1, "height": 2, "content_type": "image/png"}
    await add(api, item(account_id, NOON), item(account_id, NOON, has_thumbnail=True, **facts))
    answer = await api.client.get("/api/media", headers=await api.token(account_id))
    MediaPage.model_validate_json(answer.content, strict=True)
    for row in answer.json()["items"]:
        assert set(row) == set(MediaView.model_fields)
        assert row["sha256"] in (None, "ab" * 32)


async def test_a_last_page_that_is_full_has_no_next(api: Api) -> None:
    account_id = await api.account()
    await add(api, *(item(account_id, NOON) for _ in range(2)))
    assert (await page(api, await api.token(account_id), limit=2))["next_cursor"] is None


async def test_a_page_has_twenty_items_unless_asked_otherwise(api: Api) -> None:
    account_id = await api.account()
    await add(api, *(item(account_id, NOON) for _ in range(21)))
    assert len((await page(api, await api.token(account_id)))["items"]) == 20


async def test_items_of_others_are_not_listed(api: Api) -> None:
    eve = await api.account("eve@example.org")
    await add(api, item(eve, NOON), item(eve, NOON, public=True))
    assert (await page(api, await api.signed_in()))["items"] == []


async def test_a_cursor_of_others_shows_only_what_is_mine(api: Api) -> None:
    ada, eve = await api.account(), await api.account("eve@example.org")
    await add(api, *(item(eve, NOON) for _ in range(3)))
    (mine,) = await add(api, item(ada, NOON - timedelta(days=1)))
    cursor = (await page(api, await api.token(eve), limit=1))["next_cursor"]
    found = await page(api, await api.token(ada), cursor=cursor)
    assert [row["id"] for row in found["items"]] == [mine]


@pytest.mark.parametrize("query", ["limit=1", "limit=100", "limit=7&unknown=1", "limit=5&limit=6"])
async def test_a_limit_may_be_one_to_a_hundred(embedded_api: Api, query: str) -> None:
    answer = await embedded_api.client.get(
        f"/api/media?{query}", headers=await embedded_api.signed_in()
    )
    assert answer.status_code == 200


@pytest.mark.parametrize("limit", ["0", "-1", "101", "9" * 21, "x", "", "1.5", "1e1"])
async def test_another_limit_is_422(embedded_api: Api, limit: str) -> None:
    headers = await embedded_api.signed_in()
    answer = await embedded_api.client.get(f"/api/media?limit={limit}", headers=headers)
    assert assert_problem(answer, 422)["errors"][0]["in"] == "query.limit"


BAD_CURSORS = [
    "",
    "x",
    "-",
    ITEM,
    f"-{ITEM}",
    "1782907200000000",
    "1782907200000000-",
    f"1782907200000000-{ITEM}x",
    f"1782907200000000-{ITEM[:-1]}",
    f"1782907200000000-{ITEM.upper()}",
    f"1782907200000000 {ITEM}",
    f"17829072000000000-{ITEM}",
    f"-1782907200000000-{ITEM}",
    f"1.0-{ITEM}",
    f"\u0661-{ITEM}",
    f"1-{ITEM}\n",
    "1782907200000000-' OR 1=1 --",
    "A" * 200,
]


@pytest.mark.parametrize("cursor", BAD_CURSORS, ids=lambda cursor: ascii(cursor)[:20])
async def test_what_is_no_cursor_is_422(embedded_api: Api, cursor: str) -> None:
    headers = await embedded_api.signed_in()
    query = {"cursor": cursor}
    answer = await embedded_api.client.get("/api/media", headers=headers, params=query)
    assert_problem(answer, 422)


@pytest.mark.parametrize("microseconds", ["0", "0" * 16, "9" * 16])
async def test_a_cursor_at_the_end_of_time_is_a_page(api: Api, microseconds: str) -> None:
    headers = await api.signed_in()
    assert (await page(api, headers, cursor=f"{microseconds}-{ITEM}"))["items"] == []


def test_a_cursor_is_read_as_it_was_written() -> None:
    row = item(uuid4(), NOON + timedelta(microseconds=1))
    cursor = encode_cursor(row.created_at, row.id)
    assert decode_cursor(cursor) == (row.created_at, row.id)
    assert re.fullmatch(CURSOR.pattern, cursor)


async def test_one_own_item_is_shown(api: Api) -> None:
    headers = await api.signed_in()
    uploaded = await api.upload(headers)
    answer = await api.client.get(f"/api/media/{uploaded['id']}", headers=headers)
    assert answer.status_code == 200
    assert answer.json()["id"] == uploaded["id"]


async def test_an_item_of_others_is_404_as_one_that_is_not_there(api: Api) -> None:
    theirs = await api.upload(await api.signed_in("eve@example.org"), public="true")
    headers = await api.signed_in()
    one = await api.client.get(f"/api/media/{theirs['id']}", headers=headers)
    none = await api.client.get(f"/api/media/{uuid4()}", headers=headers)
    problems = [assert_problem(one, 404), assert_problem(none, 404)]
    assert problems[0] | {"request_id": ""} == problems[1] | {"request_id": ""}


@pytest.mark.parametrize("path", ["/api/media", f"/api/media/{UUID(int=1)}"])
async def test_nothing_is_shown_without_a_token(embedded_api: Api, path: str) -> None:
    assert_problem(await embedded_api.client.get(path), 401)


@pytest.mark.parametrize("item_id", ["1", "x", "null", "%00", "0" * 33, "0" * 31, "..%2Faccounts"])
async def test_what_is_no_id_is_422(embedded_api: Api, item_id: str) -> None:
    headers = await embedded_api.signed_in()
    answer = await embedded_api.client.get(f"/api/media/{item_id}", headers=headers)
    assert answer.status_code in (404, 422)
    assert_problem(answer, answer.status_code)


async def test_head_is_answered_as_get_is(api: Api) -> None:
    headers = await api.signed_in()
    uploaded = await api.upload(headers)
    for path in ("/api/media", f"/api/media/{uploaded['id']}"):
        answer = await api.client.head(path, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
