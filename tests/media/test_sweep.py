"""Bytes whose row never came, on both back ends."""

import io
from typing import Any
from uuid import UUID, uuid4

import pytest

from api import Api, Headers, assert_problem
from items import process, stored
from pictures import halves, saved
from service.database_errors import DatabaseUnavailable
from service.jobs import Job
from service.media import sweep
from service.media.tasks import give_up
from service.tasks import TASKS

pytestmark = pytest.mark.anyio


@pytest.fixture
async def owner(quiet: Api) -> Headers:
    return await quiet.signed_in()


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a day had passed."""
    monkeypatch.setattr(sweep, "UNCLAIMED_SECONDS", -60)


async def run(api: Api) -> None:
    await sweep.sweep(api.resources, Job(1, sweep.SWEEP, 1, {}))


async def put(api: Api, *keys: str) -> None:
    for key in keys:
        await api.resources.storage.put(key, io.BytesIO(b"x"))


async def upload_without_row(api: Api, headers: Headers, monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(*_: Any, **__: Any) -> None:
        raise DatabaseUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(api.resources.jobs, "enqueue", gone)
        files = {"file": ("lost.txt", b"lost")}
        answer = await api.client.post("/api/media", headers=headers, files=files)
    assert_problem(answer, 503)


async def test_bytes_without_a_row_are_removed_and_all_others_stay(
    quiet: Api, owner: Headers, monkeypatch: pytest.MonkeyPatch, later: None
) -> None:
    item = await quiet.upload(owner, saved(halves(), "PNG"))
    await process(quiet, item["id"])
    before = sorted(stored(quiet))
    assert len(before) == 2
    await upload_without_row(quiet, owner, monkeypatch)
    await put(quiet, f"{uuid4().hex}/thumbnail")
    for _ in range(2):
        await run(quiet)
        assert sorted(stored(quiet)) == before


async def test_a_thumbnail_of_an_item_that_ended_without_one_is_removed(
    quiet: Api, owner: Headers, later: None
) -> None:
    """The worker was killed after it had stored that, as often as the job may be tried."""
    item = await quiet.upload(owner, saved(halves(), "PNG"))
    await put(quiet, f"{UUID(item['id']).hex}/thumbnail")
    await run(quiet)
    assert sorted(path.name for path in stored(quiet)) == ["original", "thumbnail"]  # it goes on
    await give_up(quiet.resources, Job(1, "media.process", 6, {"item_id": item["id"]}), OSError())
    await run(quiet)
    assert [path.name for path in stored(quiet)] == ["original"]


async def test_an_upload_under_way_is_left_alone(quiet: Api) -> None:
    await put(quiet, f"{uuid4().hex}/original")
    await run(quiet)
    assert len(stored(quiet)) == 1


async def test_what_is_not_an_items_is_left_alone(quiet: Api, later: None) -> None:
    name = uuid4().hex
    await put(quiet, "notes.txt", "check-0123", f"{name}/other", f"x/{name}/original")
    await put(quiet, f"{name.upper()}X/original", f"{name}/original/more")
    await run(quiet)
    assert len(stored(quiet)) == 6


async def test_many_are_removed_at_once(
    quiet: Api, owner: Headers, later: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.folder.BATCH", 7)
    await quiet.upload(owner)
    await put(quiet, *(f"{uuid4().hex}/original" for _ in range(30)))
    await run(quiet)
    assert len(stored(quiet)) == 1


async def test_each_removal_is_told(
    quiet: Api, later: None, log_lines: list[dict[str, Any]]
) -> None:
    key = f"{uuid4().hex}/original"
    await put(quiet, key)
    await run(quiet)
    told = [line["key"] for line in log_lines if line["message"] == "bytes_swept"]
    assert told == [key]


async def test_it_comes_round_once_a_day_and_waits_for_another() -> None:
    assert TASKS[sweep.SWEEP].every_seconds == 24 * 3600
    assert sweep.UNCLAIMED_SECONDS == 24 * 3600
