"""The library in a browser: the whole walk, two tabs, and what its views look like."""

import contextlib
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from browser import SCHEMES, WIDTHS, Tab, assert_accessible, assert_painted_at_once, screenshot
from deployments import Deployment
from library import (
    DAMAGED,
    PHOTOGRAPH,
    SLOW_TIMERS,
    Library,
    expect_live,
    expect_ready,
    item,
    join,
    log_in,
    too_large,
    upload,
    uploaded,
)
from servers import Worker, running, wait_until

pytestmark = pytest.mark.browser

# What is said anew, even if it is the same.
COUNT_SPOKEN = """region => {
    window.spoken = 0
    const changes = { childList: true, characterData: true, subtree: true }
    new MutationObserver(() => { window.spoken += 1 }).observe(region, changes)
}"""


def test_the_whole_walk(library: Library) -> None:
    tab = library.joined()
    page = tab.page
    upload(page, "one.jpg", "two.jpg", "three.jpg")
    upload(page, "damaged.png", content=DAMAGED)
    upload(page, "letter.txt", content=b"Dear Charles")
    for name in ("one.jpg", "two.jpg", "three.jpg"):
        expect_ready(page, name)
    expect(item(page, "damaged.png")).to_contain_text("The image is damaged.")
    expect(page.locator(".upload")).to_have_count(0)
    screenshot(page, "library-mine")

    item(page, "one.jpg").get_by_role("button").click()
    details = page.get_by_role("dialog")
    details.get_by_label("Title").fill("Sunrise")
    details.get_by_role("button", name="Rename").click()
    expect(page.get_by_role("heading", name="Sunrise", include_hidden=True)).to_have_count(1)
    details.get_by_label("Public").check()
    expect(item(page, "Sunrise")).to_contain_text("public")
    names: list[str] = []
    page.on("download", lambda download: names.append(download.suggested_filename))
    with page.expect_download() as saved_as:
        details.get_by_role("button", name="Download").dblclick()
    assert Path(saved_as.value.path()).read_bytes() == PHOTOGRAPH
    assert names == ["one.jpg"]
    screenshot(page, "library-details")
    page.keyboard.press("Escape")
    expect(details).to_be_hidden()

    for title in ("letter.txt", "two.jpg"):  # of the last there is not much time to undo it
        item(page, title).get_by_role("button").click()
        details.get_by_role("button", name="Delete").click()
    expect(item(page, "two.jpg")).to_have_count(0)
    page.locator(".toast", has_text="two.jpg").get_by_role("button", name="Undo").click()
    expect_ready(page, "two.jpg")
    page.mouse.move(0, 0)  # it stays under the pointer
    expect(page.locator(".toast")).to_have_count(0)
    assert library.sql("SELECT count(*) FROM media_items WHERE title = 'letter.txt'") == "0"
    assert library.sql("SELECT count(*) FROM media_items WHERE title = 'two.jpg'") == "1"

    visitor = library.tab()
    expect_ready(visitor.page, "Sunrise")
    expect(visitor.page.locator(".item")).to_have_count(1)
    screenshot(visitor.page, "library-gallery")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("link", name="Log in")).to_be_visible()
    assert page.evaluate("localStorage.length") == 0
    wait_until(lambda: library.sql("SELECT count(*) FROM tokens") == "0")


def test_the_walk_goes_without_nginx_and_servers(embedded: Deployment, browser: Browser) -> None:
    """As `make run` serves it where there is no engine."""
    tab = Tab(browser)
    with contextlib.closing(tab):
        page = tab.page
        page.goto(f"{embedded.web.url}/library#join")
        join(embedded, page, "ada@example.org")
        log_in(page, "ada@example.org")
        expect_live(page)
        upload(page, "one.jpg")
        expect_ready(page, "one.jpg")
        assert_accessible(page)
        assert tab.complaints == []


def test_visitors_see_the_gallery_while_the_app_is_away(library: Library) -> None:
    """Also who comes only then."""
    page = library.joined().page
    uploaded(page, "sun.jpg")
    page.get_by_label("Public").check()
    expect(item(page, "sun.jpg")).to_contain_text("public")
    expect_ready(library.tab().page, "sun.jpg")
    library.web.stop()
    visitor = library.tab()
    expect_ready(visitor.page, "sun.jpg")
    expect(visitor.page.locator(".item img")).to_have_js_property("naturalWidth", 320)
    screenshot(visitor.page, "library-gallery-away")


