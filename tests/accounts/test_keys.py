"""API keys: made, shown once, bounded, revoked, on both back ends."""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import delete, event, insert, select, update

from api import Api, Headers, assert_problem
from service.accounts import keys
from service.accounts.models import Account, ApiKey, Token
from service.accounts.sessions import digest

pytestmark = pytest.mark.anyio

KEYS = "/api/keys"
NOBODYS = "0c9a5e0a-3d5f-4f0a-9d6b-0d9f1c1b7a52"
ME = "/api/accounts/me"


async def create(api: Api, headers: Headers, **body: Any) -> Any:
    body = {"name": "backup", "scopes": ["read"]} | body
    # ASCII: some of the names have no bytes of their own.
    content, headers = json.dumps(body), headers | {"Content-Type": "application/json"}
    return await api.client.post(KEYS, headers=headers, content=content)


async def created(api: Api, headers: Headers, **body: Any) -> dict[str, Any]:
    answer = await create(api, headers, **body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def bearer(key: dict[str, Any]) -> Headers:
    return {"Authorization": f"Bearer {key['key']}"}


async def rows(api: Api) -> list[ApiKey]:
    async with api.resources.database.transaction() as session:
        return list(await session.scalars(select(ApiKey)))


async def status_of_me(api: Api, headers: Headers) -> int:
    return int((await api.client.get(ME, headers=headers)).status_code)


async def test_a_key_opens_the_account_it_was_made_for(api: Api) -> None:
    headers = await api.signed_in()
    key = await created(api, headers)
    opened = await api.client.get(ME, headers=bearer(key))
    assert opened.status_code == 200
    assert opened.json() == (await api.client.get(ME, headers=headers)).json()


async def test_a_new_key_is_described_and_shown(api: Api) -> None:
    answer = await create(api, await api.signed_in(), name=" backup of the Küche ")
    assert answer.headers["cache-control"] == "no-store"
    key = answer.json()
    assert key["name"] == "backup of the Küche"
    assert key["scopes"] == ["read"]
    assert key["key"].endswith(key["ending"])
    assert (key["expires_at"], key["last_used_at"]) == (None, None)
    assert datetime.now(UTC) - datetime.fromisoformat(key["created_at"]) < timedelta(seconds=30)


async def test_a_key_is_kept_as_its_hash_alone(api: Api) -> None:
    key = await created(api, await api.signed_in())
    (row,) = await rows(api)
    assert row.digest == hashlib.sha256(key["key"].encode()).digest()
    assert key["key"] not in str(vars(row))


async def test_a_key_has_256_random_bits_behind_a_prefix_that_scanners_know(
    embedded_api: Api,
) -> None:
    headers = await embedded_api.signed_in()
    made = {(await created(embedded_api, headers))["key"] for _ in range(3)}
    assert len(made) == 3
    assert all(len(key.removeprefix("key_")) == 43 for key in made)


async def test_the_list_has_own_keys_newest_first_and_never_shows_them(api: Api) -> None:
    headers = await api.signed_in()
    other = await created(api, await api.signed_in("eve@example.org"))
    first = await created(api, headers, name="first")
    second = await created(api, headers, name="second")
    answer = await api.client.get(KEYS, headers=headers)
    assert answer.status_code == 200
    assert [item["id"] for item in answer.json()["items"]] == [second["id"], first["id"]]
    for key in (first, second, other):
        assert key["key"] not in answer.text
    assert answer.json()["items"][0] == {n: v for n, v in second.items() if n != "key"}


async def test_a_deleted_key_opens_nothing(api: Api) -> None:
    headers = await api.signed_in()
    key, kept = await created(api, headers), await created(api, headers)
    answer = await api.client.delete(f"{KEYS}/{key['id']}", headers=headers)
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-type" not in answer.headers
    refused = await api.client.get(ME, headers=bearer(key))
    assert_problem(refused, 401)
    assert refused.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert await status_of_me(api, bearer(kept)) == 200
    assert_problem(await api.client.delete(f"{KEYS}/{key['id']}", headers=headers), 404)


async def test_keys_of_others_and_unknown_ones_are_404_alike(api: Api) -> None:
    eves = await created(api, await api.signed_in("eve@example.org"))
    headers = await api.signed_in()
    answers = [
        await api.client.delete(f"{KEYS}/{key_id}", headers=headers)
        for key_id in (eves["id"], uuid4())
    ]
    assert len({assert_problem(answer, 404)["detail"] for answer in answers}) == 1
    assert await status_of_me(api, bearer(eves)) == 200


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (["read"], ["read"]),
        (["write"], ["read", "write"]),
        (["write", "read"], ["read", "write"]),
        (["read", "read"], ["read"]),
    ],
)
async def test_write_includes_read(api: Api, asked: list[str], given: list[str]) -> None:
    key = await created(api, await api.signed_in(), scopes=asked)
    assert key["scopes"] == given
    assert await status_of_me(api, bearer(key)) == 200


