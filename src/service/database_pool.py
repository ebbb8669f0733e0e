"""SQLAlchemy's pool, with a line in which nobody loses their place.

`asyncio.Queue` wakes who waits longest, but lets whoever asks before that one runs have the
connection, and sends the one it woke to the end. With more requests than connections a few of
them waited several times as long as the others.
"""

import asyncio

from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.util import await_
from sqlalchemy.util.queue import AsyncAdaptedQueue, Empty


class _Line(AsyncAdaptedQueue[ConnectionPoolEntry]):
    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:
        super().__init__(maxsize, use_lifo)
        self._first = asyncio.Lock()  # held by the first in the line

    def get(self, block: bool = True, timeout: float | None = None) -> ConnectionPoolEntry:
        """Raises Empty."""
        if not (block and self._first.locked()):
            try:
                return self.get_nowait()
            except Empty:
                if not block:
                    raise
        try:
            return await_(self._wait(timeout))
        except TimeoutError as error:
            raise Empty from error

    async def _wait(self, seconds: float | None) -> ConnectionPoolEntry:
        async with asyncio.timeout(seconds), self._first:
            return await self._queue.get()


class InOrder(AsyncAdaptedQueuePool):
    """First come, first served."""

    _queue_class = _Line
    _sqla_logger_namespace = "sqlalchemy.pool.InOrder"  # else it would be one of this service's
