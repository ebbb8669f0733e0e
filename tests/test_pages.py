"""Pages for people: what they say, what they load, and what their policy forbids."""

from collections.abc import AsyncIterator
from html.parser import HTMLParser

import httpx2 as httpx
import pytest

from api import Api, assert_problem, running_api
from service import pages
from service.app import APPLICATIONS, create_app
from service.settings import Settings

pytestmark = pytest.mark.anyio

PATHS = [each.path for each in APPLICATIONS]
PAGES = ("/", "/docs", *PATHS, "/confirm?token=x", "/reset?token=x")


class Tags(HTMLParser):
    """The tags of a page with their attributes, and the text inside each kind."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        tag = self.found[-1][0] if self.found else ""
        self.text[tag] = self.text.get(tag, "") + data

    def addresses(self) -> list[str]:
        names = ("href", "src", "action", "data-openapi")
        return [tag[name] or "" for _, tag in self.found for name in names if name in tag]


def policy(answer: httpx.Response) -> dict[str, str]:
    directives = answer.headers["content-security-policy"].split("; ")
    return dict(directive.split(" ", 1) for directive in directives)


@pytest.fixture
async def undocumented(embedded_settings: Settings) -> AsyncIterator[Api]:
    settings = embedded_settings.model_copy(update={"docs_enabled": False})
    async with running_api(settings) as api:
        yield api


# every page


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_is_html_in_a_language_with_a_title(embedded_api: Api, path: str) -> None:
    answer = await embedded_api.client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text.startswith("<!doctype html>\n<html lang=")
    assert Tags(answer.text).text["title"].strip()


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_refers_to_this_origin_alone(embedded_api: Api, path: str) -> None:
    addresses = Tags((await embedded_api.client.get(path)).text).addresses()
    assert addresses
    for address in addresses:
        assert address.startswith("/"), address
        assert not address.startswith("//"), address


@pytest.mark.parametrize("path", PAGES)
async def test_everything_a_page_refers_to_is_there(embedded_api: Api, path: str) -> None:
    for address in Tags((await embedded_api.client.get(path)).text).addresses():
        # The application of the test has no result of a health check yet.
        expected = (200, 503) if address == "/health" else (200,)
        assert (await embedded_api.client.get(address)).status_code in expected, address


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_has_no_script_and_no_style_in_itself(embedded_api: Api, path: str) -> None:
    tags = Tags((await embedded_api.client.get(path)).text)
    for tag, attributes in tags.found:
        assert tag != "style"
        assert tag != "script" or attributes["src"]
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
    assert not tags.text.get("script", "").strip()


@pytest.mark.parametrize("path", PAGES)
async def test_a_policy_forbids_whatever_it_does_not_name(embedded_api: Api, path: str) -> None:
    answer = await embedded_api.client.get(path)
    rules = policy(answer)
    assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    for sources in rules.values():
        assert set(sources.split()) <= {"'none'", "'self'", "data:", "blob:"}
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/", "/docs", *PATHS])
async def test_a_page_that_has_not_changed_is_not_sent_again(embedded_api: Api, path: str) -> None:
    first = await embedded_api.client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    asked = {"If-None-Match": first.headers["etag"]}
    answer = await embedded_api.client.get(path, headers=asked)
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == first.headers["etag"]


@pytest.mark.parametrize("path", ["/", "/docs", *PATHS])
async def test_head_tells_what_get_would(embedded_api: Api, path: str) -> None:
    asked = {"X-Request-ID": "the-same-for-both"}
    got = await embedded_api.client.get(path, headers=asked)
    head = await embedded_api.client.head(path, headers=asked)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == got.headers


# media: from here
async def test_the_library_knows_how_large_a_file_may_be(embedded_settings: Settings) -> None:
    settings = embedded_settings.model_copy(update={"max_content_length": 4096})
    async with running_api(settings) as api:
        tags = Tags((await api.client.get("/library")).text)
    assert ("div", {"id": "library", "data-largest": "4096"}) in tags.found


# media: to here


# the landing page


async def test_the_landing_page_says_what_this_is_and_leads_on(embedded_api: Api) -> None:
    page = Tags((await embedded_api.client.get("/")).text)
    info = create_app(embedded_api.resources.settings).api.openapi()["info"]
    assert page.text["h1"].strip() == info["title"]
    assert page.text["p"].strip() == info["description"]
    links = {attributes["href"] for tag, attributes in page.found if tag == "a"}
    assert links == {"/docs", "/openapi.json", "/health", *PATHS}


async def test_the_landing_page_needs_no_script(embedded_api: Api) -> None:
    answer = await embedded_api.client.get("/")
    assert "<script" not in answer.text
    assert set(policy(answer)) == {
        *("default-src", "style-src", "img-src", "base-uri", "form-action", "frame-ancestors")
    }


async def test_text_is_not_taken_for_html() -> None:
    page = Tags(pages.card("<b>A & B</b>", "<p>body</p>"))
    assert "b" not in [tag for tag, _ in page.found]
    assert page.text["title"].strip() == "<b>A & B</b>"


# the API's documentation


async def test_the_documentation_reads_the_description_of_this_service(embedded_api: Api) -> None:
    page = Tags((await embedded_api.client.get("/docs")).text)
    (place,) = [tag for _, tag in page.found if tag.get("id") == "docs"]
    assert place["data-openapi"] == "/openapi.json"


async def test_the_documentation_runs_the_bundle_before_what_uses_it(embedded_api: Api) -> None:
    page = Tags((await embedded_api.client.get("/docs")).text)
    scripts = [attributes for tag, attributes in page.found if tag == "script"]
    assert ["defer" in script for script in scripts] == [True, True]
    names = [str(script["src"]).removeprefix("/static/").partition(".")[0] for script in scripts]
    assert names == ["swagger-ui-bundle", "docs"]


async def test_the_documentation_asks_nobody_but_this_origin(embedded_api: Api) -> None:
    rules = policy(await embedded_api.client.get("/docs"))
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"


async def test_who_has_no_javascript_is_led_to_the_description(embedded_api: Api) -> None:
    page = Tags((await embedded_api.client.get("/docs")).text)
    assert ("a", {"href": "/openapi.json"}) in page.found


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/redoc", "/docs/oauth2-redirect"])
async def test_without_documentation_there_is_none(undocumented: Api, path: str) -> None:
    assert_problem(await undocumented.client.get(path), 404)


async def test_without_documentation_nothing_leads_to_it(undocumented: Api) -> None:
    answer = await undocumented.client.get("/")
    assert answer.status_code == 200
    assert "/docs" not in answer.text
    assert "/openapi.json" not in answer.text


@pytest.mark.parametrize("path", ["/redoc", "/docs/oauth2-redirect"])
async def test_the_frameworks_own_pages_are_off(embedded_api: Api, path: str) -> None:
    assert_problem(await embedded_api.client.get(path), 404)
