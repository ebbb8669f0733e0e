"""Changes of items, numbered for each account without a gap and without a clock.

A change takes its number in its own transaction and keeps the account's counter locked until the
commit. So numbers become visible in order: who has read up to one has missed nothing before it.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import Executable, Integer, bindparam, delete, event, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.database import Database
from service.jobs import Job
from service.lookup import Lookup
from service.media.models import MediaChange, MediaItem, MediaRevision
from service.resources import Resources

FORGET = "media.forget"
FORGET_SECONDS = 24 * 3600
DELETIONS_KEPT = timedelta(days=7)
BATCH = 500


def topic(account_id: UUID) -> str:
    """Of the fan-out: something of this account's items changed."""
    return f"media:{account_id.hex}"


async def record(
    resources: Resources,
    session: AsyncSession,
    account_id: UUID,
    item_id: UUID,
    *,
    deleted: bool = False,
    added_bytes: int = 0,
) -> int:
    """Number a change, and spread word of it once it has committed. What the account's items then
    take, in bytes; `added_bytes` is how much of that is new, or below 0 where an item goes.

    The last statement of its transaction: the account's next change waits for the commit.
    """
    number, keep = _statements(resources.database)
    connection = await session.connection()
    counted = {"account_id": account_id, "added_bytes": added_bytes}
    revision, stored_bytes = (await connection.execute(number, counted)).one()
    change = {
        "item_id": item_id,
        "account_id": account_id,
        "revision": revision,
        "deleted": deleted,
        "recorded_at": datetime.now(UTC),
    }
    await connection.execute(keep, change)

    def spread_word(_: Any) -> None:
        resources.fanout.publish(topic(account_id))

    event.listen(session.sync_session, "after_commit", spread_word, once=True)
    return int(stored_bytes)


@lru_cache(maxsize=1)  # composing them costs as much as running them
def _statements(database: Database) -> tuple[Executable, Executable]:
    """(the account's next number and its bytes, the newest change of an item)."""
    count, change = database.insert(MediaRevision), database.insert(MediaChange)
    first: dict[str, Any] = {
        "account_id": bindparam("account_id"),
        "stored_bytes": bindparam("added_bytes"),
    }
    number = count.values(latest=1, **first).on_conflict_do_update(
        index_elements=[MediaRevision.account_id],
        set_={
            "latest": MediaRevision.latest + 1,
            "stored_bytes": MediaRevision.stored_bytes + count.excluded.stored_bytes,
        },
    )
    excluded = change.excluded
    keep = change.on_conflict_do_update(
        index_elements=[MediaChange.item_id],
        set_={name: excluded[name] for name in ("revision", "deleted", "recorded_at")},
    )
    return number.returning(MediaRevision.latest, MediaRevision.stored_bytes), keep


_POSITION = Lookup(
    select(MediaRevision.latest, MediaRevision.forgotten).where(
        MediaRevision.account_id == bindparam("account_id")
    )
)


async def start(resources: Resources, account_id: UUID, cursor: int | None) -> tuple[int, bool]:
    """(the revision to go on from, whether all up to it has to be listed anew).

    The latter without a cursor, where deletions since the cursor are forgotten, and where it is of
    a database that a backup has replaced.
    """
    row = await _POSITION.one(resources.database, account_id=account_id)
    latest, forgotten = row or (0, 0)
    if cursor is None or not forgotten <= cursor <= latest:
        return latest, True
    return cursor, False


_SINCE = Lookup(
    select(MediaChange.revision, MediaChange.item_id, MediaItem.status, MediaItem.progress)
    .outerjoin(MediaItem, MediaItem.id == MediaChange.item_id)
    .where(
        MediaChange.account_id == bindparam("account_id"),
        MediaChange.revision > bindparam("revision"),
    )
    .order_by(MediaChange.revision)
    .limit(bindparam("limit", type_=Integer))
)


async def since(resources: Resources, account_id: UUID, revision: int) -> Sequence[Sequence[Any]]:
    """(revision, item id, status, progress) of up to BATCH items that changed after a revision,
    each as it is now. A deleted one has no status."""
    parameters = {"account_id": account_id, "revision": revision, "limit": BATCH}
    return await _SINCE.all(resources.database, **parameters)


async def latest(resources: Resources, account_ids: Collection[UUID]) -> dict[UUID, int]:
    """The newest revision of each of these accounts that has one."""
    columns = select(MediaRevision.account_id, MediaRevision.latest)
    async with resources.database.reading() as connection:
        chosen = columns.where(MediaRevision.account_id.in_(account_ids))
        return {row.account_id: row.latest for row in await connection.execute(chosen)}


async def forget(resources: Resources, job: Job) -> None:
    """Remove old deletions. May run at any time, and more than once."""
    while await _forget_some(resources):
        pass


async def _forget_some(resources: Resources) -> bool:
    old = datetime.now(UTC) - DELETIONS_KEPT
    is_old = MediaChange.deleted & (MediaChange.recorded_at < old)
    some = select(MediaChange.item_id).where(is_old).limit(BATCH)
    statement = delete(MediaChange).where(MediaChange.item_id.in_(some))
    forgotten: dict[UUID, int] = defaultdict(int)
    async with resources.database.transaction() as session:
        removed = await session.execute(
            statement.returning(MediaChange.account_id, MediaChange.revision)
        )
        for account_id, revision in removed:
            forgotten[account_id] = max(forgotten[account_id], revision)
        for account_id, revision in sorted(forgotten.items()):
            of_account = update(MediaRevision).where(
                MediaRevision.account_id == account_id, MediaRevision.forgotten < revision
            )
            await session.execute(of_account.values(forgotten=revision))
    return bool(forgotten)
