"""What one account may have, in store and under way. On both back ends."""

from collections.abc import AsyncIterator

import pytest

from api import Api, Headers, assert_problem, running_api
from items import process, stored
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
