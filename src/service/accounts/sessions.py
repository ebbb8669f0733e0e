"""Logging in and out, and `CurrentAccount`: the only door other slices use."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import Depends
from fastapi.security import OAuth2PasswordBearer
from sqlalchemy import bindparam, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from service.accounts.addresses import normalise
from service.accounts.models import Account, Token
from service.accounts.passwords import verify_password
from service.accounts.registration import find_by_email
from service.errors import ServiceError
from service.lookup import Lookup
from service.resources import Resources, provide

TOKEN_BYTES = 32


class NotLoggedIn(ServiceError):
    status = 401
    headers = {"WWW-Authenticate": "Bearer"}

    def __init__(self) -> None:
        super().__init__("A valid bearer token is needed.")


class TokenInvalid(NotLoggedIn):
    headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}  # RFC 6750 section 3.1


class LoginRefused(ServiceError):
    """One answer for unknown, wrong and unconfirmed."""

    status = 401
    headers = {"WWW-Authenticate": "Bearer"}

    def __init__(self) -> None:
        super().__init__("The address or the password is wrong, or the account is not confirmed.")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who sent a request, and the digest of the token that says so."""

    id: UUID
    email: str
    created_at: datetime
    token_digest: bytes


def digest(token: str) -> bytes:
    """What is kept of a token. 256 random bits need no slow hash."""
    return hashlib.sha256(token.encode()).digest()


async def log_in(resources: Resources, email: str, password: str) -> str:
    """A new bearer token. Raises LoginRefused, after the same work whatever the reason."""
    account, password_hash = await find_by_email(resources, _known_form(email))
    matches = await verify_password(resources, password, password_hash)
    if account is None or not matches:
        raise LoginRefused
    token = secrets.token_urlsafe(TOKEN_BYTES)
    now = datetime.now(UTC)
    lifetime = timedelta(seconds=resources.settings.access_token_seconds)
    values = {"digest": digest(token), "account_id": account.id}
    async with resources.database.transaction() as session:
        await session.execute(
            insert(Token).values(**values, created_at=now, expires_at=now + lifetime)
        )
    return token


def _known_form(email: str) -> str:
    """The address as accounts have it; what is none is looked up all the same, and not found."""
    try:
        return normalise(email)
    except ValueError:
        return ""


async def log_out(resources: Resources, identity: Identity) -> None:
    """Revoke the token that the request was made with."""
    async with resources.database.transaction() as session:
        await session.execute(delete(Token).where(Token.digest == identity.token_digest))


# Built once: composing it costs more than running it.
_WHO = Lookup(
    select(Account.id, Account.email, Account.created_at)
    .join(Token, Token.account_id == Account.id)
    .where(Token.digest == bindparam("digest"), Token.expires_at > bindparam("now"))
)


async def authenticate(resources: Resources, token: str) -> Identity:
    """The account of a bearer token. Raises TokenInvalid."""
    found = digest(token)
    row = await _WHO.one(resources.database, digest=found, now=datetime.now(UTC))
    if row is None:
        raise TokenInvalid
    account_id, email, created_at = row
    return Identity(account_id, email, created_at, found)


class _Bearer(OAuth2PasswordBearer):
    """OpenAPI's security scheme and the dependency in one: a second dependency costs 20 µs."""

    def __init__(self, *, required: bool) -> None:
        super().__init__(tokenUrl="/login", scheme_name="bearer", auto_error=False)
        self.required = required

    async def __call__(  # type: ignore[override]
        self, connection: HTTPConnection
    ) -> Identity | None:
        kind, _, token = connection.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and token:
            return await authenticate(provide(connection), token)
        if self.required:
            raise NotLoggedIn
        return None


CurrentAccount = Annotated[Identity, Depends(_Bearer(required=True))]
MaybeAccount = Annotated[Identity | None, Depends(_Bearer(required=False))]


async def address_of(session: AsyncSession, account_id: UUID) -> str:
    """Where mail to an account goes."""
    return (await session.scalars(select(Account.email).where(Account.id == account_id))).one()
