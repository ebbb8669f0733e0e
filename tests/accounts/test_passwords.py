"""Hashes of passwords: what they cost, and that nobody can tell who has one."""

import asyncio
import statistics
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from anyio import fail_after

from api import PASSWORD, Api, assert_problem, hash_of_password
from service import turns
from service.accounts import logins, passwords
from service.accounts.routes import HASHES_AT_ONCE
from service.health import Health
from service.lifecycle import Lifecycle
from service.resources import open_resources
from service.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def resources() -> Iterator[Any]:
    with ThreadPoolExecutor(4) as threads:
        yield SimpleNamespace(cpu_gate=asyncio.Semaphore(2), hashing=threads)


async def test_a_hash_verifies_its_password_and_no_other(resources: Any) -> None:
    hashed = await passwords.hash_password(resources, PASSWORD)
    assert await passwords.verify_password(resources, PASSWORD, hashed)
    assert not await passwords.verify_password(resources, PASSWORD + " ", hashed)
    assert not await passwords.verify_password(resources, "", hashed)


async def test_two_hashes_of_a_password_differ(resources: Any) -> None:
    hashes = {await passwords.hash_password(resources, PASSWORD) for _ in range(3)}
    assert len(hashes) == 3


@pytest.mark.parametrize(
    "password", ["\x00" * 8, "a\x00bcdefgh", "\U0001f511" * 8, "пароль-пароль", "x" * 1024, " " * 8]
)
async def test_every_character_counts(resources: Any, password: str) -> None:
    hashed = await passwords.hash_password(resources, password)
    assert await passwords.verify_password(resources, password, hashed)
    assert not await passwords.verify_password(resources, password[:-1] + "?", hashed)
    assert not await passwords.verify_password(resources, password[:-1], hashed)


async def test_a_letter_is_the_same_however_the_keyboard_composes_it(resources: Any) -> None:
    hashed = await passwords.hash_password(resources, "cafe\u0301-cafe\u0301")
    assert await passwords.verify_password(resources, "caf\u00e9-caf\u00e9", hashed)


async def test_nobodys_hash_never_matches(resources: Any) -> None:
    for password in ("", PASSWORD, "password", "nobody"):
        assert not await passwords.verify_password(resources, password, None)


async def test_no_thread_composes_the_accents_of_what_is_too_long(
    resources: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which takes time with the square of their number: 32,000 are seconds."""
    seen: list[str] = []

    def normalize(form: str, text: str) -> str:
        assert threading.current_thread() is not threading.main_thread()
        seen.append(text)
        return text

    monkeypatch.setattr(passwords, "unicodedata", SimpleNamespace(normalize=normalize))
    hashed = await passwords.hash_password(resources, "x" * 1024)
    assert await passwords.verify_password(resources, "x" * 1024, hashed)
    assert not await passwords.verify_password(resources, "x" * 1025, hashed)
    assert not await passwords.verify_password(resources, "a" + "\u0344\u0316" * 16_000, hashed)
    assert max(map(len, seen)) == 1024


def test_nobodys_hash_costs_what_others_do() -> None:
    def parameters(hashed: str) -> list[str]:
        return hashed.split("$")[:4]

    assert parameters(passwords.NOBODY) == parameters(hash_of_password())
    assert len(passwords.NOBODY) == len(hash_of_password())


async def test_an_unknown_account_takes_as_long_as_a_wrong_password(resources: Any) -> None:
    seconds: dict[str | None, list[float]] = {hash_of_password(): [], None: []}
    for _ in range(15):
        for hashed, taken in seconds.items():
            began = time.perf_counter()
            await passwords.verify_password(resources, "wrong", hashed)
            taken.append(time.perf_counter() - began)
    known, unknown = map(statistics.median, seconds.values())
    assert 0.5 < known / unknown < 2


async def test_no_more_hashes_at_once_than_the_gate_lets_in(
    resources: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, running, most = threading.Lock(), 0, 0

    class Counting:
        def hash(self, password: str) -> str:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.02)
            with lock:
                running -= 1
            return ""

    monkeypatch.setattr(passwords, "_hashes", Counting())
    await asyncio.gather(*(passwords.hash_password(resources, PASSWORD) for _ in range(12)))
    assert most == 2


async def test_all_hashes_are_made_by_the_same_few_threads(
    resources: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As each thread that ever made one keeps its memory."""
    threads = set()

    class Noting:
        def hash(self, password: str) -> str:
            threads.add(threading.current_thread())
            return ""

    monkeypatch.setattr(passwords, "_hashes", Noting())
    for _ in range(12):
        await asyncio.gather(
            passwords.hash_password(resources, PASSWORD), asyncio.to_thread(time.sleep, 0.005)
        )
    assert threads <= resources.hashing._threads


@pytest.mark.parametrize(("workers", "threads"), [(1, 6), (2, 3), (4, 1), (64, 1)])
async def test_all_workers_together_hash_on_no_more_cores_than_there_are(
    embedded_settings: Settings, monkeypatch: pytest.MonkeyPatch, workers: int, threads: int
) -> None:
    monkeypatch.setattr("service.resources.usable_cpus", lambda limits: 6.5)
    settings = embedded_settings.model_copy(update={"web_concurrency": workers})
    async with open_resources(settings, Health(Lifecycle())) as opened:
        assert opened.hashing._max_workers == threads


async def test_bodies_that_were_held_back_make_no_more_hashes_at_once(
    embedded_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "LONGEST_SECONDS", 0.05)
    bodies_come, may_end = asyncio.Event(), asyncio.Event()
    waiting = working = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal waiting
        waiting += 1
        await bodies_come.wait()
        yield b"username=ada@example.org&password=wrong"

    async def log_in(*_: Any) -> str:
        nonlocal working
        working += 1
        await may_end.wait()
        return "token"

    async def until(done: Callable[[], bool]) -> None:
        with fail_after(20):
            while not done():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    monkeypatch.setattr(logins, "log_in", log_in)
    form = {"content-type": "application/x-www-form-urlencoded"}
    post, count = embedded_api.client.post, 3 * HASHES_AT_ONCE
    requests = [
        asyncio.create_task(post("/login", content=body(), headers=form)) for _ in range(count)
    ]
    await until(lambda: waiting == count)
    bodies_come.set()
    await until(lambda: sum(request.done() for request in requests) + working == count)
    assert working == HASHES_AT_ONCE
    may_end.set()
    answers = await asyncio.gather(*requests)
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) == count - HASHES_AT_ONCE
    for answer in refused:
        assert_problem(answer, 503)
        assert answer.headers["retry-after"] == "1"
