"""Logging in and out, and what a token opens, on both back ends."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from api import PASSWORD, Api, assert_problem
from service.accounts.models import Token

pytestmark = pytest.mark.anyio

ADA = "ada@example.org"
ME = "/api/accounts/me"
SECRET = "s3cret-that-must-not-come-back"


async def log_in(api: Api, email: str = ADA, password: str = PASSWORD, **more: Any) -> Any:
    form = {"username": email, "password": password, **more}
    return await api.client.post("/login", data=form)


async def me(api: Api, authorization: str | bytes) -> Any:
    return await api.client.get(ME, headers={"Authorization": authorization})


async def tokens(api: Api) -> list[Token]:
    async with api.resources.database.transaction() as session:
        return list(await session.scalars(select(Token)))


async def test_a_login_gives_a_token_that_opens_the_account(api: Api) -> None:
    account_id = await api.account()
    answer = await log_in(api)
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"access_token", "token_type", "expires_in"}
    assert body["token_type"] == "bearer"
    assert body["expires_in"] == api.resources.settings.access_token_seconds
    opened = await me(api, f"Bearer {body['access_token']}")
    assert opened.status_code == 200
    assert set(opened.json()) == {"id", "email", "created_at"}
    assert (opened.json()["id"], opened.json()["email"]) == (str(account_id), ADA)


async def test_no_cache_keeps_a_token(api: Api) -> None:
    await api.account()
    assert (await log_in(api)).headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "extra", [{"grant_type": "password"}, {"scope": "a b"}, {"client_id": "x"}]
)
async def test_the_other_fields_of_the_oauth2_form_are_allowed(
    embedded_api: Api, extra: dict[str, str]
) -> None:
    await embedded_api.account()
    assert (await log_in(embedded_api, **extra)).status_code == 200


async def test_a_token_is_kept_as_its_hash_alone(api: Api) -> None:
    await api.account()
    token = (await log_in(api)).json()["access_token"]
    (row,) = await tokens(api)
    assert row.digest == hashlib.sha256(token.encode()).digest()
    assert token not in str(vars(row))


async def test_a_token_has_256_random_bits(embedded_api: Api) -> None:
    await embedded_api.account()
    issued = {(await log_in(embedded_api)).json()["access_token"] for _ in range(3)}
    assert len(issued) == 3
    assert all(len(token) >= 43 for token in issued)


async def test_unknown_wrong_and_unconfirmed_are_refused_alike(api: Api) -> None:
    await api.account()
    await api.account("waiting@example.org", confirmed=False)
    answers = [
        await log_in(api, "unknown@example.org"),
        await log_in(api, ADA, "a wrong password"),
        await log_in(api, "waiting@example.org"),
        await log_in(api, "not an address"),
        await log_in(api, "ada\x00@example.org"),
        await log_in(api, "\x00"),
        await log_in(api, "x" * 30_000),
        await log_in(api, ADA, "x" * 30_000),
        await log_in(api, ADA, "\x00"),
        await log_in(api, ADA, PASSWORD.upper()),
    ]
    problems = [assert_problem(answer, 401) for answer in answers]
    assert len({frozenset({**p, "request_id": ""}.items()) for p in problems}) == 1
    headers = [{k: v for k, v in a.headers.items() if k != "x-request-id"} for a in answers]
    assert all(header == headers[0] for header in headers)
    assert headers[0]["www-authenticate"] == "Bearer"
    assert await tokens(api) == []


async def test_every_character_of_a_long_password_counts(api: Api) -> None:
    """bcrypt would have stopped reading at 72 bytes."""
    long = "x" * 100
    await api.client.post("/api/accounts", json={"email": ADA, "password": long})
    assert_problem(await log_in(api, ADA, "x" * 99 + "y"), 401)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"username": ADA},
        {"password": SECRET},
        {"username": "", "password": SECRET},
        {"username": ADA, "password": ""},
        {"username": ADA, "password": SECRET, "grant_type": "client_credentials"},
        {"username": ADA, "pass": SECRET},
    ],
)
async def test_a_mistake_in_the_form_is_422_and_the_password_does_not_come_back(
    embedded_api: Api, form: dict[str, str]
) -> None:
    answer = await embedded_api.client.post("/login", data=form)
    assert_problem(answer, 422)
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b'{"username": "a", "password": "' + SECRET.encode() + b'"}', "application/json", 415),
        (SECRET.encode(), "application/x-www-form-urlencoded", 422),
        (SECRET.encode(), "text/plain", 415),
        (SECRET.encode(), "multipart/form-data", 400),
        (SECRET.encode(), "multipart/form-data; boundary=x", 400),
        (b"&".join(b"a%d=1" % n for n in range(1001)), "application/x-www-form-urlencoded", 400),
        (
            b'--x\r\nContent-Disposition: form-data; name="username"\r\n\r\na\r\n'
            b'--x\r\nContent-Disposition: form-data; name="password"; filename="p"\r\n\r\n'
            + SECRET.encode()
            + b"\r\n--x--\r\n",
            "multipart/form-data; boundary=x",
            415,
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="username"\r\n\r\na\r\n--x--\r\n',
            "multipart/form-data; boundary=x; charset=undefined",
            415,
        ),
    ],
    ids=["json", "text", "plain", "no boundary", "no form", "fields", "file", "charset"],
)
async def test_a_form_that_is_none_is_a_problem(
    embedded_api: Api, content: bytes, content_type: str, status: int
) -> None:
    headers = {"Content-Type": content_type}
    answer = await embedded_api.client.post("/login", content=content, headers=headers)
    assert_problem(answer, status)
    assert SECRET not in answer.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_name_of_the_scheme_has_no_case(api: Api, scheme: str) -> None:
    token = (await api.signed_in())["Authorization"].split()[1]
    assert (await me(api, f"{scheme} {token}")).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [
        b"",
        b" ",
        b"Bearer",
        b"Bearer ",
        b"Basic YWRhOnNlY3JldA==",
        b"Digest username=ada",
        b"nonsense",
        b"token-without-a-scheme",
        b"Bearer,",
        b"\xff\xfe\xfd",
        b":",
    ],
)
async def test_no_bearer_token_is_401(api: Api, authorization: bytes) -> None:
    answer = await me(api, authorization)
    assert_problem(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "authorization",
    [
        b"Bearer x",
        b"Bearer " + b"x" * 100_000,
        b"Bearer \xff\xfe\xfd",
        "Bearer \U0001f511".encode(),
        b"Bearer  two-spaces",
        b"Bearer a b c",
        b"Bearer ' OR 1=1 --",
        b"Bearer null",
        b"Bearer Bearer",
    ],
    ids=lambda value: ascii(value)[:24],
)
async def test_a_token_nobody_issued_is_401(api: Api, authorization: bytes) -> None:
    answer = await me(api, authorization)
    assert_problem(answer, 401)
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


async def test_a_token_in_the_query_or_a_cookie_opens_nothing(embedded_api: Api) -> None:
    token = (await embedded_api.signed_in())["Authorization"].split()[1]
    assert_problem(await embedded_api.client.get(f"{ME}?access_token={token}"), 401)
    cookie = {"Cookie": f"access_token={token}"}
    assert_problem(await embedded_api.client.get(ME, headers=cookie), 401)


@pytest.mark.parametrize(("lifetime_seconds", "status"), [(-1, 401), (0, 401), (60, 200)])
async def test_a_token_ends_at_its_time(api: Api, lifetime_seconds: float, status: int) -> None:
    headers = await api.token(await api.account(), lifetime_seconds=lifetime_seconds)
    assert (await api.client.get(ME, headers=headers)).status_code == status


async def test_a_login_that_was_good_ends(api: Api) -> None:
    headers = await api.signed_in()
    assert (await api.client.get(ME, headers=headers)).status_code == 200
    past = datetime.now(UTC) - timedelta(seconds=1)
    async with api.resources.database.transaction() as session:
        await session.execute(update(Token).values(expires_at=past))
    assert_problem(await api.client.get(ME, headers=headers), 401)


async def test_the_lifetime_is_the_settings(api: Api) -> None:
    await api.account()
    before = datetime.now(UTC)
    await log_in(api)
    (row,) = await tokens(api)
    lifetime = (row.expires_at - before).total_seconds()
    assert 0 <= lifetime - api.resources.settings.access_token_seconds < 10


async def test_logging_out_ends_this_login_and_no_other(api: Api) -> None:
    ada, eve = await api.account(), await api.account("eve@example.org")
    here, there, other = await api.token(ada), await api.token(ada), await api.token(eve)
    answer = await api.client.post("/logout", headers=here)
    assert answer.status_code == 204
    assert answer.content == b""
    assert_problem(await api.client.get(ME, headers=here), 401)
    assert (await api.client.get(ME, headers=there)).status_code == 200
    assert (await api.client.get(ME, headers=other)).status_code == 200


async def test_logging_out_twice_is_401(api: Api) -> None:
    headers = await api.signed_in()
    await api.client.post("/logout", headers=headers)
    assert_problem(await api.client.post("/logout", headers=headers), 401)


async def test_head_is_answered_as_get_is(api: Api) -> None:
    headers = await api.signed_in()
    assert (await api.client.head(ME, headers=headers)).status_code == 200
    assert (await api.client.head(ME)).status_code == 401