def test_what_is_typed_stays_while_others_change_the_list(library: Library) -> None:
    tab = library.joined()
    page = tab.page
    title = uploaded(page, "one.jpg").get_by_label("Title")
    title.fill("Half a ti")
    second = library.second(tab)
    upload(second, "two.jpg")
    expect_ready(second, "two.jpg")
    expect(page.get_by_role("heading", name="two.jpg", include_hidden=True)).to_have_count(1)
    expect(title).to_have_value("Half a ti")


def test_what_was_said_to_be_deleted_is_deleted_by_who_logs_out(library: Library) -> None:
    page = library.joined().page
    dialog = uploaded(page, "one.jpg")
    dialog.get_by_role("button", name="Delete").click()
    expect(page.locator(".toast", has_text="one.jpg")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    wait_until(lambda: library.sql("SELECT count(*) FROM media_items") == "0")
    wait_until(lambda: library.sql("SELECT count(*) FROM tokens") == "0")


def test_what_was_said_to_be_deleted_is_deleted_by_who_leaves_the_page(library: Library) -> None:
    page = library.joined().page
    dialog = uploaded(page, "one.jpg")
    page.evaluate(SLOW_TIMERS)
    dialog.get_by_role("button", name="Delete").click()
    expect(page.locator(".toast", has_text="one.jpg")).to_be_visible()
    page.goto("about:blank")
    wait_until(lambda: library.sql("SELECT count(*) FROM media_items") == "0")


def test_what_was_not_saved_is_said(library: Library) -> None:
    page = library.joined().page
    dialog = uploaded(page, "one.jpg")  # all else is out of reach meanwhile
    library.web.stop()
    page.get_by_label("Public").click()  # check() would find it as it was
    expect(dialog.get_by_role("alert").filter(has_text="Not saved:")).to_be_visible()
    expect(page.get_by_label("Public")).not_to_be_checked()


def test_a_password_is_reset_by_mail(library: Library) -> None:
    page = library.tab("join").page
    join(library.deployment, page, "ada@example.org")
    page.get_by_role("link", name="Log in").first.click()
    page.get_by_role("link", name="Forgot the password?").click()
    page.get_by_label("Mail address").fill("ada@example.org")
    page.get_by_role("button", name="Mail me a link").click()
    expect(page.get_by_text("If ada@example.org has an account")).to_be_visible()
    letter = library.deployment.letter("ada@example.org", "Set a new password")
    page.goto(re.findall(r"https://\S+/reset\?\S+", letter.text)[0])
    page.get_by_label("New password").fill("an0ther horse battery")
    page.get_by_role("button", name="Set the password").click()
    expect(page.get_by_role("heading", name="Password set")).to_be_visible()
    page.goto(library.address)
    log_in(page, "ada@example.org")
    expect(page.get_by_role("alert")).to_contain_text("do not fit")
    page.get_by_label("Password").fill("an0ther horse battery")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_text("Nothing here yet.")).to_be_visible()


