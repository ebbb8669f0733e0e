"""Deleting an own item, and what is left of it: nothing. On both back ends."""

import asyncio
import io
import random
from typing import Any
from uuid import UUID

import httpx2 as httpx
import pytest

from api import Api, Headers, assert_problem
from items import erase, get, mails, process, queued, stored
from pictures import halves, saved
from service import outbox
from service.jobs import Job
from service.media import tasks
from service.media.tasks import ERASE
from service.resources import Resources
from service.storage import StorageUnavailable

pytestmark = pytest.mark.anyio

PNG = saved(halves((400, 200)), "PNG")


@pytest.fixture
async def owner(quiet: Api) -> Headers:
    return await quiet.signed_in()


async def delete(api: Api, headers: Headers, item: dict[str, Any], **more: str) -> httpx.Response:
    return await api.client.delete(f"/api/media/{item['id']}", headers=headers | more)


async def test_a_deleted_item_is_gone_at_once(quiet: Api, owner: Headers) -> None:
    item = await quiet.upload(owner, public="true")
    answer = await delete(quiet, owner, item)
    assert (answer.status_code, answer.content) == (204, b"")
    for path in (f"/api/media/{item['id']}", item["url"], f"/media/{item['id']}/thumbnail"):
        assert_problem(await quiet.client.get(path, headers=owner), 404)
    assert (await quiet.client.get("/api/media", headers=owner)).json()["items"] == []


async def test_deleting_it_again_is_404(quiet: Api, owner: Headers) -> None:
    item = await quiet.upload(owner)
    await delete(quiet, owner, item)
    assert_problem(await delete(quiet, owner, item), 404)


