"""The page for operators, in a browser: what it shows when all is well, and when it is not."""

import itertools
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from browser import SCHEMES, WIDTHS, Tab, assert_accessible, assert_painted_at_once, screenshot
from conftest import PATIENT
from deployments import migrate
from nginx import Nginx, available
from operations import (
    MakeTab,
    alter,
    enter,
    expect_text,
    expect_verdict,
    give,
    refuse,
    verdict,
)
from servers import Postgresql, RedisServer, Web, require, run_service, wait_until

pytestmark = pytest.mark.browser

MakeWeb = Callable[..., Web]
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
WAITING_JOBS = (DEFER, "UPDATE procrastinate_events SET at = now() - interval '1 hour'")
# Whether a canvas has more on it than its grey axes.
HAS_LINES = """canvas => {
    const { width, height } = canvas
    const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true })
    copy.drawImage(canvas, 0, 0)
    const { data } = copy.getImageData(0, 0, width, height)
    for (let i = 0; i < data.length; i += 4) {
        const [red, green, blue, opacity] = data.slice(i, i + 4)
        const colour = Math.max(red, green, blue) - Math.min(red, green, blue)
        if (opacity > 128 && colour > 60) return true
    }
    return false
}"""
NOTE_TITLES = """() => {
    window.titles = []
    const title = document.querySelector("title")
    const note = () => window.titles.push(document.title)
    new MutationObserver(note).observe(title, { childList: true })
}"""
HIDE_BEHIND_VERDICT = """() => {
    const table = document.querySelector("[aria-label='Table of workers']")
    scrollTo(0, scrollY + table.getBoundingClientRect().top)
    document.querySelector("main button").focus({ preventScroll: true })
}"""
FOCUS_IS_SEEN = """() => {
    const verdict = document.querySelector(".verdict").getBoundingClientRect()
    return document.activeElement.getBoundingClientRect().top >= verdict.bottom
}"""


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
    environment |= {name.upper(): str(value) for name, value in PATIENT.items()}
    migrate(environment, tmp_path)
    return environment


@pytest.fixture
def web(make_web: MakeWeb, environment: dict[str, str]) -> Web:
    return make_web(environment, wait="/health/ready")


@pytest.fixture
def nginx(nginx_directory: Path) -> Iterator[Nginx]:
    """With the limits of production; not started."""
    require(available("installed"), "nginx")
    nginx = Nginx(nginx_directory / "operations", "installed", name="localhost")
    yield nginx
    nginx.stop()


def assert_reads_well(page: Page, name: str) -> None:
    """Where it is hardest: in the dark, on a telephone."""
    size = page.viewport_size
    assert size
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 360, "height": 900})
    assert_accessible(page)
    screenshot(page, f"operations-{name}-dark-360")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(size)


def test_it_opens_with_the_token_alone(web: Web, tab: Tab) -> None:
    """And asks for it again after a reload, as it keeps it nowhere."""
    enter(tab.page, web.url, "guessed-guessed-gu")
    assert_painted_at_once(tab.page)
    expect(tab.page.get_by_role("alert")).to_have_text("That is not the token.")
    enter(tab.page, web.url)
    expect_verdict(tab.page, "All is well")
    tab.page.reload()
    expect(tab.page.get_by_label("Token")).to_be_visible()
    stored = "JSON.stringify([localStorage.length, sessionStorage.length, document.cookie])"
    assert tab.page.evaluate(stored) == '[0,0,""]'


def test_without_a_token_in_the_service_it_says_so(make_web: MakeWeb, tab: Tab) -> None:
    web = make_web({"HEALTH_TOKEN": "", "DATABASE_URL": "sqlite:///s.sqlite3"})
    enter(tab.page, web.url)
    expect(tab.page.get_by_role("alert")).to_contain_text("no HEALTH_TOKEN")


