"""What nobody needs any more: logins and keys that ended, accounts that were never confirmed."""

import logging
from datetime import UTC, datetime, timedelta

from service.accounts.models import Account, ApiKey, Token
from service.jobs import Job
from service.removal import remove
from service.resources import Resources

log = logging.getLogger(__name__)

CLEAN_UP = "accounts.clean_up"
EVERY_SECONDS = 3600
KEY_DAYS = 30  # its owner sees for a while which one has ended
UNCONFIRMED_DAYS = 7  # after the newest registration; its link lives for one


async def clean_up(resources: Resources, job: Job) -> None:
    """May run at any time, and more than once."""
    now = datetime.now(UTC)
    ended = ApiKey.expires_at < now - timedelta(days=KEY_DAYS)
    old = Account.created_at < now - timedelta(days=UNCONFIRMED_DAYS)
    database = resources.database
    removed = {
        "logins": await remove(database, Token, Token.expires_at < now),
        "keys": await remove(database, ApiKey, ended),
        "accounts": await remove(database, Account, Account.confirmed_at.is_(None) & old),
    }
    log.info("accounts_cleaned_up", extra=removed)
