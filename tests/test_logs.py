"""One line an event, valid whatever was logged, and without a secret."""

import datetime as dt
import io
import json
import logging
import logging.config
import math
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service import logs
from service.settings import Settings

SECRET = 'Kanarien"vogel\\ü/ 1'
URL_SECRET = "p%40ssw%2Ford"
SETTINGS = Settings(
    secret_key=SECRET,
    mail_password="plain-password",
    health_token="token-of-the-probe",
    database_url=f"postgresql://user:{URL_SECRET}@db/app",
    log_level="debug",
)


class Logs:
    """A logger with one of the two formats, and the lines it wrote."""

    def __init__(self, form: str) -> None:
        settings = SETTINGS.model_copy(update={"log_format": form})
        configured = logs.configuration(settings)
        self.written = io.StringIO()
        handler = logging.StreamHandler(self.written)
        handler.setFormatter(configured["formatters"]["line"]["()"]())
        # One that pytest does not listen to: it raises where arguments do not fit.
        self.logger = logging.Logger("service.tests", logging.DEBUG)  # noqa: LOG001
        self.logger.addHandler(handler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.logger, name)

    @property
    def text(self) -> str:
        return self.written.getvalue()

    @property
    def event(self) -> dict[str, Any]:
        """The one line that was written, read as strictly as anything that reads JSON might."""
        [line] = self.text.splitlines()
        line.encode("ascii")
        event: dict[str, Any] = json.loads(line, parse_constant=pytest.fail)
        json.dumps(event, ensure_ascii=False).encode("utf-8")
        return event


