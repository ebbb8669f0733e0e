"""The library in a browser while something is refused, cut off, slow or away."""

import json
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from browser import let_pass
from deployments import PASSWORD
from library import (
    BUSY,
    GALLERY,
    ITEM,
    LIST,
    LOOKED_AT,
    SLOW_TIMERS,
    Held,
    Library,
    answering,
    expect_live,
    expect_ready,
    item,
    log_in,
    own,
    public,
    seen,
    upload,
    uploaded,
)
from servers import wait_until

pytestmark = pytest.mark.browser

COUNT_REVOKED = """() => {
    const revoke = URL.revokeObjectURL
    window.revoked = 0
    URL.revokeObjectURL = address => { window.revoked += 1; revoke.call(URL, address) }
}"""
CUT_OFF: dict[str, Any] = {"status": 200, "content_type": "application/json", "body": '{"items": ['}


# what is asked


@pytest.mark.parametrize("answer", [BUSY, CUT_OFF], ids=["busy", "cut off"])
def test_a_list_that_failed_is_asked_for_again(library: Library, answer: dict[str, Any]) -> None:
    page = library.joined().page
    page.route(LIST, answering(**answer), times=3)
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("The service")
    expect_live(page)
    expect(page.get_by_text("Nothing here yet.")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


class Pages:
    """Lists of two pages, of which the second is refused as one too many, at first."""

    def __init__(self, wait: str) -> None:
        self.refusal = {"status": 429, "json": {}, "headers": {"Retry-After": wait}}
        self.asked: list[tuple[float, bool]] = []
        self.refused = 0

    def __call__(self, route: Route) -> None:
        second = "cursor=" in route.request.url
        self.asked.append((monotonic(), second))
        if second and not self.refused:
            self.refused = len(self.asked)
            route.fulfill(**self.refusal)
        else:
            route.fulfill(**(own("c") if second else own("a", "b", next_cursor="2")))


def test_a_list_that_is_refused_in_its_middle_goes_on_from_there(library: Library) -> None:
    page = library.joined().page
    pages = Pages("2")
    page.route(LIST, pages)
    page.reload()
    expect(page.locator(".item")).to_have_count(2)
    page.get_by_role("button", name="Show more").press("Enter")
    expect(page.locator(".item")).to_have_count(3)
    expect(page.get_by_role("button", name="Details of c")).to_be_focused()  # the first that came
    (before, _), (after, second) = pages.asked[pages.refused - 1 : pages.refused + 1]
    assert second
    assert after - before > 1.9


def test_a_list_that_waits_is_given_up_for_another_login(library: Library) -> None:
    page = library.joined().page
    pages = Pages("60")
    page.route(LIST, pages)
    page.reload()
    page.get_by_role("button", name="Show more").click()
    seen(page, lambda: pages.refused > 0)
    page.unroute(LIST)
    page.get_by_role("button", name="Log out").click()
    log_in(page, "ada@example.org")
    expect(page.get_by_text("Nothing here yet.")).to_be_visible()


def test_an_item_that_is_ready_is_shown_also_where_asking_for_it_is_refused(
    library: Library,
) -> None:
    """Also where a list was under way meanwhile, which may be from before."""
    page = library.joined().page
    page.route(ITEM, answering(**BUSY))
    upload(page, "one.jpg")
    expect_ready(page, "one.jpg")
    expect_live(page)
    held = Held()
    page.route(LIST, held)
    page.evaluate(LOOKED_AT)
    held.wait(page)
    upload(page, "two.jpg")
    ready = "SELECT count(*) FROM media_items WHERE status = 'ready'"
    wait_until(lambda: library.sql(ready) == "2")
    page.wait_for_timeout(2500)  # longer than it waits after a refusal
    page.unroute(LIST)
    held.routes[0].fulfill(**own())
    expect_ready(page, "two.jpg")


def test_what_was_deleted_elsewhere_does_not_come_back(library: Library) -> None:
    """With an answer from before; nor by an undo, which says so."""
    tab = library.joined()
    page = tab.page
    upload(page, "two.jpg")
    expect_ready(page, "two.jpg")
    uploaded(page, "one.jpg")
    page.keyboard.press("Escape")
    page.evaluate(SLOW_TIMERS)
    item(page, "two.jpg").get_by_role("button").click()
    page.get_by_role("button", name="Delete").click()
    late: list[Callable[[], None]] = []

    def hold(route: Route) -> None:
        answer = route.fetch()
        late.append(lambda: route.fulfill(response=answer))

    page.route(ITEM, hold, times=1)
    other = library.second(tab)
    item(other, "one.jpg").get_by_role("button").click()
    other.get_by_label("Title").fill("Sunrise")
    other.get_by_role("button", name="Rename").click()
    seen(page, lambda: bool(late))
    for title in ("Sunrise", "two.jpg"):
        other.keyboard.press("Escape")
        item(other, title).get_by_role("button").click()
        other.get_by_role("button", name="Delete").click()
    other.goto("about:blank")  # and what may be undone there no longer is
    expect(page.locator(".item")).to_have_count(0)
    late[0]()
    page.wait_for_timeout(500)
    assert page.locator(".item").count() == 0
    wait_until(lambda: library.sql("SELECT count(*) FROM media_items") == "0")
    with page.expect_response(LIST):
        page.evaluate(LOOKED_AT)
    page.wait_for_timeout(200)
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("alert")).to_contain_text("two.jpg cannot be brought back")
    expect(page.locator(".item")).to_have_count(0)


