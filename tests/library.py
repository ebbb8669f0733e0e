"""A site with a library, and what people do there."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page, Route, expect

from browser import Tab
from deployments import PASSWORD, Deployment
from nginx import Nginx
from pictures import halves, saved
from servers import Postgresql, RedisServer, Web, Worker, wait_until

PHOTOGRAPH = saved(halves((900, 600)), "JPEG")
# For what can be undone only for some seconds.
SLOW_TIMERS = """() => {
    const begin = window.setTimeout
    window.setTimeout = (act, wait) => begin(act, wait < 5000 ? wait : 10 * wait)
}"""
LIST = re.compile(r"/api/media\?")
ITEM = re.compile(r"/api/media/[^?]+$")
UPLOADS = re.compile(r"/api/media$")
GALLERY = re.compile(r"/api/public/media")
BUSY: dict[str, Any] = {"status": 503, "json": {"detail": "The service is busy."}}
LOOKED_AT = "document.dispatchEvent(new Event('visibilitychange'))"
DAMAGED = b"\x89PNG\r\n\x1a\n and no more"


@dataclass
class Library:
    """A site with a library, and whoever looks at it."""

    deployment: Deployment
    nginx: Nginx
    postgresql: Postgresql
    redis: RedisServer
    worker: Worker
    environment: dict[str, str]
    browser: Browser
    tabs: list[Tab]

    @property
    def web(self) -> Web:
        return self.deployment.web

    @property
    def address(self) -> str:
        return f"https://{self.nginx.name}:{self.nginx.port}/library"

    def tab(self, view: str = "gallery", **options: Any) -> Tab:
        tab = Tab(self.browser, **{"viewport": {"width": 1280, "height": 900}, **options})
        self.tabs.append(tab)
        tab.page.goto(f"{self.address}#{view}")
        return tab

    def second(self, tab: Tab) -> Page:
        """Another page of the same browser, at the items."""
        page = tab.watch(tab.context.new_page())
        page.goto(self.address)
        expect_live(page)
        return page

    def sql(self, text: str) -> str:
        return self.postgresql.psql(text, self.environment["DATABASE_URL"].rpartition("/")[2])

    def joined(self, email: str = "ada@example.org", **options: Any) -> Tab:
        """A tab of somebody who has just joined and logged in."""
        tab = self.tab("join", **options)  # the gallery would be kept as it is now, empty
        join(self.deployment, tab.page, email)
        log_in(tab.page, email)
        expect(tab.page.get_by_text("Nothing here yet.")).to_be_visible()
        expect_live(tab.page)
        return tab


def join(deployment: Deployment, page: Page, email: str) -> None:
    """Ask for an account, and follow the link in the mail."""
    page.get_by_label("Mail address").fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_text("A mail is on its way")).to_be_visible()
    text = deployment.letter(email, "Confirm your account").text
    confirm(page, re.findall(r"https?://\S+/confirm\?\S+", text)[0])


def confirm(page: Page, link: str) -> None:
    other = page.context.new_page()
    other.goto(link)
    other.get_by_role("button", name="Confirm my account").click()
    expect(other.get_by_role("heading", name="Confirmed")).to_be_visible()
    other.close()


def log_in(page: Page, email: str, password: str = PASSWORD) -> None:
    page.get_by_role("link", name="Log in").first.click()
    page.get_by_label("Mail address").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def upload(page: Page, *names: str, content: bytes = PHOTOGRAPH) -> None:
    files = [{"name": n, "mimeType": "application/octet-stream", "buffer": content} for n in names]
    page.locator("#files").set_input_files(files)  # type: ignore[arg-type]


def too_large(directory: Path, *names: str) -> list[Path]:
    """Files with one byte more than are taken, which no disk has to hold."""
    paths = [directory / name for name in names]
    for path in paths:
        path.touch()
        os.truncate(path, 16 * 1024 * 1024 + 1)
    return paths


def item(page: Page, title: str) -> Any:
    return page.locator(".item", has=page.get_by_role("heading", name=title, exact=True))


def expect_ready(page: Page, title: str) -> None:
    """With its preview."""
    expect(item(page, title).locator("img")).to_be_visible()


def uploaded(page: Page, title: str) -> Locator:
    """The details of a new item, opened once it is ready."""
    upload(page, title)
    expect_ready(page, title)
    item(page, title).get_by_role("button").click()
    return page.get_by_role("dialog")


def expect_live(page: Page) -> None:
    expect(page.get_by_text("Live: changes show")).to_be_visible()


def expect_away(page: Page) -> None:
    expect(page.get_by_text("Live updates are away")).to_be_visible()


def seen(page: Page, condition: Callable[[], bool]) -> None:
    """Wait for something that happens while the page is driven."""

    def now() -> bool:
        page.wait_for_timeout(20)
        return condition()

    wait_until(now)


def answering(**answer: Any) -> Callable[[Route], None]:
    return lambda route: route.fulfill(**answer)


class Held:
    """Requests that are answered when the test wants."""

    def __init__(self) -> None:
        self.routes: list[Route] = []

    def __call__(self, route: Route) -> None:
        self.routes.append(route)

    def wait(self, page: Page, count: int = 1) -> None:
        seen(page, lambda: len(self.routes) >= count)


def public(*titles: str, next_cursor: str | None = None) -> dict[str, Any]:
    """An answer: a page of the gallery."""
    items = [{"id": t, "title": t, "url": f"/media/{t}/{t}", "size": 1} for t in titles]
    return {"json": {"items": items, "next_cursor": next_cursor}}


def own(*titles: str, next_cursor: str | None = None) -> dict[str, Any]:
    """An answer: a page of somebody's items."""
    more = {"status": "ready", "created_at": "2026-07-01T12:00:00Z", "public": False}
    items = [{**item, **more} for item in public(*titles)["json"]["items"]]
    return {"json": {"items": items, "next_cursor": next_cursor}}
