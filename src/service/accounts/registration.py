"""Creating and confirming accounts, without telling anybody which addresses are known."""

import logging
import secrets
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from pydantic import SecretStr
from sqlalchemy import select, update

from service.accounts import attempts, links, passwords
from service.accounts.models import Account
from service.limits import LimitReached
from service.outbox import post
from service.resources import Resources

log = logging.getLogger(__name__)

CONFIRM_SUBJECT = "Confirm your account"
CONFIRM_TEXT = """\
Somebody, probably you, asked for an account with this address.

To confirm it, open this link within 24 hours:

    {url}

or send its token to POST /api/accounts/confirm:

    {token}

If it was not you, ignore this mail: nothing happens without the link.
"""
REPLACED_TEXT = """
This was not the first time: the link confirms the password that was given now, and the links of
earlier mails are void. If you did not ask again, somebody else chose that password. Then do not
open the link, but set a password of your own by POST /api/accounts/password/forgot.
"""
KNOWN_SUBJECT = "You already have an account"
KNOWN_TEXT = """\
Somebody, probably you, asked for an account with this address, which already has one.
You can log in at {url}. If it was not you, you can ignore this mail.
"""


async def register(resources: Resources, email: str, password: SecretStr, network: str) -> None:
    """Create an account that waits for its confirmation.

    Asked again before the confirmation, the newest password and the newest link count: a link
    confirms the password it was mailed for, and no other. For an address that is confirmed nothing
    changes, and its owner is told. Too many for one address or from one network send no mail.
    """
    text = password.get_secret_value()
    row = _row(email, await passwords.hash_password(resources, text))
    try:
        async with attempts.mail(resources, attempts.CONFIRMATION_MAILS, email, network):
            await _register(resources, row)
    except LimitReached:
        await _register_unmailed(resources, row, text)
        log.info("confirmation_mail_limited")


def _row(email: str, password_hash: str) -> dict[str, Any]:
    now, stamp = datetime.now(UTC), secrets.token_hex(8)
    new = {"id": uuid4(), "email": email}
    return new | {"password_hash": password_hash, "stamp": stamp, "created_at": now}


def _upsert(resources: Resources, row: dict[str, Any], kept_hash: str = "") -> Any:
    """Not where the account is confirmed, nor where it has the hash that is kept. Its row is locked
    all the same, so that the time of the commit does not tell."""
    changed = {name: row[name] for name in ("password_hash", "stamp", "created_at")}
    other = Account.confirmed_at.is_(None) & (Account.password_hash != kept_hash)
    return (
        resources.database.insert(Account)
        .values(row)
        .on_conflict_do_update(index_elements=[Account.email], set_=changed, where=other)
        .returning(Account.id)
    )


async def _register_unmailed(resources: Resources, row: dict[str, Any], password: str) -> None:
    """Links that were mailed for another password, a stranger's perhaps, are no longer good: who
    has just asked would open one. Who asks for the same again keeps the newest."""
    account, _ = await find_by_email(resources, row["email"])
    pending = account.password_hash if account and account.confirmed_at is None else None
    same = await passwords.verify_password(resources, password, pending)
    async with resources.database.transaction() as session:
        await session.execute(_upsert(resources, row, pending if pending and same else ""))


async def _register(resources: Resources, row: dict[str, Any]) -> None:
    statement, stamp = _upsert(resources, row), row["stamp"]
    site = resources.settings.site_url
    async with resources.database.transaction() as session:
        account_id = (await session.execute(statement)).scalar_one_or_none()
        if account_id is None:
            key, subject = f"known-{secrets.token_hex(8)}", KNOWN_SUBJECT
            text = KNOWN_TEXT.format(url=site)
        else:
            token = links.make(resources.settings, links.CONFIRM, account_id, stamp)
            key, subject = f"confirm-{account_id.hex}-{stamp}", CONFIRM_SUBJECT
            text = CONFIRM_TEXT.format(url=f"{site}/confirm?token={token}", token=token)
            text += REPLACED_TEXT if account_id != row["id"] else ""
        await post(resources, session, key=key, to=row["email"], subject=subject, text=text)


async def confirm(resources: Resources, token: str) -> None:
    """Confirm the account a mailed token names. Raises LinkInvalid."""
    account_id, stamp = links.read(resources.settings, links.CONFIRM, token)
    statement = (
        update(Account)
        .where(Account.id == account_id, Account.stamp == stamp, Account.confirmed_at.is_(None))
        .values(confirmed_at=datetime.now(UTC), stamp=secrets.token_hex(8))
        .returning(Account.id)
    )
    async with resources.database.transaction() as session:
        if (await session.execute(statement)).scalar_one_or_none() is None:
            raise links.LinkInvalid


async def find_by_email(resources: Resources, email: str) -> tuple[Account | None, str | None]:
    """The account of an address, and its password hash if it may log in."""
    async with resources.database.transaction() as session:
        account = await session.scalar(select(Account).where(Account.email == email))
    confirmed = account is not None and account.confirmed_at is not None
    return account, account.password_hash if account is not None and confirmed else None
