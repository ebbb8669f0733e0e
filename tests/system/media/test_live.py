"""The WebSocket over several processes: two instances of two workers each, with real servers."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from websockets.exceptions import ConnectionClosed

from api import Api, Headers, running_api
from live import following, listening, refused, told, told_until
from pictures import halves, saved
from servers import (
    Postgresql,
    RedisServer,
    Web,
    Worker,
    run_service,
    running,
    wait_until,
)
from service.fanout import RARE_LOOK_SECONDS
from service.media import progress
from service.settings import Settings
from sockets import until

pytestmark = [pytest.mark.alone, pytest.mark.anyio, pytest.mark.timeout(240)]

KEY = "k3y-0f-the-t3sts-k3y-0f-the-t3sts"
LARGE_PICTURE = saved(halves((6000, 4000)), "JPEG")  # takes a while
MakeWeb = Callable[..., Web]


@pytest.fixture
def environment(database_url: str, own_redis: RedisServer, tmp_path: Path) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": own_redis.url,
        "UPLOAD_FOLDER": str(tmp_path / "uploads"),
        "SECRET_KEY": KEY,
        "WEB_CONCURRENCY": "2",
        "SHUTDOWN_DRAIN_SECONDS": "2",
        "SHUTDOWN_GRACE_SECONDS": "15",
    }


@pytest.fixture
def two(make_web: MakeWeb, environment: dict[str, str]) -> tuple[Web, Web]:
    webs = make_web(environment, wait=None), make_web(environment, wait=None)
    for web in webs:
        web_is_up(web)
    return webs


def web_is_up(web: Web) -> None:
    wait_until(lambda: web.status("/health/ready") == 200, seconds=60)


@pytest.fixture
async def bearer(environment: dict[str, str]) -> Headers:
    return await signed_in(environment)


async def signed_in(environment: dict[str, str], email: str = "ada@example.org") -> Headers:
    """Somebody with a login, put straight into the database."""
    async with resources_of(environment) as api:
        return await api.signed_in(email)


@asynccontextmanager
async def resources_of(environment: dict[str, str]) -> AsyncIterator[Api]:
    settings = Settings(
        database_url=environment["DATABASE_URL"], secret_key=KEY, redis_url="memory://"
    )
    async with running_api(settings) as api:
        yield api


@pytest.fixture
def worker(environment: dict[str, str], tmp_path: Path) -> Iterator[Worker]:
    needed = ("DATABASE_URL", "REDIS_URL", "UPLOAD_FOLDER", "SECRET_KEY")
    with running(Worker(tmp_path / "worker", {name: environment[name] for name in needed})) as it:
        it.wait_for("worker_ready")
        yield it


async def upload(web: Web, bearer: Headers, content: bytes = b"hello") -> str:
    async with httpx.AsyncClient(base_url=web.url, timeout=30) as client:
        files = {"file": ("a.txt", content)}
        answer = await client.post("/api/media", headers=bearer, files=files)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def test_an_upload_through_one_instance_is_told_by_every_worker(
    two: tuple[Web, Web], worker: Worker, bearer: Headers
) -> None:
    here, there = two
    ports = (here.port, there.port) * 4
    sockets = [await listening(port, bearer) for port in ports]
    item = await upload(here, bearer)
    for socket in sockets:
        assert (await told_until(socket, item, "ready"))[-1]["progress"] == 100
        await socket.close()


async def test_progress_is_told_while_the_worker_looks_at_a_picture(
    two: tuple[Web, Web], worker: Worker, bearer: Headers
) -> None:
    here, there = two
    async with listening(there.port, bearer) as socket:
        item = await upload(here, bearer, LARGE_PICTURE)
        messages = await told_until(socket, item, "ready", seconds=60)
    seen = [message["progress"] for message in messages]
    assert seen == sorted(seen)
    assert {progress.BEGUN, progress.DONE} <= set(seen)
    assert {message["status"] for message in messages} <= {"received", "processing", "ready"}


async def test_a_deletion_reaches_the_other_instance(two: tuple[Web, Web], bearer: Headers) -> None:
    here, there = two
    item = await upload(here, bearer)
    async with listening(there.port, bearer, "1") as socket:
        async with httpx.AsyncClient(base_url=here.url) as client:
            await client.delete(f"/api/media/{item}", headers=bearer)
        assert (await told(socket))["status"] == "deleted"


async def test_embedded_workers_tell_of_what_others_did(
    make_web: MakeWeb, embedded_environment: dict[str, str]
) -> None:
    web = make_web(embedded_environment)
    bearer = await signed_in(embedded_environment)
    sockets = [await listening(web.port, bearer) for _ in range(6)]
    item = await upload(web, bearer)
    for socket in sockets:
        assert (await told_until(socket, item, "ready"))[-1]["progress"] == 100
        await socket.close()


@pytest.mark.parametrize("how", ["stopped", "frozen"])
async def test_the_same_is_told_while_redis_is_away_and_when_it_is_back(
    two: tuple[Web, Web], bearer: Headers, own_redis: RedisServer, how: str
) -> None:
    here, there = two
    async with listening(there.port, bearer) as socket:
        own_redis.stop() if how == "stopped" else own_redis.freeze()
        for _ in range(3):
            item = await upload(here, bearer)
            # Sooner than by the look that there is now and then in any case.
            assert (await told(socket, seconds=RARE_LOOK_SECONDS - 3))["id"] == item
        own_redis.start() if how == "stopped" else own_redis.thaw()
        for _ in range(3):
            item = await upload(here, bearer)
            assert (await told(socket))["id"] == item


@asynccontextmanager
async def uploading(webs: Callable[[], Web], bearer: Headers) -> AsyncIterator[list[str]]:
    """One upload after the other until the block ends; the ids of those that were accepted."""
    accepted: list[str] = []
    stop = asyncio.Event()

    async def upload_on() -> None:
        while not stop.is_set():
            accepted.append(await upload(webs(), bearer))
            await asyncio.sleep(0.02)

    task = asyncio.create_task(upload_on())
    yield accepted
    stop.set()
    await task


def as_they_were_accepted(messages: list[dict[str, Any]], accepted: list[str]) -> None:
    """Each change once, under the next number: nothing missed, nothing twice."""
    assert [message["id"] for message in messages] == accepted
    revisions = [int(message["cursor"]) for message in messages]
    assert revisions == list(range(1, len(accepted) + 1))


async def test_nothing_is_missed_over_drains_under_constant_changes(
    two: tuple[Web, Web], bearer: Headers, make_web: MakeWeb, environment: dict[str, str]
) -> None:
    here, there = two
    ports = cycle([there.port, here.port])
    async with (
        following(bearer, lambda: next(ports)) as follower,
        uploading(lambda: here, bearer) as accepted,
    ):
        await until(lambda: len(follower.messages) > 5)
        for _ in range(2):
            assert there.stop(signal.SIGTERM) == 0
            restarted = Web(there.directory, there.environment, port=there.port)
            there.process = restarted.start(wait=None).process
            await asyncio.to_thread(web_is_up, there)
            more = len(follower.messages) + 5
            await until(lambda more=more: len(follower.messages) > more)  # type: ignore[misc]
    async with following(bearer, lambda: here.port) as late:
        late.cursor = "0"
        await until(lambda: len(late.messages) == len(accepted))
    as_they_were_accepted(late.messages, accepted)
    as_they_were_accepted(follower.messages, accepted[: len(follower.messages)])
    assert 1001 in follower.codes
    assert set(follower.codes) <= {1001}


async def test_a_drain_ends_sockets_with_1001_and_does_not_wait_for_them(
    make_web: MakeWeb, environment: dict[str, str], bearer: Headers
) -> None:
    web = make_web(environment)
    sockets = [await listening(web.port, bearer) for _ in range(6)]
    began = asyncio.get_running_loop().time()
    assert await asyncio.to_thread(web.stop, signal.SIGTERM) == 0
    assert asyncio.get_running_loop().time() - began < 12  # of a grace of 15
    for socket in sockets:
        with pytest.raises(ConnectionClosed):
            await told(socket)
        assert socket.close_code == 1001
    assert [event["reason"] for event in web.events("websocket_closed")] == ["1001"] * 6


@pytest.mark.parametrize("how", ["reloaded", "recycled"])
async def test_a_worker_that_is_replaced_ends_its_sockets_with_1001(
    make_web: MakeWeb, environment: dict[str, str], bearer: Headers, how: str
) -> None:
    few = {"MAX_REQUESTS": "20", "MAX_REQUESTS_JITTER": "0"} if how == "recycled" else {}
    web = make_web(environment | {"WEB_CONCURRENCY": "1"} | few)
    async with listening(web.port, bearer) as socket:
        if how == "reloaded":
            web.send_signal(signal.SIGHUP)
        else:
            for _ in range(25):
                await asyncio.to_thread(web.status, "/api/accounts/me")
        with pytest.raises(ConnectionClosed):
            await told(socket, seconds=60)
        assert socket.close_code == 1001
    await until(lambda: web.events("websocket_closed"))


async def test_who_was_on_a_killed_worker_comes_back_and_misses_nothing(
    two: tuple[Web, Web], bearer: Headers
) -> None:
    here, there = two
    async with (
        following(bearer, lambda: there.port) as follower,
        uploading(lambda: here, bearer) as accepted,
    ):
        await until(lambda: len(follower.messages) > 5)
        for pid in there.workers():
            os.kill(pid, signal.SIGKILL)
        await until(lambda: follower.codes, seconds=30)
        more = len(follower.messages) + 5
        await until(lambda: len(follower.messages) > more, seconds=60)
    assert follower.codes == [1006]
    as_they_were_accepted(follower.messages, accepted[: len(follower.messages)])


async def test_the_limit_holds_over_processes_and_killed_ones_do_not_use_it_up(
    make_web: MakeWeb, environment: dict[str, str], bearer: Headers
) -> None:
    # Redis counts, also on a busy machine.
    patient = {"REDIS_TIMEOUT_SECONDS": "5"}
    limited = environment | patient | {"WEBSOCKETS_PER_ACCOUNT": "3"}
    here, there = make_web(limited), make_web(limited)
    sockets = [await listening(port, bearer) for port in (here.port, there.port, here.port)]
    for web in (here, there):
        await refused(web.port, bearer, 429)
    for pid in here.workers():
        os.kill(pid, signal.SIGKILL)
    async with following(bearer, lambda: there.port) as follower:
        await upload(there, bearer)
        await until(lambda: follower.messages, seconds=30)
    assert set(follower.refusals) <= {429}
    for socket in sockets:
        await socket.close()


async def test_a_database_that_is_away_ends_no_socket(
    make_web: MakeWeb, environment: dict[str, str], own_postgresql: Postgresql
) -> None:
    own = environment | {"DATABASE_URL": own_postgresql.new_database()}
    moved = run_service("migrate", environment=own | dict(os.environ), cwd=Path("/tmp"))
    assert moved.returncode == 0, moved.stderr
    web = make_web(own)
    bearer = await signed_in(own)
    async with listening(web.port, bearer) as socket:
        own_postgresql.freeze()
        await until(lambda: web.events("check_failed"))
        await asyncio.sleep(12)  # beyond a look and a recheck of tokens
        own_postgresql.thaw()
        await asyncio.to_thread(web_is_up, web)
        item = await upload_in_the_end(web, bearer)
        assert (await told(socket, seconds=30))["id"] == item


async def upload_in_the_end(web: Web, bearer: Headers) -> str:
    """One worker may not have noticed yet what the other knows."""
    while True:
        try:
            return await upload(web, bearer)
        except AssertionError as error:
            if "503" not in str(error):
                raise
            await asyncio.sleep(0.5)


async def test_no_token_is_logged_at_any_level(
    make_web: MakeWeb, environment: dict[str, str], bearer: Headers
) -> None:
    web = make_web(environment | {"LOG_LEVEL": "debug", "DEBUG": "true"})
    token = bearer["Authorization"].split()[1]
    async with listening(web.port, {}, subprotocols=["bearer", token]):
        pass
    async with listening(web.port, bearer):
        pass
    await refused(web.port, {}, 401, f"0&token={token}")
    await refused(web.port, {}, 422, f"{token}", subprotocols=["bearer", token])
    assert web.stop(signal.SIGTERM) == 0
    assert len(web.events("websocket_closed")) == 2
    assert token not in web.log
