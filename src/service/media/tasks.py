"""What the worker does with an upload."""

import asyncio
import io
import logging
import tempfile
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from service.accounts.sessions import address_of
from service.jobs import Job, Task
from service.media.images import Inspected, Unprocessable
from service.media.inspection import inspect
from service.media.models import MediaItem
from service.media.uploads import PROCESS
from service.outbox import post
from service.resources import Resources

log = logging.getLogger(__name__)


async def process(resources: Resources, job: Job) -> None:
    """Inspect an upload and make it `ready` or `failed`, with one mail.

    May run more than once, even twice at a time after a worker was frozen: only the newest attempt
    finishes, in one transaction.
    """
    item = await _begin(resources, UUID(job.arguments["item_id"]))
    if item is None:
        return
    try:
        facts = await _inspect(resources, item)
    except Unprocessable as error:
        await _finish(resources, item, status="failed", reason=str(error))
        return
    if facts.thumbnail is not None:
        await resources.storage.put(item.thumbnail_key, io.BytesIO(facts.thumbnail))
    await _finish(
        resources,
        item,
        status="ready",
        progress=100,
        sha256=facts.sha256,
        content_type=facts.content_type,
        width=facts.width,
        height=facts.height,
        has_thumbnail=facts.thumbnail is not None,
    )


async def give_up(resources: Resources, job: Job, error: BaseException) -> None:
    """The last attempt failed: the owner learns that it did, the operator's log says why."""
    item = await _begin(resources, UUID(job.arguments["item_id"]))
    if item is not None:
        reason = "The file could not be processed."
        await _finish(resources, item, status="failed", reason=reason)


async def _begin(resources: Resources, item_id: UUID) -> MediaItem | None:
    """Take the item for a new attempt; None where there is nothing left to do."""
    statement = (
        update(MediaItem)
        .where(MediaItem.id == item_id, MediaItem.status.in_(("received", "processing")))
        .values(status="processing", attempt=MediaItem.attempt + 1, updated_at=datetime.now(UTC))
        .returning(MediaItem)
    )
    async with resources.database.transaction() as session:
        return (await session.scalars(statement)).one_or_none()


async def _inspect(resources: Resources, item: MediaItem) -> Inspected:
    with tempfile.TemporaryFile() as file:
        async for chunk in resources.storage.read(item.original_key, 0, item.size):
            await asyncio.to_thread(file.write, chunk)
        file.seek(0)
        async with resources.cpu_gate:
            return await inspect(file)


async def _finish(resources: Resources, item: MediaItem, **values: Any) -> None:
    statement = (
        update(MediaItem)
        .where(MediaItem.id == item.id, MediaItem.attempt == item.attempt)
        .values(**values, updated_at=datetime.now(UTC))
        .returning(MediaItem.id)
    )
    async with resources.database.transaction() as session:
        if (await session.execute(statement)).scalar_one_or_none() is None:
            log.info("attempt_superseded", extra={"media_id": str(item.id)})
            return
        await _tell_owner(resources, session, item, values)
    log.info("media_processed", extra={"media_id": str(item.id), "status": values["status"]})


async def _tell_owner(
    resources: Resources, session: AsyncSession, item: MediaItem, values: dict[str, Any]
) -> None:
    if values["status"] == "ready":
        subject, text = "Your upload is ready", f"{item.title}\n"
    else:
        subject, text = "Your upload could not be processed", f"{item.title}\n{values['reason']}\n"
    to = await address_of(session, item.account_id)
    key = f"media-{item.id.hex}"
    await post(resources, session, key=key, to=to, subject=subject, text=text)


TASKS = (Task(PROCESS, process, give_up),)
