"""How often somebody may try to log in, and how much mail an address gets, on both back ends."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from account_jobs import mails
from api import PASSWORD, Api, assert_problem, running_api
from servers import RedisServer
from service.accounts import attempts, links, logins, passwords
from service.database_errors import DatabaseUnavailable
from service.settings import Settings

pytestmark = pytest.mark.anyio

ADA = "ada@example.org"
ME = "/api/accounts/me"


async def log_in(api: Api, password: str = "wrong", email: str = ADA) -> Any:
    form = {"username": email, "password": password}
    return await api.client.post("/login", data=form)


async def statuses(api: Api, count: int, *, email: str = ADA) -> list[int]:
    return [(await log_in(api, email=email)).status_code for _ in range(count)]


@pytest.fixture(params=["here", "away"])
async def patient(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[Api]:
    """The application with Redis and without, on both back ends; three attempts at once."""
    changes: dict[str, Any] = {"login_attempts": 3}
    if request.param == "away":
        changes["redis_url"] = type(settings.redis_url)("redis://127.0.0.1:9/0")
    async with running_api(settings.model_copy(update=changes)) as api:
        yield api


async def test_after_some_failures_nobody_may_try_for_a_while(patient: Api) -> None:
    await patient.account()
    assert await statuses(patient, 3) == [401] * 3
    answer = await log_in(patient)
    assert "Retry-After" in answer.headers
    assert 1 <= int(answer.headers["retry-after"]) <= 30
    problem = assert_problem(answer, 429)
    assert problem["detail"] == "Too many attempts. Try again later."


async def test_then_the_right_password_is_not_tried_either(patient: Api) -> None:
    """Its answer would tell."""
    await patient.account()
    await statuses(patient, 3)
    assert (await log_in(patient, PASSWORD)).status_code == 429


@pytest.mark.parametrize("email", ["unknown@example.org", "waiting@example.org", "no address"])
async def test_an_address_without_an_account_is_limited_alike(patient: Api, email: str) -> None:
    await patient.account("waiting@example.org", confirmed=False)
    assert await statuses(patient, 4, email=email) == [401, 401, 401, 429]


async def test_an_address_is_one_however_it_is_written(patient: Api) -> None:
    await patient.account()
    spellings = [ADA, "ADA@EXAMPLE.ORG", " ada@example.org ", "Ada@Example.Org"]
    answers = [(await log_in(patient, email=email)).status_code for email in spellings]
    assert answers == [401, 401, 401, 429]


async def test_another_account_is_not_held_off(patient: Api) -> None:
    await patient.account()
    await patient.account("eve@example.org")
    await statuses(patient, 4)
    assert (await log_in(patient, PASSWORD, "eve@example.org")).status_code == 200


async def test_a_success_wipes_the_slate(patient: Api) -> None:
    await patient.account()
    for _ in range(3):
        assert await statuses(patient, 2) == [401] * 2
        assert (await log_in(patient, PASSWORD)).status_code == 200
    assert await statuses(patient, 4) == [401] * 3 + [429]


async def test_who_is_logged_in_is_not_disturbed(patient: Api) -> None:
    account_id = await patient.account()
    headers = await patient.token(account_id)
    await statuses(patient, 4)
    assert (await patient.client.get(ME, headers=headers)).status_code == 200


async def test_a_new_password_wipes_the_slate(patient: Api) -> None:
    token = links.make(patient.resources.settings, links.RESET, await patient.account(), "stamp")
    await statuses(patient, 4)
    body = {"token": token, "password": "a new and longer password"}
    await patient.client.post("/api/accounts/password/reset", json=body)
    assert (await log_in(patient, "a new and longer password")).status_code == 200


async def test_of_many_at_the_same_moment_only_so_many_are_tried(patient: Api) -> None:
    await patient.account()
    answers = await asyncio.gather(*(log_in(patient) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [401] * 3 + [429] * 17


async def test_what_is_refused_computes_no_hash(
    patient: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await patient.account()
    await statuses(patient, 3)

    class Forbidden:
        def verify(self, *_: object) -> bool:
            raise AssertionError("computed")

    monkeypatch.setattr(passwords, "_hashes", Forbidden())
    assert (await log_in(patient)).status_code == 429


async def test_an_outage_uses_up_no_attempt(patient: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await patient.account()

    async def fail(*_: object) -> None:
        raise DatabaseUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(logins, "find_by_email", fail)
        assert await statuses(patient, 5) == [503] * 5
    assert await statuses(patient, 4) == [401] * 3 + [429]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("testclient", "testclient"),
    ],
)
def test_a_network_is_an_address_or_the_64_of_one(host: str, expected: str) -> None:
    assert attempts.network(host) == expected


class Place:
    """Where requests come from."""

    def __init__(self) -> None:
        self.network = "home"

    def __call__(self, host: str) -> str:
        return self.network


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    place = Place()
    monkeypatch.setattr(attempts, "network", place)
    return place


@pytest.fixture
async def few(settings: Settings) -> AsyncIterator[Api]:
    """Three attempts at once, on both back ends."""
    async with running_api(settings.model_copy(update={"login_attempts": 3})) as api:
        yield api


async def test_strangers_do_not_hold_the_owner_off_where_the_owner_logged_in_before(
    few: Api, place: Place
) -> None:
    await few.account()
    assert (await log_in(few, PASSWORD)).status_code == 200
    for place.network in ("elsewhere", "anywhere"):
        await statuses(few, 4)
    place.network = "home"
    assert (await log_in(few, PASSWORD)).status_code == 200
    place.network = "elsewhere"
    assert (await log_in(few, PASSWORD)).status_code == 429  # which wiped no stranger's slate


async def test_guesses_from_there_are_limited_as_well(few: Api, place: Place) -> None:
    await few.account()
    await log_in(few, PASSWORD)
    assert await statuses(few, 4) == [401] * 3 + [429]


async def test_a_place_is_known_for_one_account_alone(few: Api, place: Place) -> None:
    await few.account()
    await few.account("eve@example.org")
    await log_in(few, PASSWORD, "eve@example.org")
    place.network = "elsewhere"
    await statuses(few, 4)
    place.network = "home"
    assert (await log_in(few, PASSWORD)).status_code == 429


async def test_a_failed_login_makes_no_place_known(few: Api, place: Place) -> None:
    await few.account()
    await statuses(few, 2)
    place.network = "elsewhere"
    await statuses(few, 2)
    place.network = "home"
    assert (await log_in(few, PASSWORD)).status_code == 429


async def test_a_new_password_wipes_the_slate_there_too(few: Api, place: Place) -> None:
    token = links.make(few.resources.settings, links.RESET, await few.account(), "stamp")
    await log_in(few, PASSWORD)
    await statuses(few, 4)
    form = {"token": token, "password": "a new and longer password"}
    assert (await few.client.post("/reset", data=form)).status_code == 200
    assert (await log_in(few, "a new and longer password")).status_code == 200


async def test_a_frozen_redis_neither_opens_the_limit_nor_holds_a_login(
    embedded_settings: Settings, own_redis: RedisServer
) -> None:
    url = type(embedded_settings.redis_url)(own_redis.url)
    changes = {"login_attempts": 3, "redis_url": url, "redis_timeout_seconds": 0.5}
    async with running_api(embedded_settings.model_copy(update=changes)) as api:
        await api.account()
        assert await statuses(api, 2) == [401] * 2
        own_redis.freeze()
        try:
            began = time.monotonic()
            answers = await asyncio.gather(*(log_in(api) for _ in range(10)))
            assert time.monotonic() - began < 2.5
            assert sorted(a.status_code for a in answers) == [401] * 3 + [429] * 7
        finally:
            own_redis.thaw()


async def test_the_default_is_ten_attempts(api: Api) -> None:
    await api.account()
    assert await statuses(api, 11) == [401] * 10 + [429]


async def test_an_address_gets_three_confirmation_mails_and_is_answered_alike(api: Api) -> None:
    body = {"email": ADA, "password": PASSWORD}
    answers = [await api.client.post("/api/accounts", json=body) for _ in range(5)]
    assert {(answer.status_code, answer.content) for answer in answers} == {
        (202, answers[0].content)
    }
    assert len(await mails(api)) == 3


async def test_an_address_with_an_account_gets_three_notices(api: Api) -> None:
    await api.account()
    for _ in range(5):
        await api.client.post("/api/accounts", json={"email": ADA, "password": PASSWORD})
    assert [mail.subject for mail in await mails(api)] == ["You already have an account"] * 3


async def test_an_address_gets_three_reset_mails_and_is_answered_alike(api: Api) -> None:
    await api.account()
    path = "/api/accounts/password/forgot"
    answers = [await api.client.post(path, json={"email": ADA}) for _ in range(5)]
    assert {(answer.status_code, answer.content) for answer in answers} == {
        (202, answers[0].content)
    }
    assert len(await mails(api)) == 3


async def register(api: Api, password: str, email: str = ADA) -> None:
    body = {"email": email, "password": password}
    assert (await api.client.post("/api/accounts", json=body)).status_code == 202


async def mailed(api: Api, page: str) -> str:
    """The token of the newest link to this page."""
    text = [mail.text for mail in await mails(api) if f"{page}?token=" in mail.text][-1]
    return text.partition(f"{page}?token=")[2].split()[0]


async def test_a_registration_beyond_the_limit_makes_links_for_other_passwords_void(
    server_api: Api,
) -> None:
    """Else an owner who has just asked would open a stranger's, and confirm their password."""
    for _ in range(3):
        await register(server_api, "a stranger's choice")
    await register(server_api, "the owner's own")
    body = {"token": await mailed(server_api, "/confirm")}
    assert_problem(await server_api.client.post("/api/accounts/confirm", json=body), 400)
    page = await server_api.client.post("/confirm", data=body)
    assert page.status_code == 400
    assert "Ask for a new password" in page.text


