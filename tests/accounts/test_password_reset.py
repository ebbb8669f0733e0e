"""A new password by a mailed link, on both back ends."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text

from account_jobs import mails, settle
from api import PASSWORD, Api, assert_problem
from service.accounts import links, logins, password_reset
from service.accounts.models import Account, ApiKey, Token

pytestmark = pytest.mark.anyio

ADA = "ada@example.org"
FORGOT = "/api/accounts/password/forgot"
RESET = "/api/accounts/password/reset"
ME = "/api/accounts/me"
NEW = "a new and longer password"


async def forget(api: Api, email: str = ADA) -> Any:
    return await api.client.post(FORGOT, json={"email": email})


async def reset(api: Api, token: str, password: str = NEW) -> Any:
    return await api.client.post(RESET, json={"token": token, "password": password})


async def log_in(api: Api, password: str, email: str = ADA) -> int:
    form = {"username": email, "password": password}
    return int((await api.client.post("/login", data=form)).status_code)


def token_for(api: Api, account_id: UUID, stamp: str = "stamp") -> str:
    return links.make(api.resources.settings, links.RESET, account_id, stamp)


async def account(api: Api) -> Account:
    async with api.resources.database.transaction() as session:
        return (await session.scalars(select(Account).where(Account.email == ADA))).one()


async def test_from_the_forgotten_password_to_a_new_one(server_api: Api) -> None:
    await server_api.account()
    answer = await forget(server_api)
    assert answer.status_code == 202
    (mail,) = await mails(server_api)
    assert mail.subject == "Set a new password"
    (link,) = [word for word in mail.text.split() if "/reset?token=" in word]
    assert link.startswith(f"{server_api.resources.settings.site_url}/reset?token=")
    token = link.partition("token=")[2]
    assert f"    {token}\n" in mail.text
    answer = await reset(server_api, token)
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-type" not in answer.headers
    assert await log_in(server_api, PASSWORD) == 401
    assert await log_in(server_api, NEW) == 200


async def test_the_answer_does_not_tell_whether_an_address_is_known(api: Api) -> None:
    await api.account("confirmed@example.org")
    await api.account("waiting@example.org", confirmed=False)
    answers = [
        await forget(api, f"{name}@example.org") for name in ("confirmed", "waiting", "unknown")
    ]
    body = {"email": "another@example.org", "password": PASSWORD}
    answers.append(await api.client.post("/api/accounts", json=body))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    headers = [{k: v for k, v in a.headers.items() if k != "x-request-id"} for a in answers]
    assert all(header == headers[0] for header in headers)


async def test_an_unknown_address_gets_no_mail(api: Api) -> None:
    await forget(api, "unknown@example.org")
    assert await mails(api, "unknown@example.org") == []


async def test_every_request_makes_one_mail(api: Api) -> None:
    await api.account()
    await forget(api)
    await forget(api, " ADA@example.org")
    assert [mail.subject for mail in await mails(api)] == ["Set a new password"] * 2


async def test_a_job_that_runs_again_mails_once(api: Api) -> None:
    await api.account()
    for _ in range(3):
        await password_reset.mail_link(api.resources, ADA, "0123456789abcdef", "http://localhost")
    assert len(await mails(api)) == 1


async def test_the_newest_link_does_not_make_the_former_void(api: Api) -> None:
    """Else anybody could keep the owner from ever using one."""
    account_id = await api.account()
    await forget(api)
    former = token_for(api, account_id, (await account(api)).stamp)
    await forget(api)
    await settle(api)
    assert (await reset(api, former)).status_code == 204


async def test_a_reset_ends_every_login_and_every_key(api: Api) -> None:
    account_id, eve = await api.account(), await api.account("eve@example.org")
    mine = [await api.token(account_id), await api.token(account_id), await api.key(account_id)]
    hers = [await api.token(eve), await api.key(eve)]
    assert (await reset(api, token_for(api, account_id))).status_code == 204
    for headers in mine:
        assert_problem(await api.client.get(ME, headers=headers), 401)
    for headers in hers:
        assert (await api.client.get(ME, headers=headers)).status_code == 200


async def test_a_reset_that_fails_ends_nothing(api: Api) -> None:
    account_id = await api.account()
    headers = await api.token(account_id)
    assert_problem(await reset(api, token_for(api, account_id, "another")), 400)
    assert_problem(await reset(api, token_for(api, account_id), "short"), 422)
    assert (await api.client.get(ME, headers=headers)).status_code == 200
    assert await log_in(api, PASSWORD) == 200


async def test_the_owner_is_told(api: Api) -> None:
    await reset(api, token_for(api, await api.account()))
    (mail,) = await mails(api)
    assert mail.subject == "Your password was changed"


async def test_a_link_works_once(api: Api) -> None:
    token = token_for(api, await api.account())
    assert (await reset(api, token)).status_code == 204
    problem = assert_problem(await reset(api, token, "yet another one"), 400)
    assert problem["detail"] == "The link is not valid, has expired or was already used."
    assert await log_in(api, NEW) == 200


async def test_a_link_works_once_also_at_the_same_moment(api: Api) -> None:
    token = token_for(api, await api.account())
    words = [f"password number {number}" for number in range(6)]
    answers = await asyncio.gather(*(reset(api, token, word) for word in words))
    assert sorted(answer.status_code for answer in answers) == [204, *[400] * 5]
    winner = [answer.status_code for answer in answers].index(204)
    assert await log_in(api, words[winner]) == 200


async def test_one_of_several_links_makes_the_others_void(api: Api) -> None:
    account_id = await api.account()
    first, second = token_for(api, account_id), token_for(api, account_id)
    await reset(api, first)
    assert_problem(await reset(api, second, "yet another one"), 400)


async def test_a_link_for_confirming_sets_no_password(api: Api) -> None:
    account_id = await api.account()
    token = links.make(api.resources.settings, links.CONFIRM, account_id, "stamp")
    assert_problem(await reset(api, token), 400)


async def test_an_unconfirmed_account_is_confirmed_by_the_link(api: Api) -> None:
    """It proves the address, and the password is the owner's whoever registered."""
    account_id = await api.account(confirmed=False)
    await forget(api)
    assert [mail.subject for mail in await mails(api)] == ["Set a new password"]
    assert (await reset(api, token_for(api, account_id))).status_code == 204
    assert await log_in(api, PASSWORD) == 401
    assert await log_in(api, NEW) == 200


