"""The API's documentation in a browser: whether Swagger UI works under the policy of its page."""

import contextlib

import pytest
from playwright.sync_api import Browser, expect

from browser import SCHEMES, Tab, screenshot
from deployments import Deployment

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_operation_is_read_and_tried_out(
    embedded: Deployment, browser: Browser, scheme: str
) -> None:
    tab = Tab(browser, color_scheme=scheme)
    with contextlib.closing(tab):
        page = tab.page
        page.goto(f"{embedded.web.url}/docs")
        operation = page.locator(".opblock-get", has_text="/api/accounts/me")
        operation.locator(".opblock-summary-control").click()
        operation.get_by_role("button", name="Try it out").click()
        operation.get_by_role("button", name="Execute").click()
        answer = operation.locator(".live-responses-table .response")
        expect(answer.locator(".response-col_status")).to_contain_text("401")
        expect(answer).to_contain_text("www-authenticate")
        screenshot(page, f"documentation-{scheme}")
        assert tab.complaints == []
