"""How long a request may wait for the database, in all that it asks of it.

Each wait has a limit of its own: for a connection, for a statement. A request has several of both,
so they share one more. What belongs to no request, such as a job, has none but those of its own.
"""

import asyncio
from contextvars import ContextVar
from time import monotonic
from types import TracebackType

from service.database_errors import DatabaseUnavailable, given_up

SILENT_SECONDS = 1.0  # for a request, while another finds out whether the database answers again

_left_seconds: ContextVar[list[float] | None] = ContextVar("left_seconds", default=None)


def begin_request(seconds: float) -> None:
    """What this task asks of the database from now on takes no longer than this altogether."""
    _left_seconds.set([seconds])


class Silence:
    """Whether the database let a statement wait in vain, and has answered none since.

    Then one request at a time waits for it as long as ever, and the others only for a moment, which
    is enough for one that answers: so none fails because of those that did before.
    """

    def __init__(self) -> None:
        self.silent = False
        self.is_tried = False


class InTime:
    """Around one use of the database. Raises DatabaseUnavailable where it takes too long."""

    __slots__ = ("_began", "_left", "_limit", "_silence", "_tries")

    def __init__(self, silence: Silence) -> None:
        self._silence = silence
        self._left = _left_seconds.get()
        self._tries = False

    async def __aenter__(self) -> None:
        self._began = monotonic()
        self._limit = asyncio.timeout(None if self._left is None else self._patience(self._left[0]))
        await self._limit.__aenter__()

    def _patience(self, left_seconds: float) -> float:
        if not self._silence.silent:
            return left_seconds
        if not self._silence.is_tried:
            self._tries = self._silence.is_tried = True
            return left_seconds
        return min(left_seconds, SILENT_SECONDS)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._tries:
            self._silence.is_tried = False
        if self._left is not None:
            self._left[0] -= monotonic() - self._began
        if error is None:
            self._silence.silent = False
        elif isinstance(error, DatabaseUnavailable) and error.silent:
            self._silence.silent = True
        try:
            await self._limit.__aexit__(kind, error, traceback)
        except TimeoutError as late:
            raise given_up(late) from late