# media: from here
async def test_a_key_that_may_only_read_changes_nothing(api: Api) -> None:
    account_id = await api.account()
    headers = await api.key(account_id, may_write=False)
    files = {"file": ("hello.txt", b"hello")}
    answer = await api.client.post("/api/media", headers=headers, files=files)
    problem = assert_problem(answer, 403)
    assert problem["detail"] == "This API key may only read."
    # RFC 6750 section 3.1
    expected = 'Bearer error="insufficient_scope", scope="write"'
    assert answer.headers["www-authenticate"] == expected
    assert (await api.client.get("/api/media", headers=headers)).json()["items"] == []


async def test_a_key_that_may_write_uploads_for_its_account(api: Api) -> None:
    account_id = await api.account()
    item = await api.upload(await api.key(account_id))
    headers = await api.key(account_id, may_write=False)
    assert (await api.client.get(f"/api/media/{item['id']}", headers=headers)).status_code == 200
    assert (await api.client.get(item["url"], headers=headers)).content == b"hello"


# media: to here


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", KEYS, {"name": "another", "scopes": ["read"]}),
        ("GET", KEYS, None),
        ("DELETE", f"{KEYS}/{NOBODYS}", None),
        ("POST", "/logout", None),
    ],
)
async def test_no_key_manages_keys_or_logins(api: Api, method: str, path: str, body: Any) -> None:
    headers = await api.key(await api.account())
    answer = await api.client.request(method, path, headers=headers, json=body)
    assert_problem(answer, 403)
    assert answer.headers["www-authenticate"] == 'Bearer error="insufficient_scope"'
    assert len(await rows(api)) == 1
    assert await status_of_me(api, headers) == 200


async def test_a_key_outlives_the_login_it_was_made_with(api: Api) -> None:
    headers = await api.signed_in()
    key = await created(api, headers)
    await api.client.post("/logout", headers=headers)
    assert await status_of_me(api, bearer(key)) == 200


async def test_a_key_ends_at_its_time(api: Api) -> None:
    headers = await api.signed_in()
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    key = await created(api, headers, expires_at=expires_at.isoformat())
    assert datetime.fromisoformat(key["expires_at"]) == expires_at
    assert await status_of_me(api, bearer(key)) == 200
    past = datetime.now(UTC) - timedelta(seconds=1)
    async with api.resources.database.transaction() as session:
        await session.execute(update(ApiKey).values(expires_at=past))
    assert await status_of_me(api, bearer(key)) == 401
    assert len((await api.client.get(KEYS, headers=headers)).json()["items"]) == 1


@pytest.mark.parametrize("zone", ["+05:30", "-08:00", "Z"])
async def test_a_time_may_be_given_in_any_zone(api: Api, zone: str) -> None:
    expires_at = f"{datetime.now(UTC).year + 1}-01-31T12:00:00{zone}"
    key = await created(api, await api.signed_in(), expires_at=expires_at)
    assert datetime.fromisoformat(key["expires_at"]) == datetime.fromisoformat(expires_at)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"name": ""}, "name"),
        ({"name": "   "}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\x00b"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "\ud800"}, "name"),
        ({"name": None}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["admin"]}, "scopes.0"),
        ({"scopes": "read"}, "scopes"),
        ({"scopes": None}, "scopes"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59Z"}, "expires_at"),
        ({"expires_at": "2030-01-01T00:00:00"}, "expires_at"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": 1_900_000_000}, "expires_at"),
        ({"expires_at": True}, "expires_at"),
        ({"expires": "2030-01-31T12:00:00Z"}, "expires"),
    ],
    ids=ascii,
)
async def test_what_cannot_be_a_key_is_422(
    embedded_api: Api, body: dict[str, Any], place: str
) -> None:
    problem = assert_problem(
        await create(embedded_api, await embedded_api.signed_in(), **body), 422
    )
    assert problem["errors"][0]["in"] == f"body.{place}"
    assert await rows(embedded_api) == []


