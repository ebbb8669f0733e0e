"""What the worker does: with an upload, and with what a deleted item leaves."""

import asyncio
import io
import logging
import tempfile
from typing import IO
from uuid import UUID

from sqlalchemy import exists, select

from service.jobs import Job, Task
from service.media import progress
from service.media.changes import ERASE
from service.media.contents import Inspected, Unprocessable
from service.media.inspection import inspect
from service.media.models import MediaItem, original_key, thumbnail_key
from service.media.recount import RECOUNT, RECOUNT_SECONDS, recount
from service.media.revisions import FORGET, FORGET_SECONDS, forget
from service.media.sweep import SWEEP, SWEEP_SECONDS, sweep
from service.media.uploads import PROCESS
from service.resources import Resources
from service.storage import StorageUnavailable

log = logging.getLogger(__name__)


async def process(resources: Resources, job: Job) -> None:
    """Inspect an upload and make it `ready` or `failed`, with one mail.

    May run more than once, even twice at a time after a worker was frozen: only the newest attempt
    finishes, in one transaction. What it finds deleted, before or in the end, it leaves without
    a byte.
    """
    item_id = UUID(job.arguments["item_id"])
    try:
        ended = await _process(resources, item_id)
    except FileNotFoundError:
        if not await _is_deleted(resources, item_id):
            raise
        ended = False
    if not ended and await _is_deleted(resources, item_id):
        await _erase(resources, item_id)  # it may have made a thumbnail after the others did this


async def _process(resources: Resources, item_id: UUID) -> bool:
    """Whether this attempt ended the item."""
    item = await progress.begin(resources, item_id)
    if item is None:
        return False
    try:
        facts = await _inspect(resources, item)
    except Unprocessable as error:
        return await progress.finish(resources, item, status="failed", reason=str(error))
    if not await progress.report(resources, item, progress.INSPECTED):
        return False
    if facts.thumbnail is not None:
        await resources.storage.put(item.thumbnail_key, io.BytesIO(facts.thumbnail))
    return await progress.finish(
        resources,
        item,
        status="ready",
        progress=progress.DONE,
        sha256=facts.sha256,
        content_type=facts.content_type,
        width=facts.width,
        height=facts.height,
        has_thumbnail=facts.thumbnail is not None,
    )


async def _inspect(resources: Resources, item: MediaItem) -> Inspected:
    try:
        with _temporary_file() as file:
            async for chunk in resources.storage.read(item.original_key, 0, item.size):
                await asyncio.to_thread(file.write, chunk)
            file.seek(0)
            async with resources.cpu_gate:
                return await inspect(file)
    except FileNotFoundError:  # of the upload
        raise
    except OSError as error:  # such as a full disk, which is not the upload's fault
        raise StorageUnavailable from error


def _temporary_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError as error:  # also FileNotFoundError, where no directory can be written to
        raise StorageUnavailable from error


async def give_up(resources: Resources, job: Job, error: BaseException) -> None:
    """The last attempt failed: the owner learns that it did, the operator's log says why. May run
    more than once: a worker may be killed before it has recorded that it did."""
    item = await progress.begin(resources, UUID(job.arguments["item_id"]), anew=False)
    if item is not None:
        await progress.finish(resources, item, status="failed", reason=progress.GIVEN_UP)


async def _is_deleted(resources: Resources, item_id: UUID) -> bool:
    """Its row committed with its job: an item without one had one."""
    statement = select(exists().where(MediaItem.id == item_id))
    async with resources.database.reading() as connection:
        return not await connection.scalar(statement)


async def erase(resources: Resources, job: Job) -> None:
    """Remove the bytes of a deleted item. May run more than once."""
    await _erase(resources, UUID(job.arguments["item_id"]))


async def _erase(resources: Resources, item_id: UUID) -> None:
    for key in (original_key(item_id), thumbnail_key(item_id)):
        await resources.storage.delete(key)
    log.info("media_erased", extra={"media_id": str(item_id)})


TASKS = (
    Task(PROCESS, process, give_up),
    Task(ERASE, erase),
    Task(SWEEP, sweep, every_seconds=SWEEP_SECONDS),
    Task(FORGET, forget, every_seconds=FORGET_SECONDS),
    Task(RECOUNT, recount, every_seconds=RECOUNT_SECONDS),
)
