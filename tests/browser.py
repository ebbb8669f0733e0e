"""Chromium, driven by Playwright: pages as people see them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from servers import find_program

CHROMIUM = find_program("chromium")
# It asks nothing of the network but what a page asks.
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
WIDTHS = (360, 1920)
SCHEMES = ("light", "dark")
SCREENSHOTS = os.environ.get("SCREENSHOTS", "")  # a folder to keep them in
PAINTED = """new Promise(done => new PerformanceObserver(list => {
    for (const paint of list.getEntriesByName("first-contentful-paint")) done(paint.startTime)
}).observe({ type: "paint", buffered: true }))"""
UNANSWERED = ("Failed to load resource", "WebSocket connection to")


expect.set_options(timeout=30_000)


@contextmanager
def running_browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """A page, and what it complained of: its own errors, refusals of its policy, lost answers."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self.context = browser.new_context(ignore_https_errors=True, **options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.watch(self.page)

    def watch(self, page: Page) -> Page:
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda line: self._note(line.type, line.text))
        page.set_default_timeout(30_000)
        return page

    def _note(self, kind: str, text: str) -> None:
        # A browser tells of each answer that is none, and of sockets: the page says it to people.
        if kind in ("error", "warning") and not text.startswith(UNANSWERED):
            self.complaints.append(text)

    def close(self) -> None:
        self.context.close()


def assert_accessible(page: Page) -> None:
    """axe finds nothing, and nothing is wider than the window."""
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, f"{wide} pixels wider than the window"


def assert_painted_at_once(page: Page) -> None:
    """The first thing to see came within a second of the request, or does in another tab: while
    this one opened the machine may have had more to do."""
    milliseconds = [painted_after(page)]
    while milliseconds[-1] >= 1000 and len(milliseconds) < 3:
        again = page.context.new_page()
        again.goto(page.url)
        milliseconds.append(painted_after(again))
        again.close()
    assert min(milliseconds) < 1000, milliseconds


def painted_after(page: Page) -> float:
    """Milliseconds from the request to the first thing to see."""
    return float(page.evaluate(PAINTED))


def let_pass(
    page: Page, times: int, milliseconds: int, *, until: Callable[[], bool] = lambda: False
) -> None:
    """Time of its clock, and a little of ours after each part, for answers."""
    for _ in range(times):
        page.clock.run_for(milliseconds)
        page.wait_for_timeout(50)
        if until():
            return


def screenshot(page: Page, name: str) -> None:
    if SCREENSHOTS:
        Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{SCREENSHOTS}/{name}.png", full_page=True)
