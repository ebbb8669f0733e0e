"""What one account may have: neither does it fill the disk, nor everybody's queue."""

from uuid import UUID

from sqlalchemy import Integer, bindparam, func, select

from service.errors import ServiceError
from service.lookup import Lookup
from service.media.models import IS_UNFINISHED, MediaItem
from service.resources import Resources

RETRY_SECONDS = 10


class TooManyUnfinished(ServiceError):
    status = 429
    headers = {"Retry-After": str(RETRY_SECONDS)}

    def __init__(self, most: int) -> None:
        super().__init__(f"{most} uploads of this account wait to be processed. Try again later.")


_UNFINISHED = Lookup(
    select(func.count()).select_from(
        select(MediaItem.id)
        .where(MediaItem.account_id == bindparam("account_id"), IS_UNFINISHED)
        .limit(bindparam("most", type_=Integer))
        .subquery()
    )
)


async def check_unfinished(resources: Resources, account_id: UUID) -> None:
    """Before a body is read: some more may slip in that come at the same time.

    Raises TooManyUnfinished, DatabaseUnavailable.
    """
    most = resources.settings.media_unfinished_per_account
    row = await _UNFINISHED.one(resources.database, account_id=account_id, most=most)
    if row is not None and row[0] >= most:
        raise TooManyUnfinished(most)
