"""What becomes of an upload, on both back ends: the task is run here, without a worker."""

import asyncio
import io
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from api import Api
from items import get, job, mails, process
from pictures import ANY_NAMES, OF_ANY_KIND, PNG, gif_of, turned
from service.jobs import execute
from service.media import inspection, progress, tasks
from service.media.contents import Inspected
from service.media.inspection import InspectionFailed
from service.media.models import MediaItem
from service.storage import StorageUnavailable

pytestmark = pytest.mark.anyio


async def test_an_upload_becomes_ready_with_facts_and_one_mail(quiet: Api) -> None:
    headers = await quiet.signed_in()
    item = await quiet.upload(headers, PNG, "photo.png", title="My photo")
    assert (item["status"], item["progress"], item["sha256"]) == ("received", 0, None)
    await process(quiet, item["id"])
    done = await get(quiet, headers, item["id"])
    assert (done["status"], done["progress"], done["reason"]) == ("ready", 100, None)
    assert (done["content_type"], done["width"], done["height"]) == ("image/png", 400, 200)
    assert len(done["sha256"]) == 64
    assert done["thumbnail_url"] == f"/media/{item['id']}/thumbnail"
    assert done["updated_at"] > done["created_at"]
    (mail,) = await mails(quiet)
    assert (mail.recipient, mail.subject) == ("ada@example.org", "Your upload is ready")
    assert mail.text == "My photo\n"


