"""How many do something at once in this process; others wait in line, but not for long.

What limits a burst is the time it takes, not its size: so the line has no length, but nobody joins
it once the first in it has waited as long as REFUSED_SECONDS. Where there has been a line for a
while it is known how fast it moves, and nobody joins it either who would wait for longer than that.
Under overload that is its steady state: what is refused is refused at once, and what is accepted is
as fast as ever.
"""

import asyncio
import math
from collections import deque

from service import metrics
from service.errors import Unavailable

REFUSED_SECONDS = 0.2
LONGEST_SECONDS = 0.4  # in the line, after which who stands in it is refused as well
PACE_SECONDS = 0.25  # without a free turn, over which it is counted how fast a line moves
KNOWN_SECONDS = 2.0  # after which that is not known any more

Place = asyncio.Future[bool] | None
"""In line: whether there is a turn in the end. None is a turn at once."""


class Busy(Unavailable):
    headers = {"Retry-After": "1"}

    def __init__(self) -> None:
        super().__init__("The service is busy. Try again shortly.")


class Turns:
    """`at_once` have a turn at the same time."""

    def __init__(self, name: str, at_once: int, *, strict: bool = False) -> None:
        """`name` is the label of those refused, in the metrics. `strict`: there are never more at
        once, also where many gave their turn back and then take it again."""
        self.at_once = at_once
        self.strict = strict
        self.taken = 0
        self._refused = metrics.REFUSED.labels(name)
        self._line: deque[tuple[float, asyncio.Future[bool]]] = deque()  # since when, and for what
        self._returned: deque[asyncio.Future[bool]] = deque()  # of who had a turn: before the line
        self._timer: asyncio.TimerHandle | None = None
        self._given = 0  # turns, to who stood in the line
        self._counted_since = 0.0
        self._longest_line = math.inf
        self._known_until = -math.inf

    async def take(self) -> None:
        """Raises Busy."""
        await self.wait(self.enter())

    def enter(self) -> Place:
        """Whoever got a place has to `wait` at it or to `leave` it. Raises Busy."""
        if self.taken < self.at_once:  # then nobody waits
            self.taken += 1
            if self.taken == self.at_once:
                self._given, self._counted_since = 0, asyncio.get_running_loop().time()
            return None
        now = asyncio.get_running_loop().time()
        self._note_pace(now)
        if not self._may_join(now):
            self._refused.inc()
            raise Busy
        return self._join(now)

    async def wait(self, place: Place) -> None:
        """For the turn. Raises Busy."""
        if place is None:
            return
        try:
            has_turn = await place
        except asyncio.CancelledError:
            self.leave(place)
            raise
        if not has_turn:
            self._refused.inc()
            raise Busy

    def leave(self, place: Place) -> None:
        """Without having waited, or while waiting."""
        if place is None or (place.done() and not place.cancelled() and place.result()):
            self.give_back()
        else:
            place.cancel()

    async def take_again(self) -> None:
        """By who gave it back for a while, such as until a client has sent more: at once, or where
        it is strict as soon as there is one. Raises Busy."""
        if not self.strict or self.taken < self.at_once:
            self.taken += 1
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        self._returned.append(turn)
        timer = loop.call_later(LONGEST_SECONDS, _refuse, turn)
        try:
            await self.wait(turn)
        finally:
            timer.cancel()

    def give_back(self) -> None:
        self.taken -= 1
        while (self._returned or self._line) and self.taken < self.at_once:
            first = not self._returned
            turn = self._line.popleft()[1] if first else self._returned.popleft()
            if not turn.done():  # else its request was cancelled or refused
                turn.set_result(True)
                self.taken += 1
                self._given += first

    def _join(self, now: float) -> Place:
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        self._line.append((now, turn))
        if self._timer is None:
            self._timer = loop.call_at(now + LONGEST_SECONDS, self._refuse_first)
        return turn

    def _may_join(self, now: float) -> bool:
        """Where no turn is free."""
        if not self._line:
            return True
        is_short = len(self._line) < self._longest_line or now > self._known_until
        return is_short and now - self._line[0][0] <= REFUSED_SECONDS

    def _note_pace(self, now: float) -> None:
        """How long a line may be that moves as fast as this one did since it was last noted."""
        seconds = now - self._counted_since
        if seconds > PACE_SECONDS:
            self._longest_line = self._given / seconds * REFUSED_SECONDS
            self._known_until = now + KNOWN_SECONDS
            self._given, self._counted_since = 0, now

    def _refuse_first(self) -> None:
        """Those who have waited for the longest time there is."""
        self._timer = None
        loop = asyncio.get_running_loop()
        while self._line:
            since, turn = self._line[0]
            if loop.time() < since + LONGEST_SECONDS:
                self._timer = loop.call_at(since + LONGEST_SECONDS, self._refuse_first)
                return
            self._line.popleft()
            _refuse(turn)


def _refuse(turn: asyncio.Future[bool]) -> None:
    if not turn.done():
        turn.set_result(False)
