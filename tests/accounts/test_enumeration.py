"""No answer tells whether an address has an account: not by its content, which the tests of each
request hold, and not by the work behind it. `make bench` measures the times themselves."""

from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from sqlalchemy import event

from api import PASSWORD, Api
from service.accounts import attempts, passwords

pytestmark = pytest.mark.anyio

KNOWN, WAITING, UNKNOWN = (f"{name}@example.org" for name in ("known", "waiting", "unknown"))
ADDRESSES = (KNOWN, WAITING, UNKNOWN)

counted = ContextVar("counted", default=False)
"""Set where a request is made, and so in all that it starts: checks and gauges, which ask the
database at their own times, are not the work behind it."""


class Work:
    """What requests cost: computations of hashes, and statements sent to the database."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._hashes = passwords._hashes

    def hash(self, password: str) -> str:
        self.done.append("hash")
        return self._hashes.hash(password)

    def verify(self, password: str, password_hash: str) -> bool:
        self.done.append(f"verify {password_hash.rpartition('$')[0].rpartition('$')[0]}")
        return self._hashes.verify(password, password_hash)

    def statement(self, _c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if counted.get():
            self.done.append(statement)

    async def of(self, request: Any) -> list[str]:
        self.done.clear()
        token = counted.set(True)
        try:
            assert (await request).status_code in (202, 401)
        finally:
            counted.reset(token)
        return self.done.copy()


@pytest.fixture
def work(server_api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    """Beside PostgreSQL, where no jobs run in the web process to be counted as well."""
    work = Work()
    monkeypatch.setattr(passwords, "_hashes", work)
    engine = server_api.resources.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", work.statement)
    yield work
    event.remove(engine, "before_cursor_execute", work.statement)


@pytest.fixture
async def accounts(server_api: Api) -> None:
    await server_api.account(KNOWN)
    await server_api.account(WAITING, confirmed=False)


async def test_a_login_that_fails_is_the_same_work(
    server_api: Api, accounts: None, work: Work
) -> None:
    forms = [{"username": address, "password": "wrong"} for address in (*ADDRESSES, "no address")]
    forms.append({"username": WAITING, "password": PASSWORD})
    costs = [await work.of(server_api.client.post("/login", data=form)) for form in forms]
    assert costs == [costs[0]] * len(forms)
    assert sum(step.startswith("verify $argon2id$v=19$m=19456,t=2,p=1") for step in costs[0]) == 1


async def test_a_registration_is_the_same_work(server_api: Api, accounts: None, work: Work) -> None:
    bodies = [{"email": address, "password": PASSWORD} for address in ADDRESSES]
    costs = [await work.of(server_api.client.post("/api/accounts", json=body)) for body in bodies]
    assert costs == [costs[0]] * len(bodies)
    assert costs[0].count("hash") == 1
    assert len(costs[0]) > 3  # account, mail and job


async def test_a_registration_beyond_the_limit_is_the_same_work(
    server_api: Api, accounts: None, work: Work
) -> None:
    """With the password that waits already and with another one, and in no case without a write."""
    mails, counted_for = attempts.CONFIRMATION_MAILS, server_api.resources.limits.counted
    for address in ADDRESSES:
        for _ in range(mails.at_once):
            async with counted_for(mails, address):
                pass
    bodies = [
        {"email": address, "password": password}
        for address in ADDRESSES
        for password in (PASSWORD, "another password", "another password")
    ]
    costs = [await work.of(server_api.client.post("/api/accounts", json=body)) for body in bodies]
    assert costs == [costs[0]] * len(bodies)
    assert costs[0].count("hash") == 1
    assert "INSERT INTO accounts" in costs[0][-1]


async def test_a_forgotten_password_is_the_same_work(
    server_api: Api, accounts: None, work: Work
) -> None:
    path = "/api/accounts/password/forgot"
    costs = [
        await work.of(server_api.client.post(path, json={"email": address}))
        for address in ADDRESSES
    ]
    assert costs == [costs[0]] * len(ADDRESSES)
    assert not any("accounts" in step for step in costs[0]), "an account was looked up"
