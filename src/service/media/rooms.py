"""What the sockets of one account are told, read once for all of them."""

import asyncio
import json
from collections.abc import Iterable
from contextvars import Context
from uuid import UUID

from starlette.websockets import WebSocket, WebSocketDisconnect

from service.errors import Unavailable
from service.media import revisions
from service.resources import Resources

BURST_SECONDS = 0.05  # between two reads for a socket: what changes meanwhile is read at once


class Listener:
    """One socket: how far it was told, and with which token it came."""

    __slots__ = ("again", "closing", "digest", "revision", "task", "websocket")

    def __init__(self, websocket: WebSocket, digest: bytes, revision: int) -> None:
        self.websocket = websocket
        self.digest = digest
        self.revision = revision
        self.again = False
        self.closing = False
        self.task: asyncio.Task[None] | None = None


class Room:
    """The sockets of one account in this process."""

    def __init__(self, resources: Resources, account_id: UUID, context: Context) -> None:
        """Everything runs in `context`: what wakes a room is a request that is not its own."""
        self.resources = resources
        self.account_id = account_id
        self.listeners: set[Listener] = set()
        self._context = context
        self._reads: dict[int, asyncio.Task[list[tuple[int, str]]]] = {}

    def wake(self) -> None:
        """Something changed, or may have."""
        self.tell(self.listeners)

    def tell(self, listeners: Iterable[Listener]) -> None:
        """Tell these what is newer than what they were told."""
        self._reads = {}  # what is being read may be from before the newest change
        for listener in listeners:
            listener.again = True
            if listener.task is None:
                telling = self._tell(listener)
                listener.task = asyncio.create_task(telling, context=self._context)

    async def _tell(self, listener: Listener) -> None:
        try:
            while listener.again and not listener.closing:
                listener.again = False
                await self._tell_newer(listener)
                await asyncio.sleep(BURST_SECONDS)
        except WebSocketDisconnect:
            return  # which its `receive` tells as well
        except Unavailable:
            self.resources.fanout.doubt()
        finally:
            listener.task = None

    async def _tell_newer(self, listener: Listener) -> None:
        """Raises WebSocketDisconnect, Unavailable."""
        while True:
            changes = await self._newer(listener.revision)
            for revision, text in changes:
                if listener.closing:
                    return
                # Waits while the client does not read; the protocol ends that.
                await listener.websocket.send_text(text)
                listener.revision = revision
            if len(changes) < revisions.BATCH:
                return

    async def _newer(self, revision: int) -> list[tuple[int, str]]:
        """(revision, message) of what changed since; sockets that ask for the same share it."""
        reads = self._reads
        if (read := reads.get(revision)) is None:
            read = reads[revision] = asyncio.create_task(self._read(revision))
            read.add_done_callback(lambda _: reads.pop(revision))
        return await asyncio.shield(read)

    async def _read(self, revision: int) -> list[tuple[int, str]]:
        rows = await revisions.since(self.resources, self.account_id, revision)
        return [(row[0], message(*row)) for row in rows]


def message(revision: int, item_id: UUID | None, status: str | None, progress: int | None) -> str:
    """What a client is sent. Without an item it has to list its items anew."""
    told = {
        "id": item_id and str(item_id),
        "status": status or ("deleted" if item_id else "reset"),
        "progress": progress,
        "cursor": str(revision),
    }
    return json.dumps(told)
