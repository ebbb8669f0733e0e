"""Lines about what is away: once an outage, not once a request that runs into it."""

import logging
import time
from dataclasses import dataclass

CALM_SECONDS = 10.0  # without such a line: the next one is of another outage
AGAIN_SECONDS = 60.0  # an outage that lasts is told of again
MOST = 1000  # lines that differ


@dataclass
class _Told:
    written_at: float
    seen_at: float
    left_out: int = 0


class Seldom(logging.Filter):
    """Holds back what was said shortly before, of lines with `seldom`: what tells them apart.

    The next one says how many were `left_out`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[tuple[str, str], _Told] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        about = getattr(record, "seldom", None)
        return about is None or self._is_news(record, (record.msg, about))

    def _is_news(self, record: logging.LogRecord, key: tuple[str, str]) -> bool:
        now = time.monotonic()
        told = self._told.get(key)
        if told and now - told.seen_at < CALM_SECONDS and now - told.written_at < AGAIN_SECONDS:
            told.seen_at = now
            told.left_out += 1
            return False
        if told and told.left_out:
            record.left_out = told.left_out
        if len(self._told) >= MOST:
            self._told.clear()
        self._told[key] = _Told(now, now)
        return True