async def test_an_account_has_a_bounded_number_of_keys(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "MAX_KEYS", 3)
    headers = await api.signed_in()
    made = [await created(api, headers) for _ in range(3)]
    assert_problem(await create(api, headers), 409)
    await created(api, await api.signed_in("eve@example.org"))
    await api.client.delete(f"{KEYS}/{made[0]['id']}", headers=headers)
    await created(api, headers)


async def test_the_number_is_bounded_at_the_same_moment_too(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "MAX_KEYS", 3)
    headers = await api.signed_in()
    answers = await asyncio.gather(*(create(api, headers) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [409] * 5


async def test_a_login_that_is_revoked_meanwhile_makes_no_key(api: Api) -> None:
    headers = await api.signed_in()
    token = digest(headers["Authorization"].split()[1])
    create_key = keys.create

    async def revoked_first(resources: Any, identity: Any, **more: Any) -> Any:
        async with resources.database.transaction() as session:
            await session.execute(delete(Token).where(Token.digest == token))
        return await create_key(resources, identity, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "create", revoked_first)
        assert_problem(await create(api, headers), 401)
    assert await rows(api) == []


async def test_the_use_of_a_key_is_noted_to_the_hour(api: Api) -> None:
    account_id = await api.account()
    headers = await api.key(account_id)
    await asyncio.gather(*(status_of_me(api, headers) for _ in range(5)))
    first = (await rows(api))[0].last_used_at
    assert first is not None
    assert datetime.now(UTC) - first < timedelta(seconds=30)
    await status_of_me(api, headers)
    assert (await rows(api))[0].last_used_at == first
    async with api.resources.database.transaction() as session:
        earlier = first - timedelta(minutes=61)
        await session.execute(update(ApiKey).values(last_used_at=earlier))
    await status_of_me(api, headers)
    assert (await rows(api))[0].last_used_at > first


@pytest.fixture
def statements(api: Api) -> Iterator[list[str]]:
    """What SQLAlchemy sends, which the driver's own lookup passes by on PostgreSQL."""
    seen: list[str] = []
    engine = api.resources.database.engine.sync_engine

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


async def test_a_request_with_a_key_is_one_query(api: Api, statements: list[str]) -> None:
    headers = await api.key(await api.account(), last_used_at=datetime.now(UTC))
    statements.clear()
    assert await status_of_me(api, headers) == 200
    lookups = 0 if api.resources.database.is_postgresql else 1
    assert [s for s in statements if "embedded_jobs" not in s][lookups:] == []


@pytest.mark.parametrize(
    "text", ["key_", "key_" + "x" * 43, "key_" + "x" * 42, "key_" + "x" * 44, "key_" + "\xff" * 43]
)
async def test_a_key_nobody_issued_is_401(api: Api, text: str) -> None:
    answer = await api.client.get(ME, headers={"Authorization": f"Bearer {text}".encode("latin-1")})
    assert_problem(answer, 401)


async def test_a_logins_token_that_looks_like_a_key_is_a_logins(api: Api) -> None:
    """One in sixteen million begins with the letters of the prefix."""
    account_id, now = await api.account(), datetime.now(UTC)
    token = "key_" + "x" * 39
    values = {"digest": digest(token), "account_id": account_id, "created_at": now}
    async with api.resources.database.transaction() as session:
        await session.execute(insert(Token).values(**values, expires_at=now + timedelta(hours=1)))
    assert await status_of_me(api, {"Authorization": f"Bearer {token}"}) == 200


async def test_an_account_that_is_deleted_takes_its_keys_along(api: Api) -> None:
    account_id = await api.account()
    headers = await api.key(account_id)
    async with api.resources.database.transaction() as session:
        await session.execute(delete(Account))
    assert await status_of_me(api, headers) == 401
    assert await rows(api) == []
