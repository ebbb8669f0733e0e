"""What an owner does to an item: change what it says, or delete it."""

import logging
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, update
from starlette.datastructures import Headers

from service.accounts.sessions import Identity
from service.etags import PreconditionFailed, check_match, etag_of, is_conditional
from service.media.allowance import taken
from service.media.listing import MediaNotFound, find_own
from service.media.models import MediaItem
from service.media.names import clean_name
from service.media.progress import mail_key
from service.media.public import listing_changed
from service.media.revisions import record
from service.media.schemas import MediaChanges
from service.media.views import COLUMNS, NAMES, Row, item_json
from service.outbox import cancel
from service.resources import Resources

log = logging.getLogger(__name__)

ERASE = "media.erase"
_ID, _PUBLIC, _SIZE, _UPDATED_AT = map(NAMES.index, ("id", "public", "size", "updated_at"))


async def change(
    resources: Resources, identity: Identity, item_id: UUID, changes: MediaChanges, asked: Headers
) -> Row:
    """The item as it is afterwards (RFC 7396). Raises MediaNotFound, PreconditionFailed."""
    found = await find_own(resources, identity, item_id)
    check_match(asked, etag_of(item_json(found)))
    values = changes.model_dump(exclude_unset=True)
    if not values:
        return found
    if "filename" in values:
        values["filename"] = clean_name(values["filename"])
    statement = (
        update(MediaItem)
        .where(_as_found(found, identity, asked))
        .values(**values, updated_at=datetime.now(UTC))
        .returning(*COLUMNS)
    )
    async with resources.database.transaction() as session:
        changed = _made((await session.execute(statement)).one_or_none(), asked)
        await record(resources, session, identity.id, item_id)
    if found[_PUBLIC] or changed[_PUBLIC] or "public" in values:
        await listing_changed(resources)
    return changed


async def remove(resources: Resources, identity: Identity, item_id: UUID, asked: Headers) -> None:
    """Delete an item: its row at once, and its bytes by a job that commits with that.

    Processing that is under way ends without an effect: it finds no row. Raises MediaNotFound,
    PreconditionFailed.
    """
    found = await find_own(resources, identity, item_id)
    check_match(asked, etag_of(item_json(found)))
    statement = delete(MediaItem).where(_as_found(found, identity, asked)).returning(*COLUMNS)
    async with resources.database.transaction() as session:
        removed = _made((await session.execute(statement)).one_or_none(), asked)
        await cancel(session, mail_key(item_id))
        await resources.jobs.enqueue(session, ERASE, item_id=str(item_id))
        freed = taken(removed[_SIZE])
        await record(resources, session, identity.id, item_id, deleted=True, added_bytes=-freed)
    if removed[_PUBLIC]:
        await listing_changed(resources)
    log.info("media_deleted", extra={"media_id": str(item_id)})


def _as_found(found: Row, identity: Identity, asked: Headers) -> ColumnElement[bool]:
    """Between the look at a version and its change another request may be faster."""
    which = and_(MediaItem.id == found[_ID], MediaItem.account_id == identity.id)
    if is_conditional(asked):
        which = and_(which, MediaItem.updated_at == found[_UPDATED_AT])
    return which


def _made(row: Row | None, asked: Headers) -> Row:
    if row is not None:
        return row
    raise PreconditionFailed if is_conditional(asked) else MediaNotFound