def test_a_token_that_is_forgotten_or_rotated_leaves_nothing(web: Web, tab: Tab) -> None:
    """The focus is where it goes on."""
    page = tab.page
    entrance = re.compile("^Operations - ")
    enter(page, web.url)
    expect_verdict(page, "All is well")
    expect(page.locator(".verdict h2")).to_be_focused()
    expect(page).to_have_title("All is well - Operations")
    page.get_by_role("button", name="Forget the token").click()
    expect(page.get_by_label("Token")).to_be_focused()
    expect(page).to_have_title(entrance)
    give(page)
    expect_verdict(page, "All is well")
    refuse(page, "health", 401, "Unauthorized")
    expect(page.get_by_role("alert")).to_have_text("The token is no longer good.")
    expect(page.get_by_label("Token")).to_be_focused()
    expect(page).to_have_title(entrance)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_reads_well(web: Web, make_tab: MakeTab, scheme: str, width: int) -> None:
    page = make_tab(width, color_scheme=scheme).page
    page.goto(f"{web.url}/operations")
    assert_accessible(page)
    enter(page, web.url)
    expect_verdict(page, "All is well")
    expect(page.locator(".uplot canvas")).to_have_count(8)
    for _ in range(20):
        web.get("/nowhere")
    rate = page.locator("figure", has_text="Requests a second").locator(".latest")
    expect(rate).to_contain_text(re.compile("client's mistakes [1-9]"))
    load = page.locator("figure", has_text="CPU, memory and disk").locator(".latest")
    expect(load).to_contain_text(re.compile("CPU .*memory [0-9].*disk [0-9]"))
    rows = page.get_by_role("region", name="Table of workers").get_by_role("row")
    expect(rows).to_have_count(3)
    assert_accessible(page)
    screenshot(page, f"operations-{scheme}-{width}")


def test_it_works_through_nginx_within_its_limits(
    nginx: Nginx,
    make_web: MakeWeb,
    environment: dict[str, str],
    own_postgresql: Postgresql,
    tab: Tab,
    tmp_path: Path,
) -> None:
    site = f"https://{nginx.name}:{nginx.port}"
    behind = {
        "BIND": f"unix:{nginx.folder('run')}/web.sock",
        "ALLOWED_HOSTS": nginx.name,
        "PUBLIC_URL": site,
    }
    web = make_web(environment | behind, wait=None)
    static = run_service(
        "static", str(nginx.folder("static")), environment=web.variables(), cwd=tmp_path
    )
    assert static.returncode == 0, static.stderr
    nginx.start()
    wait_until(lambda: nginx.ask("/health").status_code == 200, seconds=60, every=0.5)
    page = tab.page
    statuses: set[int] = set()
    page.on("response", lambda answer: statuses.add(answer.status))
    enter(page, site)
    expect_verdict(page, "All is well")
    plot = page.locator("figure", has_text="CPU, memory and disk").locator("canvas")
    page.wait_for_function(HAS_LINES, arg=plot.element_handle())
    assert_accessible(page)
    page.wait_for_timeout(10_000)  # of looks
    # 503 is also how an unhealthy service reports: nginx lets its words through.
    own_postgresql.stop()
    expect_verdict(page, "Not ready")
    expect_text(page, "database")
    web.stop()
    expect_verdict(page, "No answer")
    assert 429 not in statuses


def test_it_tells_of_what_is_away_and_of_its_return(
    web: Web, tab: Tab, own_postgresql: Postgresql, own_redis: RedisServer
) -> None:
    page = tab.page
    enter(page, web.url)
    expect_verdict(page, "All is well")
    spoken = page.locator("[aria-live]")
    expect(spoken).to_have_text("All is well")  # and not for how long it is up
    own_redis.stop()
    expect_verdict(page, "Degraded")
    expect_text(page, "cache")
    expect(spoken).to_have_text("Degraded")
    screenshot(page, "operations-degraded")
    assert_reads_well(page, "degraded")
    own_redis.start()
    expect_verdict(page, "All is well")
    own_postgresql.stop()
    expect_verdict(page, "Not ready")
    expect_text(page, "database")
    screenshot(page, "operations-not-ready")
    assert_reads_well(page, "not-ready")
    page.set_viewport_size({"width": 360, "height": 400})
    page.evaluate(HIDE_BEHIND_VERDICT)
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(FOCUS_IS_SEEN)
    own_postgresql.start()
    expect_verdict(page, "All is well")