@pytest.fixture(autouse=True)
def nothing_goes_wrong(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """The logging module prints everything, in lines of its own, where formatting fails."""
    yield
    assert "--- Logging error ---" not in capsys.readouterr().err


@pytest.fixture
def as_json() -> Logs:
    return Logs("json")


@pytest.fixture
def as_text() -> Logs:
    return Logs("text")


@pytest.fixture(params=["json", "text"])
def log(request: pytest.FixtureRequest) -> Logs:
    return Logs(request.param)


class Unshowable:
    def __str__(self) -> str:
        raise RuntimeError("cannot be shown")

    __repr__ = __str__


def itself() -> dict[str, Any]:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    return loop


class Shrinking(dict[str, int]):
    def items(self) -> Any:
        raise RuntimeError("dictionary changed size during iteration")


AWKWARD: dict[str, Any] = {
    "an object": object(),
    "one that cannot be shown": Unshowable(),
    "bytes": b"\xff\x00",
    "a lone surrogate": "a\udc80b",
    "a surrogate pair": "\U0001f600",
    "line separators": "a\u2028b\x85c\x0bd\re\nf",
    "not a number": math.nan,
    "infinity": -math.inf,
    "a huge number": 10**5000,
    "keys of all kinds": {1: 1, None: 2, (1, 2): 3, b"k": 4, Unshowable(): 5},
    "what holds itself": itself(),
    "something deep": json.loads("[" * 500 + "]" * 500),
    "a mapping that changes": Shrinking(a=1),
    "a set": {1},
    "an exception": ValueError("x"),
    "a moment": dt.datetime.now(dt.UTC),
    "a path": Path("/x"),
    "a class": int,
    "a namespace": types.SimpleNamespace(a=Unshowable()),
}


@pytest.mark.parametrize("value", AWKWARD.values(), ids=AWKWARD)
def test_every_value_makes_a_valid_line_of_json(as_json: Logs, value: Any) -> None:
    """As an extra, inside one, and as an argument of the message."""
    as_json.warning("event %s", [value], extra={"value": value, "list": [value]})
    assert as_json.event["logger"] == "service.tests"


@pytest.mark.parametrize("value", AWKWARD.values(), ids=AWKWARD)
def test_every_value_makes_one_line_of_text(as_text: Logs, value: Any) -> None:
    """No value can begin a line."""
    as_text.warning("event %s", [value], extra={"value": value, "list": [value]})
    [line] = as_text.text.splitlines()
    assert line.endswith(line.rstrip())


def test_a_line_of_json_has_what_belongs_to_an_event(as_json: Logs) -> None:
    """Time in UTC with milliseconds, level, logger, message and the extras as they are."""
    extra = {"path": "/x", "status": 200, "seconds": 0.5, "ok": True, "none": None, "ids": [1, 2]}
    as_json.info("stored", extra=extra)
    event = as_json.event
    moment = dt.datetime.fromisoformat(event.pop("time"))
    assert abs(dt.datetime.now(dt.UTC) - moment) < dt.timedelta(seconds=5)
    assert event == {
        "level": "info",
        "logger": "service.tests",
        "message": "stored",
        **extra,
    }


def test_extras_do_not_replace_what_identifies_the_line(as_json: Logs) -> None:
    """An extra named `level` would hide an error."""
    as_json.error("failed", extra={"level": "debug", "time": 0, "logger": "x"})
    assert as_json.event["level"] == "error"
    assert as_json.event["logger"] == "service.tests"


def test_the_request_id_is_in_the_line(log: Logs) -> None:
    """And the trace's, where there is one."""
    tokens = logs.request_id.set("request-4711"), logs.trace_id.set("0af7651916cd43dd")
    try:
        log.info("stored")
    finally:
        logs.request_id.reset(tokens[0])
        logs.trace_id.reset(tokens[1])
    assert "request-4711" in log.text
    assert "0af7651916cd43dd" in log.text


def test_outside_a_request_there_is_no_request_id(as_json: Logs) -> None:
    """Not an empty one either."""
    as_json.info("started")
    assert "request_id" not in as_json.event


def test_an_exception_is_one_field_of_the_line(as_json: Logs) -> None:
    """The whole traceback."""
    try:
        raise ValueError("first line\nsecond line")
    except ValueError:
        as_json.exception("failed")
    assert as_json.event["exception"].startswith("Traceback (most recent call last):")
    assert as_json.event["exception"].endswith("ValueError: first line\nsecond line")


def test_an_exception_that_cannot_be_shown_is_logged_all_the_same(log: Logs) -> None:
    """Its class is, and where it came from."""

    class Mute(Exception):
        __str__ = Unshowable.__str__

    try:
        raise Mute
    except Mute:
        log.exception("failed")
    assert "Mute" in log.text


def test_a_stack_is_logged_where_it_is_asked_for(log: Logs) -> None:
    """`stack_info=True`."""
    log.info("here", stack_info=True)
    assert "test_a_stack_is_logged" in log.text


def test_arguments_that_do_not_fit_lose_no_line(log: Logs) -> None:
    """A mistake in a log call must not hide what it was to tell."""
    log.error("disk %d full", "almost", extra={"host": "db1"})
    assert "disk %d full" in log.text
    assert "db1" in log.text


def raise_secret(secret: str) -> None:
    raise ValueError(f"refused: {secret!r} {secret}")


FORMS = {
    "as it is": SECRET,
    "as Python shows it": repr(SECRET),
    "as bytes": repr(SECRET.encode()),
    "in JSON": json.dumps({"key": SECRET}),
    "in JSON that is UTF-8": json.dumps({"key": SECRET}, ensure_ascii=False),
    "twice in JSON": json.dumps(json.dumps({"key": repr(SECRET)})),
    "in a path": "Kanarien%22vogel%5C%C3%BC/%201",
    "in a query": "Kanarien%22vogel%5C%C3%BC%2F%201",
    "in a form": "Kanarien%22vogel%5C%C3%BC%2F+1",
    "in lower case escapes": "Kanarien%22vogel%5c%c3%bc%2f%201",
    "a password": "plain-password",
    "a password in a URL": f"postgresql://user:{URL_SECRET}@db/app",
    "that password decoded": "p@ssw/ord",
}
TRACES = ("Kanarien", "plain-pass", "p%40ssw", "p@ssw")


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_secret_is_masked_however_it_is_written(log: Logs, form: str) -> None:
    """In the message, its arguments, extras and their names, and in tracebacks."""
    log.warning(f"with {form}")
    log.warning("with %s", form)
    log.warning("with", extra={"value": form, "nested": {"list": [form], form: 1}})
    log.warning("with", extra={"value": types.SimpleNamespace(form=form)})
    try:
        raise ValueError(form)
    except ValueError:
        log.exception("failed")
    assert not any(trace in log.text for trace in TRACES), log.text
    assert log.text.count("**********") >= 6


def test_a_secret_in_a_chain_of_exceptions_is_masked(log: Logs) -> None:
    """Also in the cause, and in a note."""
    try:
        try:
            raise_secret(SECRET)
        except ValueError as error:
            error.add_note(f"it was {SECRET}")
            raise RuntimeError(f"because of {error}") from error
    except RuntimeError:
        log.exception("failed")
    assert not any(trace in log.text for trace in TRACES), log.text


def test_masking_a_number_keeps_the_line_valid() -> None:
    """A secret may be all digits."""
    numbers = Logs("json")
    redact = logs.Redactor(["123456789"])
    numbers.logger.handlers[0].setFormatter(logs.JsonFormatter(redact))
    numbers.info("called", extra={"number": 1234567890, "other": 12})
    assert numbers.event["number"] == "**********"
    assert numbers.event["other"] == 12


def test_masking_a_word_of_the_format_keeps_the_line_valid() -> None:
    """Somebody's password is `message`, or looks like a piece of JSON."""
    lines = Logs("json")
    redact = logs.Redactor(["message", '", "level": "'])
    lines.logger.handlers[0].setFormatter(logs.JsonFormatter(redact))
    lines.info("a message")
    assert lines.event["message"] == "a **********"
    assert lines.event["level"] == "info"


def test_short_secrets_are_not_masked() -> None:
    """They would be found in ordinary words, and the mask would tell where."""
    assert logs.Redactor(["abc", ""])("abcdef") == "abcdef"


def test_the_configuration_shows_no_secret() -> None:
    """Gunicorn prints it at debug level."""
    shown = repr(logs.configuration(SETTINGS))
    assert not any(trace in shown for trace in TRACES)


def test_a_line_break_in_a_path_makes_no_line_of_text(as_text: Logs) -> None:
    """Or a request could write what it likes into the log."""
    fake = "2026-01-01T00:00:00.000Z info    service.access: request status=200"
    as_text.info(f"a\n{fake}", extra={"path": f"/\n{fake}", f"name\n{fake}": 1})
    [line] = as_text.text.splitlines()
    assert line.count("\\n2026") == 3


def test_terminal_sequences_are_not_passed_on(log: Logs) -> None:
    """They could hide lines from whoever looks at them, or worse."""
    log.info("x\x1b[2J", extra={"path": "/\x1b]0;title\x07", "text": "mail\x1b[2J"})
    assert "\x1b" not in log.text
    assert "\x07" not in log.text


def test_a_text_value_that_could_be_mistaken_is_quoted(as_text: Logs) -> None:
    """A path cannot pretend to be followed by another field."""
    extra = {"path": "/x status=200", "quoted": 'say "x"', "empty": "", "plain": "/a-b"}
    as_text.info("request", extra=extra)
    assert as_text.text.endswith(
        'request path="/x status=200" quoted="say \\"x\\"" empty="" plain=/a-b\n'
    )


def test_printed_mail_keeps_its_lines(as_text: Logs) -> None:
    """A developer reads it, and copies the link out of it; it is indented, and so no log line."""
    extra = {"to": "a@example.org", "text": "Hello\n\nhttp://localhost/confirm?token=1\n"}
    as_text.warning("mail_printed", extra=extra)
    first, *more = as_text.text.splitlines()
    assert first.endswith("mail_printed to=a@example.org")
    assert more[0] == "    Hello"
    assert more[2] == "    http://localhost/confirm?token=1"


def test_a_traceback_keeps_its_lines_and_can_forge_none(as_text: Logs) -> None:
    """Every line of it is indented."""
    try:
        raise ValueError("x\n2026-01-01T00:00:00.000Z info    service: fine")
    except ValueError:
        as_text.exception("failed")
    first, *more = as_text.text.splitlines()
    assert first.endswith("failed")
    assert more[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in more)


@pytest.fixture
def configure() -> Iterator[Callable[[str], None]]:
    """Puts the whole configuration in force, at a level; what was before is restored."""
    names = ("", "service", "gunicorn.error", "gunicorn.access", "uvicorn.error", "uvicorn.access")
    names += ("python_multipart",)
    loggers = [logging.getLogger(name) for name in names]
    before = [(each, each.level, each.handlers[:], each.propagate) for each in loggers]

    def put_in_force(level: str) -> None:
        settings = SETTINGS.model_copy(update={"log_level": level})
        logging.config.dictConfig(logs.configuration(settings))

    yield put_in_force
    for logger, level, handlers, propagate in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate = propagate


Configure = Callable[[str], None]
Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize("name", ["service.accounts", "gunicorn.error", "uvicorn.error", "asyncio"])
def test_all_loggers_write_the_same_format(
    configure: Configure, capsys: Captured, name: str
) -> None:
    """Once each, whoever speaks."""
    configure("info")
    logging.getLogger(name).warning("hello %s", SECRET)
    [line] = capsys.readouterr().err.splitlines()
    assert json.loads(line)["logger"] == name
    assert json.loads(line)["message"] == "hello **********"


def test_access_lines_of_the_servers_are_off(configure: Configure, capsys: Captured) -> None:
    """The application writes its own, or nginx does."""
    configure("debug")
    logging.getLogger("uvicorn.access").info("GET /")
    logging.getLogger("gunicorn.access").info("GET /")
    assert capsys.readouterr().err == ""


def test_a_malformed_form_is_no_warning(configure: Configure, capsys: Captured) -> None:
    """Whoever sends one is told; the log is no place for strangers to write in."""
    configure("info")
    logging.getLogger("python_multipart.multipart").warning("Found invalid character")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("level", "told"), [("info", False), ("debug", True)])
def test_the_comings_and_goings_inside_uvicorn_are_told_at_debug_only(
    configure: Configure, capsys: Captured, level: str, told: bool
) -> None:
    """Gunicorn tells them already."""
    configure(level)
    logging.getLogger("uvicorn.error").info("Started server process")
    assert ("Started" in capsys.readouterr().err) is told


def test_a_text_full_of_backslashes_is_searched_quickly() -> None:
    """A secret's pattern must not be a way to stop the service."""
    redact = logs.Redactor(["\\" * 20 + '"' + "\\" * 20, "\\a\\b\\c\\d\\e"])
    began = time.process_time()
    redact("\\" * 10_000 + "x")
    redact("\\a" * 10_000)
    assert time.process_time() - began < 2
