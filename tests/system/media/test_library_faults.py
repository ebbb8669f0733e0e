"""The library in a browser while something is refused, cut off, slow or away."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from playwright.sync_api import Page, Route, WebSocketRoute, expect

from deployments import PASSWORD
from library import (
    Library,
    expect_away,
    expect_live,
    expect_ready,
    item,
    log_in,
    upload,
)
from servers import wait_until

pytestmark = pytest.mark.browser

LIST = re.compile(r"/api/media\?")
ITEM = re.compile(r"/api/media/[^?]+$")
UPLOADS = re.compile(r"/api/media$")
GALLERY = re.compile(r"/api/public/media")
SOCKET = re.compile(r"/ws/media")
SHIPPED: dict[str, str] = {}  # rates
LOOKED_AT = "document.dispatchEvent(new Event('visibilitychange'))"
BUSY: dict[str, Any] = {"status": 503, "json": {"detail": "The service is busy."}}
CUT_OFF: dict[str, Any] = {"status": 200, "content_type": "application/json", "body": '{"items": ['}

Answer = Callable[[Route], None]


def seen(page: Page, condition: Callable[[], bool]) -> None:
    """Wait for something that happens while the page is driven."""

    def now() -> bool:
        page.wait_for_timeout(20)
        return condition()

    wait_until(now)


def answering(**answer: Any) -> Answer:
    return lambda route: route.fulfill(**answer)


class Held:
    """Requests that are answered when the test wants."""

    def __init__(self) -> None:
        self.routes: list[Route] = []

    def __call__(self, route: Route) -> None:
        self.routes.append(route)

    def wait(self, page: Page, count: int = 1) -> None:
        seen(page, lambda: len(self.routes) >= count)


class Line:
    """What is between a page and its socket."""

    def __init__(self, page: Page, *, deaf: bool = False) -> None:
        self.deaf = deaf
        self.blocked = False
        self.sockets: list[WebSocketRoute] = []
        page.route_web_socket(SOCKET, self._connect)
        page.reload()

    def _connect(self, socket: WebSocketRoute) -> None:
        if self.blocked:
            socket.close(code=4000)
            return
        self.sockets.append(socket)
        server = socket.connect_to_server()
        if self.deaf:
            server.on_message(lambda message: None)

    def cut(self) -> None:
        self.blocked = True
        self.sockets[-1].close(code=4000)


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


def own(*titles: str, next_cursor: str | None = None) -> dict[str, Any]:
    more = {"status": "ready", "created_at": "2026-07-01T12:00:00Z", "public": False}
    items = [{**item, **more} for item in public(*titles)["json"]["items"]]
    return {"json": {"items": items, "next_cursor": next_cursor}}


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


# sockets


def test_changes_show_also_while_the_socket_is_blocked(library: Library) -> None:
    page = library.joined().page
    line = Line(page)
    expect_live(page)
    line.cut()
    expect_away(page)
    upload(page, "one.jpg")
    expect_ready(page, "one.jpg")
    expect_away(page)


def test_changes_show_also_while_the_handshake_hangs(library: Library) -> None:
    """Which is not said before it is given up, and begun again."""
    page = library.joined().page
    page.add_init_script("""
        window.handshakes = 0;
        window.WebSocket = class {
            constructor() { window.handshakes += 1; }
            close() { this.onclose?.({ code: 1006 }); }
        };
    """)
    page.reload()
    expect(page.get_by_text("Connecting …")).to_be_visible()
    expect_away(page)
    upload(page, "one.jpg")
    expect_ready(page, "one.jpg")
    seen(page, lambda: page.evaluate("window.handshakes") > 1)


def test_a_socket_that_died_unnoticed_is_opened_anew_on_another_network(library: Library) -> None:
    tab = library.joined()
    page = tab.page
    line = Line(page, deaf=True)
    expect_live(page)
    upload(page, "one.jpg")
    expect(item(page, "one.jpg")).to_contain_text("waiting")
    wait_until(lambda: library.sql("SELECT status FROM media_items") == "ready")
    line.deaf = False
    tab.context.set_offline(True)
    tab.context.set_offline(False)
    expect_ready(page, "one.jpg")
    seen(page, lambda: len(line.sockets) == 2)
    upload(page, "two.jpg")
    expect_ready(page, "two.jpg")


def test_a_socket_that_fell_silent_is_opened_anew(library: Library) -> None:
    """Once the tab is looked at, as after a machine has slept, and one that was heard of lately stays;
    and after a while where nobody looks up."""
    page = library.joined().page
    page.clock.install()
    line = Line(page, deaf=True)
    expect_live(page)
    with page.expect_response(LIST):
        page.evaluate(LOOKED_AT)
    assert len(line.sockets) == 1
    page.clock.fast_forward(31_000)
    page.evaluate(LOOKED_AT)
    seen(page, lambda: len(line.sockets) == 2)
    upload(page, "one.jpg")
    expect(item(page, "one.jpg")).to_contain_text("waiting")
    wait_until(lambda: library.sql("SELECT status FROM media_items") == "ready")
    line.deaf = False
    page.clock.run_for(100_000)
    expect_ready(page, "one.jpg")
    assert len(line.sockets) == 3


def test_nothing_is_said_to_be_away_beside_a_socket_that_is_back(library: Library) -> None:
    page = library.joined().page
    line = Line(page)
    expect_live(page)
    page.route(LIST, answering(**BUSY))
    line.cut()
    expect(page.get_by_role("alert")).to_contain_text("The service is busy.")
    line.blocked = False
    expect_live(page)
    page.unroute(LIST)
    expect(page.get_by_role("alert")).to_have_count(0)


# uploads


@pytest.mark.timeout(300)
@pytest.mark.parametrize("library", [SHIPPED], indirect=True, ids=["shipped"])
def test_many_files_end_ready_at_the_rates_that_are_shipped(library: Library) -> None:
    page = library.joined().page
    upload(page, *(f"{number}.txt" for number in range(80)), content=b"Dear Charles")
    ready = page.locator('.item[data-status="ready"]')
    expect(ready).to_have_count(80, timeout=200_000)
    expect(page.locator(".upload")).to_have_count(0)
    assert library.sql("SELECT count(*) FROM media_items") == "80"


def test_no_upload_is_given_up_while_the_service_is_busy(library: Library) -> None:
    """However often it says so, and no sooner than it wants to be asked."""
    page = library.joined().page
    times: list[float] = []

    def refuse(route: Route) -> None:
        times.append(monotonic())
        route.fulfill(**BUSY, headers={"Retry-After": "2"})

    page.route(UPLOADS, refuse, times=6)
    upload(page, "one.jpg")
    expect(item(page, "one.jpg").locator("img")).to_be_visible(timeout=90_000)
    assert all(after - before > 1.9 for before, after in pairwise(times))


def test_uploads_go_on_after_another_login(library: Library) -> None:
    page = library.joined().page
    held = Held()
    page.route(UPLOADS, held)
    names = [f"{number}.jpg" for number in range(6)]
    upload(page, *names)
    held.wait(page, 3)
    library.sql("DELETE FROM tokens")
    for route in held.routes:
        route.continue_()
    page.unroute(UPLOADS)
    expect(page.get_by_role("alert")).to_contain_text("Your login has ended.")
    log_in(page, "ada@example.org")
    for name in names:
        expect_ready(page, name)


def test_a_file_that_is_too_large_is_not_sent(library: Library) -> None:
    page = library.joined().page
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method))
    upload(page, "large.bin", content=bytes(16 * 1024 * 1024 + 1))
    row = page.locator(".upload")
    expect(row).to_contain_text("16,777,217 bytes")
    expect(row).to_contain_text("at most 16 MiB (16,777,216 bytes)")
    assert "POST" not in sent


def drag(page: Page, kind: str, *paths: Path) -> None:
    """Files of this machine over the middle of a page, as its window system has it."""
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    event = {"type": kind, "x": 640, "y": 600, "data": data}
    session = page.context.new_cdp_session(page)
    session.send("Input.dispatchDragEvent", event)
    session.detach()


def test_files_dropped_beside_the_box_are_uploaded(library: Library, tmp_path: Path) -> None:
    """And what is in a folder is not, which is said."""
    page = library.joined().page
    letter, folder = tmp_path / "letter.txt", tmp_path / "letters"
    letter.write_text("Dear Charles")
    folder.mkdir()
    (folder / "another.txt").write_text("Dear Mary")
    for kind in ("dragEnter", "dragOver", "drop"):
        drag(page, kind, letter, folder)
    expect(page.get_by_role("alert")).to_contain_text("Folders are not uploaded")
    expect(item(page, "letter.txt")).to_have_attribute("data-status", "ready")
    expect(page.locator(".item")).to_have_count(1)
    expect(page.locator(".upload")).to_have_count(0)


def test_the_box_shows_that_files_are_dragged_until_they_have_left(
    library: Library, tmp_path: Path
) -> None:
    page = library.joined().page
    box = page.locator(".drop")
    (tmp_path / "letter.txt").write_text("Dear Charles")
    for kind, over in (("dragEnter", "false"), ("dragOver", "true"), ("dragCancel", "false")):
        drag(page, kind, tmp_path / "letter.txt")
        expect(box).to_have_attribute("data-over", over)
    expect(page.locator(".upload")).to_have_count(0)


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


def public(*titles: str, next_cursor: str | None = None) -> dict[str, Any]:
    items = [{"id": t, "title": t, "url": f"/media/{t}/{t}", "size": 1} for t in titles]
    return {"json": {"items": items, "next_cursor": next_cursor}}


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
