"""The page behind the mailed link. A mail scanner opens links: only the button confirms."""

from html import escape
from typing import Annotated

from fastapi import APIRouter, Form, Query
from starlette.responses import HTMLResponse

from service import pages
from service.accounts import registration
from service.accounts.links import LinkInvalid
from service.resources import Provided
from service.routing import readable

router = APIRouter(include_in_schema=False)

BUTTON = """<form method="post" action="/confirm"><input type="hidden" name="token" value="{token}">
<button>Confirm my account</button></form>"""
# The token in the address goes to nobody else: these forbid a Referer as well.
HEADERS = pages.headers("no-store", form_action="'self'")


def _page(title: str, body: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(pages.card(title, body), status, HEADERS)


@readable(router, "/confirm")
async def ask(token: Annotated[str, Query(max_length=500)] = "") -> HTMLResponse:
    return _page("Confirm your account", BUTTON.format(token=escape(token, quote=True)))


@router.post("/confirm")
async def confirm(token: Annotated[str, Form(max_length=500)], resources: Provided) -> HTMLResponse:
    try:
        await registration.confirm(resources, token)
    except LinkInvalid as error:
        return _page("Not confirmed", f"<p>{error.detail}</p>", error.status)
    return _page("Confirmed", "<p>Your account is confirmed. You can log in now.</p>")
