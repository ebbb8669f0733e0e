"""Logs: one line an event, as JSON or as text, with the request's id and without any secret."""

import json
import logging
import re
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any
from urllib.parse import quote, unquote

from service.fields import MASK
from service.settings import Settings

request_id: ContextVar[str] = ContextVar("request_id", default="")
trace_id: ContextVar[str] = ContextVar("trace_id", default="")

SHORTEST_MASKED = 6  # a shorter secret is found in ordinary words
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}


class Redactor:
    """Replaces known secrets in a text, also as JSON and URLs write them."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms: set[str] = set()
        for secret in secrets:
            if len(secret) >= SHORTEST_MASKED:
                forms |= {secret, json.dumps(secret)[1:-1], quote(secret, safe=""), unquote(secret)}
        longest_first = sorted(forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if forms else None

    def __call__(self, text: str) -> str:
        return self._pattern.sub(MASK, text) if self._pattern else text


class Formatter(logging.Formatter):
    """Base of both formats: collects what a line holds and masks secrets in what comes out."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request := request_id.get():
            event["request_id"] = request
        if trace := trace_id.get():
            event["trace_id"] = trace
        event |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return self._redact(self.line(event))

    def line(self, event: dict[str, Any]) -> str:
        raise NotImplementedError


class JsonFormatter(Formatter):
    def line(self, event: dict[str, Any]) -> str:
        return json.dumps(event, ensure_ascii=False, default=str)


class TextFormatter(Formatter):
    def line(self, event: dict[str, Any]) -> str:
        head = f"{event.pop('time')} {event.pop('level'):<7} {event.pop('logger')}: "
        message, exception = event.pop("message"), event.pop("exception", None)
        details = "".join(f" {name}={value}" for name, value in event.items())
        return f"{head}{message}{details}" + (f"\n{exception}" if exception else "")


def _utc(timestamp: float) -> str:
    milliseconds = int(timestamp % 1 * 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(timestamp))}.{milliseconds:03d}Z"


def configuration(settings: Settings) -> dict[str, Any]:
    """The `logging.config.dictConfig` of every process of the service; lines go to stderr."""
    redact = Redactor(settings.secrets())
    formatter = JsonFormatter if settings.log_format == "json" else TextFormatter
    level = settings.log_level.upper()
    own = {"level": level, "handlers": ["stderr"], "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        # A closure, so that printing this dictionary prints no secret.
        "formatters": {"line": {"()": lambda: formatter(redact)}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "line",
                "stream": "ext://sys.stderr",
            }
        },
        "root": {"level": "WARNING", "handlers": ["stderr"]},
        "loggers": {
            "service": own,
            "gunicorn.error": own,
            "uvicorn.error": {**own, "level": "WARNING" if level == "INFO" else level},
            # The app writes its own access line, or nginx does.
            "gunicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
            "uvicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
        },
    }
