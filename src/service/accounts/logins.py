"""Logging in and out."""

import secrets
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import LargeBinary, delete, insert, literal, select

from service.accounts import attempts
from service.accounts.addresses import normalise
from service.accounts.models import Account, Token
from service.accounts.passwords import verify_password
from service.accounts.registration import find_by_email
from service.accounts.sessions import TOKEN_BYTES, Identity, digest
from service.database import UtcDateTime
from service.errors import ServiceError
from service.resources import Resources


class LoginRefused(ServiceError):
    """One answer for unknown, wrong and unconfirmed."""

    status = 401
    headers = {"WWW-Authenticate": "Bearer"}

    def __init__(self) -> None:
        super().__init__("The address or the password is wrong, or the account is not confirmed.")


async def log_in(resources: Resources, email: str, password: str, network: str) -> str:
    """A new bearer token. Raises LoginRefused, after the same work whatever the reason, and
    LimitReached, also for the right password."""
    address = _known_form(email)
    subject = await attempts.login_subject(resources, address, network)
    # Counted before it is known to fail: of a thousand at the same moment only a few are tried.
    async with resources.limits.counted(attempts.logins(resources.settings), subject):
        account, password_hash = await find_by_email(resources, address)
        matches = await verify_password(resources, password, password_hash)
        if account is None or password_hash is None or not matches:
            raise LoginRefused
        token = secrets.token_urlsafe(TOKEN_BYTES)
        if not await _added(resources, token, account.id, password_hash):
            raise LoginRefused
    await attempts.login_succeeded(resources, subject, address, network)
    return token


def _known_form(email: str) -> str:
    """The address as accounts have it; what is none is looked up all the same, and not found."""
    try:
        return normalise(email)
    except ValueError:
        return ""


async def _added(
    resources: Resources, token: str, account_id: UUID, verified_password_hash: str
) -> bool:
    """Whether the password was still the account's: a reset meanwhile revoked all tokens, and
    none may be added after it. Where it is just under way, the lock waits for its end."""
    now = datetime.now(UTC)
    expires_at = now + timedelta(seconds=resources.settings.access_token_seconds)
    values = select(
        literal(digest(token), LargeBinary),
        Account.id,
        literal(now, UtcDateTime),
        literal(expires_at, UtcDateTime),
    ).where(Account.id == account_id, Account.password_hash == verified_password_hash)
    statement = insert(Token).from_select(
        ["digest", "account_id", "created_at", "expires_at"], values.with_for_update(read=True)
    )
    async with resources.database.transaction() as session:
        added = await session.execute(statement.returning(Token.account_id))
        return added.scalar_one_or_none() is not None


async def log_out(resources: Resources, identity: Identity) -> None:
    """Revoke the token that the request was made with."""
    async with resources.database.transaction() as session:
        await session.execute(delete(Token).where(Token.digest == identity.token_digest))
