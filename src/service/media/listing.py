"""Reading items: one, or a page at a time."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Integer, TextClause, Uuid, bindparam, select, tuple_

from service.accounts.sessions import Identity
from service.database import UtcDateTime
from service.errors import ServiceError
from service.lookup import Lookup
from service.media.models import MediaItem
from service.media.views import COLUMNS, Row
from service.resources import Resources
from service.texts import Matching

# Microseconds since 1970 and the id of the item that a page begins behind.
CURSOR = Matching("^[0-9]{1,16}-[0-9a-f]{32}$", "the next_cursor of an earlier page")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Before every item: a page from here on is the first.
START = (datetime.max.replace(tzinfo=UTC), UUID(int=2**128 - 1))

_OWN = Lookup(
    select(*COLUMNS).where(
        MediaItem.id == bindparam("item_id"), MediaItem.account_id == bindparam("account_id")
    )
)


class MediaNotFound(ServiceError):
    """Also for items of others: whether they exist is not told."""

    status = 404

    def __init__(self) -> None:
        super().__init__("There is no such item.")


def encode_cursor(created_at: datetime, item_id: UUID) -> str:
    """A position in the order of a list, as CURSOR has it."""
    return f"{(created_at - EPOCH) // timedelta(microseconds=1)}-{item_id.hex}"


def decode_cursor(cursor: str) -> tuple[datetime, UUID]:
    """(created_at, id) of what matches CURSOR."""
    microseconds, _, item_id = cursor.partition("-")
    return EPOCH + timedelta(microseconds=int(microseconds)), UUID(item_id)


def keyset_page(*columns: Any, where: ColumnElement[bool] | TextClause) -> Lookup:
    """Rows from the newest on, of those that stand behind (created_at, item_id); `columns` begin
    with these two.

    What is added or removed meanwhile moves no other row: a page neither skips nor repeats.
    """
    order = tuple_(MediaItem.created_at, MediaItem.id)
    position = tuple_(bindparam("created_at", type_=UtcDateTime), bindparam("item_id", type_=Uuid))
    newest_first = (MediaItem.created_at.desc(), MediaItem.id.desc())
    behind = select(*columns).where(where, order < position)
    return Lookup(behind.order_by(*newest_first).limit(bindparam("limit", type_=Integer)))


_OWN_PAGE = keyset_page(*COLUMNS, where=MediaItem.account_id == bindparam("account_id"))


async def page(
    resources: Resources, identity: Identity, limit: int, cursor: str | None
) -> tuple[Sequence[Row], str | None]:
    """COLUMNS of up to `limit` own items, and the cursor of the next page if there is one."""
    return await read_page(resources, _OWN_PAGE, limit, cursor, account_id=identity.id)


async def read_page(
    resources: Resources, query: Lookup, limit: int, cursor: str | None, **parameters: object
) -> tuple[Sequence[Row], str | None]:
    """Up to `limit` rows of a keyset page, and the cursor of the next one."""
    created_at, item_id = START if cursor is None else decode_cursor(cursor)
    position = {"created_at": created_at, "item_id": item_id}
    # One row more tells whether there is a next page.
    rows = await query.all(resources.database, **position, **parameters, limit=limit + 1)
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], encode_cursor(*rows[limit - 1][:2])


def next_link(path: str, limit: int, cursor: str | None) -> dict[str, str]:
    """The header that leads to the next page (RFC 8288)."""
    if cursor is None:
        return {}
    return {"Link": f'<{path}?limit={limit}&cursor={cursor}>; rel="next"'}


async def find_own(resources: Resources, identity: Identity, item_id: UUID) -> Row:
    """COLUMNS of an item of this account. Raises MediaNotFound."""
    row = await _OWN.one(resources.database, item_id=item_id, account_id=identity.id)
    if row is None:
        raise MediaNotFound
    return row


async def find(resources: Resources, item_id: UUID) -> MediaItem:
    """Any item. Raises MediaNotFound."""
    async with resources.database.transaction() as session:
        item = await session.get(MediaItem, item_id)
    if item is None:
        raise MediaNotFound
    return item
