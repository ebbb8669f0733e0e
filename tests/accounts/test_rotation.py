"""SECRET_KEY is rotated while mails are under way, on both back ends."""

from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from pydantic import SecretStr

from account_jobs import mails
from api import PASSWORD, Api, running_api
from service.accounts import links
from service.fields import SecretList
from service.settings import Settings

pytestmark = pytest.mark.anyio

NEW_KEY = "th3-n3w-k3y-th3-n3w-k3y-th3-n3w-k3y"
PATHS = {links.CONFIRM: "/api/accounts/confirm", links.RESET: "/api/accounts/password/reset"}
PURPOSES = pytest.mark.parametrize("purpose", PATHS, ids=lambda purpose: purpose.name)


def with_keys(settings: Settings, key: str, *fallbacks: str) -> Settings:
    keys = {"secret_key": SecretStr(key), "secret_key_fallbacks": SecretList(fallbacks)}
    return settings.model_copy(update=keys)


@pytest.fixture
async def rotated(settings: Settings) -> AsyncIterator[Api]:
    """The application under a new key, which still knows the former one."""
    async with running_api(with_keys(settings, NEW_KEY, former(settings))) as api:
        yield api


def former(settings: Settings) -> str:
    return settings.secret_key.get_secret_value()


async def use(api: Api, purpose: links.Purpose, token: str) -> int:
    body = {"token": token} | ({"password": "a new password"} if purpose is links.RESET else {})
    return int((await api.client.post(PATHS[purpose], json=body)).status_code)


async def waiting_account(api: Api) -> UUID:
    return await api.account(confirmed=False, stamp="stamp")


@PURPOSES
async def test_a_link_signed_by_the_former_key_still_works(
    rotated: Api, settings: Settings, purpose: links.Purpose
) -> None:
    token = links.make(settings, purpose, await waiting_account(rotated), "stamp")
    assert await use(rotated, purpose, token) == 204


@PURPOSES
async def test_a_link_signed_by_a_key_that_was_dropped_is_void(
    settings: Settings, purpose: links.Purpose
) -> None:
    async with running_api(with_keys(settings, NEW_KEY)) as api:
        token = links.make(settings, purpose, await waiting_account(api), "stamp")
        assert await use(api, purpose, token) == 400


async def test_what_is_mailed_now_is_signed_by_the_new_key(server_settings: Settings) -> None:
    rotated = with_keys(server_settings, NEW_KEY, former(server_settings))
    async with running_api(rotated) as api:
        body = {"email": "ada@example.org", "password": PASSWORD}
        await api.client.post("/api/accounts", json=body)
        await api.client.post("/api/accounts/password/forgot", json=body)
        for mail, purpose in zip(await mails(api), PATHS, strict=True):
            token = mail.text.partition("?token=")[2].split()[0]
            assert links.read(with_keys(server_settings, NEW_KEY), purpose, token)
            with pytest.raises(links.LinkInvalid):
                links.read(server_settings, purpose, token)


async def test_logins_and_keys_do_not_depend_on_the_key(settings: Settings) -> None:
    async with running_api(settings) as api:
        account_id = await api.account()
        kept = [await api.token(account_id), await api.key(account_id)]
    async with running_api(with_keys(settings, NEW_KEY)) as api:
        for headers in kept:
            assert (await api.client.get("/api/accounts/me", headers=headers)).status_code == 200
