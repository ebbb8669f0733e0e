"""Lines about what is away: once an outage, not once a request."""

import logging
from collections.abc import Callable

import pytest

from service import seldom
from service.logs import configuration
from service.settings import Settings

Say = Callable[..., bool]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(seldom.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def say() -> Say:
    """Whether a line is written; and what it says was left out, in `left_out`."""
    held_back = seldom.Seldom()

    def say(message: str, *, left_out: int | None = None, **extra: str) -> bool:
        record = logging.makeLogRecord({"msg": message, **extra})
        written = held_back.filter(record)
        assert getattr(record, "left_out", None) == left_out
        return written

    return say


def test_an_outage_is_told_once(clock: list[float], say: Say) -> None:
    said = []
    for _ in range(50):
        said.append(say("away", seldom="x"))
        clock[0] += 0.5
    assert said == [True] + [False] * 49


def test_one_that_lasts_is_told_of_again_with_how_often(clock: list[float], say: Say) -> None:
    assert say("away", seldom="x")
    for _ in range(7):
        clock[0] += 8
        assert not say("away", seldom="x")
    clock[0] += 8
    assert say("away", left_out=7, seldom="x")


def test_the_next_outage_is_told_of(clock: list[float], say: Say) -> None:
    assert say("away", seldom="x")
    clock[0] += 11
    assert say("away", seldom="x")


def test_what_differs_is_told(clock: list[float], say: Say) -> None:
    assert say("away", seldom="x")
    assert say("away", seldom="y")
    assert say("busy", seldom="x")


def test_other_lines_are_never_held_back(clock: list[float], say: Say) -> None:
    assert all(say("stored") for _ in range(10))


def test_the_logs_of_every_process_hold_them_back_and_do_not_show_it() -> None:
    handler = configuration(Settings())["handlers"]["stderr"]
    assert handler["filters"] == ["seldom"]
    formatter = configuration(Settings())["formatters"]["line"]["()"]()
    record = logging.makeLogRecord({"msg": "away", "seldom": "what-tells-apart"})
    assert "what-tells-apart" not in formatter.format(record)
