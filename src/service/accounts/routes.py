"""Endpoints of accounts."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from fastapi.security import OAuth2PasswordRequestForm

from service.accounts import registration, sessions
from service.accounts.schemas import (
    Accepted,
    AccessToken,
    AccountView,
    Confirmation,
    NewAccount,
)
from service.accounts.sessions import CurrentAccount, Identity
from service.documented import problems
from service.resources import Provided
from service.routing import readable

router = APIRouter(tags=["accounts"])


@router.post("/api/accounts", status_code=202, responses=problems(400, 422, 503))
async def create_account(account: NewAccount, resources: Provided) -> Accepted:
    """Ask for an account. The answer is the same whether the address is known or not."""
    await registration.register(resources, account.email, account.password)
    return Accepted()


@router.post("/api/accounts/confirm", status_code=204, responses=problems(400, 422, 503))
async def confirm_account(confirmation: Confirmation, resources: Provided) -> None:
    """Confirm an account with the token from the mail. It works once."""
    await registration.confirm(resources, confirmation.token)


@router.post("/login", responses=problems(400, 401, 422, 503))
async def log_in(
    form: Annotated[OAuth2PasswordRequestForm, Depends()], resources: Provided, response: Response
) -> AccessToken:
    """Exchange address and password for a bearer token (OAuth2 password form)."""
    token = await sessions.log_in(resources, form.username, form.password)
    response.headers["Cache-Control"] = "no-store"  # RFC 6749 section 5.1
    return AccessToken(access_token=token, expires_in=resources.settings.access_token_seconds)


@router.post("/logout", status_code=204, responses=problems(401, 503))
async def log_out(identity: CurrentAccount, resources: Provided) -> None:
    """Revoke the token this request was made with."""
    await sessions.log_out(resources, identity)


@readable(router, "/api/accounts/me", response_model=AccountView, responses=problems(401, 503))
async def who_am_i(identity: CurrentAccount) -> Identity:
    """The account of the token."""
    return identity
