"""Fixtures: real servers, started once a run; a migrated database and settings for each test."""

import asyncio
import json
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis.configuration import set_hypothesis_home_dir

from api import Api, running_api
from object_stores import STORES, Moto, ObjectStore, Rclone
from pooler import Pgbouncer
from servers import (
    ROOT,
    Postgresql,
    RedisServer,
    Web,
    find_program,
    postgresql_program,
    require,
    running,
)
from service import health, turns
from service.logs import JsonFormatter, Redactor
from service.migrate import migrate
from service.settings import Settings

# Properties try the same examples in every run, so that a failure is the fault of what was changed.
# `--hypothesis-profile=search -o timeout=0` tries others, and says how to see a failure again.
PROFILE: dict[str, Any] = {
    "database": None,
    "deadline": None,
    "suppress_health_check": [
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.too_slow,
    ],
}
set_hypothesis_home_dir(ROOT / ".pytest_cache" / "hypothesis")
hypothesis.settings.register_profile("same", derandomize=True, max_examples=60, **PROFILE)
hypothesis.settings.register_profile("search", max_examples=2000, print_blob=True, **PROFILE)
hypothesis.settings.load_profile("same")


LONGEST = ("test_adopting.py", "test_schema.py", "test_chaos_audit.py", "test_worker.py")
# On a busy machine what a test needs is slow, and not away.
PATIENT: dict[str, Any] = {
    "health_slow_seconds": 4,
    "health_database_timeout_seconds": 5,
    "health_cache_timeout_seconds": 5,
    "health_stale_seconds": 12,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take minutes, so that none of them is left to one process."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other tests is no overload that a test is about."""
    monkeypatch.setattr(turns, "REFUSED_SECONDS", 30)
    monkeypatch.setattr(turns, "LONGEST_SECONDS", 60)
    monkeypatch.setattr(health, "FIRST_RESULTS_SECONDS", 2)


@pytest.fixture(scope="session")
def server_directory() -> Iterator[Path]:
    """Where servers that do not run as root can reach their files.

    Not below pytest's own directory: each run of pytest closes that to all users but its own, and
    the servers of a run beside it would lose theirs.
    """
    directory = Path(tempfile.mkdtemp(prefix="service-tests-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_postgresql(server_directory: Path) -> Iterator[Postgresql]:
    """One server for all tests that do not harm it."""
    require(postgresql_program("postgres"), "PostgreSQL")
    with running(Postgresql(server_directory / "postgresql").create()) as server:
        yield server


@pytest.fixture
def own_postgresql(server_directory: Path, request: pytest.FixtureRequest) -> Iterator[Postgresql]:
    """A server that the test may freeze, stop and fill."""
    require(postgresql_program("postgres"), "PostgreSQL")
    directory = server_directory / f"own-{abs(hash(request.node.nodeid))}"
    with running(Postgresql(directory).create()) as server:
        yield server


@pytest.fixture(scope="session")
def template(shared_postgresql: Postgresql) -> str:
    """The name of a migrated, empty database; copying it is faster than migrating again."""
    shared_postgresql.psql("CREATE DATABASE template")
    asyncio.run(migrate(Settings(database_url=shared_postgresql.url("template"))))
    return "template"


@pytest.fixture
def database_url(shared_postgresql: Postgresql, template: str) -> Iterator[str]:
    """A migrated PostgreSQL database of the test's own."""
    name = f"copy_{os.urandom(6).hex()}"
    shared_postgresql.psql(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield shared_postgresql.url(name)
    shared_postgresql.psql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def shared_pooler(shared_postgresql: Postgresql, server_directory: Path) -> Iterator[Pgbouncer]:
    """In transaction mode."""
    require(find_program("pgbouncer", "/usr/sbin/pgbouncer"), "PgBouncer")
    with running(Pgbouncer(server_directory / "pooler", server=shared_postgresql)) as server:
        yield server


@pytest.fixture(scope="session")
def shared_redis(server_directory: Path) -> Iterator[RedisServer]:
    require(find_program("redis-server"), "Redis")
    with running(RedisServer(server_directory / "redis")) as server:
        yield server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may freeze and stop."""
    require(find_program("redis-server"), "Redis")
    with running(RedisServer(tmp_path / "redis")) as server:
        yield server


@pytest.fixture(scope="session")
def moto_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with running(Moto(tmp_path_factory.mktemp("moto"))) as server:
        yield server


@pytest.fixture(scope="session")
def rclone_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with running(Rclone(tmp_path_factory.mktemp("rclone"))) as server:
        yield server


@pytest.fixture(params=STORES)
def object_store(request: pytest.FixtureRequest) -> ObjectStore:
    """Each kind of object store in turn, for tests that do not harm it."""
    server: ObjectStore = request.getfixturevalue(f"{request.param}_store")
    return server


@pytest.fixture(params=STORES)
def own_object_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    """Each kind in turn, a server that the test may freeze and stop."""
    with running(STORES[request.param](tmp_path / request.param)) as server:
        yield server


@pytest.fixture
def embedded_settings(tmp_path: Path, migrated_sqlite: Path) -> Settings:
    """Settings of a bare machine, on a migrated SQLite file of the test's own."""
    shutil.copy(migrated_sqlite, tmp_path / "service.sqlite3")
    return Settings(
        database_url=f"sqlite:///{tmp_path}/service.sqlite3",
        upload_folder=str(tmp_path / "uploads"),
        secret_key="k3y-0f-the-t3sts-k3y-0f-the-t3sts",
        **PATIENT,
    )


@pytest.fixture
def server_settings(
    tmp_path: Path, database_url: str, shared_redis: RedisServer, request: pytest.FixtureRequest
) -> Settings:
    """Settings on real PostgreSQL and Redis, both empty; with TEST_POOLER=1 through a pooler."""
    shared_redis.flush()
    pooler_url = ""
    if os.environ.get("TEST_POOLER"):
        pooler_url = request.getfixturevalue("shared_pooler").url(database_url)
    return Settings(
        database_url=database_url,
        database_pooler_url=pooler_url,
        redis_url=shared_redis.url,
        redis_timeout_seconds=5,
        upload_folder=str(tmp_path / "uploads"),
        secret_key="k3y-0f-the-t3sts-k3y-0f-the-t3sts",
        **PATIENT,
    )


@pytest.fixture(params=["embedded", "servers"])
def settings(request: pytest.FixtureRequest) -> Settings:
    """Both back ends in turn."""
    name = {"embedded": "embedded_settings", "servers": "server_settings"}[request.param]
    chosen: Settings = request.getfixturevalue(name)
    return chosen


@pytest.fixture
def make_web(tmp_path: Path) -> Iterator[Callable[..., Web]]:
    """Starts Gunicorn with environment variables; everything is stopped after the test."""
    started: list[Web] = []

    def make(
        environment: dict[str, str] | None = None, *, wait: str | None = "/health/live", **more: Any
    ) -> Web:
        web = Web(tmp_path / f"web-{len(started)}", environment or {}, **more)
        started.append(web)
        return web.start(wait=wait)

    yield make
    for web in started:
        web.stop()


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    """The application on both back ends in turn."""
    async with running_api(settings) as running:
        yield running


@pytest.fixture
async def embedded_api(embedded_settings: Settings) -> AsyncIterator[Api]:
    """The application where the back end makes no difference."""
    async with running_api(embedded_settings) as running:
        yield running


@pytest.fixture
def log_lines() -> Iterator[list[dict[str, Any]]]:
    """What the service logs from here on, each line as the JSON format has it."""
    lines: list[dict[str, Any]] = []
    handler = logging.Handler()
    formatter = JsonFormatter(Redactor([]))

    def emit(record: logging.LogRecord) -> None:
        lines.append(json.loads(formatter.format(record)))

    handler.emit = emit  # type: ignore[method-assign]
    logger = logging.getLogger("service")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty database; copying it is faster than migrating again."""
    path = tmp_path_factory.mktemp("sqlite") / "service.sqlite3"
    asyncio.run(migrate(Settings(database_url=f"sqlite:///{path}")))
    return path


@pytest.fixture
def embedded_environment(tmp_path: Path, migrated_sqlite: Path) -> dict[str, str]:
    """Variables for two workers with a database of their own, and metrics where they are seen."""
    shutil.copy(migrated_sqlite, tmp_path / "service.sqlite3")
    (tmp_path / "shm").mkdir()
    return {
        "DATABASE_URL": f"sqlite:///{tmp_path}/service.sqlite3",
        "WORKER_TMP_DIR": str(tmp_path / "shm"),
        "WEB_CONCURRENCY": "2",
    }


@pytest.fixture
async def server_api(server_settings: Settings) -> AsyncIterator[Api]:
    """The application on PostgreSQL, where no worker runs the jobs."""
    async with running_api(server_settings) as running:
        yield running
