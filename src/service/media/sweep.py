"""Bytes without an item: what a process that was killed between storage and commit left."""

import logging
import re
from uuid import UUID

from sqlalchemy import select

from service.folder import ABANDONED_SECONDS
from service.jobs import Job
from service.media.models import MediaItem
from service.resources import Resources

log = logging.getLogger(__name__)

SWEEP = "media.sweep"
SWEEP_SECONDS = 24 * 3600  # it lists the whole store
# Far longer than a row can take to follow its bytes: seconds, by the database's deadlines.
UNCLAIMED_SECONDS = ABANDONED_SECONDS
# Nothing else in the store is touched.
KEY = re.compile(r"([0-9a-f]{32})/(?:original|thumbnail)")


async def sweep(resources: Resources, job: Job) -> None:
    """Remove the old bytes of ids that no item has. Raises StorageUnavailable."""
    await resources.storage.tidy()
    async for keys in resources.storage.older_than(UNCLAIMED_SECONDS):
        for key in await _unclaimed(resources, keys):
            await resources.storage.delete(key)
            log.info("bytes_swept", extra={"key": key})


async def _unclaimed(resources: Resources, keys: list[str]) -> list[str]:
    ids = {key: UUID(match[1]) for key in keys if (match := KEY.fullmatch(key))}
    if not ids:
        return []
    statement = select(MediaItem.id).where(MediaItem.id.in_(set(ids.values())))
    async with resources.database.reading() as connection:
        claimed = set(await connection.scalars(statement))
    return [key for key, item_id in ids.items() if item_id not in claimed]
