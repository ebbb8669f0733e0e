"""The page behind the mailed link. A mail scanner opens links: only the button confirms."""

from html import escape
from typing import Annotated

from fastapi import APIRouter, Form, Query
from starlette.responses import HTMLResponse

from service.accounts import registration
from service.accounts.links import LinkInvalid
from service.resources import Provided
from service.routing import readable

router = APIRouter(include_in_schema=False)

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><h1>{title}</h1>{body}</html>
"""
BUTTON = """<form method="post" action="/confirm"><input type="hidden" name="token" value="{token}">
<button>Confirm my account</button></form>"""
# No scripts, no style, and the token in the address goes to nobody else.
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def _page(title: str, body: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(PAGE.format(title=title, body=body), status, HEADERS)


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
