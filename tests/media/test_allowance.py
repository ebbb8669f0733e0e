"""What one account may have, in store and under way. On both back ends."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic import ByteSize
from sqlalchemy import select, text

from api import Api, Headers, assert_problem, running_api
from items import process, stored
from service.jobs import Job
from service.media.allowance import ITEM_BYTES, taken
from service.media.models import MediaItem, MediaRevision
from service.media.recount import RECOUNT, recount
from service.media.revisions import record
from service.resources import Disk, DiskNearlyFull
from service.settings import Settings

pytestmark = pytest.mark.anyio

FILE = {"file": ("hello.txt", b"hello")}


@pytest.fixture
async def few(quiet_settings: Settings) -> AsyncIterator[Api]:
    """Two uploads of an account may wait."""
    changed = {"media_unfinished_per_account": 2}
    async with running_api(quiet_settings.model_copy(update=changed)) as api:
        yield api


@pytest.fixture
async def owner(few: Api) -> Headers:
    return await few.signed_in()


async def test_so_many_uploads_of_an_account_may_wait_to_be_processed(
    few: Api, owner: Headers
) -> None:
    first = await few.upload(owner)
    await few.upload(owner)
    answer = await few.client.post("/api/media", headers=owner, files=FILE)
    assert "2 uploads" in assert_problem(answer, 429)["detail"]
    assert int(answer.headers["retry-after"]) > 0
    assert len(stored(few)) == 2
    await few.upload(await few.signed_in("bob@example.org"))
    await process(few, first["id"])
    await few.upload(owner)


async def test_a_body_that_would_be_one_too_many_is_not_read(few: Api, owner: Headers) -> None:
    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    for _ in range(2):
        await few.upload(owner)
    form = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": "100"}
    answer = await few.client.post("/api/media", headers=owner | form, content=body())
    assert_problem(answer, 429)


@pytest.fixture
async def narrow(quiet_settings: Settings) -> AsyncIterator[Api]:
    """An account's items may take what two greetings do."""
    changed = {"media_bytes_per_account": ByteSize(2 * taken(len(b"hello")))}
    async with running_api(quiet_settings.model_copy(update=changed)) as api:
        yield api


async def test_the_items_of_an_account_take_no_more_than_they_may(narrow: Api) -> None:
    owner = await narrow.signed_in()
    first = await narrow.upload(owner)
    await narrow.upload(owner)
    answer = await narrow.client.post("/api/media", headers=owner, files=FILE)
    problem = assert_problem(answer, 413)
    assert problem["title"] == "Account Full"
    assert f" {2 * (5 + ITEM_BYTES)} bytes" in problem["detail"]
    assert len(stored(narrow)) == 2
    await narrow.upload(await narrow.signed_in("bob@example.org"))
    await narrow.client.delete(f"/api/media/{first['id']}", headers=owner)
    await narrow.upload(owner)


async def test_of_many_at_once_no_more_are_taken(narrow: Api) -> None:
    owner = await narrow.signed_in()
    send = narrow.client.post
    answers = await asyncio.gather(
        *(send("/api/media", headers=owner, files=FILE) for _ in range(6))
    )
    assert sorted(answer.status_code for answer in answers) == [202] * 2 + [413] * 4
    listed = (await narrow.client.get("/api/media", headers=owner)).json()["items"]
    assert {UUID(item["id"]).hex for item in listed} == {
        path.parent.name for path in stored(narrow)
    }


