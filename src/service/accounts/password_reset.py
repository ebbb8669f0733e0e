"""A new password for who forgot the old one, by a mailed link.

An account that is not confirmed gets the link as well, and using it confirms the account: it proves
the address as the first link would have, and sets a password of the owner's own. So it is good
whoever registers the address anew meanwhile.
"""

import logging
import secrets
from datetime import UTC, datetime

from pydantic import SecretStr
from sqlalchemy import delete, func, or_, select, update

from service.accounts import attempts, known_passwords, links, passwords
from service.accounts.models import Account, ApiKey, Token
from service.errors import ServiceError
from service.limits import LimitReached
from service.outbox import post
from service.resources import Resources

log = logging.getLogger(__name__)

MAIL_LINK = "accounts.mail_reset_link"
LINK_SUBJECT = "Set a new password"
LINK_TEXT = """\
Somebody, probably you, asked for a new password for the account with this address.

To set one, open this link within an hour:

    {url}

or send its token with the password to POST /api/accounts/password/reset:

    {token}

If it was not you, ignore this mail: your password stays as it is.
"""
CHANGED_SUBJECT = "Your password was changed"
CHANGED_TEXT = """\
The password of the account with this address was changed by a mailed link. Every login and every
API key of the account has ended. You can log in at {url} with the new password.

If it was not you, somebody else reads your mail.
"""


class PasswordUnfit(ServiceError):
    """What only who knows the account can tell."""

    status = 422

    def __init__(self) -> None:
        super().__init__(f"body.password: {known_passwords.OWN_ADDRESS}")


async def ask(resources: Resources, email: str, network: str) -> None:
    """Have a link mailed to an address that has an account.

    Whether it has one is looked up by a job: a request does the same for every address, so that
    the time of its answer does not tell. Too many for one address or from one network change
    nothing.
    """
    # The site as the web process knows it: without PUBLIC_URL a worker may know another.
    site, event = resources.settings.site_url, secrets.token_hex(8)
    try:
        async with (
            attempts.mail(resources, attempts.RESET_MAILS, email, network),
            resources.database.transaction() as session,
        ):
            await resources.jobs.enqueue(session, MAIL_LINK, email=email, event=event, site=site)
    except LimitReached:
        log.info("reset_mail_limited")


async def mail_link(resources: Resources, email: str, event: str, site: str) -> None:
    """What became of a request; again for the same event, it sends nothing."""
    async with resources.database.transaction() as session:
        account = await session.scalar(select(Account).where(Account.email == email))
        if account is None:
            return
        token = links.make(resources.settings, links.RESET, account.id, account.stamp)
        url = f"{site}/reset?token={token}"
        text = LINK_TEXT.format(url=url, token=token)
        key = f"reset-{account.id.hex}-{event}"
        await post(resources, session, key=key, to=email, subject=LINK_SUBJECT, text=text)


async def reset(resources: Resources, token: str, password: SecretStr, network: str) -> None:
    """Set the password of the account a mailed token names, and revoke all its tokens and keys.

    Raises LinkInvalid, and PasswordUnfit, after which the link is as good as before.
    """
    account_id, stamp = links.read(resources.settings, links.RESET, token)
    text = password.get_secret_value()
    password_hash = await passwords.hash_password(resources, text)
    new_stamp, now = secrets.token_hex(8), datetime.now(UTC)
    confirmed_at = func.coalesce(Account.confirmed_at, now)
    is_good = or_(Account.stamp == stamp, Account.confirmed_at.is_(None))
    statement = (
        update(Account)
        .where(Account.id == account_id, is_good)
        .values(password_hash=password_hash, stamp=new_stamp, confirmed_at=confirmed_at)
        .returning(Account.email)
    )
    async with resources.database.transaction() as session:
        # First the account, whose row a login or a new key waits for: none slips in between.
        email = (await session.execute(statement)).scalar_one_or_none()
        if email is None:
            raise links.LinkInvalid
        if known_passwords.is_of_address(text, email):
            raise PasswordUnfit
        await session.execute(delete(Token).where(Token.account_id == account_id))
        await session.execute(delete(ApiKey).where(ApiKey.account_id == account_id))
        told = CHANGED_TEXT.format(url=resources.settings.site_url)
        key = f"changed-{account_id.hex}-{new_stamp}"
        await post(resources, session, key=key, to=email, subject=CHANGED_SUBJECT, text=told)
    await attempts.password_was_set(resources, email, network)
    log.info("password_reset", extra={"account_id": str(account_id)})
