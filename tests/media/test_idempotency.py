"""Uploads that are repeated with their Idempotency-Key, on both back ends."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx2 as httpx
import pytest
from sqlalchemy import func, select, update

from api import Api, Headers, assert_problem, running_api
from items import erase, process, queued, stored
from service.database_errors import DatabaseUnavailable
from service.idempotency import FirstAnswer, expire
from service.jobs import Job
from service.media import uploads
from service.media.models import MediaItem
from service.media.tasks import PROCESS
from service.settings import Settings
from service.storage import StorageUnavailable

pytestmark = pytest.mark.anyio

KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"


@pytest.fixture
async def owner(quiet: Api) -> Headers:
    return await quiet.signed_in()


async def send(
    api: Api,
    headers: Headers,
    key: str = KEY,
    *,
    content: bytes = b"hello",
    name: str = "hello.txt",
    **fields: str,
) -> httpx.Response:
    keyed = headers | {"Idempotency-Key": key}
    files = {"file": (name, content)}
    return await api.client.post("/api/media", headers=keyed, files=files, data=fields)


async def count(api: Api, table: type[Any] = MediaItem) -> int:
    async with api.resources.database.transaction() as session:
        return await session.scalar(select(func.count()).select_from(table)) or 0


def same(answers: list[httpx.Response]) -> bool:
    """Whether all are 202 with one Location and one body, byte for byte."""
    seen = {(each.status_code, each.headers["location"], each.content) for each in answers}
    return len(seen) == 1 and answers[0].status_code == 202


async def test_a_repeated_request_gets_the_first_answer(quiet: Api, owner: Headers) -> None:
    assert same([await send(quiet, owner, title="Dawn", public="true") for _ in range(3)])
    assert await count(quiet) == 1
    assert (await queued(quiet)).count(PROCESS) == 1
    assert len(stored(quiet)) == 1


async def test_it_does_so_whatever_became_of_the_item(quiet: Api, owner: Headers) -> None:
    first = await send(quiet, owner)
    item = first.json()
    await process(quiet, item["id"])
    path = f"/api/media/{item['id']}"
    assert (await quiet.client.patch(path, headers=owner, json={"title": "x"})).status_code == 200
    assert same([first, await send(quiet, owner)])
    await quiet.client.delete(path, headers=owner)
    await erase(quiet, item["id"])
    assert same([first, await send(quiet, owner)])
    assert stored(quiet) == []


@pytest.mark.parametrize(
    "other",
    [
        {"content": b"hell0"},
        {"content": b""},
        {"name": "other.txt"},
        {"title": "x"},
        {"public": "true"},
    ],
    ids=str,
)
async def test_a_key_that_comes_with_another_request_is_422(
    quiet: Api, owner: Headers, other: dict[str, Any]
) -> None:
    first = await send(quiet, owner)
    assert_problem(await send(quiet, owner, **other), 422)
    assert await count(quiet) == len(stored(quiet)) == 1
    assert same([first, await send(quiet, owner)])


async def test_a_field_that_says_the_default_is_the_same_request(
    quiet: Api, owner: Headers
) -> None:
    assert same([await send(quiet, owner), await send(quiet, owner, public="false", title=" ")])


async def test_another_key_is_another_upload(quiet: Api, owner: Headers) -> None:
    await send(quiet, owner, "one")
    await send(quiet, owner, "other")
    await quiet.upload(owner)
    await quiet.upload(owner)
    assert await count(quiet) == 4


async def test_a_key_of_somebody_else_is_another_key(quiet: Api, owner: Headers) -> None:
    eve = await quiet.signed_in("eve@example.org")
    mine, theirs = await send(quiet, owner), await send(quiet, eve, content=b"other")
    assert mine.json()["id"] != theirs.json()["id"]


async def test_a_key_may_stand_in_quotes_as_the_draft_has_it(quiet: Api, owner: Headers) -> None:
    assert same([await send(quiet, owner, KEY), await send(quiet, owner, f'"{KEY}"')])


@pytest.mark.parametrize("key", ["x", "x" * 200, "a:b/c=_.~+", '"with a space"', "!#$%&'()*+-./"])
async def test_a_key_may_be_of_any_visible_characters(quiet: Api, owner: Headers, key: str) -> None:
    assert same([await send(quiet, owner, key), await send(quiet, owner, key)])


@pytest.mark.parametrize(
    "key", ["", '""', '"', '"open', 'open"', "x" * 201, "a b", "a,b", "a\tb", "\xe9", "a\\b"]
)
async def test_what_is_no_key_is_422_and_nothing_is_done(
    quiet: Api, owner: Headers, key: str
) -> None:
    headers = {**owner, "Idempotency-Key": key.encode("latin-1")}
    answer = await quiet.client.post(
        "/api/media", headers=headers, files={"file": ("hello.txt", b"hello")}
    )
    problem = assert_problem(answer, 422)
    assert [mistake["in"] for mistake in problem["errors"]] == ["header.Idempotency-Key"]
    assert await count(quiet) == 0


@pytest.mark.parametrize("times", [2, 8])
async def test_of_those_that_come_at_once_one_is_done_and_all_get_its_answer(
    quiet: Api, owner: Headers, times: int
) -> None:
    content = b"x" * 2_000_000
    answers = await asyncio.gather(*(send(quiet, owner, content=content) for _ in range(times)))
    assert same(answers)
    assert await count(quiet) == len(stored(quiet)) == 1
    assert (await queued(quiet)).count(PROCESS) == 1


async def test_of_different_ones_at_once_one_is_done_and_the_others_are_422(
    quiet: Api, owner: Headers
) -> None:
    answers = await asyncio.gather(*(send(quiet, owner, content=b"%d" % n) for n in range(6)))
    assert sorted(answer.status_code for answer in answers) == [202] + [422] * 5
    assert await count(quiet) == len(stored(quiet)) == 1


@pytest.fixture
async def two(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Api]]:
    """Two processes' worth of the application on one database."""
    monkeypatch.setattr("service.embedded.Runner._claim", _nothing)
    async with running_api(settings) as one, running_api(settings) as other:
        yield [one, other]


