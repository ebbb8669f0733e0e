"""The pages behind mailed links."""

import re

import pytest

from api import PASSWORD, Api
from service.accounts import links

pytestmark = pytest.mark.anyio

CREDENTIALS = {"username": "ada@example.org", "password": PASSWORD}
PATHS = pytest.mark.parametrize("path", ["/confirm", "/reset"])


async def token_of_a_new_account(api: Api) -> str:
    account_id = await api.account(confirmed=False, stamp="stamp")
    return links.make(api.resources.settings, links.CONFIRM, account_id, "stamp")


async def press_the_button(api: Api, page: str, **fields: str) -> tuple[int, str]:
    """Send the form as a browser would."""
    form = re.search(
        r'<form method="post" action="(.*?)">\n<input type="hidden" name="token" value="(.*?)">',
        page,
    )
    assert form, page
    answer = await api.client.post(form[1], data={"token": form[2], **fields})
    return answer.status_code, answer.text


async def test_opening_the_link_confirms_nothing(api: Api) -> None:
    """Mail scanners open links."""
    token = await token_of_a_new_account(api)
    for _ in range(2):
        page = await api.client.get("/confirm", params={"token": token})
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert (await api.client.post("/login", data=CREDENTIALS)).status_code == 401


async def test_the_button_confirms(api: Api) -> None:
    token = await token_of_a_new_account(api)
    page = await api.client.get("/confirm", params={"token": token})
    status, text = await press_the_button(api, page.text)
    assert status == 200
    assert "Your account is confirmed" in text
    assert (await api.client.post("/login", data=CREDENTIALS)).status_code == 200


async def test_a_link_that_is_void_says_so_to_a_person(api: Api) -> None:
    page = await api.client.get("/confirm", params={"token": await token_of_a_new_account(api)})
    await press_the_button(api, page.text)
    status, text = await press_the_button(api, page.text)
    assert status == 400
    assert text.startswith("<!doctype html>")
    assert "was already used" in text


@pytest.mark.parametrize(
    "token", ['"><script>alert(1)</script>', "'\"<>&", "\x00", "\u202e", "</form>", ""]
)
@PATHS
async def test_a_token_cannot_write_into_the_page(embedded_api: Api, token: str, path: str) -> None:
    harmless = await embedded_api.client.get(path, params={"token": "x"})
    page = await embedded_api.client.get(path, params={"token": token})
    assert page.status_code == 200
    for character in "<>\"'":
        assert page.text.count(character) == harmless.text.count(character)


@PATHS
async def test_the_page_runs_nothing_and_tells_nobody_its_address(
    embedded_api: Api, path: str
) -> None:
    page = await embedded_api.client.get(f"{path}?token=x")
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["x-content-type-options"] == "nosniff"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in page.text


@PATHS
@pytest.mark.parametrize("token", ["x" * 501, "%00" * 600], ids=["long", "zeros"])
async def test_an_endless_token_is_422(embedded_api: Api, path: str, token: str) -> None:
    assert (await embedded_api.client.get(f"{path}?token={token}")).status_code == 422


@PATHS
async def test_a_link_checker_that_asks_for_the_head_is_answered(
    embedded_api: Api, path: str
) -> None:
    assert (await embedded_api.client.head(f"{path}?token=x")).status_code == 200


async def reset_page(api: Api) -> str:
    """The page behind the link of an account that forgot its password."""
    account_id = await api.account(stamp="stamp")
    token = links.make(api.resources.settings, links.RESET, account_id, "stamp")
    page = await api.client.get("/reset", params={"token": token})
    assert page.status_code == 200
    return page.text


async def log_in(api: Api, password: str) -> int:
    form = {**CREDENTIALS, "password": password}
    return int((await api.client.post("/login", data=form)).status_code)


async def test_the_form_sets_a_new_password(api: Api) -> None:
    page = await reset_page(api)
    assert await log_in(api, PASSWORD) == 200
    status, text = await press_the_button(api, page, password="a new and longer password")
    assert status == 200
    assert "Your new password is set" in text
    assert await log_in(api, "a new and longer password") == 200
    assert await log_in(api, PASSWORD) == 401


@pytest.mark.parametrize("password", ["", "7 chars", "x" * 1025])
async def test_an_unfit_password_is_asked_for_again(api: Api, password: str) -> None:
    status, text = await press_the_button(api, await reset_page(api), password=password)
    assert status == 422
    assert "A password has 8 to 1024 characters" in text
    assert not password or password not in text
    status, _ = await press_the_button(api, text, password="a new and longer password")
    assert status == 200


async def test_a_reset_link_that_is_void_says_so_to_a_person(api: Api) -> None:
    page = await reset_page(api)
    await press_the_button(api, page, password="a new and longer password")
    status, text = await press_the_button(api, page, password="yet another password")
    assert status == 400
    assert text.startswith("<!doctype html>")
    assert "was already used" in text


async def test_a_browser_helps_with_a_new_password(embedded_api: Api) -> None:
    page = await reset_page(embedded_api)
    assert 'type="password" autocomplete="new-password" required' in page
    assert '<label for="password">' in page
