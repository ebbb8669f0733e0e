"""The page for operators, in a browser: what it shows when all is well, and when it is not."""

import contextlib
import itertools
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from browser import SCHEMES, WIDTHS, Tab, assert_accessible, assert_painted_at_once, screenshot
from deployments import migrate
from servers import Postgresql, RedisServer, Web, require

pytestmark = pytest.mark.alone

MakeWeb = Callable[..., Web]
TOKEN = "token-of-the-tests"  # as Web has it
DEFER = (
    "SELECT procrastinate_defer_jobs_v1(array_agg(ROW('default', 'test.fail', 0, NULL, NULL,"
    " jsonb_build_object('number', n), NULL)::procrastinate_job_to_defer_v1))"
    " FROM generate_series(0, 1) AS n"
)
FAILED_JOBS = (
    DEFER,
    "UPDATE procrastinate_jobs SET status = 'doing'",
    "UPDATE procrastinate_jobs SET status = 'failed'",
    "INSERT INTO job_failures SELECT id, 'The disk is full.', now() FROM procrastinate_jobs",
)


@pytest.fixture
def environment(
    own_postgresql: Postgresql, own_redis: RedisServer, tmp_path: Path
) -> dict[str, str]:
    environment = {
        "DATABASE_URL": own_postgresql.new_database(),
        "REDIS_URL": own_redis.url,
        "WEB_CONCURRENCY": "2",
        "SHUTDOWN_DRAIN_SECONDS": "8",
        "SHUTDOWN_GRACE_SECONDS": "20",
    }
    migrate(environment, tmp_path)
    return environment


@pytest.fixture
def web(make_web: MakeWeb, environment: dict[str, str]) -> Web:
    return make_web(environment, wait="/health/ready")


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:
    tab = Tab(browser, viewport={"width": 1280, "height": 900})
    yield tab
    tab.close()


def enter(page: Page, web: Web, token: str = TOKEN) -> None:
    page.goto(f"{web.url}/operations")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Show").click()


def verdict(page: Page) -> str:
    return page.locator(".verdict h2").inner_text()


def expect_verdict(page: Page, text: str, seconds: float = 20) -> None:
    expect(page.locator(".verdict h2")).to_have_text(text, timeout=seconds * 1000)


def test_it_opens_with_the_token_alone(web: Web, tab: Tab) -> None:
    """And asks for it again after a reload, as it keeps it nowhere."""
    enter(tab.page, web, "guessed-guessed-gu")
    assert_painted_at_once(tab.page)
    expect(tab.page.get_by_role("alert")).to_have_text("That is not the token.")
    enter(tab.page, web)
    expect_verdict(tab.page, "All is well")
    tab.page.reload()
    expect(tab.page.get_by_label("Token")).to_be_visible()
    stored = "JSON.stringify([localStorage.length, sessionStorage.length, document.cookie])"
    assert tab.page.evaluate(stored) == '[0,0,""]'
    assert tab.complaints == []


def test_without_a_token_in_the_service_it_says_so(make_web: MakeWeb, tab: Tab) -> None:
    web = make_web({"HEALTH_TOKEN": "", "DATABASE_URL": "sqlite:///s.sqlite3"})
    enter(tab.page, web)
    expect(tab.page.get_by_role("alert")).to_contain_text("no HEALTH_TOKEN")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_reads_well(web: Web, browser: Browser, scheme: str, width: int) -> None:
    tab = Tab(browser, viewport={"width": width, "height": 900}, color_scheme=scheme)
    with contextlib.closing(tab):
        tab.page.goto(f"{web.url}/operations")
        assert_accessible(tab.page)
        enter(tab.page, web)
        expect_verdict(tab.page, "All is well")
        expect(tab.page.locator(".uplot canvas")).to_have_count(8)
        for _ in range(20):
            web.get("/nowhere")
        rate = tab.page.locator("figure", has_text="Requests a second").locator(".latest")
        expect(rate).to_contain_text(re.compile("client's mistakes [1-9]"))
        rows = tab.page.get_by_role("region", name="Table of workers").get_by_role("row")
        expect(rows).to_have_count(3)
        assert_accessible(tab.page)
        screenshot(tab.page, f"operations-{scheme}-{width}")
        assert tab.complaints == []


def test_it_tells_of_what_is_away_and_of_its_return(
    web: Web, tab: Tab, own_postgresql: Postgresql, own_redis: RedisServer
) -> None:
    page = tab.page
    enter(page, web)
    expect_verdict(page, "All is well")
    own_redis.stop()
    expect_verdict(page, "Degraded")
    expect(page.locator(".verdict")).to_contain_text("cache")
    screenshot(page, "operations-degraded")
    own_redis.start()
    expect_verdict(page, "All is well")
    own_postgresql.stop()
    expect_verdict(page, "Not ready")
    expect(page.locator(".verdict")).to_contain_text("database")
    screenshot(page, "operations-not-ready")
    own_postgresql.start()
    expect_verdict(page, "All is well")
    assert tab.complaints == []


