"""Asking for an account and confirming it, on both back ends."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import func, select

from api import PASSWORD, Api, assert_problem
from service.accounts import links
from service.accounts.models import Account
from service.outbox import Mail

pytestmark = pytest.mark.anyio

ADA = "ada@example.org"


async def ask(api: Api, email: str = ADA, password: str = PASSWORD) -> Any:
    return await api.client.post("/api/accounts", json={"email": email, "password": password})


async def confirm(api: Api, token: str) -> Any:
    return await api.client.post("/api/accounts/confirm", json={"token": token})


async def log_in(api: Api, email: str = ADA, password: str = PASSWORD) -> int:
    form = {"username": email, "password": password}
    return (await api.client.post("/login", data=form)).status_code


async def account(api: Api, email: str = ADA) -> Account:
    async with api.resources.database.transaction() as session:
        return (await session.scalars(select(Account).where(Account.email == email))).one()


async def mailed_token(api: Api, email: str = ADA) -> str:
    """The token of the newest mail, without waiting for the mail."""
    row = await account(api, email)
    return links.make(api.resources.settings, links.CONFIRM, row.id, row.stamp)


async def mails(api: Api) -> list[Mail]:
    async with api.resources.database.transaction() as session:
        return list(await session.scalars(select(Mail).order_by(Mail.created_at)))


async def test_a_new_account_waits_for_its_confirmation(api: Api) -> None:
    answer = await ask(api)
    assert answer.status_code == 202
    assert await log_in(api) == 401
    assert (await confirm(api, await mailed_token(api))).status_code == 204
    assert await log_in(api) == 200


async def test_the_link_is_mailed_to_the_address(api: Api) -> None:
    await ask(api, " Ada@Example.ORG ")
    (mail,) = await mails(api)
    assert mail.recipient == ADA
    assert mail.subject == "Confirm your account"


async def test_the_mail_holds_a_link_and_a_token_that_work(server_api: Api) -> None:
    await ask(server_api)
    (mail,) = await mails(server_api)
    token = await mailed_token(server_api)
    links_in_text = [word for word in mail.text.split() if "/confirm?token=" in word]
    assert len(links_in_text) == 1
    # Made a moment later than the mailed one, so only the signed content is the same.
    content = token.split(".")[0]
    assert links_in_text[0].startswith(f"{server_api.resources.settings.site_url}/confirm?token=")
    mailed = links_in_text[0].partition("token=")[2]
    assert mailed.split(".")[0] == content
    assert f"    {mailed}\n" in mail.text
    assert (await confirm(server_api, mailed)).status_code == 204


async def test_the_answer_does_not_tell_whether_an_address_is_known(api: Api) -> None:
    await api.account("confirmed@example.org")
    await api.account("waiting@example.org", confirmed=False)
    answers = [
        await ask(api, f"{name}@example.org") for name in ("confirmed", "waiting", "unknown")
    ]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    headers = [{k: v for k, v in a.headers.items() if k != "x-request-id"} for a in answers]
    assert headers[0] == headers[1] == headers[2]


async def test_every_question_makes_one_mail(api: Api) -> None:
    await api.account("confirmed@example.org")
    await ask(api, "confirmed@example.org")
    await ask(api, "unknown@example.org")
    found = {(mail.recipient, mail.subject) for mail in await mails(api)}
    assert found == {
        ("confirmed@example.org", "You already have an account"),
        ("unknown@example.org", "Confirm your account"),
    }


async def test_a_confirmed_account_stays_as_it_is(api: Api) -> None:
    await api.account()
    before = await account(api)
    await ask(api, password="another password")
    after = await account(api)
    assert (before.password_hash, before.stamp) == (after.password_hash, after.stamp)
    assert await log_in(api, password="another password") == 401
    assert await log_in(api) == 200


async def test_before_the_confirmation_the_newest_password_counts(api: Api) -> None:
    await ask(api, password="the first one")
    await ask(api, password="the second one")
    await confirm(api, await mailed_token(api))
    assert await log_in(api, password="the first one") == 401
    assert await log_in(api, password="the second one") == 200


async def test_the_link_of_a_former_registration_is_void(api: Api) -> None:
    """Else somebody else's password could be confirmed by the owner's first link."""
    await ask(api)
    former = await mailed_token(api)
    await ask(api)
    assert_problem(await confirm(api, former), 400)
    assert (await confirm(api, await mailed_token(api))).status_code == 204


async def test_a_former_link_never_confirms_a_newer_password(api: Api) -> None:
    """Not at the same moment either: whoever comes second waits for the row."""
    for number in range(8):
        email = f"{number}@example.org"
        await ask(api, email, "the owner's own")
        former = await mailed_token(api, email)
        confirmed, _ = await asyncio.gather(
            confirm(api, former), ask(api, email, "a stranger's choice")
        )
        assert await log_in(api, email, "a stranger's choice") == 401
        expected = 200 if confirmed.status_code == 204 else 401
        assert await log_in(api, email, "the owner's own") == expected


async def test_who_did_not_ask_again_is_warned_of_a_strangers_password(server_api: Api) -> None:
    await ask(server_api)
    await ask(server_api)
    first, second = [mail.text for mail in await mails(server_api)]
    assert "somebody else chose that password" not in first
    assert "somebody else chose that password" in second


async def test_a_password_of_the_owners_own_takes_the_place_of_a_strangers(api: Api) -> None:
    await ask(api, password="a stranger's choice")
    row = await account(api)
    token = links.make(api.resources.settings, links.RESET, row.id, row.stamp)
    body = {"token": token, "password": "the owner's own"}
    await api.client.post("/api/accounts/password/reset", json=body)
    assert await log_in(api, password="a stranger's choice") == 401
    assert await log_in(api, password="the owner's own") == 200
    former = links.make(api.resources.settings, links.CONFIRM, row.id, row.stamp)
    assert_problem(await confirm(api, former), 400)


@pytest.mark.parametrize("form", [ADA, "ADA@EXAMPLE.ORG", " ada@example.org ", "Ada@Example.Org"])
async def test_an_address_is_one_account_however_it_is_written(api: Api, form: str) -> None:
    await api.account()
    await ask(api, form)
    async with api.resources.database.transaction() as session:
        assert await session.scalar(select(func.count()).select_from(Account)) == 1
    assert await log_in(api, form) == 200


async def test_an_international_domain_is_one_account_however_it_is_written(api: Api) -> None:
    await ask(api, "jose\u0301@b\u00fccher.example")
    await confirm(api, await mailed_token(api, "jos\u00e9@xn--bcher-kva.example"))
    assert await log_in(api, "JOS\u00c9@B\u00dcCHER.example") == 200
    assert await log_in(api, "jos\u00e9@xn--bcher-kva.example") == 200


@pytest.mark.parametrize(
    "email",
    [
        "ada\x00@example.org",
        "ada@exam\x00ple.org",
        "\u0130" * 300 + "@example.org",
        "a" * 300 + "@example.org",
        "a" * 1000 + "@example.org",
        "not an address",
        "=?utf-8?q?victim=40evil.example=2c?=@example.org",
    ],
    ids=lambda email: ascii(email)[:30],
)
async def test_what_the_database_or_the_mail_could_not_take_is_422(api: Api, email: str) -> None:
    problem = assert_problem(await ask(api, email), 422)
    assert problem["errors"][0]["in"] == "body.email"
    assert await mails(api) == []


@pytest.mark.parametrize(
    "password",
    [
        "8 chars!",
        "x" * 1024,
        "\x00" * 8,
        "a\x00bcdefghi",
        "\U0001f511" * 8,
        "cafe\u0301-\u00e4\u00df",
    ],
    ids=ascii,
)
async def test_every_password_of_8_to_1024_characters_works(api: Api, password: str) -> None:
    assert (await ask(api, password=password)).status_code == 202
    await confirm(api, await mailed_token(api))
    assert await log_in(api, password=password) == 200
    assert await log_in(api, password=password + "x") == 401


@pytest.mark.parametrize("password", ["", "7 chars", "\U0001f511" * 7, "x" * 1025])
async def test_shorter_and_longer_ones_are_422(embedded_api: Api, password: str) -> None:
    problem = assert_problem(await ask(embedded_api, password=password), 422)
    assert problem["errors"][0]["in"] == "body.password"


@pytest.mark.parametrize(
    "password", ["password", "12345678", "PassWord1", " qwertyuiop ", "contrasen\u0303a"]
)
async def test_one_of_the_commonest_is_422(embedded_api: Api, password: str) -> None:
    problem = assert_problem(await ask(embedded_api, password=password), 422)
    message = "expected one that is not among the commonest"
    assert problem["errors"] == [{"in": "body.password", "message": message}]
    assert await mails(embedded_api) == []


@pytest.mark.parametrize("password", ["ada.lovelace@example.org", "ADA.Lovelace"])
async def test_the_accounts_own_address_is_422(embedded_api: Api, password: str) -> None:
    answer = await ask(embedded_api, "Ada.Lovelace@Example.org", password)
    message = "expected another one than the account's address"
    errors = assert_problem(answer, 422)["errors"]
    assert errors == [{"in": "body.password", "message": message}]


async def test_ten_at_once_for_one_address_make_one_account(api: Api) -> None:
    spellings = [ADA.upper() if number % 2 else ADA for number in range(10)]
    words = [f"password number {number}" for number in range(10)]
    answers = await asyncio.gather(
        *(ask(api, email, word) for email, word in zip(spellings, words, strict=True))
    )
    assert [answer.status_code for answer in answers] == [202] * 10
    assert (await confirm(api, await mailed_token(api))).status_code == 204
    logins = [await log_in(api, password=word) for word in words]
    assert sorted(logins) == [200, *[401] * 9]


async def test_a_token_works_once(api: Api) -> None:
    await ask(api)
    token = await mailed_token(api)
    assert (await confirm(api, token)).status_code == 204
    problem = assert_problem(await confirm(api, token), 400)
    assert problem["detail"] == "The link is not valid, has expired or was already used."


async def test_a_token_works_once_also_at_the_same_moment(api: Api) -> None:
    await ask(api)
    token = await mailed_token(api)
    answers = await asyncio.gather(*(confirm(api, token) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [204, *[400] * 7]


async def test_a_token_confirms_no_other_account(api: Api) -> None:
    await ask(api, "eve@example.org")
    await ask(api)
    eve, ada = await account(api, "eve@example.org"), await account(api)
    forged = links.make(api.resources.settings, links.CONFIRM, ada.id, eve.stamp)
    assert_problem(await confirm(api, forged), 400)
    assert await log_in(api) == 401


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "\x00", "\u00e4" * 100, "x" * 500])
async def test_what_is_no_token_is_400(api: Api, token: str) -> None:
    assert_problem(await confirm(api, token), 400)


@pytest.mark.parametrize("token", [None, 1, ["x"], {}, "x" * 501])
async def test_what_cannot_be_a_token_is_422(embedded_api: Api, token: Any) -> None:
    assert_problem(await confirm(embedded_api, token), 422)


async def test_only_a_hash_of_the_password_is_kept(api: Api) -> None:
    await ask(api)
    row = await account(api)
    assert row.password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert PASSWORD not in str(vars(row))
