"""Changing an own item, on both back ends."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import httpx2 as httpx
import pytest

from api import Api, Headers, assert_problem
from items import get, process

pytestmark = pytest.mark.anyio


@pytest.fixture
async def owner(quiet: Api) -> Headers:
    return await quiet.signed_in()


NOBODYS = "0c9a5e0a-3d5f-4f0a-9d6b-0d9f1c1b7a52"


async def patch(
    api: Api, headers: Headers, item: dict[str, Any], changes: Any, **more: str
) -> httpx.Response:
    path = f"/api/media/{item['id']}"
    return await api.client.patch(path, headers=headers | more, json=changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"title": "Dawn"}, {"title": "Dawn"}),
        ({"title": "  Dawn "}, {"title": "Dawn"}),
        ({"title": "\u5199\u771f \U0001f600"}, {"title": "\u5199\u771f \U0001f600"}),
        ({"public": True}, {"public": True}),
        ({"filename": "dawn.txt"}, {"filename": "dawn.txt"}),
        ({"filename": "../thumbnail"}, {"filename": "thumbnail.file"}),
        ({"title": "a", "public": True, "filename": "b"}, {"title": "a", "public": True}),
        ({}, {}),
    ],
    ids=ascii,
)
async def test_what_is_named_changes_and_nothing_else(
    quiet: Api, owner: Headers, changes: Any, expected: dict[str, Any]
) -> None:
    item = await quiet.upload(owner)
    answer = await patch(quiet, owner, item, changes)
    assert answer.status_code == 200, answer.text
    changed = answer.json()
    assert changed == await get(quiet, owner, item["id"])
    for name in {*changes, "updated_at", "url"}:
        item.pop(name)
        changed.pop(name) if name not in expected else None
    assert changed == item | expected


async def test_without_a_change_it_is_the_same_version(quiet: Api, owner: Headers) -> None:
    item = await quiet.upload(owner)
    assert (await patch(quiet, owner, item, {})).json() == item


async def test_a_renamed_file_is_found_under_its_new_name_alone(quiet: Api, owner: Headers) -> None:
    item = await quiet.upload(owner, b"bytes", "old.txt")
    changed = (await patch(quiet, owner, item, {"filename": "n\u00e9w.txt"})).json()
    answer = await quiet.client.get(changed["url"], headers=owner)
    assert answer.content == b"bytes"
    assert "n%C3%A9w.txt" in answer.headers["content-disposition"]
    assert_problem(await quiet.client.get(item["url"], headers=owner), 404)


async def test_a_private_item_can_be_shown_and_hidden_again(quiet: Api, owner: Headers) -> None:
    item = await quiet.upload(owner)
    for public, status in ((True, 200), (False, 404)):
        await patch(quiet, owner, item, {"public": public})
        assert (await quiet.client.get(item["url"])).status_code == status


async def test_a_merge_patch_may_call_itself_one(quiet: Api, owner: Headers) -> None:
    item = await quiet.upload(owner)
    content_type = {"Content-Type": "application/merge-patch+json"}
    body = json.dumps({"title": "Dawn"}).encode()
    path = f"/api/media/{item['id']}"
    answer = await quiet.client.patch(path, headers=owner | content_type, content=body)
    assert answer.json()["title"] == "Dawn"


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"titel": "x"}, "body.titel"),
        ({"status": "ready"}, "body.status"),
        ({"account_id": NOBODYS}, "body.account_id"),
        ({"title": None}, "body.title"),
        ({"title": ""}, "body.title"),
        ({"title": "   "}, "body.title"),
        ({"title": "x" * 201}, "body.title"),
        ({"title": "a\x00b"}, "body.title"),
        ({"title": "a\nb"}, "body.title"),
        ({"title": 1}, "body.title"),
        ({"title": ["x"]}, "body.title"),
        ({"public": None}, "body.public"),
        ({"public": "true"}, "body.public"),
        ({"public": 1}, "body.public"),
        ({"filename": None}, "body.filename"),
        ({"filename": ""}, "body.filename"),
        ({"filename": "x" * 1001}, "body.filename"),
        ([], "body"),
        (None, "body"),
        ("x", "body"),
    ],
    ids=lambda value: ascii(value)[:30],
)
async def test_another_change_is_422_and_changes_nothing(
    quiet: Api, owner: Headers, changes: Any, place: str
) -> None:
    item = await quiet.upload(owner)
    problem = assert_problem(await patch(quiet, owner, item, changes), 422)
    assert place in [mistake["in"] for mistake in problem["errors"]]
    assert await get(quiet, owner, item["id"]) == item


@pytest.mark.parametrize("body", [b"", b"{", b'{"title": "\\ud800"}', b"\xff\xfe", b"[" * 10_000])
async def test_what_is_no_json_is_a_problem(quiet: Api, owner: Headers, body: bytes) -> None:
    item = await quiet.upload(owner)
    content_type = {"Content-Type": "application/json"}
    path = f"/api/media/{item['id']}"
    answer = await quiet.client.patch(path, headers=owner | content_type, content=body)
    assert answer.status_code in (400, 422)
    assert_problem(answer, answer.status_code)


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_an_item_of_others_is_404_as_one_that_is_not_there(
    quiet: Api, owner: Headers, method: str
) -> None:
    item = await quiet.upload(owner, public="true")
    eve = await quiet.signed_in("eve@example.org")
    body = {"json": {"title": "mine"}} if method == "PATCH" else {}
    for item_id in (item["id"], uuid4()):
        path = f"/api/media/{item_id}"
        assert_problem(await quiet.client.request(method, path, headers=eve, **body), 404)
        assert_problem(await quiet.client.request(method, path, **body), 401)
    assert await get(quiet, owner, item["id"]) == item


async def test_a_version_that_is_still_current_can_be_changed(quiet: Api, owner: Headers) -> None:
    item = await quiet.upload(owner)
    for number in range(3):
        path = f"/api/media/{item['id']}"
        etag = (await quiet.client.get(path, headers=owner)).headers["etag"]
        answer = await patch(quiet, owner, item, {"title": f"{number}"}, **{"If-Match": etag})
        assert answer.status_code == 200
        assert answer.headers["etag"] not in ("", etag)


async def test_a_version_that_is_not_is_412(quiet: Api, owner: Headers) -> None:
    item = await quiet.upload(owner)
    path = f"/api/media/{item['id']}"
    etag = (await quiet.client.get(path, headers=owner)).headers["etag"]
    await patch(quiet, owner, item, {"title": "first"})
    for changes in ({"title": "second"}, {}):
        assert_problem(await patch(quiet, owner, item, changes, **{"If-Match": etag}), 412)
    assert (await get(quiet, owner, item["id"]))["title"] == "first"


async def test_the_worker_makes_a_new_version(quiet: Api, owner: Headers) -> None:
    item = await quiet.upload(owner)
    path = f"/api/media/{item['id']}"
    etag = (await quiet.client.get(path, headers=owner)).headers["etag"]
    await process(quiet, item["id"])
    assert_problem(await patch(quiet, owner, item, {"title": "x"}, **{"If-Match": etag}), 412)


async def test_of_many_at_once_who_mean_one_version_one_changes_it(
    quiet: Api, owner: Headers
) -> None:
    item = await quiet.upload(owner)
    path = f"/api/media/{item['id']}"
    etag = (await quiet.client.get(path, headers=owner)).headers["etag"]
    answers = await asyncio.gather(
        *(patch(quiet, owner, item, {"title": f"{n}"}, **{"If-Match": etag}) for n in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7
    (won,) = [answer.json() for answer in answers if answer.status_code == 200]
    assert await get(quiet, owner, item["id"]) == won


async def test_changes_of_different_fields_at_once_are_all_kept(quiet: Api, owner: Headers) -> None:
    item = await quiet.upload(owner)
    changes: list[Any] = [{"title": "Dawn"}, {"public": True}, {"filename": "dawn.txt"}]
    await asyncio.gather(*(patch(quiet, owner, item, change) for change in changes))
    found = await get(quiet, owner, item["id"])
    assert (found["title"], found["public"], found["filename"]) == ("Dawn", True, "dawn.txt")


async def test_a_change_during_processing_is_kept_and_in_the_mail(
    quiet: Api, owner: Headers
) -> None:
    item = await quiet.upload(owner)
    await patch(quiet, owner, item, {"title": "Dawn"})
    await process(quiet, item["id"])
    found = await get(quiet, owner, item["id"])
    assert (found["title"], found["status"]) == ("Dawn", "ready")


@pytest.mark.parametrize("path", ["/api/media/{id}", "/api/media", "/api/media?limit=1"])
async def test_who_has_the_current_version_gets_304(quiet: Api, owner: Headers, path: str) -> None:
    item = await quiet.upload(owner)
    path = path.format(id=item["id"])
    etag = (await quiet.client.get(path, headers=owner)).headers["etag"]
    again = await quiet.client.get(path, headers=owner | {"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == etag
    await patch(quiet, owner, item, {"title": "new"})
    changed = await quiet.client.get(path, headers=owner | {"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag


async def test_an_item_stays_out_of_shared_caches(quiet: Api, owner: Headers) -> None:
    item = await quiet.upload(owner, public="true")
    for path in ("/api/media", f"/api/media/{item['id']}"):
        answer = await quiet.client.get(path, headers=owner)
        assert answer.headers["cache-control"] == "private, no-cache"
