"""What accounts' items take, counted anew: the count of `revisions.record` misses what a release
without it takes or deletes, and what somebody removes by hand."""

import logging
from uuid import UUID

from sqlalchemy import func, select, update

from service.jobs import Job
from service.media.allowance import ITEM_BYTES
from service.media.models import MediaItem, MediaRevision
from service.resources import Resources

log = logging.getLogger(__name__)

RECOUNT = "media.recount"
RECOUNT_SECONDS = 24 * 3600
BATCH = 100  # accounts
_TAKEN = (
    select(func.coalesce(func.sum(MediaItem.size), 0) + ITEM_BYTES * func.count(MediaItem.id))
    .where(MediaItem.account_id == MediaRevision.account_id)
    .correlate(MediaRevision)
    .scalar_subquery()
)


async def recount(resources: Resources, job: Job) -> None:
    """Correct the counts that are off. May run at any time, and more than once."""
    last = UUID(int=0)
    corrected = 0
    while True:
        is_off = (MediaRevision.stored_bytes != _TAKEN).label("is_off")
        some = select(MediaRevision.account_id, is_off).where(MediaRevision.account_id > last)
        async with resources.database.reading() as connection:
            ordered = some.order_by(MediaRevision.account_id).limit(BATCH)
            accounts = (await connection.execute(ordered)).all()
        for account_id, off in accounts:
            if off:
                await _correct(resources, account_id)
                corrected += 1
        if len(accounts) < BATCH:
            break
        last = accounts[-1].account_id
    log.info("media_recounted", extra={"corrected": corrected})


async def _correct(resources: Resources, account_id: UUID) -> None:
    own = MediaRevision.account_id == account_id
    async with resources.database.transaction() as session:
        # Apart, as what is counted below has to be from after the lock: a change under way, which
        # holds it, may have committed.
        await session.execute(select(MediaRevision.latest).where(own).with_for_update())
        await session.execute(update(MediaRevision).where(own).values(stored_bytes=_TAKEN))