async def test_what_is_found_to_be_too_much_at_the_commit_leaves_nothing(
    narrow: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def room(*_: Any) -> int:
        return -(10**9)

    monkeypatch.setattr("service.media.uploads.check_before", room)
    owner = await narrow.signed_in() | {"Idempotency-Key": "a-key"}
    large = {"file": ("large", b"x" * 100_000)}
    for _ in range(2):
        assert_problem(await narrow.client.post("/api/media", headers=owner, files=large), 413)
    assert stored(narrow) == []
    await narrow.upload(owner)  # the key was not used up


async def test_a_repeated_upload_gets_its_first_answer_also_when_the_account_is_full(
    narrow: Api,
) -> None:
    owner = await narrow.signed_in()
    await narrow.upload(owner)
    first = await narrow.upload(owner | {"Idempotency-Key": "a-key"})
    assert await narrow.upload(owner | {"Idempotency-Key": "a-key"}) == first


async def mistake(api: Api) -> None:
    """Let what is counted be off, by another amount for each account."""
    async with api.resources.database.transaction() as session:
        rows = await session.scalars(select(MediaRevision).order_by(MediaRevision.account_id))
        for number, row in enumerate(rows.all()):
            row.stored_bytes += (number - 1) * ITEM_BYTES


async def counted(api: Api) -> list[int]:
    async with api.resources.database.reading() as connection:
        return list(await connection.scalars(select(MediaRevision.stored_bytes)))


async def test_a_count_that_is_off_is_corrected(
    narrow: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a release that did not count."""
    monkeypatch.setattr("service.media.recount.BATCH", 2)
    for name in ("ada", "bob", "eve"):
        owner = await narrow.signed_in(f"{name}@example.org")
        await narrow.upload(owner)
        last = await narrow.upload(owner)
    await narrow.client.delete(f"/api/media/{last['id']}", headers=owner)
    right = await counted(narrow)
    await mistake(narrow)
    assert await counted(narrow) != right
    await recount(narrow.resources, Job(1, RECOUNT, 1, {}))
    assert sorted(await counted(narrow)) == [taken(5), 2 * taken(5), 2 * taken(5)]


async def test_a_change_under_way_is_counted_once(narrow: Api) -> None:
    database = narrow.resources.database
    if not database.is_postgresql:
        pytest.skip("SQLite has one writer at a time")
    account_id = await narrow.account()
    await narrow.upload(await narrow.token(account_id))
    await mistake(narrow)
    waits = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with database.transaction() as session, asyncio.TaskGroup() as tasks:
        now = datetime.now(UTC)
        times = {"created_at": now, "updated_at": now}
        item = MediaItem(
            account_id=account_id, title="a", filename="a", public=False, size=5, **times
        )
        session.add(item)
        await session.flush()
        await record(narrow.resources, session, account_id, item.id, added_bytes=taken(5))
        recounting = tasks.create_task(recount(narrow.resources, Job(1, RECOUNT, 1, {})))
        while not await session.scalar(waits):
            assert not recounting.done()
            await asyncio.sleep(0.01)
        await session.commit()
    assert await counted(narrow) == [2 * taken(5)]


async def test_without_a_limit_there_is_none(quiet_settings: Settings) -> None:
    changed = {"media_bytes_per_account": ByteSize(0)}
    async with running_api(quiet_settings.model_copy(update=changed)) as api:
        await api.upload(await api.signed_in(), b"x" * 100_000)


async def test_a_disk_that_is_nearly_full_takes_no_uploads(quiet_settings: Settings) -> None:
    """And no body of one. It is degraded, and all else goes on."""

    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    never = quiet_settings.model_copy(update={"health_disk_free_percent": 100.0})
    async with running_api(never) as api:
        owner = await api.signed_in()
        with pytest.raises(DiskNearlyFull):
            api.resources.disk.check()
        form = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": "100"}
        answer = await api.client.post("/api/media", headers=owner | form, content=body())
        assert_problem(answer, 503)
        assert int(answer.headers["retry-after"]) > 2
        assert (await api.client.get("/api/media", headers=owner)).status_code == 200


async def test_a_disk_is_no_hindrance_where_uploads_are_in_a_bucket(settings: Settings) -> None:
    changed = {"health_disk_free_percent": 100.0, "media_store_url": "s3://bucket"}
    disk = Disk(settings.model_copy(update=changed))
    with pytest.raises(DiskNearlyFull):
        disk.check()
    assert not disk.nearly_full
