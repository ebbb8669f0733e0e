"""Uploads in a browser that are refused, too large, dropped, slow or stopped."""

from itertools import pairwise
from pathlib import Path
from time import monotonic

import pytest
from playwright.sync_api import Page, Route, expect

from browser import screenshot
from library import (
    BUSY,
    UPLOADS,
    Held,
    Library,
    answering,
    expect_away,
    expect_live,
    expect_ready,
    item,
    log_in,
    seen,
    too_large,
    upload,
)

pytestmark = pytest.mark.browser

# The protocol has no such event.
DRAG_AWAY = """() => {
    const dataTransfer = new DataTransfer()
    dataTransfer.items.add(new File(["Dear Charles"], "letter.txt"))
    document.body.dispatchEvent(new DragEvent("dragleave", { dataTransfer, bubbles: true }))
}"""
SLOW_NETWORK = {
    "offline": False,
    "latency": 0,
    "downloadThroughput": -1,
    "uploadThroughput": 100_000,  # bytes a second
}
SHIPPED: dict[str, str] = {}  # rates


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
    # Who logs in then does not wait for what was to be waited for before.
    page.route(UPLOADS, answering(**BUSY, headers={"Retry-After": "60"}), times=1)
    upload(page, "late.jpg")
    expect(page.locator(".upload")).to_contain_text("Trying again.")
    page.get_by_role("button", name="Log out").click()
    log_in(page, "ada@example.org")
    upload(page, "soon.jpg")
    expect_ready(page, "soon.jpg")


def test_a_server_that_is_restarted_under_it_loses_no_upload(library: Library) -> None:
    """What was chosen meanwhile is sent as soon as it is back, and is there once."""
    page = library.joined().page
    library.web.stop()
    expect_away(page)
    upload(page, "patient.jpg")
    expect(page.locator(".upload")).to_contain_text("Trying again.")
    screenshot(page, "library-away")
    library.web.start(wait=None)
    expect_ready(page, "patient.jpg")
    expect_live(page)
    assert library.sql("SELECT count(*) FROM media_items") == "1"


def test_an_upload_that_was_cancelled_is_retried_under_its_key(library: Library) -> None:
    page = library.joined().page
    keys: list[str] = []
    page.on("request", lambda r: keys.append(r.headers.get("idempotency-key", "")))
    library.web.stop()
    upload(page, "changed my mind.jpg")
    expect(page.locator(".upload")).to_contain_text("Trying again.")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".upload")).to_contain_text("cancelled")
    library.web.start(wait=None)
    expect_live(page)
    assert library.sql("SELECT count(*) FROM media_items") == "0"
    page.get_by_role("button", name="Retry").click()
    expect_ready(page, "changed my mind.jpg")
    assert len(set(filter(None, keys))) == 1


def test_an_upload_shows_how_far_it_is_and_may_be_cancelled(library: Library) -> None:
    """One that does not move is given up. Each try has the same key."""
    page = library.joined().page
    page.clock.install()
    page.reload()
    expect_live(page)
    keys: list[str] = []
    page.on("request", lambda request: keys.append(request.headers.get("idempotency-key", "")))
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    network.send("Network.emulateNetworkConditions", SLOW_NETWORK)
    upload(page, "large.bin", content=bytes(500_000))
    bar = page.get_by_role("progressbar", name="Upload of large.bin")
    seen(page, lambda: 0 < bar.evaluate("bar => bar.value") < 1)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".upload")).to_contain_text("cancelled")
    network.send("Network.emulateNetworkConditions", SLOW_NETWORK | {"uploadThroughput": -1})
    held = Held()
    page.route(UPLOADS, held, times=1)
    page.get_by_role("button", name="Retry").click()
    held.wait(page)
    page.clock.run_for(61_000)
    expect(item(page, "large.bin")).to_have_attribute("data-status", "ready")
    expect(page.locator(".upload")).to_have_count(0)
    assert library.sql("SELECT count(*) FROM media_items") == "1"
    sent = [key for key in keys if key]
    assert len(sent) == 3
    assert len(set(sent)) == 1


def test_a_file_that_is_too_large_is_not_sent(library: Library, tmp_path: Path) -> None:
    page = library.joined().page
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method))
    page.locator("#files").set_input_files(too_large(tmp_path, "large.bin"))
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
    for kind, over in (("dragEnter", "false"), ("dragOver", "true")):
        drag(page, kind, tmp_path / "letter.txt")
        expect(box).to_have_attribute("data-over", over)
    page.evaluate(DRAG_AWAY)
    expect(box).to_have_attribute("data-over", "false")
    expect(page.locator(".upload")).to_have_count(0)