def test_it_tells_of_a_drain_and_of_a_service_that_is_gone(web: Web, tab: Tab) -> None:
    """And goes on by itself, without the token being typed again."""
    page = tab.page
    enter(page, web.url)
    expect_verdict(page, "All is well")
    web.send_signal(signal.SIGTERM)
    expect_verdict(page, "Draining", 8)
    assert_reads_well(page, "draining")
    expect_verdict(page, "No answer", 40)
    screenshot(page, "operations-no-answer")
    web.stop()
    web.start(wait="/health/ready")
    expect_verdict(page, "All is well", 40)


def test_it_does_not_say_that_all_is_well_while_nothing_answers(web: Web, tab: Tab) -> None:
    page = tab.page
    enter(page, web.url)
    expect_verdict(page, "All is well")
    expect(page.get_by_text("None. What a job could not do")).to_be_visible()
    workers = web.workers()
    parts = ("Checks", "The last", "Workers", "Failed jobs")
    old = page.get_by_role("heading", name=re.compile("as of .* ago"))
    expect(old).to_have_count(0)
    try:
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        expect(page.locator(".verdict h2")).to_have_text(re.compile("Unknown|No answer"))
        expect(old).to_have_text([re.compile(f"^{name}") for name in parts])
        assert_reads_well(page, "no-answer")
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    expect_verdict(page, "All is well", 40)
    expect(old).to_have_count(0)


def test_who_asks_too_often_is_not_told_of_an_outage(web: Web, tab: Tab) -> None:
    page = tab.page
    enter(page, web.url)
    expect_verdict(page, "All is well")
    refuse(page, "history", 429, "This client asks too often.")
    load = page.get_by_role("region", name="The last quarter of an hour")
    expect(load.get_by_role("status")).to_have_text("This client asks too often.")
    assert verdict(page) == "All is well"
    refuse(page, "health", 429, "This client asks too often.")
    expect_verdict(page, "Unknown")
    expect_text(page, "This client asks too often. The last report is")
    page.unroute_all()
    expect_verdict(page, "All is well")
    expect(load.get_by_role("status")).to_have_text("")


def test_a_hidden_tab_keeps_its_title_until_it_has_asked(web: Web, tab: Tab) -> None:
    """Its timers run once a minute."""
    page = tab.page
    page.clock.install()
    page.add_init_script("Object.defineProperty(document, 'hidden', { get: () => true })")
    enter(page, web.url)
    expect(page).to_have_title("All is well - Operations")
    expect(page.get_by_text("None. What a job could not do")).to_be_visible()  # it waits
    page.evaluate(NOTE_TITLES)
    page.clock.fast_forward("01:00")
    page.wait_for_timeout(3000)
    assert set(page.evaluate("window.titles")) == {"All is well - Operations"}


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
    enter(page, web.url)
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


def test_a_worker_that_is_not_well_is_seen_whichever_answers(web: Web, tab: Tab) -> None:
    page = tab.page
    turns = itertools.cycle((False, True))

    def without_cache(report: dict[str, Any]) -> None:
        if next(turns):
            report.update(pid=1, status="degraded")
            report["checks"]["cache"]["state"] = "fail"

    alter(page, "health", without_cache)
    enter(page, web.url)
    expect_verdict(page, "Degraded")
    expect_text(page, "Process 1: It serves, without: cache.")
    for _ in range(6):
        assert verdict(page) == "Degraded"
        assert page.locator(".check", has_text="cache").locator(".state").inner_text() == "fail"
        page.wait_for_timeout(1000)
    page.unroute_all()
    expect_verdict(page, "All is well")


def test_clocks_that_are_off_do_not_matter(web: Web, tab: Tab) -> None:
    """That of the browser, and that of a second replica."""
    page, hour = tab.page, 3600
    page.clock.install(time=datetime.now(UTC) + timedelta(hours=1))
    of_reports, of_samples = itertools.cycle((0, hour)), itertools.cycle((0, hour))

    def report(body: dict[str, Any]) -> None:
        if late := next(of_reports):
            body.update(replica="the-second", timestamp=body["timestamp"] - late)
            for check in body["checks"].values():
                check["last_change"] -= late

    def history(body: dict[str, Any]) -> None:
        if late := next(of_samples):
            body.update(replica="the-second", now=body["now"] - late)
            body["columns"]["at"] = [at - late for at in body["columns"].get("at", [])]

    alter(page, "health", report)
    alter(page, "history", history)
    enter(page, web.url)
    shown = page.get_by_label("Replica")
    plot = page.locator("figure", has_text="CPU, memory and disk").locator("canvas")
    since = page.locator(".check time").first
    for name, late in ((socket.gethostname(), 0), ("the-second", hour)):
        shown.select_option(name)
        page.wait_for_function(HAS_LINES, arg=plot.element_handle())
        expect(page.get_by_role("heading", name="as of")).to_have_count(0)
        moment = datetime.fromisoformat(str(since.get_attribute("datetime")))
        age = (datetime.now(UTC) - moment).total_seconds()
        assert late <= age < late + 120
    assert verdict(page) == "All is well"


