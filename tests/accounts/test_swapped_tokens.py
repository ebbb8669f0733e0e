"""What opens one door opens no other, and nothing but itself opens any."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import pytest
from pydantic import SecretStr

from api import Api, running_api
from service.accounts import links
from service.settings import Settings

pytestmark = pytest.mark.anyio

HEALTH_TOKEN = "token-of-the-probes-token-of-the-probes"
DOORS = ("bearer", "confirm", "reset", "health")


@dataclass
class Tokens:
    """One of each kind, all of one account, which is not confirmed."""

    api: Api
    login: str
    key: str
    confirm: str
    reset: str
    health: str = HEALTH_TOKEN


async def issued(api: Api) -> Tokens:
    account = await api.account(confirmed=False)
    bearers = (await api.token(account), await api.key(account))
    login, key = (bearer["Authorization"].removeprefix("Bearer ") for bearer in bearers)
    return Tokens(
        api, login, key, link(api, links.CONFIRM, account), link(api, links.RESET, account)
    )


def link(api: Api, purpose: links.Purpose, account: UUID) -> str:
    return links.make(api.resources.settings, purpose, account, "stamp")


async def status_at(api: Api, door: str, token: str) -> int:
    bearer = {"Authorization": f"Bearer {token}"}
    if door == "bearer":
        answer = await api.client.get("/api/accounts/me", headers=bearer)
    elif door == "health":
        answer = await api.client.get("/health/detailed", headers=bearer)
    elif door == "confirm":
        answer = await api.client.post("/api/accounts/confirm", json={"token": token})
    else:
        body = {"token": token, "password": "a new password"}
        answer = await api.client.post("/api/accounts/password/reset", json=body)
    assert token not in answer.text
    return int(answer.status_code)


@pytest.fixture
async def tokens(settings: Settings) -> object:
    watched = settings.model_copy(update={"health_token": SecretStr(HEALTH_TOKEN)})
    async with running_api(watched) as api:
        yield await issued(api)


@pytest.mark.parametrize(
    ("kind", "opens"),
    [
        ("login", "bearer"),
        ("key", "bearer"),
        ("confirm", "confirm"),
        ("reset", "reset"),
        ("health", "health"),
    ],
)
async def test_a_token_opens_its_own_door_alone(tokens: Tokens, kind: str, opens: str) -> None:
    token = getattr(tokens, kind)
    for door in DOORS:
        if door != opens:
            assert await status_at(tokens.api, door, token) in (400, 401)
    assert await status_at(tokens.api, opens, token) in (200, 204)


CHANGES: dict[str, Callable[[str], str]] = {
    "without its last letter": lambda token: token[:-1],
    "without its first letter": lambda token: token[1:],
    "half of it": lambda token: token[: len(token) // 2],
    "a letter more": lambda token: f"{token}A",
    "padding": lambda token: f"{token}====",
    "twice": lambda token: token * 2,
    "in other case": str.swapcase,
    "backwards": lambda token: token[::-1],
    "in base64 once more": lambda token: base64.b64encode(token.encode()).decode(),
    "with the prefix of a key": lambda token: f"key_{token}",
    "behind another": lambda token: f"x {token}",
    "very long": lambda token: token * 1000,
    "a wildcard": lambda token: "%",
    "an injection": lambda token: f"{token}' OR '1'='1",
}


@pytest.mark.parametrize("kind", ["login", "key", "health"])
async def test_a_changed_token_opens_nothing(tokens: Tokens, kind: str) -> None:
    for what, change in CHANGES.items():
        for door in DOORS:
            status = await status_at(tokens.api, door, change(getattr(tokens, kind)))
            assert status in (400, 401, 422), (what, door)


@pytest.mark.parametrize("purpose", [links.CONFIRM, links.RESET], ids=lambda purpose: purpose.name)
async def test_the_link_of_another_account_changes_nothing_here(
    tokens: Tokens, purpose: links.Purpose
) -> None:
    door = purpose.name
    confirmed = purpose is links.RESET  # before that any of them is good
    other = await tokens.api.account("eve@example.org", confirmed=confirmed, stamp="stamp-of-eve")
    forged = link(tokens.api, purpose, other)  # signed, but with the stamp of somebody else
    assert await status_at(tokens.api, door, forged) == 400
    assert await status_at(tokens.api, door, getattr(tokens, door)) == 204
    assert await status_at(tokens.api, door, getattr(tokens, door)) == 400
