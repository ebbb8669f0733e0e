"""The page for operators, and what they do there."""

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, Route, expect

from browser import Tab

MakeTab = Callable[..., Tab]
TOKEN = "token-of-the-tests"  # as Web has it


def enter(page: Page, url: str, token: str = TOKEN) -> None:
    page.goto(f"{url}/operations")
    give(page, token)


def give(page: Page, token: str = TOKEN) -> None:
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Show").click()


def verdict(page: Page) -> str:
    return page.locator(".verdict h2").inner_text()


def expect_verdict(page: Page, text: str, seconds: float = 30) -> None:
    expect(page.locator(".verdict h2")).to_have_text(text, timeout=seconds * 1000)


def expect_text(page: Page, text: str) -> None:
    expect(page.locator(".verdict p")).to_contain_text(text)


def alter(page: Page, answer: str, change: Callable[[dict[str, Any]], object]) -> None:
    """What the service answers comes to the page with a change."""

    def send(route: Route) -> None:
        got = route.fetch()
        body = got.json()
        change(body)
        route.fulfill(response=got, json=body)

    page.route(f"**/api/operations/{answer}*", send)


def refuse(page: Page, answer: str, status: int, detail: str) -> None:
    def send(route: Route) -> None:
        route.fulfill(status=status, json={"detail": detail})

    page.route(f"**/api/operations/{answer}*", send)