def test_it_warns_of_a_worker_without_a_heartbeat(web: Web, tab: Tab) -> None:
    page = tab.page
    alter(page, "health", lambda body: body["workers"][0].update(heartbeat_age_seconds=6))
    enter(page, web.url)
    expect_verdict(page, "A worker hangs")
    expect_text(page, f"No heartbeat of process {min(web.workers())}.")


def test_it_warns_of_jobs_that_wait_and_names_those_that_failed(
    web: Web, tab: Tab, own_postgresql: Postgresql
) -> None:
    database = web.environment["DATABASE_URL"].rpartition("/")[2]
    for sql in (*FAILED_JOBS, *WAITING_JOBS):
        own_postgresql.psql(sql, database)
    page = tab.page
    enter(page, web.url)
    expect_verdict(page, "Jobs wait")
    expect_text(page, "The oldest job has waited for 1 h 0 min. Failed jobs: 2.")
    assert_reads_well(page, "jobs-wait")
    own_postgresql.psql("DELETE FROM procrastinate_jobs WHERE status = 'todo'", database)
    expect_verdict(page, "All is well")
    expect_text(page, "Failed jobs: 2.")


def enter_with_failed_jobs(web: Web, tab: Tab, postgresql: Postgresql) -> Page:
    """Where whoever is asked says yes."""
    database = web.environment["DATABASE_URL"].rpartition("/")[2]
    for sql in FAILED_JOBS:
        postgresql.psql(sql, database)
    tab.page.on("dialog", lambda dialog: dialog.accept())
    enter(tab.page, web.url)
    return tab.page


def test_a_job_that_failed_is_run_again_or_discarded(
    web: Web, tab: Tab, own_postgresql: Postgresql
) -> None:
    """By keyboard: the focus goes to the next job, and behind the last to the heading."""
    page = enter_with_failed_jobs(web, tab, own_postgresql)
    jobs = page.get_by_role("region", name="Table of failed jobs")
    rows = jobs.get_by_role("row")
    expect(rows).to_have_count(3)
    expect(rows.nth(1)).to_contain_text("The disk is full.")
    assert_accessible(page)
    screenshot(page, "operations-failed-jobs")
    assert_reads_well(page, "failed-jobs")
    rows.nth(1).get_by_role("button", name="Discard").press("Enter")
    expect(rows).to_have_count(2)
    expect(rows.nth(1).get_by_role("button", name="Discard")).to_be_focused()
    rows.nth(1).get_by_role("button", name="Retry").press("Enter")
    expect(page.get_by_text("None. What a job could not do")).to_be_visible()
    expect(page.get_by_role("heading", name="Failed jobs")).to_be_focused()
    left = "SELECT status, args ->> 'number' FROM procrastinate_jobs"
    database = web.environment["DATABASE_URL"].rpartition("/")[2]
    assert own_postgresql.psql(left, database) == "todo|0"


def test_a_list_from_before_a_job_was_discarded_does_not_bring_it_back(
    web: Web, tab: Tab, own_postgresql: Postgresql
) -> None:
    page = enter_with_failed_jobs(web, tab, own_postgresql)
    rows = page.get_by_role("region", name="Table of failed jobs").get_by_role("row")
    expect(rows).to_have_count(3)
    late: list[Callable[[], None]] = []

    def hold(route: Route) -> None:
        answer = route.fetch()
        late.append(lambda: route.fulfill(response=answer))

    page.route("**/api/operations/jobs?*", hold, times=1)
    while not late:
        page.wait_for_timeout(100)
    rows.nth(1).get_by_role("button", name="Discard").click()
    expect(rows).to_have_count(2)
    late[0]()
    page.wait_for_timeout(1000)
    assert rows.count() == 2
