"""The library in a browser while something is refused, cut off, slow or away."""

import json
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest
from playwright.sync_api import Route, expect

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
    page.get_by_role("button", name="Show more").click()
    expect(page.locator(".item")).to_have_count(3)
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
    page = library.joined().page
    page.route(ITEM, answering(**BUSY))
    upload(page, "one.jpg")
    expect_ready(page, "one.jpg")
    expect_live(page)


def test_a_preview_that_failed_is_asked_for_again(library: Library) -> None:
    page = library.joined().page
    page.route("**/thumbnail", lambda route: route.abort(), times=1)
    upload(page, "one.jpg")
    expect_ready(page, "one.jpg")


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


def test_a_look_that_answers_after_show_more_takes_nothing_away(library: Library) -> None:
    page = library.tab("login").page
    page.clock.install()
    page.reload()
    page.route(GALLERY, two_pages)
    page.get_by_role("link", name="Gallery").click()
    expect(page.locator(".item")).to_have_count(2)
    held = Held()
    page.route(GALLERY, held, times=1)
    page.clock.run_for(31_000)
    held.wait(page)
    page.get_by_role("button", name="Show more").click()
    expect(page.locator(".item")).to_have_count(3)
    with page.expect_response(GALLERY):
        two_pages(held.routes[0])
    page.wait_for_timeout(200)
    expect(page.locator(".item")).to_have_count(3)