async def test_a_full_temporary_directory_uses_up_no_attempt(
    quiet: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it is full: the upload is not at fault."""
    headers = await quiet.signed_in()
    item = await quiet.upload(headers, PNG, "photo.png")
    with monkeypatch.context() as full:
        full.setattr(tempfile, "TemporaryFile", partial(open, "/dev/full", "r+b"))
        outcome = await execute(tasks.TASKS[0], quiet.resources, job(item["id"]))
        assert (outcome.status, outcome.counted) == ("again", False)
    await process(quiet, item["id"])
    assert (await get(quiet, headers, item["id"]))["status"] == "ready"


async def test_what_is_no_image_becomes_ready_without_a_thumbnail(quiet: Api) -> None:
    headers = await quiet.signed_in()
    item = await quiet.upload(headers, b"%PDF-1.7\n", "paper.pdf")
    await process(quiet, item["id"])
    done = await get(quiet, headers, item["id"])
    assert (done["status"], done["content_type"]) == ("ready", "application/pdf")
    assert (done["width"], done["height"], done["thumbnail_url"]) == (None, None, None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (PNG[:200], "The image is damaged."),
        (gif_of(60000, 60000), "The image has more than 50,000,000 pixels."),
    ],
)
async def test_what_cannot_be_processed_becomes_failed_with_the_reason_and_one_mail(
    quiet: Api, content: bytes, reason: str
) -> None:
    headers = await quiet.signed_in()
    item = await quiet.upload(headers, content, "photo.png")
    await process(quiet, item["id"])
    done = await get(quiet, headers, item["id"])
    assert (done["status"], done["reason"]) == ("failed", reason)
    (mail,) = await mails(quiet)
    assert mail.subject == "Your upload could not be processed"
    assert mail.text == f"photo.png\n{reason}\n"


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    OF_ANY_KIND,
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_an_upload_of_any_kind_ends_ready_or_failed_and_is_still_there(
    quiet: Api, content: bytes, name: str, expected: tuple[Any, ...]
) -> None:
    headers = await quiet.signed_in()
    item = await quiet.upload(headers, content, name, content_type="image/svg+xml")
    await process(quiet, item["id"])
    done = await get(quiet, headers, item["id"])
    size = (done["width"], done["height"]) if done["width"] else None
    thumbnail = done["thumbnail_url"] is not None
    assert (done["status"], done["content_type"], size, thumbnail) == expected
    assert (await quiet.client.get(done["url"], headers=headers)).content == content
    assert len(await mails(quiet)) == 1


@pytest.mark.parametrize("name", ANY_NAMES, ids=ascii)
async def test_an_image_of_any_name_can_be_seen(quiet: Api, name: str) -> None:
    headers = await quiet.signed_in()
    item = await quiet.upload(headers, PNG, name, public="true")
    await process(quiet, item["id"])
    done = await get(quiet, headers, item["id"])
    for url in (done["url"], done["thumbnail_url"]):
        answer = await quiet.client.get(url)
        assert answer.status_code == 200
        assert answer.headers["content-type"] in ("image/png", "image/webp")


async def test_progress_is_told_on_the_way(quiet: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = await quiet.signed_in()
    item = await quiet.upload(headers, PNG)
    seen = [item["progress"]]
    inspect, finish = tasks.inspect, progress.finish

    async def look() -> None:
        seen.append((await get(quiet, headers, item["id"]))["progress"])

    async def inspecting(file: Any) -> Inspected:
        await look()
        return await inspect(file)

    async def finishing(*given: Any, **more: Any) -> bool:
        await look()
        return await finish(*given, **more)

    monkeypatch.setattr(tasks, "inspect", inspecting)
    monkeypatch.setattr(progress, "finish", finishing)
    await process(quiet, item["id"])
    await look()
    assert seen == [0, 10, 80, 100]


async def test_processing_again_changes_nothing_and_mails_nobody(quiet: Api) -> None:
    headers = await quiet.signed_in()
    item = await quiet.upload(headers, PNG)
    await process(quiet, item["id"])
    first = await get(quiet, headers, item["id"])
    await process(quiet, item["id"], attempt=2)
    assert await get(quiet, headers, item["id"]) == first
    assert len(await mails(quiet)) == 1


async def test_two_workers_at_once_have_one_effect(quiet: Api) -> None:
    headers = await quiet.signed_in()
    item = await quiet.upload(headers, PNG)
    await asyncio.gather(*(process(quiet, item["id"]) for _ in range(4)))
    assert (await get(quiet, headers, item["id"]))["status"] == "ready"
    assert len(await mails(quiet)) == 1


async def test_a_worker_that_was_frozen_does_not_overrule_the_one_after_it(
    quiet: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = await quiet.signed_in()
    item = await quiet.upload(headers, PNG)
    began, thawed = asyncio.Event(), asyncio.Event()

    async def frozen(_: Any) -> Inspected:
        began.set()
        await thawed.wait()
        return Inspected(b"\0" * 32, "text/plain")

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "inspect", frozen)
        first = asyncio.create_task(process(quiet, item["id"]))
        await began.wait()
    await process(quiet, item["id"], attempt=2)
    thawed.set()
    await first
    done = await get(quiet, headers, item["id"])
    assert (done["status"], done["content_type"]) == ("ready", "image/png")
    assert len(await mails(quiet)) == 1


async def test_an_item_that_is_gone_is_nothing_to_do(quiet: Api) -> None:
    await process(quiet, str(uuid4()))
    assert await mails(quiet) == []


async def test_giving_up_tells_the_owner_without_the_cause(quiet: Api) -> None:
    headers = await quiet.signed_in()
    item = await quiet.upload(headers, PNG)
    await tasks.give_up(quiet.resources, job(item["id"], 5), RuntimeError("a secret cause"))
    done = await get(quiet, headers, item["id"])
    assert (done["status"], done["reason"]) == ("failed", "The file could not be processed.")
    (mail,) = await mails(quiet)
    assert "secret" not in mail.text


async def test_giving_up_late_leaves_what_is_ready(quiet: Api) -> None:
    headers = await quiet.signed_in()
    item = await quiet.upload(headers, PNG)
    await process(quiet, item["id"])
    await tasks.give_up(quiet.resources, job(item["id"], 5), RuntimeError())
    assert (await get(quiet, headers, item["id"]))["status"] == "ready"


async def test_giving_up_again_changes_nothing(quiet: Api) -> None:
    """Its worker was killed between that and the record of it."""
    headers = await quiet.signed_in()
    item = await quiet.upload(headers, PNG)
    await tasks.give_up(quiet.resources, job(item["id"], 5), RuntimeError())
    before = await quiet.client.get(f"/api/media/{item['id']}", headers=headers)
    await tasks.give_up(quiet.resources, job(item["id"], 6), RuntimeError())
    after = await quiet.client.get(f"/api/media/{item['id']}", headers=headers)
    assert (after.json(), after.headers["etag"]) == (before.json(), before.headers["etag"])
    assert after.json()["status"] == "failed"


async def test_what_was_given_up_becomes_ready_where_its_job_is_run_again(quiet: Api) -> None:
    """By an operator who has mended the cause. The owner had the one mail there is."""
    headers = await quiet.signed_in()
    item = await quiet.upload(headers, PNG, public="true")
    await tasks.give_up(quiet.resources, job(item["id"], 5), RuntimeError())
    await process(quiet, item["id"])
    done = await get(quiet, headers, item["id"])
    assert (done["status"], done["reason"], done["content_type"]) == ("ready", None, "image/png")
    shown = (await quiet.client.get("/api/public/media")).json()["items"]
    assert [row["id"] for row in shown] == [item["id"]]
    assert len(await mails(quiet)) == 1


async def test_what_failed_by_its_own_fault_is_not_processed_again(quiet: Api) -> None:
    headers = await quiet.signed_in()
    item = await quiet.upload(headers, PNG[:200])
    await process(quiet, item["id"])
    failed = await get(quiet, headers, item["id"])
    await process(quiet, item["id"], attempt=2)
    assert await get(quiet, headers, item["id"]) == failed


async def test_an_inspection_that_somebody_ended_is_left_to_the_next_attempt(
    quiet: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = await quiet.signed_in()
    item = await quiet.upload(headers, PNG)
    with monkeypatch.context() as patch:
        patch.setattr(inspection, "COMMAND", ("sh", "-c", "kill -9 $$"))
        with pytest.raises(InspectionFailed):
            await process(quiet, item["id"])
    assert (await get(quiet, headers, item["id"]))["status"] == "processing"
    await process(quiet, item["id"], attempt=2)
    assert (await get(quiet, headers, item["id"]))["status"] == "ready"


async def test_a_store_that_is_away_is_waited_for(
    quiet: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = await quiet.signed_in()
    item = await quiet.upload(headers, PNG)
    away = replace(quiet.resources, storage=Away())  # type: ignore[arg-type]
    with pytest.raises(StorageUnavailable):
        await tasks.process(away, job(item["id"]))
    await process(quiet, item["id"], attempt=1)
    assert (await get(quiet, headers, item["id"]))["status"] == "ready"


class Away:
    async def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        raise StorageUnavailable
        yield b""


async def test_bytes_that_are_lost_are_an_error_of_the_attempt(quiet: Api) -> None:
    headers = await quiet.signed_in()
    item = await quiet.upload(headers, PNG)
    await quiet.resources.storage.delete(f"{UUID(item['id']).hex}/original")
    with pytest.raises(FileNotFoundError):
        await process(quiet, item["id"])


async def test_an_attempt_that_was_cut_off_behind_the_thumbnail_is_made_good(quiet: Api) -> None:
    headers = await quiet.signed_in()
    item = await quiet.upload(headers, PNG)
    key = f"{UUID(item['id']).hex}/thumbnail"
    await quiet.resources.storage.put(key, io.BytesIO(b"half of one"))
    await process(quiet, item["id"], attempt=2)
    answer = await quiet.client.get(f"/media/{item['id']}/thumbnail", headers=headers)
    assert answer.content.startswith(b"RIFF")


async def test_the_embedded_jobs_do_it_by_themselves(embedded_api: Api) -> None:
    headers = await embedded_api.signed_in()
    item = await embedded_api.upload(headers, turned(6), "photo.jpg")
    done = await embedded_api.done(headers, item["id"])
    assert (done["status"], done["width"], done["height"]) == ("ready", 40, 80)


async def test_an_id_in_the_mail_key_makes_a_second_mail_impossible(quiet: Api) -> None:
    headers = await quiet.signed_in()
    item = await quiet.upload(headers, PNG)
    await process(quiet, item["id"])
    async with quiet.resources.database.transaction() as session:
        row = (await session.scalars(select(MediaItem))).one()
        row.status = "processing"
    await process(quiet, item["id"], attempt=2)
    assert len(await mails(quiet)) == 1
