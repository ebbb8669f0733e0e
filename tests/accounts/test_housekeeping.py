"""What is removed after a while, and what is not, on both back ends."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from api import PASSWORD, Api
from service.accounts import housekeeping
from service.accounts.models import Account, ApiKey, Token
from service.jobs import Job
from service.tasks import TASKS

pytestmark = pytest.mark.anyio


def ago(**much: float) -> datetime:
    return datetime.now(UTC) - timedelta(**much)


async def clean_up(api: Api) -> None:
    await housekeeping.clean_up(api.resources, Job(1, housekeeping.CLEAN_UP, 1, {}))


async def addresses(api: Api) -> set[str]:
    async with api.resources.database.transaction() as session:
        return set(await session.scalars(select(Account.email)))


async def make_older(api: Api, email: str, **much: float) -> None:
    statement = update(Account).where(Account.email == email).values(created_at=ago(**much))
    async with api.resources.database.transaction() as session:
        await session.execute(statement)


def test_it_runs_every_hour() -> None:
    assert TASKS[housekeeping.CLEAN_UP].every_seconds == 3600


async def test_logins_that_ended_are_removed(api: Api) -> None:
    account_id = await api.account()
    await api.token(account_id, lifetime_seconds=-1)
    kept = await api.token(account_id)
    await clean_up(api)
    async with api.resources.database.transaction() as session:
        assert len((await session.scalars(select(Token))).all()) == 1
    assert (await api.client.get("/api/accounts/me", headers=kept)).status_code == 200


async def test_keys_are_removed_a_month_after_their_end(api: Api) -> None:
    account_id = await api.account()
    await api.key(account_id, expires_at=ago(days=31))
    await api.key(account_id, expires_at=ago(days=29))
    await api.key(account_id, expires_at=datetime.now(UTC) + timedelta(days=1))
    await api.key(account_id)
    await clean_up(api)
    async with api.resources.database.transaction() as session:
        assert len((await session.scalars(select(ApiKey))).all()) == 3


async def test_accounts_that_nobody_confirmed_are_removed_after_a_week(api: Api) -> None:
    await api.account("old@example.org", confirmed=False)
    await api.account("new@example.org", confirmed=False)
    await api.account("confirmed@example.org")
    await make_older(api, "old@example.org", days=7, hours=1)
    await make_older(api, "new@example.org", days=6, hours=23)
    await make_older(api, "confirmed@example.org", days=1000)
    await clean_up(api)
    assert await addresses(api) == {"new@example.org", "confirmed@example.org"}


async def test_asking_again_starts_the_week_again(api: Api) -> None:
    """Else the account would be gone while its new link is good."""
    body = {"email": "ada@example.org", "password": PASSWORD}
    await api.client.post("/api/accounts", json=body)
    await make_older(api, "ada@example.org", days=8)
    await api.client.post("/api/accounts", json=body)
    await clean_up(api)
    assert await addresses(api) == {"ada@example.org"}


async def test_much_is_removed_in_batches(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.removal.BATCH", 2)
    account_id = await api.account()
    for _ in range(5):
        await api.token(account_id, lifetime_seconds=-1)
    await clean_up(api)
    async with api.resources.database.transaction() as session:
        assert (await session.scalars(select(Token))).all() == []
