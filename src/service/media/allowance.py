"""What is taken of uploads: they fill neither the disk nor, an account's, everybody's queue."""

from uuid import UUID

from sqlalchemy import Integer, bindparam, func, select

from service.errors import ServiceError, Unavailable
from service.lookup import Lookup
from service.media.models import IS_UNFINISHED, MediaItem, MediaRevision
from service.resources import Resources

RETRY_SECONDS = 10
DISK_RETRY_SECONDS = 60  # somebody has to make room
ITEM_BYTES = 32 * 1024  # of an item without its content: its preview, its rows, blocks of a disk


class NoSpaceLeft(Unavailable):
    headers = {"Retry-After": str(DISK_RETRY_SECONDS)}

    def __init__(self) -> None:
        super().__init__("There is no room for uploads at the moment.")


class TooManyUnfinished(ServiceError):
    status = 429
    headers = {"Retry-After": str(RETRY_SECONDS)}

    def __init__(self, most: int) -> None:
        super().__init__(f"{most} uploads of this account wait to be processed. Try again later.")


class AccountFull(ServiceError):
    status = 413
    title = "Account Full"

    def __init__(self, most_bytes: int) -> None:
        super().__init__(
            f"The items of an account may take {most_bytes} bytes, {ITEM_BYTES} each beside their"
            " content. Delete some first."
        )


# In one round trip: how many items wait, up to a bound, and what all of them take.
_KNOWN = Lookup(
    select(
        select(func.count())
        .select_from(
            select(MediaItem.id)
            .where(MediaItem.account_id == bindparam("account_id"), IS_UNFINISHED)
            .limit(bindparam("most", type_=Integer))
            .subquery()
        )
        .scalar_subquery(),
        select(MediaRevision.stored_bytes)
        .where(MediaRevision.account_id == bindparam("account_id"))
        .scalar_subquery(),
    )
)


async def check_before(resources: Resources, account_id: UUID) -> int:
    """What is known before a body is read. Some uploads more may slip in that come at once. Returns
    what the account's items take, in bytes.

    Raises NoSpaceLeft, TooManyUnfinished, DatabaseUnavailable.
    """
    if resources.disk.nearly_full:
        raise NoSpaceLeft
    most = resources.settings.media_unfinished_per_account
    row = await _KNOWN.one(resources.database, account_id=account_id, most=most)
    assert row is not None
    unfinished, stored_bytes = row
    if unfinished >= most:
        raise TooManyUnfinished(most)
    return stored_bytes or 0


def taken(size: int) -> int:
    """By an item of this size, in bytes."""
    return size + ITEM_BYTES


def check_stored(resources: Resources, stored_bytes: int) -> None:
    """Raises AccountFull where an account's items take more than they may. Certain is only what is
    known when an item commits."""
    most_bytes = resources.settings.media_bytes_per_account
    if most_bytes and stored_bytes > most_bytes:
        raise AccountFull(most_bytes)
