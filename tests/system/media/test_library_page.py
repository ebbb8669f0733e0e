"""The library in a browser, over https through nginx, with two web workers, a job worker and real
servers behind them: the whole walk, two tabs, and what goes away under an open page."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from browser import SCHEMES, WIDTHS, Tab, assert_accessible, assert_painted_at_once, screenshot
from deployments import PASSWORD, Deployment, migrate, working
from mail_server import mail_server
from nginx import Nginx, available
from nginx_checks import OPEN
from pictures import halves, saved
from servers import Postgresql, RedisServer, Web, require, run_service, running, wait_until

pytestmark = pytest.mark.alone

PHOTOGRAPH = saved(halves((900, 600)), "JPEG")
DAMAGED = b"\x89PNG\r\n\x1a\n and no more"


@dataclass
class Library:
    """A site with a library, and whoever looks at it."""

    deployment: Deployment
    nginx: Nginx
    postgresql: Postgresql
    redis: RedisServer
    database: str
    browser: Browser
    tabs: list[Tab]

    @property
    def web(self) -> Web:
        return self.deployment.web

    @property
    def address(self) -> str:
        return f"https://{self.nginx.name}:{self.nginx.port}/library"

    def tab(self, view: str = "gallery", **options: Any) -> Tab:
        tab = Tab(self.browser, **{"viewport": {"width": 1280, "height": 900}, **options})
        self.tabs.append(tab)
        tab.page.goto(f"{self.address}#{view}")
        return tab

    def sql(self, text: str) -> str:
        return self.postgresql.psql(text, self.database)

    def joined(self, email: str, **options: Any) -> Tab:
        """A tab of somebody who has just joined and logged in."""
        tab = self.tab("join", **options)  # the gallery would be kept as it is now, empty
        join(self.deployment, tab.page, email)
        log_in(tab.page, email)
        expect(tab.page.get_by_text("Nothing here yet.")).to_be_visible()
        expect(tab.page.get_by_text("Live: changes show")).to_be_visible()
        return tab


@pytest.fixture(scope="module")
def postgresql(server_directory: Path) -> Iterator[Postgresql]:
    with running(Postgresql(server_directory / "library").create()) as server:
        yield server


@pytest.fixture
def library(
    nginx_directory: Path,
    postgresql: Postgresql,
    own_redis: RedisServer,
    browser: Browser,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Library]:
    require(available("installed"), "nginx")
    name = re.sub(r"\W", "", request.node.name)[:40]
    nginx = Nginx(nginx_directory / name, "installed", OPEN, name="localhost")
    url = postgresql.new_database()
    with mail_server() as mail, contextlib.ExitStack() as stack:
        environment = {
            "DATABASE_URL": url,
            "REDIS_URL": own_redis.url,
            "BIND": f"unix:{nginx.folder('run')}/web.sock",
            "ALLOWED_HOSTS": nginx.name,
            "PUBLIC_URL": f"https://{nginx.name}:{nginx.port}",
            "UPLOAD_FOLDER": str(nginx.folder("media")),
            "X_ACCEL_REDIRECT": "true",
            "WEB_CONCURRENCY": "2",
            "MAIL_SERVER": "127.0.0.1",
            "MAIL_PORT": str(mail.port),
            "MAIL_USE_TLS": "false",
            "SECRET_KEY": "k3y-0f-the-t3sts-k3y-0f-the-t3sts",
        }
        migrate(environment, tmp_path)
        web = Web(tmp_path / "web", environment)
        static = run_service(
            "static", str(nginx.folder("static")), environment=web.variables(), cwd=tmp_path
        )
        assert static.returncode == 0, static.stderr
        log = stack.enter_context(working(environment, tmp_path))
        stack.callback(web.stop)
        stack.callback(nginx.stop)
        web.start(wait=None)
        nginx.start()
        wait_until(lambda: nginx.ask("/library").status_code == 200, seconds=60)
        deployment = Deployment(web, (web.log_path, log), mail)
        site = Library(
            deployment, nginx, postgresql, own_redis, url.rpartition("/")[2], browser, []
        )
        yield site
        for tab in site.tabs:
            tab.close()


def join(deployment: Deployment, page: Page, email: str) -> None:
    """Ask for an account, and follow the link in the mail."""
    page.get_by_label("Mail address").fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_text("A mail is on its way")).to_be_visible()
    text = deployment.letter(email, "Confirm your account").text
    confirm(page, re.findall(r"https?://\S+/confirm\?\S+", text)[0])


def confirm(page: Page, link: str) -> None:
    other = page.context.new_page()
    other.goto(link)
    other.get_by_role("button", name="Confirm my account").click()
    expect(other.get_by_role("heading", name="Confirmed")).to_be_visible()
    other.close()


def log_in(page: Page, email: str, password: str = PASSWORD) -> None:
    page.get_by_role("link", name="Log in").first.click()
    page.get_by_label("Mail address").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def upload(page: Page, *names: str, content: bytes = PHOTOGRAPH) -> None:
    files = [{"name": n, "mimeType": "application/octet-stream", "buffer": content} for n in names]
    page.locator("#files").set_input_files(files)  # type: ignore[arg-type]


def item(page: Page, title: str) -> Any:
    return page.locator(".item", has=page.get_by_role("heading", name=title, exact=True))


def expect_ready(page: Page, title: str) -> None:
    """With its preview."""
    expect(item(page, title).locator("img")).to_be_visible()


def uploaded(page: Page, title: str) -> Locator:
    """The details of a new item, opened once it is ready."""
    upload(page, title)
    expect_ready(page, title)
    item(page, title).get_by_role("button").click()
    return page.get_by_role("dialog")


def test_the_whole_walk(library: Library) -> None:
    tab = library.joined("ada@example.org")
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
    with page.expect_download() as saved_as:
        details.get_by_role("button", name="Download").click()
    assert saved_as.value.suggested_filename == "one.jpg"
    assert Path(saved_as.value.path()).read_bytes() == PHOTOGRAPH
    screenshot(page, "library-details")
    page.keyboard.press("Escape")
    expect(details).to_be_hidden()

    for title in ("two.jpg", "letter.txt"):
        item(page, title).get_by_role("button").click()
        details.get_by_role("button", name="Delete").click()
    expect(item(page, "two.jpg")).to_have_count(0)
    page.locator(".toast", has_text="two.jpg").get_by_role("button", name="Undo").click()
    expect_ready(page, "two.jpg")
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
    assert library.sql("SELECT count(*) FROM tokens") == "0"
    assert tab.complaints + visitor.complaints == []


def test_the_walk_goes_without_nginx_and_servers(embedded: Deployment, browser: Browser) -> None:
    """As `make run` serves it where there is no engine."""
    tab = Tab(browser)
    with contextlib.closing(tab):
        page = tab.page
        page.goto(f"{embedded.web.url}/library#join")
        join(embedded, page, "ada@example.org")
        log_in(page, "ada@example.org")
        expect(page.get_by_text("Live: changes show")).to_be_visible()
        upload(page, "one.jpg")
        expect_ready(page, "one.jpg")
        assert_accessible(page)
        assert tab.complaints == []


def test_visitors_see_the_gallery_while_the_app_is_away(library: Library) -> None:
    """Also who comes only then."""
    page = library.joined("ada@example.org").page
    uploaded(page, "sun.jpg")
    page.get_by_label("Public").check()
    expect(item(page, "sun.jpg")).to_contain_text("public")
    expect_ready(library.tab().page, "sun.jpg")
    library.web.stop()
    visitor = library.tab()
    expect_ready(visitor.page, "sun.jpg")
    width = visitor.page.locator(".item img").evaluate("image => image.naturalWidth")
    assert width == 320
    screenshot(visitor.page, "library-gallery-away")
    assert visitor.complaints == []


def test_what_is_typed_stays_while_others_change_the_list(library: Library) -> None:
    tab = library.joined("ada@example.org")
    page = tab.page
    title = uploaded(page, "one.jpg").get_by_label("Title")
    title.fill("Half a ti")
    second = tab.watch(tab.context.new_page())
    second.goto(library.address)
    upload(second, "two.jpg")
    expect_ready(second, "two.jpg")
    expect(page.get_by_role("heading", name="two.jpg", include_hidden=True)).to_have_count(1)
    expect(title).to_have_value("Half a ti")


def test_what_was_said_to_be_deleted_is_deleted_by_who_logs_out(library: Library) -> None:
    tab = library.joined("ada@example.org")
    page = tab.page
    dialog = uploaded(page, "one.jpg")
    dialog.get_by_role("button", name="Delete").click()
    expect(page.locator(".toast", has_text="one.jpg")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    wait_until(lambda: library.sql("SELECT count(*) FROM media_items") == "0")
    wait_until(lambda: library.sql("SELECT count(*) FROM tokens") == "0")
    assert tab.complaints == []


def test_what_was_not_saved_is_said(library: Library) -> None:
    page = library.joined("ada@example.org").page
    dialog = uploaded(page, "one.jpg")  # all else is out of reach meanwhile
    library.web.stop()
    page.get_by_label("Public").check()
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
    tab = library.joined("ada@example.org")
    page = tab.page
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
    assert tab.complaints == []


def test_two_tabs_see_the_same(library: Library) -> None:
    """And whoever logs out in one is logged out in both."""
    tab = library.joined("ada@example.org")
    other = tab.watch(tab.context.new_page())
    other.goto(library.address)
    expect(other.get_by_text("Live: changes show")).to_be_visible()
    upload(tab.page, "shared.jpg")
    expect_ready(tab.page, "shared.jpg")
    expect_ready(other, "shared.jpg")
    other.get_by_role("button", name="Log out").click()
    expect(tab.page.get_by_role("link", name="Log in").first).to_be_visible()
    expect(tab.page.locator(".item")).to_have_count(0)
    assert tab.complaints == []


def test_it_goes_on_while_redis_is_away(library: Library) -> None:
    tab = library.joined("ada@example.org")
    library.redis.stop()
    upload(tab.page, "without.jpg")
    expect_ready(tab.page, "without.jpg")
    expect(tab.page.get_by_text("Live: changes show")).to_be_visible()
    library.redis.start()
    upload(tab.page, "again.jpg")
    expect_ready(tab.page, "again.jpg")


def test_a_server_that_is_restarted_under_it_loses_no_upload(library: Library) -> None:
    """What was chosen meanwhile is sent as soon as it is back, and is there once."""
    page = library.joined("ada@example.org").page
    library.web.stop()
    expect(page.get_by_text("Live updates are away")).to_be_visible()
    upload(page, "patient.jpg")
    expect(page.locator(".upload")).to_contain_text("Trying again.")
    screenshot(page, "library-away")
    library.web.start(wait=None)
    expect_ready(page, "patient.jpg")
    expect(page.get_by_text("Live: changes show")).to_be_visible()
    assert library.sql("SELECT count(*) FROM media_items") == "1"


def test_an_upload_that_was_cancelled_is_retried_under_its_key(library: Library) -> None:
    tab = library.joined("ada@example.org")
    page = tab.page
    keys: list[str] = []
    page.on("request", lambda r: keys.append(r.headers.get("idempotency-key", "")))
    library.web.stop()
    upload(page, "changed my mind.jpg")
    expect(page.locator(".upload")).to_contain_text("Trying again.")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".upload")).to_contain_text("cancelled")
    library.web.start(wait=None)
    expect(page.get_by_text("Live: changes show")).to_be_visible()
    assert library.sql("SELECT count(*) FROM media_items") == "0"
    page.get_by_role("button", name="Retry").click()
    expect_ready(page, "changed my mind.jpg")
    assert len(set(filter(None, keys))) == 1


def test_a_login_that_ends_leads_back_to_where_it_was(library: Library) -> None:
    tab = library.joined("ada@example.org")
    upload(tab.page, "mine.jpg")
    expect_ready(tab.page, "mine.jpg")
    library.sql("DELETE FROM tokens")
    expect(tab.page.get_by_role("alert")).to_contain_text("Your login has ended.")
    log_in(tab.page, "ada@example.org")
    expect_ready(tab.page, "mine.jpg")
    assert tab.complaints == []


def test_a_reload_stays_logged_in(library: Library) -> None:
    tab = library.joined("ada@example.org")
    upload(tab.page, "kept.jpg")
    expect_ready(tab.page, "kept.jpg")
    assert_painted_at_once(tab.page)  # with nothing in the browser's cache
    tab.page.reload()
    expect_ready(tab.page, "kept.jpg")
    assert_painted_at_once(tab.page)
    assert tab.complaints == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_view_reads_well(library: Library, scheme: str, width: int) -> None:
    """To axe, without a scroll bar at the bottom."""
    look = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    tab = library.tab(**look)
    for view in ("gallery", "login", "join", "forgot"):
        tab.page.goto(f"{library.address}#{view}")
        expect(tab.page.get_by_role("heading", level=2)).to_be_visible()
        assert_accessible(tab.page)
        screenshot(tab.page, f"library-{view}-{scheme}-{width}")
    tab = library.joined("ada@example.org", **look)
    page = tab.page
    upload(page, "one.jpg", "a rather long name of a file that will hardly fit anywhere.jpg")
    upload(page, "damaged.png", content=DAMAGED)
    expect(page.locator(".item img")).to_have_count(2)
    assert_accessible(page)
    screenshot(page, f"library-mine-{scheme}-{width}")
    item(page, "one.jpg").get_by_role("button").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert_accessible(page)
    screenshot(page, f"library-details-{scheme}-{width}")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="API keys").click()
    page.get_by_label("What it is for").fill("backup")
    page.get_by_role("button", name="Make a key").click()
    expect(page.get_by_role("button", name="Revoke")).to_be_visible()
    assert_accessible(page)
    screenshot(page, f"library-keys-{scheme}-{width}")
    assert tab.complaints == []


def test_it_can_be_used_by_keyboard_alone(library: Library) -> None:
    """From the address to an item's details and back."""
    page = library.joined("ada@example.org").page
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