def test_a_page_that_is_left_open_keeps_no_more_than_it_shows(library: Library) -> None:
    """Neither items that push others behind its end, nor pictures of what is gone."""
    page = library.joined().page
    upload(page, "one.jpg")
    expect_ready(page, "one.jpg")
    page.evaluate(COUNT_REVOKED)
    page.route(LIST, answering(**own(*map(str, range(100)))))
    page.evaluate(LOOKED_AT)
    items = page.locator(".item")
    expect(items).to_have_count(100)
    expect(page.get_by_role("button", name="Show more")).to_have_count(0)
    assert page.evaluate("window.revoked") == 1
    upload(page, "new.txt", content=b"Dear Charles")
    expect(items.first).to_contain_text("new.txt")
    expect(page.get_by_role("button", name="Show more")).to_be_visible()
    expect(items).to_have_count(100)


def test_a_preview_that_does_not_come_is_asked_for_less_and_less_often(library: Library) -> None:
    """Also one that is public, which the browser fetches by itself."""
    page, visitor = library.joined().page, library.tab("login").page
    for each in (page, visitor):
        each.clock.install()
        each.reload()
    refused: list[str] = []

    def refuse(route: Route) -> None:
        refused.append(route.request.url)
        route.fulfill(**BUSY)

    hanging = Held()
    page.route("**/thumbnail", refuse)
    page.route("**/thumbnail", hanging, times=1)
    upload(page, "one.jpg")
    hanging.wait(page)
    let_minutes_pass(page, 10)
    assert 3 < len(refused) < 12
    page.unroute_all()
    let_come(page, "one.jpg")
    item(page, "one.jpg").get_by_role("button").click()
    page.get_by_label("Public").check()
    expect(item(page, "one.jpg")).to_contain_text("public")

    refused.clear()
    visitor.route("**/thumbnail", refuse, times=3)
    visitor.get_by_role("link", name="Gallery").click()
    expect(item(visitor, "one.jpg")).to_be_visible()
    seen(visitor, lambda: len(refused) == 1)
    let_minutes_pass(visitor, 3)
    let_come(visitor, "one.jpg")
    expect(visitor.locator(".item img")).to_have_js_property("naturalWidth", 320)
    assert len(refused) == 3


def let_minutes_pass(
    page: Page, minutes: int, *, until: Callable[[], bool] = lambda: False
) -> None:
    """In parts that are shorter than it waits for an answer."""
    let_pass(page, 6 * minutes, 10_000, until=until)


def let_come(page: Page, title: str) -> None:
    """An item's preview; it is asked for again where the answer was late for a clock that flies."""
    picture = item(page, title).locator("img")
    let_minutes_pass(page, 60, until=lambda: picture.count() > 0)
    expect_ready(page, title)


def test_a_key_list_that_failed_is_no_promise(library: Library) -> None:
    page = library.joined().page
    page.route("**/api/keys", answering(**BUSY))
    page.get_by_role("link", name="API keys").click()
    expect(page.get_by_text("The service is busy.")).to_be_visible()
    expect(page.get_by_text("Looking …")).to_have_count(0)


