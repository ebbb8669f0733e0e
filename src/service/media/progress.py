"""What an item goes through while it is processed: each step is one statement that only the newest
attempt can make, and none where the item was deleted."""

import logging
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, or_, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.accounts.sessions import address_of
from service.media.models import UNFINISHED, MediaItem
from service.media.public import listing_changed
from service.media.revisions import record
from service.outbox import post
from service.resources import Resources

log = logging.getLogger(__name__)

# Percent, as far as an owner can tell.
BEGUN = 10
INSPECTED = 80
DONE = 100

GIVEN_UP = "The file could not be processed."  # and the file is not known to be at fault


def mail_key(item_id: UUID) -> str:
    """Of the one mail about an item."""
    return f"media-{item_id.hex}"


async def begin(resources: Resources, item_id: UUID, *, anew: bool = True) -> MediaItem | None:
    """Take the item for a new attempt; None where there is nothing left to do.

    `anew` takes one that was given up as well: an operator has its job run again.
    """
    unfinished: ColumnElement[bool] = MediaItem.status.in_(UNFINISHED)
    if anew:
        given_up = and_(MediaItem.status == "failed", MediaItem.reason == GIVEN_UP)
        unfinished = or_(unfinished, given_up)
    statement = (
        update(MediaItem)
        .where(MediaItem.id == item_id, unfinished)
        .values(
            status="processing",
            reason=None,
            progress=BEGUN,
            attempt=MediaItem.attempt + 1,
            updated_at=datetime.now(UTC),
        )
        .returning(MediaItem)
    )
    async with resources.database.transaction() as session:
        item = (await session.scalars(statement)).one_or_none()
        if item is not None:
            await record(resources, session, item.account_id, item.id)
        return item


async def report(resources: Resources, item: MediaItem, percent: int) -> bool:
    """Note how far an attempt is. False where it is no longer the newest."""
    async with resources.database.transaction() as session:
        if await _change(session, item, progress=percent) is None:
            return False
        await record(resources, session, item.account_id, item.id)
    return True


async def finish(resources: Resources, item: MediaItem, **values: Any) -> bool:
    """End an attempt, with one mail. False where it is no longer the newest."""
    async with resources.database.transaction() as session:
        current = await _change(session, item, **values)
        if current is None:
            return False
        await _tell_owner(resources, session, current)
        await record(resources, session, item.account_id, item.id)
    if current.public:
        await listing_changed(resources)
    log.info("media_processed", extra={"media_id": str(item.id), "status": current.status})
    return True


async def _change(session: AsyncSession, item: MediaItem, **values: Any) -> MediaItem | None:
    statement = (
        update(MediaItem)
        .where(MediaItem.id == item.id, MediaItem.attempt == item.attempt)
        .values(**values, updated_at=datetime.now(UTC))
        .returning(MediaItem)
    )
    changed = (await session.scalars(statement)).one_or_none()
    if changed is None:
        log.info("attempt_superseded", extra={"media_id": str(item.id)})
    return changed


async def _tell_owner(resources: Resources, session: AsyncSession, item: MediaItem) -> None:
    if item.status == "ready":
        subject, text = "Your upload is ready", f"{item.title}\n"
    else:
        subject, text = "Your upload could not be processed", f"{item.title}\n{item.reason}\n"
    to = await address_of(session, item.account_id)
    key = mail_key(item.id)
    await post(resources, session, key=key, to=to, subject=subject, text=text)