async def test_confirming_makes_a_former_reset_link_void(api: Api) -> None:
    account_id = await api.account(confirmed=False)
    former = token_for(api, account_id)
    token = links.make(api.resources.settings, links.CONFIRM, account_id, "stamp")
    await api.client.post("/api/accounts/confirm", json={"token": token})
    assert_problem(await reset(api, former), 400)


async def test_the_confirmation_date_of_an_account_stays(api: Api) -> None:
    account_id = await api.account()
    before = (await account(api)).confirmed_at
    await reset(api, token_for(api, account_id))
    assert (await account(api)).confirmed_at == before


async def test_a_login_that_began_before_the_reset_does_not_survive_it(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who knew the old password could else keep a token."""
    account_id = await api.account()
    verify = logins.verify_password

    async def overtaken(*arguments: Any) -> bool:
        matches = await verify(*arguments)
        assert (await reset(api, token_for(api, account_id))).status_code == 204
        return matches

    monkeypatch.setattr(logins, "verify_password", overtaken)
    assert await log_in(api, PASSWORD) == 401
    assert await rows_of(api, Token) == 0


async def rows_of(api: Api, model: type[Token] | type[ApiKey]) -> int:
    async with api.resources.database.transaction() as session:
        return len((await session.scalars(select(model))).all())


@pytest.mark.parametrize("what", ["login", "key"])
async def test_what_begins_while_a_reset_commits_waits_and_is_refused(
    server_api: Api, what: str
) -> None:
    """The reset's transaction holds the account: as its statements, in their order."""
    headers = await server_api.token(await server_api.account())
    body = {"name": "late", "scopes": ["read"]}
    async with server_api.resources.database.transaction() as session:
        await session.execute(text("UPDATE accounts SET password_hash = 'x', stamp = 'y'"))
        if what == "login":
            late = asyncio.create_task(log_in(server_api, PASSWORD))
        else:
            late = asyncio.create_task(_status(server_api, headers, body))
        await asyncio.sleep(0.5)
        assert not late.done()
        await session.execute(text("DELETE FROM tokens"))
        await session.execute(text("DELETE FROM api_keys"))
    assert await late == 401
    assert await rows_of(server_api, Token) == 0
    assert await rows_of(server_api, ApiKey) == 0


async def _status(api: Api, headers: dict[str, str], body: dict[str, Any]) -> int:
    return int((await api.client.post("/api/keys", headers=headers, json=body)).status_code)


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "\x00", "x" * 500])
async def test_what_is_no_token_is_400(api: Api, token: str) -> None:
    assert_problem(await reset(api, token), 400)


@pytest.mark.parametrize("body", [{}, {"email": None}, {"email": "not an address"}, []])
async def test_what_cannot_be_an_address_is_422(embedded_api: Api, body: Any) -> None:
    assert_problem(await embedded_api.client.post(FORGOT, json=body), 422)


@pytest.mark.parametrize("password", ["", "7 chars", "x" * 1025])
async def test_an_unfit_password_is_422_and_does_not_come_back(
    embedded_api: Api, password: str
) -> None:
    token = token_for(embedded_api, await embedded_api.account())
    answer = await reset(embedded_api, token, password)
    assert assert_problem(answer, 422)["errors"][0]["in"] == "body.password"
    assert (await reset(embedded_api, token)).status_code == 204


@pytest.mark.parametrize("password", ["password1", ADA])
async def test_one_that_is_guessed_first_is_422_and_the_link_stays_good(
    api: Api, password: str
) -> None:
    token = token_for(api, await api.account())
    problem = assert_problem(await reset(api, token, password), 422)
    assert problem["detail"].startswith("body.password: expected")
    form = {"token": token, "password": password}
    page = await api.client.post("/reset", data=form)
    assert page.status_code == 422
    assert "Choose another one" in page.text
    assert await log_in(api, PASSWORD) == 200
    assert (await reset(api, token)).status_code == 204
