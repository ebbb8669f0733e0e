"""Uploads with an Idempotency-Key, while the process that serves them is killed."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import httpx2 as httpx
import pytest

from api import running_api
from servers import Postgresql, Web, wait_until
from service.settings import Settings

KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"


def send(web: Web, headers: dict[str, str]) -> httpx.Response | None:
    """The answer, or None where there was none."""
    files = {"file": ("hello.txt", b"hello" * 1000)}
    try:
        return httpx.post(f"{web.url}/api/media", headers=headers | KEY, files=files, timeout=20)
    except httpx.HTTPError:
        return None


def signed_in(settings: Settings) -> dict[str, str]:
    async def sign_in() -> dict[str, str]:
        async with running_api(settings) as api:
            return await api.signed_in()

    return asyncio.run(sign_in())


def served(
    settings: Settings, make_web: Callable[..., Web], **more: str
) -> tuple[Web, dict[str, str]]:
    """Two workers, and the headers of somebody who is logged in."""
    headers = signed_in(settings)
    url, redis = settings.database_url, settings.redis_url
    environment = {
        "DATABASE_URL": url.get_secret_value(),
        "REDIS_URL": redis.get_secret_value(),
        "WEB_CONCURRENCY": "2",
    }
    return make_web(environment | more), headers


@pytest.mark.parametrize("released", ["before the repetition", "after it"])
def test_a_killed_process_leaves_no_key_behind(
    server_settings: Settings,
    shared_postgresql: Postgresql,
    make_web: Callable[..., Web],
    released: str,
) -> None:
    """The first has taken the key, and waits for a lock, when its process is killed."""
    url = server_settings.database_url.get_secret_value()
    name = url.rpartition("/")[2]
    web, headers = served(server_settings, make_web)
    with Lock(url) as lock:
        first = threading.Thread(target=send, args=(web, headers))
        first.start()
        wait_until(lambda: int(shared_postgresql.psql(WAITING, name)) > 0)
        for worker in web.workers():
            os.kill(worker, signal.SIGKILL)
        first.join()
        if released == "before the repetition":
            lock.release()
        wait_until(lambda: web.status("/health/ready") == 200, seconds=30)
        threading.Timer(1, lock.release).start()
        began = time.monotonic()
        answers = [send(web, headers)]
        while answers[-1] is None or answers[-1].status_code == 503:
            assert time.monotonic() - began < 20
            answers.append(send(web, headers))
    again = send(web, headers)
    assert answers[-1] is not None
    assert again is not None
    assert (again.status_code, again.content) == (202, answers[-1].content)
    assert shared_postgresql.psql("SELECT count(*) FROM media_items", name) == "1"
    assert shared_postgresql.psql("SELECT count(*) FROM idempotency_keys", name) == "1"
    assert shared_postgresql.psql("SELECT count(*) FROM procrastinate_jobs", name) == "1"


def test_who_repeats_while_the_first_still_runs_gets_its_answer(
    server_settings: Settings, shared_postgresql: Postgresql, make_web: Callable[..., Web]
) -> None:
    """Of four at once, over both workers, one has taken the key and waits for a lock."""
    url = server_settings.database_url.get_secret_value()
    name = url.rpartition("/")[2]
    web, headers = served(server_settings, make_web, DATABASE_STATEMENT_TIMEOUT_SECONDS="30")
    with ThreadPoolExecutor(4) as pool, Lock(url) as lock:
        sent = [pool.submit(send, web, headers) for _ in range(4)]
        wait_until(lambda: int(shared_postgresql.psql(WAITING, name)) == 4)
        lock.release()
        answers = [future.result() for future in sent]
    assert {answer and answer.status_code for answer in answers} == {202}
    assert len({answer and answer.content for answer in answers}) == 1
    assert shared_postgresql.psql("SELECT count(*) FROM media_items", name) == "1"


class Lock:
    """Keeps everybody from adding items, until it is released."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._released: asyncio.Event | None = None

    def __enter__(self) -> "Lock":
        self._thread.start()
        taken = threading.Event()
        self._holding = asyncio.run_coroutine_threadsafe(self._hold(taken), self._loop)
        assert taken.wait(10)
        return self

    async def _hold(self, taken: threading.Event) -> None:
        self._released = asyncio.Event()
        connection = await asyncpg.connect(self.url)
        async with connection.transaction():
            await connection.execute("LOCK TABLE media_items IN SHARE MODE")
            taken.set()
            await self._released.wait()
        await connection.close()

    def release(self) -> None:
        if self._released is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._released.set)

    def __exit__(self, *_: object) -> None:
        self.release()
        self._holding.result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
