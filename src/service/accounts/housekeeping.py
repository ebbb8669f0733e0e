"""What nobody needs any more: logins and keys that ended, accounts that were never confirmed."""

import logging
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import InstrumentedAttribute

from service.accounts.models import Account, ApiKey, Token
from service.jobs import Job
from service.resources import Resources

log = logging.getLogger(__name__)

CLEAN_UP = "accounts.clean_up"
EVERY_SECONDS = 3600
KEY_DAYS = 30  # its owner sees for a while which one has ended
UNCONFIRMED_DAYS = 7  # after the newest registration; its link lives for one
BATCH = 1000  # rows a statement, far from its timeout


async def clean_up(resources: Resources, job: Job) -> None:
    """May run at any time, and more than once."""
    now = datetime.now(UTC)
    ended = ApiKey.expires_at < now - timedelta(days=KEY_DAYS)
    old = Account.created_at < now - timedelta(days=UNCONFIRMED_DAYS)
    removed = {
        "logins": await _remove(resources, Token.digest, Token.expires_at < now),
        "keys": await _remove(resources, ApiKey.id, ended),
        "accounts": await _remove(resources, Account.id, Account.confirmed_at.is_(None) & old),
    }
    log.info("accounts_cleaned_up", extra=removed)


async def _remove(
    resources: Resources, key: InstrumentedAttribute[object], which: ColumnElement[bool]
) -> int:
    """Delete rows in batches; how many it were."""
    batch = select(key).where(which).limit(BATCH)
    # Asked twice: a row may have changed since it was selected, by its confirmation.
    statement = delete(key.class_).where(key.in_(batch), which).returning(key)
    removed = 0
    while True:
        async with resources.database.transaction() as session:
            count = len((await session.execute(statement)).all())
        removed += count
        if count < BATCH:
            return removed