async def test_one_with_the_same_password_leaves_the_newest_link_good(server_api: Api) -> None:
    for _ in range(5):
        await register(server_api, PASSWORD)
    body = {"token": await mailed(server_api, "/confirm")}
    answer = await server_api.client.post("/api/accounts/confirm", json=body)
    assert answer.status_code == 204
    assert (await log_in(server_api, PASSWORD)).status_code == 200


async def test_one_beyond_the_limit_changes_no_account_that_is_confirmed(api: Api) -> None:
    await api.account()
    for _ in range(5):
        await register(api, "a stranger's choice")
    assert (await log_in(api, "a stranger's choice")).status_code == 401
    assert (await log_in(api, PASSWORD)).status_code == 200


async def test_a_link_for_a_new_password_stays_good_however_often_strangers_register(
    server_api: Api,
) -> None:
    """Else they could keep an owner from ever having the account."""
    await register(server_api, "a stranger's choice")
    await server_api.client.post("/api/accounts/password/forgot", json={"email": ADA})
    token = await mailed(server_api, "/reset")
    for _ in range(5):
        await register(server_api, "another of a stranger's")
    body = {"token": token, "password": "the owner's own"}
    answer = await server_api.client.post("/api/accounts/password/reset", json=body)
    assert answer.status_code == 204
    assert (await log_in(server_api, "the owner's own")).status_code == 200
    assert_problem(await server_api.client.post("/api/accounts/password/reset", json=body), 400)