def test_a_key_is_shown_once_and_revoked(library: Library) -> None:
    """Made on a machine whose clock is off by years, for a day."""
    page = library.joined().page
    page.clock.set_fixed_time("2010-01-01T00:00:00Z")
    page.reload()
    page.get_by_role("link", name="API keys").click()
    page.get_by_label("What it is for").fill("backup")
    page.get_by_label("Good for days").fill("1")
    page.get_by_role("button", name="Make a key").click()
    shown = page.get_by_role("status").locator("code")
    key = shown.inner_text()
    answer = library.nginx.ask("/api/media", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 200
    left = library.sql("SELECT round(extract(epoch FROM expires_at - now()) / 3600) FROM api_keys")
    assert left == "24"
    page.get_by_role("button", name="I have it").click()
    expect(page.get_by_text(key)).to_have_count(0)
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("There are none.")).to_be_visible()
    answer = library.nginx.ask("/api/media", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 401


def test_two_tabs_see_the_same(library: Library) -> None:
    """And whoever logs out in one is logged out in both."""
    tab = library.joined()
    other = library.second(tab)
    upload(tab.page, "shared.jpg")
    expect_ready(tab.page, "shared.jpg")
    expect_ready(other, "shared.jpg")
    other.get_by_role("button", name="Log out").click()
    expect(tab.page.get_by_role("link", name="Log in").first).to_be_visible()
    expect(tab.page.locator(".item")).to_have_count(0)


def test_two_tabs_see_how_far_an_item_is(library: Library, tmp_path: Path) -> None:
    tab = library.joined()
    pages = (tab.page, library.second(tab))
    library.worker.stop()
    upload(tab.page, "slow.jpg")
    for page in pages:
        expect(item(page, "slow.jpg")).to_contain_text("waiting")
    with running(Worker(tmp_path / "slow", {**library.environment, "INSPECT_SECONDS": "10"})):
        for page in pages:
            expect(item(page, "slow.jpg")).to_contain_text("being processed")
            expect(item(page, "slow.jpg").get_by_role("progressbar")).to_have_js_property(
                "value", 10
            )
        for page in pages:
            expect_ready(page, "slow.jpg")


def test_it_goes_on_while_redis_is_away(library: Library) -> None:
    page = library.joined().page
    library.redis.stop()
    upload(page, "without.jpg")
    expect_ready(page, "without.jpg")
    expect_live(page)
    library.redis.start()
    upload(page, "again.jpg")
    expect_ready(page, "again.jpg")


@pytest.mark.parametrize("address", ["#mine", "#login"])
def test_a_login_that_ends_leads_back_to_where_it_was(library: Library, address: str) -> None:
    """And says so, also where the address is the one of the login already."""
    page = library.joined().page
    upload(page, "mine.jpg")
    expect_ready(page, "mine.jpg")
    page.goto(f"{library.address}{address}")
    library.sql("DELETE FROM tokens")
    expect(page.get_by_role("alert")).to_contain_text("Your login has ended.")
    log_in(page, "ada@example.org")
    expect_ready(page, "mine.jpg")


def test_a_reload_stays_logged_in(library: Library) -> None:
    page = library.joined().page
    upload(page, "kept.jpg")
    expect_ready(page, "kept.jpg")
    assert_painted_at_once(page)  # with nothing in the browser's cache
    page.reload()
    expect_ready(page, "kept.jpg")
    assert_painted_at_once(page)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_view_reads_well(library: Library, scheme: str, width: int) -> None:
    """To axe, without a scroll bar at the bottom."""
    look = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    tab = library.tab("login", **look)
    for view in ("login", "join", "forgot"):
        tab.page.goto(f"{library.address}#{view}")
        expect(tab.page.get_by_role("heading", level=2)).to_be_visible()
        assert_accessible(tab.page)
        screenshot(tab.page, f"library-{view}-{scheme}-{width}")
    tab = library.joined(**look)
    page = tab.page
    upload(page, "one.jpg", "a rather long name of a file that will hardly fit anywhere.jpg")
    upload(page, "damaged.png", content=DAMAGED)
    expect(page.locator(".item img")).to_have_count(2)
    assert_accessible(page)
    screenshot(page, f"library-mine-{scheme}-{width}")
    item(page, "one.jpg").get_by_role("button").click()
    page.get_by_role("dialog").get_by_label("Public").check()
    expect(item(page, "one.jpg")).to_contain_text("public")
    assert_accessible(page)
    screenshot(page, f"library-details-{scheme}-{width}")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="API keys").click()
    page.get_by_label("What it is for").fill("backup")
    page.get_by_role("button", name="Make a key").click()
    expect(page.get_by_role("button", name="Revoke")).to_be_visible()
    assert_accessible(page)
    screenshot(page, f"library-keys-{scheme}-{width}")
    visitor = library.tab(**look).page
    expect_ready(visitor, "one.jpg")
    expect(visitor.get_by_role("link", name="one.jpg", exact=True)).to_be_visible()
    assert_accessible(visitor)
    screenshot(visitor, f"library-gallery-{scheme}-{width}")


