"""Who sent a request. `CurrentAccount` and its kin are the only door other slices use."""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import Depends
from fastapi.security import OAuth2PasswordBearer
from sqlalchemy import bindparam, or_, select, union_all, update
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from service.accounts.models import Account, ApiKey, Token
from service.errors import ServiceError, Unavailable
from service.lookup import Lookup
from service.resources import Resources, provide

TOKEN_BYTES = 32
KEY_PREFIX = "key_"
KEY_CHARACTERS = len(KEY_PREFIX) + 43  # a login's token has 43: none can be taken for a key
SUBPROTOCOL = "bearer"  # what a browser's WebSocket offers before its token
USE_NOTED_EVERY = timedelta(hours=1)


class NotLoggedIn(ServiceError):
    status = 401
    headers = {"WWW-Authenticate": "Bearer"}

    def __init__(self) -> None:
        super().__init__("A valid bearer token is needed.")


class TokenInvalid(NotLoggedIn):
    headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}  # RFC 6750 section 3.1


class ScopeMissing(ServiceError):
    status = 403
    headers = {"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="write"'}

    def __init__(self) -> None:
        super().__init__("This API key may only read.")


class LoginNeeded(ServiceError):
    status = 403
    headers = {"WWW-Authenticate": 'Bearer error="insufficient_scope"'}

    def __init__(self) -> None:
        super().__init__("This needs the token of a login; an API key may not.")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who sent a request, with what: the digest of a login's token, or of an API key."""

    id: UUID
    email: str
    created_at: datetime
    token_digest: bytes
    is_key: bool = False
    may_write: bool = True


def digest(token: str) -> bytes:
    """What is kept of a token. 256 random bits need no slow hash."""
    return hashlib.sha256(token.encode()).digest()


# Built once: composing them costs more than running them.
_BY_LOGIN = Lookup(
    select(Account.id, Account.email, Account.created_at)
    .join(Token, Token.account_id == Account.id)
    .where(Token.digest == bindparam("digest"), Token.expires_at > bindparam("now"))
)
_BY_KEY = Lookup(
    select(Account.id, Account.email, Account.created_at, ApiKey.may_write, ApiKey.last_used_at)
    .join(ApiKey, ApiKey.account_id == Account.id)
    .where(
        ApiKey.digest == bindparam("digest"),
        or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > bindparam("now")),
    )
)


async def authenticate(resources: Resources, token: str) -> Identity:
    """The account of a bearer token. Raises TokenInvalid."""
    found, now = digest(token), datetime.now(UTC)
    if token.startswith(KEY_PREFIX) and len(token) == KEY_CHARACTERS:
        return await _authenticate_key(resources, found, now)
    row = await _BY_LOGIN.one(resources.database, digest=found, now=now)
    if row is None:
        raise TokenInvalid
    account_id, email, created_at = row
    return Identity(account_id, email, created_at, found)


async def _authenticate_key(resources: Resources, found: bytes, now: datetime) -> Identity:
    row = await _BY_KEY.one(resources.database, digest=found, now=now)
    if row is None:
        raise TokenInvalid
    account_id, email, created_at, may_write, last_used_at = row
    if last_used_at is None or last_used_at < now - USE_NOTED_EVERY:
        await _note_use(resources, found, now)
    return Identity(account_id, email, created_at, found, is_key=True, may_write=may_write)


async def still_valid(resources: Resources, digests: Collection[bytes]) -> set[bytes]:
    """Which of these tokens would still be accepted, by what `Identity` has of them."""
    now = datetime.now(UTC)
    logins = select(Token.digest).where(Token.digest.in_(digests), Token.expires_at > now)
    ends_later = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now)
    keys = select(ApiKey.digest).where(ApiKey.digest.in_(digests), ends_later)
    async with resources.database.reading() as connection:
        return set(await connection.scalars(union_all(logins, keys)))


async def _note_use(resources: Resources, key_digest: bytes, now: datetime) -> None:
    """Once an hour a key, so that it costs no request a write. Of many at once, one writes."""
    unnoted = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < now - USE_NOTED_EVERY)
    statement = update(ApiKey).where(ApiKey.digest == key_digest, unnoted).values(last_used_at=now)
    try:
        async with resources.database.transaction() as session:
            await session.execute(statement)
    except Unavailable:
        return  # reading went well: no reason to fail the request


def _anything(identity: Identity) -> None:
    return None


def _may_write(identity: Identity) -> None:
    if not identity.may_write:
        raise ScopeMissing


def _is_login(identity: Identity) -> None:
    if identity.is_key:
        raise LoginNeeded


def _bearer_token(connection: HTTPConnection) -> str:
    kind, _, token = connection.headers.get("authorization", "").partition(" ")
    return token if kind.lower() == "bearer" else ""


class _Bearer(OAuth2PasswordBearer):
    """OpenAPI's security scheme and the dependency in one: a second dependency costs 20 µs."""

    def __init__(
        self, admit: Callable[[Identity], None] = _anything, *, required: bool = True
    ) -> None:
        description = "The token of a login, or an API key"
        super().__init__("/login", "bearer", description=description, auto_error=False)
        self.admit = admit
        self.required = required

    async def __call__(  # type: ignore[override]
        self, connection: HTTPConnection
    ) -> Identity | None:
        if token := _bearer_token(connection):
            identity = await authenticate(provide(connection), token)
            self.admit(identity)
            return identity
        if self.required:
            raise NotLoggedIn
        return None


# Who may read; who may change something as well; and who is a person, not a program with a key.
CurrentAccount = Annotated[Identity, Depends(_Bearer())]
Writer = Annotated[Identity, Depends(_Bearer(_may_write))]
LoggedIn = Annotated[Identity, Depends(_Bearer(_is_login))]
MaybeAccount = Annotated[Identity | None, Depends(_Bearer(required=False))]


async def _of_socket(websocket: WebSocket) -> Identity:
    """The only header that a browser can set is the list of subprotocols: `bearer` and the token.

    A URL would end up in logs. Raises NotLoggedIn, TokenInvalid.
    """
    offered = websocket.scope["subprotocols"]
    in_subprotocol = offered[1] if len(offered) == 2 and offered[0] == SUBPROTOCOL else ""
    token = _bearer_token(websocket) or in_subprotocol
    if not token:
        raise NotLoggedIn
    return await authenticate(provide(websocket), token)


SocketAccount = Annotated[Identity, Depends(_of_socket)]


async def address_of(session: AsyncSession, account_id: UUID) -> str:
    """Where mail to an account goes."""
    return (await session.scalars(select(Account.email).where(Account.id == account_id))).one()