async def _nothing(_: Any) -> None:
    return None


async def test_two_processes_have_one_effect(two: list[Api]) -> None:
    headers = await two[0].signed_in()
    for round_ in range(5):
        both = (send(api, headers, f"round-{round_}") for api in (*two, *two))
        assert same(list(await asyncio.gather(*both)))
    assert await count(two[0]) == len(stored(two[0])) == 5


async def test_one_that_comes_while_the_first_commits_waits_for_it(
    quiet: Api, owner: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await _meeting(quiet, owner, monkeypatch, fails=False)
    assert same([first, second])
    assert await count(quiet) == len(stored(quiet)) == 1


async def test_one_that_comes_while_the_first_fails_is_done_itself(
    quiet: Api, owner: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await _meeting(quiet, owner, monkeypatch, fails=True)
    assert_problem(first, 503)
    assert second.status_code == 202
    assert same([second, await send(quiet, owner)])
    assert await count(quiet) == 1


async def _meeting(
    api: Api, headers: Headers, monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> tuple[httpx.Response, httpx.Response]:
    """(first, second): the second comes when the first has taken the key and not committed."""
    taken = asyncio.Event()
    enqueue = api.resources.jobs.enqueue

    async def slowly(*given: Any, **more: Any) -> None:
        if not taken.is_set():
            taken.set()
            await asyncio.sleep(0.5)
            if fails:
                raise DatabaseUnavailable
        await enqueue(*given, **more)

    monkeypatch.setattr(api.resources.jobs, "enqueue", slowly)
    first = asyncio.create_task(send(api, headers))
    await asyncio.wait_for(taken.wait(), 10)
    second = await send(api, headers)
    return await first, second


@pytest.mark.parametrize("error", [DatabaseUnavailable, RuntimeError])
async def test_a_request_that_failed_is_done_when_it_is_repeated(
    quiet: Api, owner: Headers, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    async def failing(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(quiet.resources.jobs, "enqueue", failing)
        assert (await send(quiet, owner)).status_code in (500, 503)
    assert await count(quiet, FirstAnswer) == 0
    assert same([await send(quiet, owner), await send(quiet, owner)])
    assert await count(quiet) == 1


async def test_a_commit_whose_answer_was_lost_is_not_done_twice(
    quiet: Api, owner: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = uploads._commit

    async def lost(*given: Any) -> None:
        await commit(*given)
        raise DatabaseUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(uploads, "_commit", lost)
        assert_problem(await send(quiet, owner), 503)
    assert same([await send(quiet, owner), await send(quiet, owner)])
    assert await count(quiet) == 1


async def test_a_mistake_uses_up_no_key(quiet: Api, owner: Headers) -> None:
    assert_problem(await send(quiet, owner, title="x" * 201), 422)
    assert (await send(quiet, owner)).status_code == 202


async def test_a_large_file_is_told_from_another_by_its_last_byte(
    quiet: Api, owner: Headers
) -> None:
    content = b"x" * 3_000_000
    first = await send(quiet, owner, content=content)
    assert_problem(await send(quiet, owner, content=content[:-1] + b"y"), 422)
    found = await quiet.client.get(first.json()["url"], headers=owner)
    assert found.content == content


async def test_keys_are_forgotten_after_a_day(quiet: Api, owner: Headers) -> None:
    await send(quiet, owner, "old")
    await send(quiet, owner, "new")
    ages = update(FirstAnswer).where(FirstAnswer.key == "old")
    async with quiet.resources.database.transaction() as session:
        moment = FirstAnswer.created_at
        when = await session.scalar(select(func.max(moment)))
        assert when is not None
        await session.execute(ages.values(created_at=when - timedelta(hours=24, seconds=9)))
    await expire(quiet.resources, Job(1, "idempotency.expire", 1, {}))
    async with quiet.resources.database.transaction() as session:
        assert list(await session.scalars(select(FirstAnswer.key))) == ["new"]
    await send(quiet, owner, "old")
    assert await count(quiet) == 3


async def test_bytes_that_cannot_be_removed_again_are_left_to_the_sweep(
    quiet: Api, owner: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> None:
        raise StorageUnavailable

    monkeypatch.setattr(type(quiet.resources.storage), "delete", away)
    assert same(list(await asyncio.gather(*(send(quiet, owner) for _ in range(2)))))


async def test_an_answer_forgotten_at_the_wrong_moment_is_503(
    quiet: Api, owner: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: Any) -> None:
        return None

    await send(quiet, owner)
    monkeypatch.setattr(uploads, "first_answer", nothing)
    assert_problem(await send(quiet, owner), 503)
    assert len(stored(quiet)) == 1
