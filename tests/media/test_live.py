"""What a socket is told, over real connections and on both back ends."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text, update
from websockets.exceptions import ConnectionClosed

import sockets
from api import Api, Headers
from items import process
from live import listening, refused, told, told_until
from service import fanout
from service.media import live as live_module
from service.media import revisions, rooms
from service.media.models import MediaChange
from service.redis import deployment
from service.settings import Settings
from sockets import serving, until

pytestmark = pytest.mark.anyio

Live = tuple[Api, int]


async def nothing_more(socket: Any, *, seconds: float = 0.5) -> bool:
    try:
        await told(socket, seconds=seconds)
    except TimeoutError:
        return True
    return False


async def age(api: Api, **how_old: float) -> None:
    """Have everything that was recorded be of an earlier time."""
    then = datetime.now(UTC) - timedelta(**how_old)
    async with api.resources.database.transaction() as session:
        await session.execute(update(MediaChange).values(recorded_at=then))


async def test_it_tells_of_an_upload_and_each_step_of_its_processing(live: Live) -> None:
    api, port = live
    bearer = await api.signed_in()
    async with listening(port, bearer) as socket:
        item = await api.upload(bearer)
        first = await told(socket)
        await process(api, item["id"])
        messages = await told_until(socket, item["id"], "ready")
    assert first == {"id": item["id"], "status": "received", "progress": 0, "cursor": "1"}
    assert messages[-1] == {"id": item["id"], "status": "ready", "progress": 100, "cursor": "4"}


async def test_it_tells_of_changes_and_deletions(live: Live) -> None:
    api, port = live
    bearer = await api.signed_in()
    item = await api.upload(bearer)
    path = f"/api/media/{item['id']}"
    async with listening(port, bearer, "1") as socket:
        await api.client.patch(path, headers=bearer, json={"title": "Dawn"})
        assert (await told(socket))["status"] == "received"
        await api.client.delete(path, headers=bearer)
        assert await told(socket) == {
            "id": item["id"],
            "status": "deleted",
            "progress": None,
            "cursor": "3",
        }


async def test_nobody_is_told_of_the_items_of_others(live: Live) -> None:
    api, port = live
    ada, bob = await api.signed_in(), await api.signed_in("bob@example.org")
    async with listening(port, bob) as socket:
        await api.upload(ada)
        item = await api.upload(bob)
        assert (await told(socket))["id"] == item["id"]
        assert await nothing_more(socket)


async def test_a_client_that_comes_back_is_told_what_it_missed_and_nothing_else(live: Live) -> None:
    api, port = live
    bearer = await api.signed_in()
    async with listening(port, bearer) as socket:
        await api.upload(bearer)
        cursor = (await told(socket))["cursor"]
    kept, removed = await api.upload(bearer), await api.upload(bearer)
    await api.client.delete(f"/api/media/{removed['id']}", headers=bearer)
    async with listening(port, bearer, cursor) as socket:
        messages = [await told(socket) for _ in range(2)]
        assert await nothing_more(socket)
    found = [(message["id"], message["status"]) for message in messages]
    assert found == [(kept["id"], "received"), (removed["id"], "deleted")]


async def test_without_a_cursor_it_begins_by_saying_to_list(live: Live) -> None:
    """With a cursor to come back with, also where nothing ever changed."""
    api, port = live
    bearer = await api.signed_in()
    reset = {"id": None, "status": "reset", "progress": None}
    async with listening(port, bearer, None) as socket:
        assert await told(socket) == reset | {"cursor": "0"}
    item = await api.upload(bearer)
    async with listening(port, bearer, None) as socket:
        assert await told(socket) == reset | {"cursor": "1"}
        assert await nothing_more(socket)
    async with listening(port, bearer, "0") as socket:
        assert (await told(socket))["id"] == item["id"]


async def test_more_changes_than_are_read_at_once_all_arrive(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, port = live
    monkeypatch.setattr(revisions, "BATCH", 3)
    bearer = await api.signed_in()
    items = [await api.upload(bearer) for _ in range(7)]
    async with listening(port, bearer, "0") as socket:
        assert [(await told(socket))["id"] for _ in items] == [item["id"] for item in items]


async def test_a_client_lists_anew_once_deletions_are_forgotten(live: Live) -> None:
    api, port = live
    bearer = await api.signed_in()
    item = await api.upload(bearer)
    await api.client.delete(f"/api/media/{item['id']}", headers=bearer)
    await age(api, days=8)
    await revisions.forget(api.resources, None)  # type: ignore[arg-type]
    async with listening(port, bearer, "1") as socket:
        reset = await told(socket)
        assert reset == {"id": None, "status": "reset", "progress": None, "cursor": "2"}
        later = await api.upload(bearer)
        assert await told(socket) == {
            "id": later["id"],
            "status": "received",
            "progress": 0,
            "cursor": "3",
        }


async def test_a_client_lists_anew_where_a_backup_replaced_what_it_knows(live: Live) -> None:
    api, port = live
    bearer = await api.signed_in()
    async with listening(port, bearer, "900") as socket:
        assert (await told(socket))["status"] == "reset"


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "9" * 19])
async def test_a_cursor_that_is_none_is_refused(live: Live, cursor: str) -> None:
    api, port = live
    problem = await refused(port, await api.signed_in(), 422, cursor)
    assert "query.cursor" in problem["detail"]


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer x"}, {"Sec-WebSocket-Protocol": "bearer, x"}]
)
async def test_who_has_no_valid_token_is_refused(live: Live, headers: Headers) -> None:
    problem = await refused(live[1], headers, 401)
    assert problem["headers"]["WWW-Authenticate"].startswith("Bearer")


async def test_a_token_in_the_url_is_none(live: Live) -> None:
    api, port = live
    token = (await api.signed_in())["Authorization"].split()[1]
    await refused(port, {}, 401, f"0&token={token}&access_token={token}")


async def test_a_browser_sends_its_token_as_a_subprotocol(live: Live) -> None:
    api, port = live
    token = (await api.signed_in())["Authorization"].split()[1]
    async with listening(port, {}, subprotocols=["bearer", token]) as socket:
        assert socket.subprotocol == "bearer"
        assert token not in str(socket.response)


async def test_a_key_that_may_only_read_is_enough(live: Live) -> None:
    api, port = live
    key = await api.key(await api.account(), may_write=False)
    async with listening(port, key) as socket:
        assert socket.response is not None
        assert "x-request-id" in socket.response.headers


@pytest.mark.parametrize("ends", ["logged out", "expired", "key deleted", "key expired"])
async def test_a_socket_ends_with_its_token(
    settings: Settings, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "RECHECK_SECONDS", 0.2)
    async with serving(settings) as (api, port):
        account = await api.account()
        brief = 3 if ends == "expired" else 3600
        soon = datetime.now(UTC) + timedelta(seconds=3) if ends == "key expired" else None
        if ends.startswith("key"):
            mine = await api.key(account, expires_at=soon)
        else:
            mine = await api.token(account, lifetime_seconds=brief)
        other, key = await api.token(account), await api.key(account)
        async with (
            listening(port, mine) as socket,
            listening(port, other) as stays,
            listening(port, key) as stays_too,
        ):
            if ends == "logged out":
                await api.client.post("/logout", headers=mine)
            elif ends == "key deleted":
                keys = (await api.client.get("/api/keys", headers=other)).json()["items"]
                await api.client.delete(f"/api/keys/{keys[-1]['id']}", headers=other)
            with pytest.raises(ConnectionClosed):
                await told(socket)
            assert socket.close_code == live_module.TOKEN_ENDED
            await api.upload(other)
            assert (await told(stays))["status"] == "received"
            assert (await told(stays_too))["status"] == "received"


@asynccontextmanager
async def without(api: Api, table: str) -> AsyncIterator[None]:
    """An error of the database that is no outage."""
    await rename(api, table, "elsewhere")
    yield
    await rename(api, "elsewhere", table)


async def rename(api: Api, table: str, other: str) -> None:
    async with api.resources.database.transaction() as session:
        await session.execute(text(f"ALTER TABLE {table} RENAME TO {other}"))


async def test_an_error_that_nobody_expected_does_not_end_the_recheck_of_tokens(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, log_lines: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(live_module, "RECHECK_SECONDS", 0.1)
    async with serving(settings) as (api, port):
        bearer = await api.signed_in()
        async with listening(port, bearer) as socket:
            async with without(api, "tokens"):
                await until(lambda: "sockets_recheck_failed" in str(log_lines))
            await api.client.post("/logout", headers=bearer)
            with pytest.raises(ConnectionClosed):
                await told(socket)
            assert socket.close_code == live_module.TOKEN_ENDED
    assert "background_task_failed" not in str(log_lines)


async def test_an_error_that_nobody_expected_does_not_end_the_looks_for_changes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, log_lines: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(fanout, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(fanout, "RARE_LOOK_SECONDS", 0.1)
    async with serving(settings) as (api, port):
        bearer = await api.signed_in()
        async with listening(port, bearer) as socket:
            async with without(api, "media_revisions"):
                await until(lambda: "sockets_look_failed" in str(log_lines))
            monkeypatch.setattr(api.resources.fanout, "publish", lambda _: None)  # no word of it
            item = await api.upload(bearer)
            assert (await told(socket))["id"] == item["id"]
    assert "background_task_failed" not in str(log_lines)


async def test_an_account_has_a_limited_number_of_sockets(settings: Settings) -> None:
    async with serving(settings.model_copy(update={"websockets_per_account": 2})) as (api, port):
        bearer, bob = await api.signed_in(), await api.signed_in("bob@example.org")
        async with listening(port, bearer), listening(port, bob):
            async with listening(port, bearer):
                problem = await refused(port, bearer, 429)
                assert problem["headers"]["Retry-After"] == "5"
            await came_free(port, bearer)


async def came_free(port: int, bearer: Headers) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                async with listening(port, bearer):
                    return
            except Exception:
                await asyncio.sleep(0.05)


async def test_sockets_end_with_1001_at_a_drain_and_none_begin(live: Live) -> None:
    api, port = live
    bearer = await api.signed_in()
    async with listening(port, bearer) as socket:
        api.app.lifecycle.begin_drain()
        with pytest.raises(ConnectionClosed):
            await told(socket, seconds=5)
        assert socket.close_code == live_module.GOING_AWAY
        problem = await refused(port, bearer, 503)
        assert problem["headers"]["Retry-After"] == "2"


async def test_sockets_of_an_account_are_told_by_one_read(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, port = live
    bearer = await api.signed_in()
    reads: list[int] = []

    async def counting(resources: Any, account_id: UUID, revision: int) -> Any:
        reads.append(revision)
        return await since(resources, account_id, revision)

    async def noting(room: Any, listener: Any) -> None:
        await tell(room, listener)
        at_rest.append(listener)

    since, tell = revisions.since, rooms.Room._tell
    at_rest: list[Any] = []
    monkeypatch.setattr(rooms.Room, "_tell", noting)
    async with listening(port, bearer) as one, listening(port, bearer) as other:
        await until(lambda: len(at_rest) == 2)  # both have read what there was
        monkeypatch.setattr(revisions, "since", counting)
        await api.upload(bearer)
        assert await told(one) == await told(other)
    assert reads == [0]


async def test_a_client_that_does_not_read_is_dropped_and_others_are_told(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, port = live
    monkeypatch.setattr("service.socket_protocol.SLOW_SECONDS", 2.0)
    message = rooms.message
    monkeypatch.setattr(rooms, "message", lambda *row: message(*row) + " " * 900_000)
    bearer = await api.signed_in()
    slow_client = listening(port, bearer, max_queue=1, ping_interval=None, max_size=None)
    async with slow_client as slow, listening(port, bearer, max_size=None) as quick:
        for count in range(1, 50):
            await api.upload(bearer)
            assert (await told(quick))["cursor"] == str(count)
            if api.app.layer.sockets == 1:
                break
        await until(lambda: api.app.layer.sockets == 1)
        assert slow.close_code is None  # it has not read so far


async def test_what_a_client_sends_changes_nothing(live: Live) -> None:
    api, port = live
    bearer = await api.signed_in()
    async with listening(port, bearer) as socket:
        await socket.send("hello")
        await socket.send(b"\x00" * 100)
        item = await api.upload(bearer)
        assert (await told(socket))["id"] == item["id"]


async def test_all_that_redis_holds_bears_the_name_of_the_deployment(
    server_settings: Settings,
) -> None:
    async with serving(server_settings) as (api, port), listening(port, await api.signed_in()):
        await until(lambda: api.resources.fanout._hears_since)
        await api.client.get("/api/public/media")
        form = {"username": "ann@example.org", "password": "wrong"}
        await api.client.post("/login", data=form)
        redis = api.resources.redis.client
        names = await redis.keys("*") + await redis.pubsub_channels()
    named = re.compile(re.escape(deployment(server_settings)) + "([a-z-]+):.*")
    kinds = {found[1] if (found := named.match(name.decode())) else name for name in names}
    assert kinds == {"slots", "limit", "service", "public-media"}


async def test_a_plain_request_is_told_to_upgrade(live: Live) -> None:
    api, _ = live
    answer = await api.client.get("/ws/media")
    assert answer.status_code == 426
    assert answer.headers["upgrade"] == "websocket"
    assert answer.headers["sec-websocket-version"] == "13"


async def test_another_path_is_not_found(live: Live) -> None:
    api, port = live
    await sockets.refused(port, "/ws/other", await api.signed_in(), 404)
