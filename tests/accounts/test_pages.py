"""The page behind the mailed link."""

import re

import pytest

from api import Api
from service.accounts import links

pytestmark = pytest.mark.anyio

CREDENTIALS = {"username": "ada@example.org", "password": "correct horse battery staple"}


async def token_of_a_new_account(api: Api) -> str:
    account_id = await api.account(confirmed=False, stamp="stamp")
    return links.make(api.resources.settings, links.CONFIRM, account_id, "stamp")


async def press_the_button(api: Api, page: str) -> tuple[int, str]:
    """Send the form as a browser would."""
    form = re.search(
        r'<form method="post" action="/confirm"><input type="hidden" name="token" value="(.*?)">',
        page,
    )
    assert form, page
    answer = await api.client.post("/confirm", data={"token": form[1]})
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
async def test_a_token_cannot_write_into_the_page(embedded_api: Api, token: str) -> None:
    harmless = await embedded_api.client.get("/confirm", params={"token": "x"})
    page = await embedded_api.client.get("/confirm", params={"token": token})
    assert page.status_code == 200
    for character in "<>\"'":
        assert page.text.count(character) == harmless.text.count(character)


async def test_the_page_runs_nothing_and_tells_nobody_its_address(embedded_api: Api) -> None:
    page = await embedded_api.client.get("/confirm?token=x")
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["x-content-type-options"] == "nosniff"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in page.text


@pytest.mark.parametrize("path", ["/confirm?token=" + "x" * 501, "/confirm?token=" + "%00" * 600])
async def test_an_endless_token_is_422(embedded_api: Api, path: str) -> None:
    assert (await embedded_api.client.get(path)).status_code == 422


async def test_a_link_checker_that_asks_for_the_head_is_answered(embedded_api: Api) -> None:
    assert (await embedded_api.client.head("/confirm?token=x")).status_code == 200
