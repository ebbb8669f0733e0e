"""The whole service behind PgBouncer in transaction mode: two web workers and a job worker share
three sessions, and only the queue and migrations go past it."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest

from deployments import Deployment, Person, migrate, working
from pictures import halves, saved  # media
from pooler import SESSIONS, Pgbouncer
from servers import Postgresql, RedisServer, Web, find_program, require, running, wait_until
from service.jobs import QUEUE

MakeWeb = Callable[..., Web]
Environment = dict[str, str]

PEOPLE = 4
ITEMS = 3  # media
CHANNEL = f"procrastinate_queue_v1#{QUEUE}"
OUTSIDE = "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{0}'"


@pytest.fixture
def pooler(own_postgresql: Postgresql, server_directory: Path) -> Iterator[Pgbouncer]:
    require(find_program("pgbouncer", "/usr/sbin/pgbouncer"), "PgBouncer")
    directory = server_directory / f"pooler-{own_postgresql.port}"
    with running(Pgbouncer(directory, server=own_postgresql)) as server:
        yield server


@pytest.fixture
def environment(
    own_postgresql: Postgresql, pooler: Pgbouncer, shared_redis: RedisServer, tmp_path: Path
) -> Environment:
    database_url = own_postgresql.new_database()
    found = {
        "DATABASE_URL": database_url,
        "DATABASE_POOLER_URL": pooler.url(database_url),
        "REDIS_URL": shared_redis.url,
        "UPLOAD_FOLDER": str(tmp_path / "uploads"),
        "SECRET_KEY": "k3y-0f-the-t3sts-k3y-0f-the-t3sts",
        "WEB_CONCURRENCY": "2",
    }
    with ThreadPoolExecutor(2) as threads:  # who comes second waits for the first
        list(threads.map(lambda _: migrate(found, tmp_path), range(2)))
    return found


def test_everything_goes_through_a_few_sessions(
    make_web: MakeWeb,
    environment: Environment,
    own_postgresql: Postgresql,
    tmp_path: Path,
) -> None:
    web = make_web(environment, wait="/health/ready")
    with working(environment, tmp_path) as log:
        deployment = Deployment(web, (web.log_path, log))

        def live(number: int) -> None:
            person = Person(deployment, f"person-{number}@example.org")
            with person.client:
                person.join()
                # media: from here
                picture = saved(halves(), "PNG")
                items = [person.upload(picture, f"{number}-{i}.png") for i in range(ITEMS)]
                ended = [person.wait_for(item) for item in items]
                listed = person.client.get("/api/media").json()["items"]
                assert {item["id"] for item in listed} == {item["id"] for item in items}
                assert [item["status"] for item in ended] == ["ready"] * ITEMS
                # media: to here

        with ThreadPoolExecutor(PEOPLE) as threads:
            list(threads.map(live, range(PEOPLE)))
        sessions = int(own_postgresql.psql(OUTSIDE.format("service")))
        assert 0 < sessions <= SESSIONS
        assert int(own_postgresql.psql(OUTSIDE.format("service-worker"))) > 0
        errors = [e for e in deployment.events() if e["level"] in ("ERROR", "CRITICAL")]
        assert errors == []


def test_the_worker_listens_past_the_pooler(
    make_web: MakeWeb, environment: Environment, own_postgresql: Postgresql, tmp_path: Path
) -> None:
    """LISTEN needs a session, which no pooler leaves to anybody; NOTIFY goes through one."""
    heard: list[str] = []

    async def listen_to(act: Callable[[], object]) -> None:
        connection = await asyncpg.connect(environment["DATABASE_URL"])
        await connection.add_listener(CHANNEL, lambda *event: heard.append(event[-1]))
        await asyncio.to_thread(act)
        await connection.close()

    web = make_web(environment, wait="/health/ready")
    with working(environment, tmp_path) as log:
        deployment = Deployment(web, (web.log_path, log))
        listening = "SELECT count(*) FROM pg_stat_activity WHERE query ILIKE 'listen %'"
        wait_until(lambda: own_postgresql.psql(listening) == "1")
        person = Person(deployment, "ada@example.org")
        with person.client:
            asyncio.run(listen_to(person.register))
    assert heard


def test_the_database_and_the_pooler_may_go_and_come_back(
    make_web: MakeWeb,
    environment: Environment,
    own_postgresql: Postgresql,
    pooler: Pgbouncer,
) -> None:
    web = make_web(environment, wait="/health/ready")
    for server in (own_postgresql, pooler):
        server.stop()
        wait_until(lambda: web.status("/health/ready") == 503, seconds=10)
        assert web.status("/health/live") == 200
        server.start()
        wait_until(lambda: web.status("/health/ready") == 200, seconds=10)
    assert web.stop(signal.SIGTERM) == 0
