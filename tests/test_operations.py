"""What operators may do over HTTP: see jobs that failed, have them run again, discard them."""

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from api import Api, running_api
from service.settings import Settings

pytestmark = pytest.mark.anyio

TOKEN = "0perat0r-0perat0r"
OPERATOR = {"Authorization": f"Bearer {TOKEN}"}
JOBS = "/api/operations/jobs"


@pytest.fixture
async def operated(server_settings: Settings) -> AsyncIterator[Api]:
    """On PostgreSQL, where nothing runs the jobs."""
    async with running_api(
        server_settings.model_copy(update={"health_token": SecretStr(TOKEN)})
    ) as api:
        yield api


async def fail(api: Api, name: str) -> int:
    """A job that failed; returns its number."""
    async with api.resources.database.transaction() as session:
        await api.resources.jobs.enqueue(session, "test.fail", name=name)
    async with api.resources.database.transaction() as session:
        number = await session.scalar(text("SELECT max(id) FROM procrastinate_jobs"))
        for status in ("doing", "failed"):
            change = f"UPDATE procrastinate_jobs SET status = '{status}' WHERE id = {number}"
            await session.execute(text(change))
        failure = text("INSERT INTO job_failures VALUES (:number, 'as told', now())")
        await session.execute(failure, {"number": number})
    return int(number)


async def listed(api: Api, status: str = "failed") -> list[str]:
    answer = await api.client.get(f"{JOBS}?status={status}", headers=OPERATOR)
    assert answer.status_code == 200
    return [item["arguments"]["name"] for item in answer.json()["items"]]


async def test_what_failed_is_listed_with_its_reason(operated: Api) -> None:
    await fail(operated, "first")
    number = await fail(operated, "second")
    answer = await operated.client.get(JOBS, headers=OPERATOR)
    newest = answer.json()["items"][0]
    assert newest.pop("at")
    assert newest == {
        "id": number,
        "task": "test.fail",
        "status": "failed",
        "attempts": 0,
        "arguments": {"name": "second"},
        "reason": "as told",
    }
    assert await listed(operated) == ["second", "first"]
    answer = await operated.client.get(f"{JOBS}?limit=1", headers=OPERATOR)
    assert len(answer.json()["items"]) == 1


async def test_one_is_run_again_and_one_discarded(operated: Api) -> None:
    again, gone = await fail(operated, "again"), await fail(operated, "gone")
    answer = await operated.client.post(f"{JOBS}/{again}/retry", headers=OPERATOR)
    assert (answer.status_code, answer.content) == (204, b"")
    answer = await operated.client.delete(f"{JOBS}/{gone}", headers=OPERATOR)
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await listed(operated), await listed(operated, "todo")) == ([], ["again"])


@pytest.mark.parametrize("number", [1, 2**53])
async def test_what_has_not_failed_is_left_alone(operated: Api, number: int) -> None:
    for method, path in (("POST", f"{JOBS}/{number}/retry"), ("DELETE", f"{JOBS}/{number}")):
        answer = await operated.client.request(method, path, headers=OPERATOR)
        assert answer.status_code == 404
        assert answer.json()["detail"] == "There is no such job that failed."


@pytest.mark.parametrize(
    "path", [f"{JOBS}?status=gone", f"{JOBS}?limit=0", f"{JOBS}?limit=1001", f"{JOBS}?limit=many"]
)
async def test_a_wrong_question_is_told_so(operated: Api, path: str) -> None:
    answer = await operated.client.get(path, headers=OPERATOR)
    assert answer.status_code == 422
    assert answer.json()["errors"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", JOBS), ("POST", f"{JOBS}/1/retry"), ("DELETE", f"{JOBS}/1")],
)
async def test_nobody_else_gets_in(operated: Api, server_api: Api, method: str, path: str) -> None:
    person = await operated.signed_in()
    for headers in ({}, {"Authorization": "Bearer guessed-guessed-gu"}, person):
        answer = await operated.client.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    answer = await server_api.client.request(method, path, headers=OPERATOR)
    assert answer.status_code == 404, "there is no token to have"
