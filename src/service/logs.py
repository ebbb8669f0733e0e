"""Logs: one line an event, as JSON or as text, with the request's id and without any secret."""

import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from random import getrandbits
from typing import Any
from urllib.parse import unquote

from service.seldom import Seldom
from service.settings import Settings
from service.urls import MASK

request_id: ContextVar[str] = ContextVar("request_id", default="")
trace_id: ContextVar[str] = ContextVar("trace_id", default="")


def new_id() -> str:
    """For a request, or what was to be one. It is no secret, and each process has its own seed."""
    return f"{getrandbits(128):032x}"


SHORTEST_MASKED = 6  # a shorter secret is found in ordinary words
DEEPEST = 8  # what is nested deeper is left out: it may hold itself
LARGEST = 1e300  # a larger number, or none (nan), is not JSON everywhere
BLOCKS = ("text", "exception", "stack")  # kept on lines of their own where people read
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
    "seldom",
}
_NOT_ASCII = re.compile(r"[^\x00-\x7e]")


class Redactor:
    """Replaces known secrets in a text, however Python, JSON and URLs escape them there."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = {form for secret in secrets for form in (secret, unquote(secret))}
        masked = [form for form in known if len(form) >= SHORTEST_MASKED]
        patterns = [_pattern(form) for form in sorted(masked, key=len, reverse=True)]
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def __call__(self, text: str) -> str:
        return self._pattern.sub(MASK, text) if self._pattern else text


def _pattern(secret: str) -> str:
    pieces = re.findall(r"[\w.~-]|\\+|.", secret, re.ASCII | re.DOTALL)
    return "".join(map(_piece, pieces))


def _piece(piece: str) -> str:
    """A pattern for one character, or a run of backslashes, as nested escapes may write it.

    `++` and `*+` give nothing back, so that a text full of backslashes costs no time.
    """
    if re.fullmatch(r"[\w.~-]", piece, re.ASCII):
        return re.escape(piece)  # nothing escapes these
    slash = r"\\*+"  # none, where those of a backslash before were taken for its own
    in_utf8 = piece[0].encode("utf-8", "surrogatepass")
    in_utf16 = piece[0].encode("utf-16-be", "surrogatepass").hex()
    percent = "".join(f"%{byte:02x}" for byte in in_utf8)
    forms = [
        r"\\++" if piece[0] == "\\" else slash + re.escape(piece),
        f"(?i:(?:{percent}){{{len(piece)}}})",
        "".join(f"{slash}u{in_utf16[at : at + 4]}" for at in range(0, len(in_utf16), 4)),
        "".join(f"{slash}x{byte:02x}" for byte in in_utf8),
        f"{slash}x{ord(piece[0]):02x}",
    ]
    return f"(?:{'|'.join(forms)}{'|[+]' if piece == ' ' else ''})"


class Formatter(logging.Formatter):
    """Base of both formats: collects what a line holds, with secrets masked, whatever it is."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._redact(_message(record)),
        }
        if request := request_id.get():
            event["request_id"] = request
        if trace := trace_id.get():
            event["trace_id"] = trace
        for name, value in vars(record).items():
            if name not in _STANDARD:
                event.setdefault(name, self._plain(value))
        if record.exc_info:
            event["exception"] = self._redact(self.formatException(record.exc_info))
        if record.stack_info:
            event["stack"] = self._redact(record.stack_info)
        return self.line(event)

    def line(self, event: dict[str, Any]) -> str:
        raise NotImplementedError

    def _plain(self, value: Any, depth: int = 1) -> Any:
        """The value as something that JSON can hold."""
        try:
            return self._structure(value, depth)
        except Exception:  # its own methods fail, or another thread changes it
            return f"<{type(value).__name__}>"

    def _structure(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float) and -LARGEST < value < LARGEST:
            return value if self._redact(shown := str(value)) == shown else MASK
        if isinstance(value, Mapping | list | tuple | set | frozenset) and depth > DEEPEST:
            return "..."
        if isinstance(value, Mapping):
            items = value.items()
            return {self._redact(str(name)): self._plain(item, depth + 1) for name, item in items}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._plain(item, depth + 1) for item in value]
        return self._redact(str(value))


class JsonFormatter(Formatter):
    """One JSON object a line, in ASCII: no locale spoils it and no line separator splits it."""

    def line(self, event: dict[str, Any]) -> str:
        line = json.dumps(event, ensure_ascii=False)
        return line if line.isascii() else _NOT_ASCII.sub(_escaped_in_json, line)


class TextFormatter(Formatter):
    """`time level logger: message name=value`, and longer texts indented below. What was logged
    can neither begin a line nor move the cursor."""

    def line(self, event: dict[str, Any]) -> str:
        head = f"{event.pop('time')} {event.pop('level'):<7} {event.pop('logger')}:"
        blocks = [str(event.pop(name)) for name in BLOCKS if name in event]
        words = [_printable(event.pop("message").rstrip())]
        words += [f"{_printable(name)}={_word(value)}" for name, value in event.items()]
        below = [f"    {_printable(line)}" for block in blocks for line in block.split("\n")]
        return "\n".join([" ".join([head, *words]), *below])


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # arguments that do not fit: the line is worth more than its form
        return f"{record.msg!r} {type(record.args).__name__}"


def _escaped_in_json(character: re.Match[str]) -> str:
    lone_surrogate = "\ud800" <= character[0] <= "\udfff"
    return json.dumps("\ufffd" if lone_surrogate else character[0])[1:-1]


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and (not text or re.search(r"[\s\"=]", text)):
        text = json.dumps(text, ensure_ascii=False)
    return _printable(text)


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
        "filters": {"seldom": {"()": Seldom}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "line",
                "filters": ["seldom"],
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
            # Warns of each malformed form, which its sender is told of.
            "python_multipart": {"level": "ERROR"},
        },
    }