def test_it_can_be_used_by_keyboard_alone(library: Library) -> None:
    """From the address to an item's details and back."""
    page = library.joined().page
    upload(page, "keys.jpg")
    expect_ready(page, "keys.jpg")
    page.evaluate("document.activeElement.blur()")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.ariaLabel") == "Details of keys.jpg":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.evaluate("document.activeElement.closest('dialog') !== null")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert page.evaluate("document.activeElement.ariaLabel") == "Details of keys.jpg"


def test_a_deletion_is_undone_by_keyboard(library: Library) -> None:
    """From wherever one is; and it waits for who has gone to its button."""
    page = library.joined().page
    page.clock.install()
    page.reload()
    dialog = uploaded(page, "one.jpg")
    dialog.get_by_role("button", name="Delete").press("Enter")
    expect(page.locator(".toast")).to_be_visible()
    page.keyboard.press("Control+z")
    expect_ready(page, "one.jpg")
    for key, left in (("Enter", "1"), ("Shift+Tab", "0")):
        item(page, "one.jpg").get_by_role("button").press("Enter")
        dialog.get_by_role("button", name="Delete").press("Enter")
        undo = page.get_by_role("button", name="Undo")
        expect(undo).to_be_visible()
        page.keyboard.press("Tab")  # from the heading of a list that is empty
        expect(undo).to_be_focused()
        page.clock.run_for(20_000)
        expect(undo).to_be_focused()
        page.keyboard.press(key)
        page.clock.run_for(7000)
        expect(page.locator(".toast")).to_have_count(0)
        assert library.sql("SELECT count(*) FROM media_items") == left


def test_focus_goes_to_what_is_near(library: Library, tmp_path: Path) -> None:
    page = library.joined().page
    upload(page, "one.jpg", "two.jpg", "three.jpg")
    for title in ("one.jpg", "two.jpg", "three.jpg"):
        expect_ready(page, title)
    titles = page.locator(".item h3").all_inner_texts()
    page.evaluate(SLOW_TIMERS)
    page.get_by_role("button", name=f"Details of {titles[1]}").click()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("button", name=f"Details of {titles[2]}")).to_be_focused()
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("button", name=f"Details of {titles[1]}")).to_be_focused()
    page.locator("#files").set_input_files(too_large(tmp_path, "four.bin", "five.bin"))
    page.get_by_role("button", name="Dismiss four.bin").click()
    expect(page.get_by_role("button", name="Retry five.bin")).to_be_focused()
    page.get_by_role("button", name="Dismiss five.bin").click()
    expect(page.get_by_role("heading", name="Your items")).to_be_focused()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_focused()


def test_what_happens_is_said_also_in_the_dialog(library: Library) -> None:
    page = library.joined().page
    dialog = uploaded(page, "two.jpg")
    page.keyboard.press("Escape")
    upload(page, "one.jpg")
    expect(page.get_by_role("status").filter(has_text="one.jpg: ready.")).to_have_count(1)
    item(page, "one.jpg").get_by_role("button").click()
    dialog.get_by_label("Title").fill("Sunrise")
    dialog.get_by_role("button", name="Rename").click()
    said = dialog.get_by_role("status")
    expect(said).to_have_text("Saved.")
    said.evaluate(COUNT_SPOKEN)
    dialog.get_by_label("Title").fill("Sunset")
    dialog.get_by_role("button", name="Rename").click()
    expect(page.get_by_role("heading", name="Sunset", include_hidden=True)).to_have_count(1)
    expect(said).to_have_text("Saved.")
    assert page.evaluate("window.spoken") == 1
    dialog.get_by_label("Title").fill("  ")
    dialog.get_by_role("button", name="Rename").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Not saved")
    dialog.get_by_label("Title").fill("Sunrise")
    dialog.get_by_role("button", name="Rename").click()
    expect(page.get_by_role("heading", name="Sunrise", include_hidden=True)).to_have_count(1)
    page.evaluate(SLOW_TIMERS)
    dialog.get_by_role("button", name="Delete").click()
    item(page, "two.jpg").get_by_role("button").click()
    dialog.get_by_role("button", name="Undo").click()
    page.keyboard.press("Escape")
    expect_ready(page, "Sunrise")