@pytest.fixture
async def two_mails(settings: Settings) -> AsyncIterator[Api]:
    async with running_api(settings.model_copy(update={"mails_per_network": 2})) as api:
        yield api


async def sent(api: Api) -> int:
    return len([mail for name in "abcde" for mail in await mails(api, f"{name}@example.org")])


@pytest.mark.parametrize("path", ["/api/accounts", "/api/accounts/password/forgot"])
async def test_a_network_has_so_many_mails_sent_and_is_answered_alike(
    two_mails: Api, path: str
) -> None:
    for name in "abcde" if path.endswith("forgot") else "":
        await two_mails.account(f"{name}@example.org")
    bodies = [{"email": f"{name}@example.org", "password": PASSWORD} for name in "abcde"]
    answers = [await two_mails.client.post(path, json=body) for body in bodies]
    assert {(answer.status_code, answer.content) for answer in answers} == {
        (202, answers[0].content)
    }
    assert await sent(two_mails) == 2


async def test_a_network_beyond_its_limit_uses_up_no_addresses_mails(two_mails: Api) -> None:
    for _ in range(2):
        await register(two_mails, PASSWORD, "eve@example.org")
    for _ in range(5):
        await register(two_mails, PASSWORD)
    assert await mails(two_mails) == []
    for _ in range(attempts.CONFIRMATION_MAILS.at_once):
        async with two_mails.resources.limits.counted(attempts.CONFIRMATION_MAILS, ADA):
            pass


@pytest.mark.parametrize(
    ("address", "mailbox"),
    [
        ("ada@example.org", "ada@example.org"),
        ("ada+news@example.org", "ada@example.org"),
        ("ada+a+b@example.org", "ada@example.org"),
        ("+1@example.org", "+1@example.org"),
    ],
)
async def test_an_address_is_counted_as_the_mailbox_it_leads_to(address: str, mailbox: str) -> None:
    assert attempts.mailbox(address) == mailbox


async def test_addresses_of_one_mailbox_share_its_mails(api: Api) -> None:
    addresses = [f"ada+{number}@example.org" for number in range(5)]
    for address in addresses:
        await register(api, PASSWORD, address)
    assert sum([len(await mails(api, address)) for address in addresses]) == 3


async def test_somebody_who_registers_takes_no_reset_mail_away(api: Api) -> None:
    await api.account()
    for _ in range(5):
        await api.client.post("/api/accounts", json={"email": ADA, "password": PASSWORD})
    await api.client.post("/api/accounts/password/forgot", json={"email": ADA})
    assert (await mails(api))[-1].subject == "Set a new password"