def test_it_tells_of_a_drain_and_of_a_service_that_is_gone(web: Web, tab: Tab) -> None:
    """And goes on by itself, without the token being typed again."""
    page = tab.page
    enter(page, web)
    expect_verdict(page, "All is well")
    web.send_signal(signal.SIGTERM)
    expect_verdict(page, "Draining", 8)
    expect_verdict(page, "No answer", 40)
    screenshot(page, "operations-no-answer")
    web.stop()
    web.start(wait="/health/ready")
    expect_verdict(page, "All is well", 40)


def test_it_does_not_say_that_all_is_well_while_nothing_answers(web: Web, tab: Tab) -> None:
    page = tab.page
    enter(page, web)
    expect_verdict(page, "All is well")
    workers = web.workers()
    try:
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        expect(page.locator(".verdict h2")).to_have_text(re.compile("Unknown|No answer"))
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    expect_verdict(page, "All is well", 40)


def take_turns(page: Page, webs: list[Web]) -> None:
    """As a load balancer in front of two replicas does, with what the page asks for."""
    turns = itertools.cycle([*webs, *reversed(webs)])

    def send(route: Route) -> None:
        route.continue_(url=re.sub(r"http://[^/]+", next(turns).url, route.request.url))

    page.route("**/api/operations/h*", send)


def test_replicas_that_answer_in_turn_are_told_apart(
    web: Web, make_web: MakeWeb, environment: dict[str, str], tab: Tab
) -> None:
    require(os.geteuid() == 0, "Being root, for a second host name,")
    name = ("unshare", "--uts", "sh", "-c", 'hostname the-second; exec "$@"', "sh")
    full = {"UPLOAD_FOLDER": "/proc/nowhere", "SHUTDOWN_DRAIN_SECONDS": "0.5"}
    second = make_web(environment | full, prefix=name)
    page, first = tab.page, socket.gethostname()
    page.on("request", lambda request: asked.append(request.url))
    asked: list[str] = []
    take_turns(page, [web, second])
    enter(page, web)
    # One that is not well is seen, whichever answers and whichever is shown.
    expect_verdict(page, "Degraded")
    expect(page.locator(".verdict")).to_contain_text("the-second: It serves, without: disk space")
    shown = page.get_by_label("Replica")
    expect(shown).to_have_value(first)
    workers = page.get_by_role("region", name="Table of workers").get_by_role("row")
    for replica, pids in ((first, web.workers()), ("the-second", second.workers())):
        shown.select_option(replica)
        expect(workers).to_have_count(3)
        for _ in range(2):  # looks
            texts = [row.split()[0] for row in workers.all_inner_texts()[1:]]
            assert sorted(texts) == sorted(map(str, pids))
            page.wait_for_timeout(2500)
    check = page.locator(".check", has_text="disk space")
    expect(check.locator(".state")).to_have_text("fail")
    # Each has samples of its own, none of which is fetched again once all have some.
    histories = [url for url in asked if "/history" in url]
    assert [url for url in histories[4:] if url.endswith("since=0")] == []
    assert_accessible(page)
    screenshot(page, "operations-replicas")
    second.stop()
    page.unroute("**/api/operations/h*")
    expect_verdict(page, "All is well")
    assert tab.complaints == []


def test_a_job_that_failed_is_run_again_or_discarded(
    web: Web, tab: Tab, own_postgresql: Postgresql
) -> None:
    """By keyboard."""
    database = web.environment["DATABASE_URL"].rpartition("/")[2]
    for sql in FAILED_JOBS:
        own_postgresql.psql(sql, database)
    page = tab.page
    page.on("dialog", lambda dialog: dialog.accept())
    enter(page, web)
    jobs = page.get_by_role("region", name="Table of failed jobs")
    rows = jobs.get_by_role("row")
    expect(rows).to_have_count(3)
    expect(rows.nth(1)).to_contain_text("The disk is full.")
    assert_accessible(page)
    screenshot(page, "operations-failed-jobs")
    rows.nth(1).get_by_role("button", name="Discard").press("Enter")
    expect(rows).to_have_count(2)
    rows.nth(1).get_by_role("button", name="Retry").press("Enter")
    expect(page.get_by_text("None. What a job could not do")).to_be_visible()
    left = "SELECT status, args ->> 'number' FROM procrastinate_jobs"
    assert own_postgresql.psql(left, database) == "todo|0"
    assert tab.complaints == []
