"""Numbers of changes: in order, without a gap, whatever happens at once."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text

from api import Api
from items import get, process
from service.accounts.models import Account
from service.media import progress, revisions
from service.media.models import MediaChange, MediaItem, MediaRevision

pytestmark = pytest.mark.anyio


async def account_of(api: Api) -> UUID:
    async with api.resources.database.transaction() as session:
        return (await session.scalars(select(Account.id))).one()


async def changes(api: Api, account_id: UUID, revision: int = 0) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await revisions.since(api.resources, account_id, revision)]


class Watching:
    """Word that was spread of an account's changes."""

    def __init__(self, api: Api, account_id: UUID) -> None:
        self.words = 0
        api.resources.fanout.watch(revisions.topic(account_id), self.hear)

    def hear(self) -> None:
        self.words += 1


async def test_each_step_of_an_item_takes_the_next_number_and_spreads_word(quiet: Api) -> None:
    bearer = await quiet.signed_in()
    account_id = await account_of(quiet)
    watching = Watching(quiet, account_id)
    item = await quiet.upload(bearer)
    assert await changes(quiet, account_id) == [(1, UUID(item["id"]), "received", 0)]
    await process(quiet, item["id"])  # begun, inspected, ready
    assert await changes(quiet, account_id) == [(4, UUID(item["id"]), "ready", 100)]
    assert watching.words == 4


async def test_what_changes_nothing_takes_no_number(quiet: Api) -> None:
    bearer = await quiet.signed_in()
    account_id = await account_of(quiet)
    item = await quiet.upload(bearer)
    found = await progress.begin(quiet.resources, UUID(item["id"]))
    assert found is not None
    assert await progress.begin(quiet.resources, UUID(item["id"])) is not None  # the newer attempt
    assert not await progress.report(quiet.resources, found, 80)
    assert not await progress.finish(quiet.resources, found, status="ready")
    assert await progress.begin(quiet.resources, uuid4()) is None
    await quiet.client.patch(f"/api/media/{item['id']}", headers=bearer, json={})
    assert await revisions.latest(quiet.resources, [account_id]) == {account_id: 3}


async def test_what_is_rolled_back_leaves_no_gap_and_no_word(quiet: Api) -> None:
    await quiet.signed_in()
    account_id = await account_of(quiet)
    watching = Watching(quiet, account_id)
    with pytest.raises(RuntimeError):
        async with quiet.resources.database.transaction() as session:
            await revisions.record(quiet.resources, session, account_id, uuid4())
            raise RuntimeError
    assert await revisions.latest(quiet.resources, [account_id]) == {}
    assert watching.words == 0


async def test_changes_at_once_get_numbers_in_the_order_they_become_visible(
    server_api: Api,
) -> None:
    """A reader that goes on from the newest number it saw never misses a lower one."""
    await server_api.signed_in()
    account_id = await account_of(server_api)
    total, seen, revision = 60, list[int](), 0

    async def change() -> None:
        async with server_api.resources.database.transaction() as session:
            await session.execute(text("SELECT pg_sleep(random() * 0.01)"))
            await revisions.record(server_api.resources, session, account_id, uuid4())

    writers = [asyncio.create_task(change()) for _ in range(total)]
    while len(seen) < total:
        rows = await changes(server_api, account_id, revision)
        seen += [row[0] for row in rows]
        revision = seen[-1] if seen else 0
    await asyncio.gather(*writers)
    assert seen == list(range(1, total + 1))


async def test_changes_of_one_account_at_once_end_no_transaction(server_api: Api) -> None:
    """Every change locks its item first and the account's counter last, so none waits in a ring."""
    bearer = await server_api.signed_in()
    items = [await server_api.upload(bearer) for _ in range(4)]

    async def retitle(item: dict[str, Any], title: str) -> int:
        path = f"/api/media/{item['id']}"
        answer = await server_api.client.patch(path, headers=bearer, json={"title": title})
        return answer.status_code

    steps = [process(server_api, item["id"]) for item in items]
    titles = [retitle(item, f"{n}") for n in range(5) for item in items]
    _, statuses = await asyncio.gather(asyncio.gather(*steps), asyncio.gather(*titles))
    assert statuses == [200] * 20
    assert [(await get(server_api, bearer, item["id"]))["status"] for item in items] == [
        "ready"
    ] * 4
    account_id = await account_of(server_api)
    assert await revisions.latest(server_api.resources, [account_id]) == {
        account_id: 4 + 4 * 3 + 20
    }


async def test_a_release_that_knows_no_numbers_writes_beside_this_one(quiet: Api) -> None:
    bearer = await quiet.signed_in()
    item = await quiet.upload(bearer)
    async with quiet.resources.database.transaction() as session:
        await session.execute(text("UPDATE media_items SET status = 'failed', progress = 0"))
    account_id = await account_of(quiet)
    # The next change tells how it is now.
    await quiet.client.patch(f"/api/media/{item['id']}", headers=bearer, json={"title": "x"})
    assert await changes(quiet, account_id) == [(2, UUID(item["id"]), "failed", 0)]
    async with quiet.resources.database.transaction() as session:
        await session.execute(text("DELETE FROM media_items"))
    assert await changes(quiet, account_id) == [(2, UUID(item["id"]), None, None)]


async def test_an_account_is_removed_with_its_numbers(quiet: Api) -> None:
    await quiet.upload(await quiet.signed_in())
    async with quiet.resources.database.transaction() as session:
        await session.execute(text("DELETE FROM accounts"))
    async with quiet.resources.database.transaction() as session:
        for model in (MediaItem, MediaChange, MediaRevision):
            assert await session.scalar(select(func.count()).select_from(model)) == 0


async def test_young_deletions_are_kept(quiet: Api) -> None:
    bearer = await quiet.signed_in()
    item = await quiet.upload(bearer)
    await quiet.client.delete(f"/api/media/{item['id']}", headers=bearer)
    await revisions.forget(quiet.resources, None)  # type: ignore[arg-type]
    assert await changes(quiet, await account_of(quiet)) == [(2, UUID(item["id"]), None, None)]