def test_a_gallery_that_failed_is_not_said_to_be_empty(library: Library) -> None:
    page = library.tab("login").page
    page.route(GALLERY, answering(**BUSY))
    page.get_by_role("link", name="Gallery").click()
    expect(page.get_by_role("alert")).to_contain_text("The service is busy.")
    expect(page.get_by_text("Nothing is public yet.")).to_have_count(0)


# logins and forms


def test_a_late_refusal_ends_no_login_of_another_tab(library: Library) -> None:
    page = library.joined().page
    library.sql("DELETE FROM tokens")
    form = {"username": "ada@example.org", "password": PASSWORD}
    token = library.nginx.ask("/login", "POST", data=form).json()["access_token"]
    kept = json.dumps({"token": token, "email": "ada@example.org"})
    page.evaluate("kept => localStorage.setItem('service.session', kept)", kept)
    page.get_by_role("link", name="API keys").click()
    expect(page.get_by_text("There are none.")).to_be_visible()
    assert page.evaluate("localStorage.getItem('service.session')") == kept
    page.get_by_role("link", name="Mine").click()
    expect_live(page)


def test_a_page_that_was_kept_behind_another_shows_who_is_logged_in_now(library: Library) -> None:
    """Nobody told it meanwhile."""
    page = library.joined().page
    kept = page.evaluate("localStorage.getItem('service.session')")
    back = "dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))"
    page.evaluate(f"localStorage.removeItem('service.session'); {back}")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    page.evaluate(f"localStorage.setItem('service.session', {json.dumps(kept)}); {back}")
    expect(page.get_by_text("ada@example.org")).to_be_visible()
    expect_live(page)


def test_what_a_form_that_was_left_is_told_does_not_show_on_another(library: Library) -> None:
    page = library.tab("join").page
    held = Held()
    page.route("**/api/accounts", held)
    page.get_by_label("Mail address").fill("ada@example.org")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Make it").click()
    held.wait(page)
    expect(page.get_by_role("button", name="Make it")).to_be_focused()
    page.get_by_role("link", name="I have one").click()
    expect(page.get_by_role("button", name="Log in")).to_be_enabled()
    with page.expect_response("**/api/accounts"):
        held.routes[0].fulfill(**BUSY)
    page.wait_for_timeout(200)
    expect(page.get_by_role("alert")).to_have_text("")


def test_a_browser_that_does_not_copy_is_told_of(library: Library) -> None:
    page = library.joined().page
    page.evaluate(
        "() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }"
    )
    page.get_by_role("link", name="API keys").click()
    page.get_by_label("What it is for").fill("backup")
    page.get_by_role("button", name="Make a key").click()
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_text("select the key and copy it")).to_be_visible()


# the gallery


def two_pages(route: Route) -> None:
    more = "cursor=" in route.request.url
    route.fulfill(**(public("c") if more else public("a", "b", next_cursor="2")))


def test_show_more_pressed_twice_shows_nothing_twice(library: Library) -> None:
    page = library.tab("login").page
    page.route(GALLERY, two_pages)
    page.get_by_role("link", name="Gallery").click()
    page.get_by_role("button", name="Show more").dblclick()
    expect(item(page, "c")).to_have_count(1)
    page.wait_for_timeout(500)
    expect(page.locator(".item")).to_have_count(3)


def test_a_gallery_is_read_on(library: Library) -> None:
    """A look that answers only then takes nothing away. What did not come comes later, and has the
    focus then."""
    page = library.tab("login").page
    page.clock.install()
    page.reload()
    page.route(GALLERY, two_pages)
    page.get_by_role("link", name="Gallery").click()
    expect(page.locator(".item")).to_have_count(2)
    late = Held()
    page.route(GALLERY, late, times=1)
    page.clock.run_for(31_000)
    late.wait(page)
    page.route(GALLERY, answering(**BUSY), times=1)
    page.get_by_role("button", name="Show more").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("The service is busy.")
    expect(page.locator(".item")).to_have_count(2)
    with page.expect_response(GALLERY):
        late.routes[0].fulfill(**public("a"))
    page.wait_for_timeout(200)
    expect(page.locator(".item")).to_have_count(2)
    page.clock.run_for(31_000)
    expect(page.locator(".item")).to_have_count(3)
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_role("link", name="c", exact=True)).to_be_focused()
