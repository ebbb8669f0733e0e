"""Endpoints of accounts."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Form, Response

from service.accounts import keys, logins, password_reset, registration
from service.accounts.attempts import Network
from service.accounts.schemas import (
    Accepted,
    AccessToken,
    AccountView,
    Confirmation,
    Forgotten,
    IssuedKey,
    KeyList,
    KeyView,
    LoginForm,
    NewAccount,
    NewKey,
    PasswordReset,
)
from service.accounts.sessions import CurrentAccount, Identity, LoggedIn
from service.documented import UNREADABLE, answers, leads_to, problems
from service.resources import Provided
from service.routing import readable

router = APIRouter(tags=["accounts"])

# What makes or verifies a hash, so many at once in each worker.
HASHES_AT_ONCE = 4
HASHING = (
    ("POST", "/login"),
    ("POST", "/api/accounts"),
    ("POST", "/api/accounts/password/reset"),
    ("POST", "/reset"),
)
KEY_LINKS = answers(201, links=leads_to("delete_key", key_id="/id"))


@router.post("/api/accounts", status_code=202, responses=problems(*UNREADABLE, 503))
async def create_account(account: NewAccount, resources: Provided, network: Network) -> Accepted:
    """Ask for an account. The answer is the same whether the address is known or not."""
    await registration.register(resources, account.email, account.password, network)
    return Accepted()


@router.post(
    "/api/accounts/confirm",
    status_code=204,
    response_class=Response,
    responses=problems(*UNREADABLE, 503),
)
async def confirm_account(confirmation: Confirmation, resources: Provided) -> None:
    """Confirm an account with the token from the mail. It works once."""
    await registration.confirm(resources, confirmation.token)


@router.post("/api/accounts/password/forgot", status_code=202, responses=problems(*UNREADABLE, 503))
async def forget_password(forgotten: Forgotten, resources: Provided, network: Network) -> Accepted:
    """Ask for a link to set a new password. The answer is the same for an unknown address."""
    await password_reset.ask(resources, forgotten.email, network)
    return Accepted()


@router.post(
    "/api/accounts/password/reset",
    status_code=204,
    response_class=Response,
    responses=problems(*UNREADABLE, 503),
)
async def reset_password(wanted: PasswordReset, resources: Provided, network: Network) -> None:
    """Set a new password with the token from the mail, which works once, for an hour.

    Every login and every API key of the account ends.
    """
    await password_reset.reset(resources, wanted.token, wanted.password, network)


@router.post("/login", responses=problems(*UNREADABLE, 401, 503))
async def log_in(
    form: Annotated[LoginForm, Form()],
    resources: Provided,
    network: Network,
    response: Response,
) -> AccessToken:
    """Exchange address and password for a bearer token (OAuth2 password form)."""
    token = await logins.log_in(resources, form.username, form.password, network)
    response.headers["Cache-Control"] = "no-store"  # RFC 6749 section 5.1
    return AccessToken(access_token=token, expires_in=resources.settings.access_token_seconds)


@router.post("/logout", status_code=204, response_class=Response, responses=problems(401, 403, 503))
async def log_out(identity: LoggedIn, resources: Provided) -> None:
    """Revoke the token this request was made with. An API key is deleted, not logged out."""
    await logins.log_out(resources, identity)


@readable(router, "/api/accounts/me", response_model=AccountView, responses=problems(401, 503))
async def who_am_i(identity: CurrentAccount) -> Identity:
    """The account of the token or the key."""
    return identity


@router.post(
    "/api/keys",
    status_code=201,
    responses=KEY_LINKS | problems(*UNREADABLE, 401, 403, 409, 503),
)
async def create_key(
    wanted: NewKey, identity: LoggedIn, resources: Provided, response: Response
) -> IssuedKey:
    """Make an API key: a bearer token for a program. The key is shown this once."""
    key, text = await keys.create(
        resources,
        identity,
        name=wanted.name,
        may_write="write" in wanted.scopes,
        expires_at=wanted.expires_at,
    )
    response.headers["Cache-Control"] = "no-store"
    return IssuedKey.of(key, key=text)


@readable(router, "/api/keys", responses=problems(401, 403, 503))
async def list_keys(identity: LoggedIn, resources: Provided) -> KeyList:
    """Own API keys, without the keys themselves."""
    return KeyList(items=[KeyView.of(key) for key in await keys.list_own(resources, identity)])


@router.delete(
    "/api/keys/{key_id}",
    status_code=204,
    response_class=Response,
    responses=problems(401, 403, 404, 422, 503),
)
async def delete_key(key_id: UUID, identity: LoggedIn, resources: Provided) -> None:
    """Revoke an API key: from now on it opens nothing."""
    await keys.revoke(resources, identity, key_id)