async def test_of_many_at_once_one_deletes_it(quiet: Api, owner: Headers) -> None:
    item = await quiet.upload(owner)
    answers = await asyncio.gather(*(delete(quiet, owner, item) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [204] + [404] * 5
    assert (await queued(quiet)).count(ERASE) == 1


async def test_a_version_that_is_not_current_is_not_deleted(quiet: Api, owner: Headers) -> None:
    item = await quiet.upload(owner)
    path = f"/api/media/{item['id']}"
    etag = (await quiet.client.get(path, headers=owner)).headers["etag"]
    await process(quiet, item["id"])
    assert_problem(await delete(quiet, owner, item, **{"If-Match": etag}), 412)
    etag = (await quiet.client.get(path, headers=owner)).headers["etag"]
    assert (await delete(quiet, owner, item, **{"If-Match": etag})).status_code == 204


async def test_the_job_takes_its_bytes_and_no_others(quiet: Api, owner: Headers) -> None:
    item, other = await quiet.upload(owner, PNG), await quiet.upload(owner, b"other")
    await process(quiet, item["id"])
    assert len(stored(quiet)) == 3
    await delete(quiet, owner, item)
    for _ in range(2):  # it may run more than once
        await erase(quiet, item["id"])
        assert [path.parent.name for path in stored(quiet)] == [UUID(other["id"]).hex]


async def test_row_and_job_go_together_or_not_at_all(
    quiet: Api, owner: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a mistake")

    item = await quiet.upload(owner)
    with monkeypatch.context() as patch:
        patch.setattr(quiet.resources.jobs, "enqueue", broken)
        assert_problem(await delete(quiet, owner, item), 500)
    assert await get(quiet, owner, item["id"]) == item


async def test_an_item_deleted_before_its_turn_is_never_processed(
    quiet: Api, owner: Headers
) -> None:
    item = await quiet.upload(owner, PNG)
    await delete(quiet, owner, item)
    await process(quiet, item["id"])
    assert stored(quiet) == []
    assert await mails(quiet) == []


@pytest.mark.parametrize("erased", ["before", "after"])
@pytest.mark.parametrize("step", ["read", "inspect", "report", "put", "finish"])
async def test_an_item_deleted_while_it_is_processed_leaves_nothing(
    quiet: Api, owner: Headers, monkeypatch: pytest.MonkeyPatch, step: str, erased: str
) -> None:
    """Whichever step of processing the deletion comes before."""
    item = await quiet.upload(owner, PNG)

    async def deletion() -> None:
        if not patched:
            return
        patched.pop()()
        assert (await delete(quiet, owner, item)).status_code == 204
        if erased == "before":
            await erase(quiet, item["id"])

    patched = [_before(monkeypatch, quiet.resources, step, deletion)]
    await process(quiet, item["id"])
    if erased == "after":
        await erase(quiet, item["id"])
    assert patched == []
    assert stored(quiet) == []
    assert await mails(quiet) == []
    assert_problem(await quiet.client.get(f"/api/media/{item['id']}", headers=owner), 404)


def _before(monkeypatch: pytest.MonkeyPatch, resources: Resources, step: str, act: Any) -> Any:
    """Have something done before a step of processing; returns what takes that back."""
    place: Any = {
        "read": (type(resources.storage), "read"),
        "inspect": (tasks, "inspect"),
        "report": (tasks.progress, "report"),
        "put": (type(resources.storage), "put"),
        "finish": (tasks.progress, "finish"),
    }[step]
    real = getattr(*place)

    async def after_act(*given: Any, **more: Any) -> Any:
        await act()
        return await real(*given, **more)

    async def reading_after_act(*given: Any, **more: Any) -> Any:
        await act()
        async for chunk in real(*given, **more):
            yield chunk

    monkeypatch.setattr(*place, reading_after_act if step == "read" else after_act)
    return lambda: monkeypatch.setattr(*place, real)


async def test_whatever_happens_at_once_nothing_of_a_deleted_item_is_left(
    quiet: Api, owner: Headers
) -> None:
    """Two workers, a change and a deletion, at moments that chance chooses."""
    chance = random.Random(20261123)
    items = [await quiet.upload(owner, PNG, public="true") for _ in range(8)]

    async def at_some_moment(act: Any) -> None:
        await asyncio.sleep(chance.random() * 2)
        await act

    async def delete_and_erase(item: dict[str, Any]) -> None:
        assert (await delete(quiet, owner, item)).status_code == 204
        await erase(quiet, item["id"])

    async def process_as_a_worker_does(item: dict[str, Any]) -> None:
        try:
            await process(quiet, item["id"])
        except StorageUnavailable:  # its directory was just being removed
            await process(quiet, item["id"])

    def changed(item: dict[str, Any]) -> Any:
        path = f"/api/media/{item['id']}"
        return quiet.client.patch(path, headers=owner, json={"title": "Dawn"})

    await asyncio.gather(
        *(at_some_moment(process_as_a_worker_does(item)) for item in items * 2),
        *(at_some_moment(changed(item)) for item in items),
        *(at_some_moment(delete_and_erase(item)) for item in items),
    )
    assert stored(quiet) == []
    assert await mails(quiet) == []
    assert (await quiet.client.get("/api/public/media")).json()["items"] == []


async def test_an_attempt_that_was_killed_behind_the_thumbnail_leaves_nothing(
    quiet: Api, owner: Headers
) -> None:
    item = await quiet.upload(owner, PNG)
    await delete(quiet, owner, item)
    await erase(quiet, item["id"])
    key = f"{UUID(item['id']).hex}/thumbnail"
    await quiet.resources.storage.put(key, io.BytesIO(b"made too late"))
    await process(quiet, item["id"], attempt=2)
    assert stored(quiet) == []


async def test_no_mail_tells_of_a_deleted_item(quiet: Api, owner: Headers) -> None:
    item = await quiet.upload(owner)
    await process(quiet, item["id"])
    (mail,) = await mails(quiet)
    await delete(quiet, owner, item)
    assert await mails(quiet) == []
    await outbox.deliver(quiet.resources, Job(1, outbox.DELIVER, 1, {"key": mail.key}))


async def test_the_embedded_jobs_remove_the_bytes_by_themselves(embedded_api: Api) -> None:
    headers = await embedded_api.signed_in()
    item = await embedded_api.upload(headers, PNG)
    await embedded_api.done(headers, item["id"])
    await delete(embedded_api, headers, item)
    async with asyncio.timeout(10):
        while stored(embedded_api):  # noqa: ASYNC110  (files make no event)
            await asyncio.sleep(0.05)
