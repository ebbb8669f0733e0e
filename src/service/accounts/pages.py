"""The pages behind mailed links. A mail scanner opens links: only the button does something."""

from html import escape
from typing import Annotated

from fastapi import APIRouter, Form, Query
from pydantic import ValidationError
from starlette.responses import HTMLResponse

from service import pages
from service.accounts import password_reset, registration
from service.accounts.attempts import Network
from service.accounts.links import LinkInvalid
from service.accounts.passwords import MAX_PASSWORD_CHARACTERS, MIN_PASSWORD_CHARACTERS
from service.accounts.schemas import PasswordReset
from service.resources import Provided
from service.routing import readable

router = APIRouter(include_in_schema=False)

LinkToken = Annotated[str, Query(max_length=500)]
FormToken = Annotated[str, Form(max_length=500)]

CONFIRM = """<form method="post" action="/confirm">
<input type="hidden" name="token" value="{token}">
<button>Confirm my account</button></form>"""
RESET = f"""<p>{{hint}}</p>
<form method="post" action="/reset">
<input type="hidden" name="token" value="{{token}}">
<label for="password">New password</label>
<input id="password" name="password" type="password" autocomplete="new-password" required
 minlength="{MIN_PASSWORD_CHARACTERS}" maxlength="{MAX_PASSWORD_CHARACTERS}">
<button>Set the password</button></form>"""
# Also where others keep registering the address, so that no confirmation is good for long.
ANOTHER_WAY = "<p>Ask for a new password: the link for it confirms the account as well.</p>"
GO_ON = '<p><a href="/">Go on</a></p>'
EVERYTHING_ENDS = "It ends every login and every API key of your account."
UNFIT = (
    f"A password has {MIN_PASSWORD_CHARACTERS} to {MAX_PASSWORD_CHARACTERS} characters, and is "
    "neither among the commonest nor your address. Choose another one."
)
# The token in the address goes to nobody else: these forbid a Referer as well.
HEADERS = pages.headers("no-store", form_action="'self'")


def _page(title: str, body: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(pages.card(title, body), status, HEADERS)


@readable(router, "/confirm")
async def ask_to_confirm(token: LinkToken = "") -> HTMLResponse:
    return _page("Confirm your account", CONFIRM.format(token=escape(token, quote=True)))


@router.post("/confirm")
async def confirm(token: FormToken, resources: Provided) -> HTMLResponse:
    try:
        await registration.confirm(resources, token)
    except LinkInvalid as error:
        body = f"<p>{error.detail}</p>{ANOTHER_WAY}{GO_ON}"
        return _page("Not confirmed", body, error.status)
    return _page("Confirmed", f"<p>Your account is confirmed. You can log in now.</p>{GO_ON}")


def _password_form(token: str, hint: str, status: int = 200) -> HTMLResponse:
    body = RESET.format(token=escape(token, quote=True), hint=hint)
    return _page("Set a new password", body, status)


@readable(router, "/reset")
async def ask_for_password(token: LinkToken = "") -> HTMLResponse:
    return _password_form(token, EVERYTHING_ENDS)


@router.post("/reset")
async def reset(
    token: FormToken, resources: Provided, network: Network, password: Annotated[str, Form()] = ""
) -> HTMLResponse:
    try:
        wanted = PasswordReset.model_validate({"token": token, "password": password})
        await password_reset.reset(resources, wanted.token, wanted.password, network)
    except (ValidationError, password_reset.PasswordUnfit):
        return _password_form(token, UNFIT, 422)
    except LinkInvalid as error:
        return _page("Not changed", f"<p>{error.detail}</p>", error.status)
    done = f"<p>Your new password is set. You can log in with it now.</p>{GO_ON}"
    return _page("Password set", done)
