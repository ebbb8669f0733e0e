"""The page for operators, in a browser: what it makes of answers that are known."""

import itertools
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from browser import Tab, let_pass
from operations import enter, expect_verdict
from servers import Web

pytestmark = pytest.mark.browser

MakeWeb = Callable[..., Web]
MIB = 1024**2
LOOK_MILLISECONDS = 2000
WORKERS = [
    {
        "pid": 11,
        "heartbeat_age_seconds": 0.5,
        "event_loop_lag_seconds": 0.002,
        "requests": 1234,
        "memory_bytes": 50 * MIB,
    },
    {
        "pid": 12,
        "heartbeat_age_seconds": 4,
        "event_loop_lag_seconds": None,
        "requests": 0,
        "memory_bytes": None,
    },
]
# Of three moments, five seconds apart.
COLUMNS = {
    "requests_2xx": [100, 150, 250],
    "requests_3xx": [0, 0, 5],
    "requests_4xx": [0, 5, 15],
    "requests_5xx": [0, 0, 10],
    "took_0.1": [0, 0, 50],
    "took_1": [0, 0, 100],
    "took_+Inf": [0, 0, 100],
    "pool_in_use": [0, 1, 3],
    "pool_size": [10, 10, 10],
    "jobs_todo": [0, 2, 4],
    "jobs_doing": [0, 0, 1],
    "jobs_failed": [2, 2, 2],
    "oldest_job_seconds": [0, 0, 3600],
    "cpu_percent": [1, 2, 12.4],
    "memory_percent": [5, 5, 5.5],
    "disk_percent": [80, 80, 81],
    "loop_lag_seconds": [0.001, 0.001, 0.0042],
    "latency_database": [0.001, 0.002, 0.001],
}
FIGURES = {
    "Requests a second": ["answered 21", "client's mistakes 2", "failed 2"],
    "Failed requests, share": ["failed 8 %"],
    "Time to answer": ["half within 0.1 s", "95 % within 0.9 s", "99 % within 1.0 s"],
    "Database connections": ["in use 3", "of 10"],
    "Jobs": ["waiting 4", "running 1", "failed 2"],
    "Oldest waiting job": ["for 1 h 0 min"],
    "CPU, memory and disk": ["CPU 12 %", "memory 5.5 %", "disk 81 %"],
    "Event loop": ["late by 4.2 ms"],
}


class Replicas:
    """What replicas answer that take turns, all of them well."""

    def __init__(self, page: Page, *names: str) -> None:
        self.sampled_at = self.now = round(time.time())
        self.turns = itertools.cycle(names)
        self.name = ""  # whose turn it was last
        page.route("**/api/operations/*", self._answer)

    def _answer(self, route: Route) -> None:
        made = {"health": self._health, "history": self._history, "jobs": lambda: {"items": []}}
        route.fulfill(json=made[urlsplit(route.request.url).path.rpartition("/")[2]]())

    def _health(self) -> dict[str, Any]:
        self.name = next(self.turns)
        check = {
            "state": "pass",
            "required": True,
            "latency_seconds": 0.001,
            "age_seconds": 0.4,
            "last_change": self.now - 60,
            "failures_in_a_row": 0,
        }
        return {
            "status": "healthy",
            "state": "ready",
            "timestamp": self.now,
            "uptime": 60,
            "version": "1.0",
            "pid": 11,
            "replica": self.name,
            "cpu_percent": 12.4,
            "cpus": 2,
            "memory": {"percent": 5.5, "total": 1024 * MIB},
            "disk": {"percent": 81, "total": 1024 * MIB},
            "inodes": {"percent": 3},
            "sample_age_seconds": 0.5,
            "workers": WORKERS,
            "checks": {"database": check},
        }

    def _history(self) -> dict[str, Any]:
        at = [self.sampled_at - 10, self.sampled_at - 5, self.sampled_at]
        return {"replica": self.name, "now": self.now, "columns": {"at": at} | COLUMNS}


@pytest.fixture
def url(make_web: MakeWeb) -> str:
    return make_web({"DATABASE_URL": "sqlite:///s.sqlite3"}).url


def test_every_figure_is_that_of_the_samples(url: str, tab: Tab) -> None:
    """And once they are old, nothing is concluded from them."""
    page = tab.page
    replicas = Replicas(page, "one")
    enter(page, url)
    for title, texts in FIGURES.items():
        figure = page.locator("figure", has_text=title)
        expect(figure.locator(".latest span")).to_have_text(texts)
    check = page.locator(".check", has_text="database")
    expect(check.locator("path")).to_have_attribute("d", "M0.0 12.0L50.0 1.0L100.0 12.0")
    rows = page.get_by_role("region", name="Table of workers").get_by_role("row")
    expect(rows).to_have_count(3)
    cells = [row.locator("th, td").all_inner_texts() for row in rows.all()[1:]]
    assert cells == [
        ["11", "0.5 s ago", "2.0 ms", "1,234", "50 MiB"],
        ["12", "4.0 s ago", "–", "0", "–"],
    ]
    expect_verdict(page, "Jobs wait")
    replicas.now += 20
    expect_verdict(page, "All is well")
    expect(page.get_by_role("heading", name="The last quarter of an hour as of")).to_be_visible()


def test_the_replica_that_is_chosen_is_shown_also_after_another_is_gone(url: str, tab: Tab) -> None:
    """Those that answer are counted without it sooner than it is gone."""
    page = tab.page
    page.clock.install()
    replicas = Replicas(page, "one", "two", "three")
    enter(page, url)
    chosen = page.get_by_label("Replica")
    options = chosen.locator("option")
    shown = page.locator(".facts > div", has_text="Replica").locator("dd")
    let_pass(page, 6, LOOK_MILLISECONDS)
    expect(options).to_have_count(3)
    expect(page.locator(".choice")).to_contain_text("3 answer in turn")
    for name in ("three", "one", "two"):
        chosen.select_option(name)
        expect(shown).to_have_text(name)
    replicas.turns = itertools.cycle(("one", "three"))
    let_pass(page, 10, LOOK_MILLISECONDS)
    expect(page.locator(".choice")).to_contain_text("2 answer in turn")
    expect(options).to_have_count(3)
    let_pass(page, 16, LOOK_MILLISECONDS)
    replicas.turns = itertools.cycle(("three", "three", "three", "one"))
    let_pass(page, 8, LOOK_MILLISECONDS)
    expect(options).to_have_count(2)
    expect(shown).to_have_text("three")
    expect(chosen).to_have_value("three")
