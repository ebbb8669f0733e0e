"""Bytes without an item, or that it does not know of: what a process that was killed between
storage and commit left."""

import logging
import re
from uuid import UUID

from sqlalchemy import select

from service.folder import ABANDONED_SECONDS
from service.jobs import Job
from service.media.models import UNFINISHED, MediaItem, original_key, thumbnail_key
from service.resources import Resources

log = logging.getLogger(__name__)

SWEEP = "media.sweep"
SWEEP_SECONDS = 24 * 3600  # it lists the whole store
# Far longer than a row can take to follow its bytes: seconds, by the database's deadlines.
UNCLAIMED_SECONDS = ABANDONED_SECONDS
# Nothing else in the store is touched.
KEY = re.compile(r"([0-9a-f]{32})/(?:original|thumbnail)")


async def sweep(resources: Resources, job: Job) -> None:
    """Remove the old bytes of ids that no item has, and thumbnails of items that ended without one.
    Raises StorageUnavailable."""
    await resources.storage.tidy()
    async for keys in resources.storage.older_than(UNCLAIMED_SECONDS):
        for key in await _unclaimed(resources, keys):
            await resources.storage.delete(key)
            log.info("bytes_swept", extra={"key": key})


async def _unclaimed(resources: Resources, keys: list[str]) -> list[str]:
    ids = {key: UUID(match[1]) for key in keys if (match := KEY.fullmatch(key))}
    if not ids:
        return []
    columns = MediaItem.id, MediaItem.has_thumbnail, MediaItem.status
    statement = select(*columns).where(MediaItem.id.in_(set(ids.values())))
    claimed = set()
    async with resources.database.reading() as connection:
        for item_id, has_thumbnail, status in await connection.execute(statement):
            claimed.add(original_key(item_id))
            if has_thumbnail or status in UNFINISHED:
                claimed.add(thumbnail_key(item_id))
    return [key for key in ids if key not in claimed]
