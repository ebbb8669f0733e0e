"""Sockets of this process, told as items change.

A socket keeps no queue, only the revision up to which it was told. When something may have changed,
what is newer is read from the database: once an account, however many sockets it has here.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from typing import Any
from uuid import UUID

from starlette.websockets import WebSocket, WebSocketDisconnect

from service.accounts.sessions import SUBPROTOCOL, Identity, still_valid
from service.errors import Unavailable
from service.health import Health
from service.media import revisions
from service.media.rooms import Listener, Room, message
from service.redis import is_stand_in
from service.resources import Resources, background
from service.slots import Slots, open_slots

log = logging.getLogger(__name__)

GOING_AWAY = 1001
TOKEN_ENDED = 4401
RECHECK_SECONDS = 9.0  # with its query ten, so long a token that has ended may be told on
ACCOUNTS_A_QUERY = 1000
SPREAD_SECONDS = 2.0  # over which sockets are closed at a drain, as their clients all come back
SPREAD_STEPS = 20
FEW = 50  # sockets closed at once, however many there are
TOO_MANY = "This account has too many connections open."
ENDING = "This process is about to end. Connect again."


class Live:
    """All sockets of this process."""

    def __init__(self, resources: Resources, health: Health, slots: Slots) -> None:
        self.resources = resources
        self.health = health
        self.lifecycle = health.lifecycle
        self.slots = slots
        self.rooms: dict[UUID, Room] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._context = copy_context()  # of no request

    async def serve(self, websocket: WebSocket, identity: Identity, cursor: int | None) -> None:
        """Tell a socket of changes until it ends.

        Raises NoSlotFree or Unavailable before the handshake is answered.
        """
        if self.lifecycle.ending:
            raise Unavailable(ENDING)
        subject = identity.id.hex
        await self.slots.take(subject)
        try:
            revision, anew = await revisions.start(self.resources, identity.id, cursor)
            offered = websocket.scope["subprotocols"]
            await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
            if anew:
                await websocket.send_text(message(revision, None, None, None))
            await self._tell(identity.id, Listener(websocket, identity.token_digest, revision))
        finally:
            self.slots.give_back(subject)

    async def _tell(self, account_id: UUID, listener: Listener) -> None:
        room = self._enter(account_id, listener)
        try:
            room.tell([listener])  # what changed before it entered
            if self.lifecycle.ending:
                self._close(listener, GOING_AWAY)
            while (await listener.websocket.receive())["type"] != "websocket.disconnect":
                pass  # clients have nothing to say here
        finally:
            self._leave(room, listener)

    def _enter(self, account_id: UUID, listener: Listener) -> Room:
        room = self.rooms.get(account_id)
        if room is None:
            room = self.rooms[account_id] = Room(self.resources, account_id, self._context)
            self.resources.fanout.watch(revisions.topic(account_id), room.wake)
        room.listeners.add(listener)
        return room

    def _leave(self, room: Room, listener: Listener) -> None:
        room.listeners.discard(listener)
        if not room.listeners:
            del self.rooms[room.account_id]
            self.resources.fanout.unwatch(revisions.topic(room.account_id), room.wake)

    async def look_forever(self) -> None:
        """Look for changes that no word came of."""
        async for _ in self.resources.fanout.looks():
            try:
                await self._look()
            except Unavailable:
                self.resources.fanout.doubt()
            except Exception as error:
                self.resources.fanout.doubt()
                _tell_of("sockets_look_failed", error)

    async def _look(self) -> None:
        """Raises Unavailable."""
        self._refuse_without_database()
        for account_ids in _batches(list(self.rooms), ACCOUNTS_A_QUERY):
            for account_id, latest in (await revisions.latest(self.resources, account_ids)).items():
                room = self.rooms.get(account_id)
                if room and any(listener.revision < latest for listener in room.listeners):
                    room.wake()

    async def recheck_forever(self) -> None:
        """End sockets whose token has ended."""
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            try:
                await self._recheck()
            except Unavailable:
                continue  # which was logged where it was found
            except Exception as error:
                _tell_of("sockets_recheck_failed", error)

    async def _recheck(self) -> None:
        self._refuse_without_database()
        for some in _batches(self._listeners(), ACCOUNTS_A_QUERY):
            valid = await still_valid(self.resources, {listener.digest for listener in some})
            for listener in some:
                if listener.digest not in valid:
                    self._close(listener, TOKEN_ENDED)

    def _refuse_without_database(self) -> None:
        """Raises Unavailable: the health check has told of it, and every try would once more."""
        if not self.health.passes(self.health.watches["database"]):
            raise Unavailable

    async def close_at_drain(self) -> None:
        """Clients come back at once, and find another process."""
        await self.lifecycle.wait_for_drain()
        listeners = self._listeners()
        for some in _batches(listeners, max(FEW, len(listeners) // SPREAD_STEPS)):
            for listener in some:
                self._close(listener, GOING_AWAY)
            await asyncio.sleep(SPREAD_SECONDS / SPREAD_STEPS)

    def _listeners(self) -> list[Listener]:
        return [listener for room in self.rooms.values() for listener in room.listeners]

    def _close(self, listener: Listener, code: int) -> None:
        if listener.closing:
            return
        listener.closing = True
        task = asyncio.create_task(_send_close(listener.websocket, code), context=self._context)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _tell_of(event: str, error: Exception) -> None:
    """What nobody expected must not end a task that nothing would begin again."""
    log.error(event, exc_info=error, extra={"seldom": type(error).__name__})


async def _send_close(websocket: WebSocket, code: int) -> None:
    with suppress(WebSocketDisconnect):
        await websocket.close(code)


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


@asynccontextmanager
async def open_live(resources: Resources, health: Health) -> AsyncIterator[Live]:
    """Keep sockets up to date while the service runs."""
    shared = None if is_stand_in(resources.settings) else resources.redis
    most = resources.settings.websockets_per_account
    async with open_slots("media", shared, most=most, refusal=TOO_MANY) as slots:
        live = Live(resources, health, slots)
        async with background(live.look_forever(), live.recheck_forever(), live.close_at_drain()):
            yield live
