"""Reading items: one, or a page at a time."""

import base64
import binascii
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import select, tuple_

from service.accounts.sessions import Identity
from service.errors import ServiceError
from service.media.models import MediaItem
from service.resources import Resources


class MediaNotFound(ServiceError):
    """Also for items of others: whether they exist is not told."""

    status = 404

    def __init__(self) -> None:
        super().__init__("There is no such item.")


class CursorInvalid(ServiceError):
    status = 422

    def __init__(self) -> None:
        super().__init__("cursor: expected a value this API returned")


def encode_cursor(item: MediaItem) -> str:
    """The position of an item in the order of the list."""
    text = f"{item.created_at.astimezone(UTC).isoformat()}|{item.id.hex}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[datetime, UUID]:
    """(created_at, id) of a cursor. Raises CursorInvalid."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        when, _, item_id = base64.urlsafe_b64decode(padded.encode()).decode().partition("|")
        created_at = datetime.fromisoformat(when)
        if created_at.tzinfo is None:
            raise ValueError("no time zone")
        return created_at.astimezone(UTC), UUID(item_id)
    except (ValueError, OverflowError, binascii.Error):
        raise CursorInvalid from None


async def page(
    resources: Resources, identity: Identity, limit: int, cursor: str | None
) -> tuple[list[MediaItem], str | None]:
    """Up to `limit` own items, newest first, and the cursor of the next page if there is one."""
    order = tuple_(MediaItem.created_at, MediaItem.id)
    statement = select(MediaItem).where(MediaItem.account_id == identity.id)
    if cursor is not None:
        statement = statement.where(order < decode_cursor(cursor))
    statement = statement.order_by(MediaItem.created_at.desc(), MediaItem.id.desc())
    async with resources.database.transaction() as session:
        items = list((await session.scalars(statement.limit(limit + 1))).all())
    more = len(items) > limit
    items = items[:limit]
    return items, encode_cursor(items[-1]) if more else None


async def find_own(resources: Resources, identity: Identity, item_id: UUID) -> MediaItem:
    """An item of this account. Raises MediaNotFound."""
    item = await find(resources, item_id)
    if item.account_id != identity.id:
        raise MediaNotFound
    return item


async def find(resources: Resources, item_id: UUID) -> MediaItem:
    """Any item. Raises MediaNotFound."""
    async with resources.database.transaction() as session:
        item = await session.get(MediaItem, item_id)
    if item is None:
        raise MediaNotFound
    return item
