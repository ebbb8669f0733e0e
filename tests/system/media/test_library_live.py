"""The library in a browser while its socket is cut, hangs, dies or is away."""

import re
from itertools import pairwise

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from browser import let_pass
from library import (
    BUSY,
    LIST,
    LOOKED_AT,
    Library,
    answering,
    expect_away,
    expect_live,
    expect_ready,
    item,
    seen,
    upload,
)
from servers import wait_until

pytestmark = pytest.mark.browser

SOCKET = re.compile(r"/ws/media")


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


def test_handshakes_that_fail_are_tried_less_and_less_often(library: Library) -> None:
    page = library.joined().page
    page.clock.install()
    page.add_init_script("""
        window.handshakes = [];
        window.WebSocket = class {
            constructor() {
                window.handshakes.push(Date.now());
                setTimeout(() => this.onclose({ code: 1006 }));
            }
            close() {}
        };
    """)
    page.reload()
    expect_away(page)
    let_pass(page, 50, 1000)
    times = page.evaluate("window.handshakes")
    waits = [after - before for before, after in pairwise(times)]
    assert len(waits) >= 5
    assert all(wait >= 500 * 2**n for n, wait in enumerate(waits[:4])), waits
    assert all(7500 <= wait < 20_000 for wait in waits[4:]), waits


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
    """Once the tab is looked at, as after a machine has slept, and after a while where nobody looks
    up. One that was heard of lately stays."""
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
    page.clock.fast_forward(300_000)
    page.clock.run_for(40_000)
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
