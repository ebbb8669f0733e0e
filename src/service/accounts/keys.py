"""API keys: bearer tokens that an account gives to programs."""

import logging
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

from sqlalchemy import (
    Boolean,
    LargeBinary,
    String,
    Uuid,
    delete,
    func,
    insert,
    literal,
    select,
)

from service.accounts.models import Account, ApiKey, Token
from service.accounts.sessions import KEY_PREFIX, TOKEN_BYTES, Identity, TokenInvalid, digest
from service.database import UtcDateTime
from service.errors import ServiceError
from service.resources import Resources

log = logging.getLogger(__name__)

MAX_KEYS = 100
SHOWN_CHARACTERS = 4


class KeyNotFound(ServiceError):
    """Also for keys of others: whether they exist is not told."""

    status = 404

    def __init__(self) -> None:
        super().__init__("There is no such key.")


class TooManyKeys(ServiceError):
    status = 409

    def __init__(self) -> None:
        super().__init__(f"An account has at most {MAX_KEYS} keys. Delete one first.")


async def create(
    resources: Resources,
    identity: Identity,
    *,
    name: str,
    may_write: bool,
    expires_at: datetime | None,
) -> tuple[ApiKey, str]:
    """A new key of this account and its text, which is not kept. Raises TooManyKeys, and
    TokenInvalid where the login was revoked meanwhile."""
    text = KEY_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    row = {
        "id": literal(uuid4(), Uuid),
        "account_id": literal(identity.id, Uuid),
        "digest": literal(digest(text), LargeBinary),
        "name": literal(name, String),
        "ending": literal(text[-SHOWN_CHARACTERS:], String),
        "may_write": literal(may_write, Boolean),
        "created_at": literal(datetime.now(UTC), UtcDateTime),
        "expires_at": literal(expires_at, UtcDateTime),
    }
    login = select(Token.digest).where(Token.digest == identity.token_digest)
    others = select(func.count()).where(ApiKey.account_id == identity.id).scalar_subquery()
    values = select(*row.values()).where(login.exists(), others < MAX_KEYS)
    account = select(Account.id).where(Account.id == identity.id)
    async with resources.database.transaction() as session:
        # One key after the other, and none beside a password reset, which revokes all.
        await session.execute(account.with_for_update(key_share=True))
        added = await session.scalars(
            insert(ApiKey).from_select(list(row), values).returning(ApiKey)
        )
        key = added.one_or_none()
        if key is None:
            raise TooManyKeys if await session.scalar(login) else TokenInvalid
    log.info("api_key_created", extra={"key_id": str(key.id), "account_id": str(identity.id)})
    return key, text


async def list_own(resources: Resources, identity: Identity) -> Sequence[ApiKey]:
    """All keys of this account, newest first, the expired ones among them."""
    statement = select(ApiKey).where(ApiKey.account_id == identity.id)
    newest_first = statement.order_by(ApiKey.created_at.desc(), ApiKey.id)
    async with resources.database.transaction() as session:
        return (await session.scalars(newest_first)).all()


async def revoke(resources: Resources, identity: Identity, key_id: UUID) -> None:
    """Delete a key of this account. Raises KeyNotFound."""
    own = (ApiKey.id == key_id, ApiKey.account_id == identity.id)
    async with resources.database.transaction() as session:
        deleted = await session.scalar(delete(ApiKey).where(*own).returning(ApiKey.id))
    if deleted is None:
        raise KeyNotFound
    log.info("api_key_deleted", extra={"key_id": str(key_id), "account_id": str(identity.id)})
