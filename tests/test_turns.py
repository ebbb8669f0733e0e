"""Turns, and the line before them."""

import asyncio

import pytest
from prometheus_client import REGISTRY

from service import turns
from service.turns import Busy, Turns

pytestmark = pytest.mark.anyio


async def begun() -> None:
    """Let what was started run until it waits."""
    for _ in range(3):
        await asyncio.sleep(0)


def waiting(some: Turns) -> asyncio.Task[None]:
    return asyncio.create_task(some.take())


def refused() -> float:
    return REGISTRY.get_sample_value("service_refused_total", {"turn": "test"}) or 0.0


async def test_so_many_have_a_turn_at_once_and_the_next_one_waits() -> None:
    some = Turns("test", 2)
    await some.take()
    await some.take()
    third = waiting(some)
    await begun()
    assert not third.done()
    some.give_back()
    await third
    assert some.taken == 2


async def test_who_came_first_is_first() -> None:
    some, order = Turns("test", 1), []
    await some.take()

    async def come(number: int) -> None:
        await some.take()
        order.append(number)
        some.give_back()

    tasks = [asyncio.create_task(come(number)) for number in range(5)]
    await begun()
    some.give_back()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert some.taken == 0


async def test_a_burst_of_any_size_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PACE_SECONDS", 60)  # no machine takes that long to begin it
    some = Turns("test", 1)
    await some.take()
    burst = [waiting(some) for _ in range(1000)]
    await begun()
    assert not any(task.done() for task in burst)
    for task in burst:
        some.give_back()
        await task


async def test_nobody_joins_a_line_whose_first_has_waited_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "REFUSED_SECONDS", 0.01)
    some, before = Turns("test", 1), refused()
    await some.take()
    first = waiting(some)
    await asyncio.sleep(0.05)
    with pytest.raises(Busy) as refusal:
        await some.take()
    assert refusal.value.headers["Retry-After"] == "1"
    assert refused() == before + 1
    some.give_back()
    await first


async def test_once_the_line_is_short_again_others_join_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "REFUSED_SECONDS", 0.01)
    some = Turns("test", 1)
    await some.take()
    first = waiting(some)
    await asyncio.sleep(0.05)
    some.give_back()
    await first
    second = waiting(some)
    await begun()
    assert not second.done()
    some.give_back()
    await second


async def test_nobody_joins_a_line_that_is_known_to_move_too_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fifty turns a second, of which ten are as long as may be waited, and a crowd that comes
    whenever one ends."""
    monkeypatch.setattr(turns, "REFUSED_SECONDS", 10.0)
    monkeypatch.setattr(turns, "LONGEST_SECONDS", 20.0)
    monkeypatch.setattr(turns, "PACE_SECONDS", 0.1)
    now = asyncio.get_running_loop().time()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    some, crowd = Turns("test", 1), []
    await some.take()
    for _ in range(20):
        crowd += [waiting(some) for _ in range(50)]
        await begun()
        now += 0.02
        some.give_back()
        await begun()
    line = sum(not task.done() for task in crowd)
    assert 450 <= line <= 550
    refused = sum(task.done() and task.exception() is not None for task in crowd)
    assert refused == 1000 - 20 - line
    while some.taken:
        some.give_back()
        await begun()
    await asyncio.wait(crowd)


async def test_how_fast_a_line_was_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who come later may be quicker."""
    monkeypatch.setattr(turns, "PACE_SECONDS", 0.01)
    monkeypatch.setattr(turns, "KNOWN_SECONDS", 0.1)
    some = Turns("test", 1)
    await some.take()
    first = waiting(some)
    await asyncio.sleep(0.05)
    with pytest.raises(Busy):  # as no turn was given for so long
        await some.take()
    some.give_back()
    await first
    some.give_back()
    await asyncio.sleep(0.2)
    monkeypatch.setattr(turns, "PACE_SECONDS", 60)
    await some.take()
    burst = [waiting(some) for _ in range(100)]
    await begun()
    assert not any(task.done() for task in burst)
    for task in burst:
        some.give_back()
        await task


async def test_nobody_waits_longer_than_the_longest_time_also_where_no_turn_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "LONGEST_SECONDS", 0.05)
    some = Turns("test", 1)
    await some.take()
    first = waiting(some)
    await asyncio.sleep(0.02)
    second = waiting(some)
    for task in (first, second):
        with pytest.raises(Busy):
            await task
    assert some.taken == 1
    some.give_back()
    await some.take()


async def test_a_place_can_be_left() -> None:
    some = Turns("test", 1)
    has_turn, first, second = some.enter(), some.enter(), some.enter()
    some.leave(first)
    some.leave(has_turn)
    await some.wait(second)
    assert some.taken == 1
    third = some.enter()
    some.give_back()  # the turn is the third one's, who does not know yet
    some.leave(third)
    assert some.taken == 0


async def test_who_gives_up_waiting_takes_no_turn() -> None:
    some = Turns("test", 1)
    await some.take()
    first, second = waiting(some), waiting(some)
    await begun()
    first.cancel()
    await begun()
    some.give_back()
    await second
    assert some.taken == 1


async def test_who_gives_up_just_when_it_is_its_turn_gives_it_back() -> None:
    some = Turns("test", 1)
    await some.take()
    first = waiting(some)
    await begun()
    some.give_back()  # the turn is the first one's, who does not know yet
    first.cancel()
    await asyncio.wait({first})
    assert first.cancelled()
    assert some.taken == 0


async def test_a_turn_that_was_given_back_for_a_while_is_taken_again_at_once() -> None:
    some = Turns("test", 1)
    await some.take()
    some.give_back()
    await some.take()
    await some.take_again()
    assert some.taken == 2
    some.give_back()
    third = waiting(some)
    await begun()
    assert not third.done()
    some.give_back()
    await third


async def test_where_it_is_strict_who_takes_it_again_waits_before_the_line() -> None:
    some, order = Turns("test", 1, strict=True), []
    await some.take()
    some.give_back()
    await some.take()

    async def come(name: str, again: bool) -> None:
        await (some.take_again() if again else some.take())
        order.append(name)

    tasks = [asyncio.create_task(come("new", again=False))]
    await begun()
    tasks += [asyncio.create_task(come(name, again=True)) for name in ("first", "second")]
    for number in range(3):
        await begun()
        assert (some.taken, len(order)) == (1, number)
        some.give_back()
    await asyncio.gather(*tasks)
    assert order == ["first", "second", "new"]
    some.give_back()
    assert some.taken == 0


async def test_who_takes_it_again_waits_no_longer_than_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "LONGEST_SECONDS", 0.01)
    some, before = Turns("test", 1, strict=True), refused()
    await some.take()
    with pytest.raises(Busy):
        await some.take_again()
    assert refused() == before + 1
    some.give_back()
    await some.take()
    assert some.taken == 1


async def test_who_gives_up_taking_it_again_takes_none() -> None:
    some = Turns("test", 1, strict=True)
    await some.take()
    again = asyncio.create_task(some.take_again())
    await begun()
    some.give_back()  # the turn is its own, and it does not know yet
    again.cancel()
    await asyncio.wait({again})
    assert some.taken == 0
