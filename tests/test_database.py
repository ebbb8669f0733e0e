"""The database as requests see it: bounded waits, and true words about errors without values."""

import asyncio
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import asyncpg
import psycopg
import pytest
from sqlalchemy import String, cast, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from api import assert_problem, running_api
from mail_server import make_certificate
from servers import Postgresql, free_port, running, unprivileged
from service import database_errors
from service.accounts.models import Account
from service.database import Database, open_database
from service.database_errors import DatabaseUnavailable
from service.database_url import engine_url, libpq_url
from service.lookup import Lookup
from service.migrate import migrate
from service.settings import Settings

pytestmark = pytest.mark.anyio

ONE = text("SELECT 1")


def sleep(seconds: float) -> Any:
    return text(f"SELECT pg_sleep({seconds})")


@pytest.fixture
async def database(server_settings: Settings) -> AsyncIterator[Database]:
    """PostgreSQL with a pool of two and short deadlines."""
    async with open_database(impatient(server_settings)) as database:
        yield database


@pytest.fixture
async def either(settings: Settings) -> AsyncIterator[Database]:
    async with open_database(settings) as database:
        yield database


def impatient(settings: Settings, **more: Any) -> Settings:
    values = {
        "database_pool_size": 2,
        "database_pool_timeout_seconds": 0.5,
        "database_statement_timeout_seconds": 1.0,
        "database_connect_timeout_seconds": 1.0,
    }
    return settings.model_copy(update=values | more)


async def execute(database: Database, statement: Any) -> None:
    async with database.transaction() as session:
        await session.execute(statement)


async def read(database: Database, statement: Any) -> Any:
    async with database.reading() as connection:
        return (await connection.execute(statement)).all()


async def fetch_one(database: Database, statement: Any) -> Any:
    return await Lookup(statement).one(database)


WAYS = pytest.mark.parametrize("way", [execute, read, fetch_one])


def account(**values: Any) -> Any:
    known = {"email": "ann@example.org", "password_hash": "$argon2id$s3cret", "stamp": "abc"}
    known |= {"id": uuid4(), "created_at": text("now()")}
    return insert(Account).values(known | values)


# Waits


@WAYS
async def test_an_exhausted_pool_is_unavailable_in_time(
    database: Database, way: Callable[..., Any]
) -> None:
    async with database.transaction(), database.transaction():
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            await way(database, ONE)
        assert 0.4 < time.monotonic() - began < 5
    await way(database, ONE)


@WAYS
async def test_a_statement_that_takes_too_long_is_unavailable(
    database: Database, way: Callable[..., Any]
) -> None:
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        await way(database, sleep(20))
    assert 0.9 < time.monotonic() - began < 10
    await way(database, ONE)


async def test_a_transaction_that_does_nothing_for_too_long_is_ended_by_the_server(
    database: Database,
) -> None:
    with pytest.raises(DatabaseUnavailable):
        async with database.transaction() as session:
            await session.execute(ONE)
            await asyncio.sleep(1.5)
            await session.execute(ONE)
    await execute(database, ONE)


async def test_who_waits_for_a_connection_is_served_before_who_comes_later(
    server_settings: Settings,
) -> None:
    """Also where the later one asks before the one that was woken could run."""
    order = []

    async def use(database: Database) -> None:
        async with database.engine.connect():
            order.append("waited")

    async with open_database(impatient(server_settings, database_pool_size=1)) as database:
        connection = await database.engine.connect()
        waiting = [asyncio.create_task(use(database)) for _ in range(2)]
        await asyncio.sleep(0.05)
        await connection.close()
        async with database.engine.connect():
            order.append("came later")
        await asyncio.gather(*waiting)
    assert order == ["waited", "waited", "came later"]


async def test_who_gives_up_waiting_leaves_the_line_to_others(server_settings: Settings) -> None:
    async with open_database(impatient(server_settings, database_pool_size=1)) as database:

        async def use() -> None:
            async with database.reading():
                await asyncio.sleep(0.01)

        async with database.reading():
            waiting = [asyncio.create_task(use()) for _ in range(4)]
            await asyncio.sleep(0.05)
            waiting[0].cancel()
            waiting[2].cancel()
            await asyncio.sleep(0.05)
        assert await asyncio.gather(waiting[1], waiting[3]) == [None, None]
        await use()
        assert database.pool_in_use == 0


async def test_an_exhausted_pool_is_a_503_for_callers(server_settings: Settings) -> None:
    settings = impatient(server_settings, database_pool_size=1)
    async with running_api(settings) as api, api.resources.database.transaction():
        headers = {"Authorization": "Bearer unknown"}
        answer = await api.client.get("/api/accounts/me", headers=headers)
    assert_problem(answer, 503)
    assert int(answer.headers["Retry-After"]) > 0


class Frozen:
    """A server of its own, to be frozen in the middle of things."""

    def __init__(self, server: Postgresql) -> None:
        self.server = server
        asyncio.run(migrate(Settings(database_url=server.url())))

    def settings(self, **more: Any) -> Settings:
        return impatient(Settings(database_url=self.server.url()), **more)

    def connections(self) -> int:
        sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'service'"
        return int(self.server.psql(sql))


@pytest.fixture(scope="module")
def freezer(server_directory: Path, shared_postgresql: Postgresql) -> Iterator[Frozen]:
    with running(Postgresql(server_directory / "freezer").create()) as server:
        yield Frozen(server)


@pytest.fixture
def frozen(freezer: Frozen) -> Iterator[Frozen]:
    yield freezer
    freezer.server.thaw()


@pytest.mark.parametrize("size", [1, 5])
async def test_a_server_frozen_in_the_middle_of_a_statement_costs_a_bounded_time(
    frozen: Frozen, size: int
) -> None:
    """More requests than connections; all end, and nothing is left behind."""

    async def request() -> tuple[str, float]:
        began = time.monotonic()
        try:
            await execute(database, sleep(20))
        except DatabaseUnavailable:
            return "unavailable", time.monotonic() - began
        return "done", time.monotonic() - began

    settings = frozen.settings(database_pool_size=size, database_statement_timeout_seconds=2.0)
    async with open_database(settings) as database:
        await asyncio.gather(*(execute(database, ONE) for _ in range(size)))
        requests = [asyncio.create_task(request()) for _ in range(size + 3)]
        await asyncio.sleep(0.2)
        frozen.server.freeze()
        outcomes = await asyncio.gather(*requests, request())
        assert {outcome for outcome, _ in outcomes} == {"unavailable"}
        # The pool's and the statement's deadline, half a second for the server, and much slack.
        assert max(seconds for _, seconds in outcomes) < 0.5 + 2 + 0.5 + 7
        frozen.server.thaw()
        await execute(database, ONE)
        await until(lambda: frozen.connections() <= size)
        assert database.pool_in_use == 0
    await until(lambda: frozen.connections() == 0)


async def until(condition: Callable[[], bool], *, seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, condition
        await asyncio.sleep(0.05)


async def test_connecting_to_a_frozen_server_costs_a_bounded_time(frozen: Frozen) -> None:
    async with open_database(frozen.settings()) as database:
        frozen.server.freeze()
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            await execute(database, ONE)
        assert time.monotonic() - began < 10
        frozen.server.thaw()
        await execute(database, ONE)


async def test_closing_does_not_wait_for_a_frozen_server(
    frozen: Frozen, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_database(frozen.settings()) as database:
        await asyncio.gather(execute(database, sleep(0.1)), execute(database, sleep(0.1)))
        frozen.server.freeze()
        began = time.monotonic()
    assert time.monotonic() - began < 1.5
    assert caplog.records == []
    frozen.server.thaw()
    await until(lambda: frozen.connections() == 0)


async def test_a_request_that_is_given_up_does_not_wait_for_a_frozen_server(
    frozen: Frozen,
) -> None:
    async with open_database(frozen.settings(database_pool_size=3)) as database:
        requests = {
            asyncio.create_task(way(database, sleep(5))) for way in (execute, read, fetch_one)
        }
        await asyncio.sleep(0.2)
        frozen.server.freeze()
        began = time.monotonic()
        for request in requests:
            request.cancel()
        await asyncio.wait(requests)
        assert all(request.cancelled() for request in requests)
        assert time.monotonic() - began < 1.5
        frozen.server.thaw()
        await execute(database, ONE)


async def test_a_restart_costs_each_connection_one_error_at_most(
    own_postgresql: Postgresql,
) -> None:
    settings = impatient(Settings(database_url=own_postgresql.url()))
    async with open_database(settings) as database:
        await asyncio.gather(execute(database, sleep(0.1)), execute(database, sleep(0.1)))
        own_postgresql.stop()
        with pytest.raises(DatabaseUnavailable):
            await execute(database, ONE)
        own_postgresql.start()
        for _ in range(3):
            await execute(database, ONE)


# Words about errors


async def test_nobody_listening_is_unavailable() -> None:
    url = f"postgresql://service:sesame-open@127.0.0.1:{free_port()}/postgres"
    async with open_database(Settings(database_url=url)) as database:
        for way in (execute, read, fetch_one):
            with pytest.raises(DatabaseUnavailable):
                await way(database, ONE)


@WAYS
async def test_a_wrong_password_is_unavailable_and_not_in_the_log(
    shared_postgresql: Postgresql, caplog: pytest.LogCaptureFixture, way: Callable[..., Any]
) -> None:
    url = shared_postgresql.url().replace("sesame-open", "wr0ng-passw0rd")
    async with open_database(Settings(database_url=url)) as database:
        with pytest.raises(DatabaseUnavailable):
            await way(database, ONE)
    (record,) = caplog.records
    assert record.getMessage() == "database_unavailable"
    assert "password authentication failed" in vars(record)["error"]
    assert "wr0ng" not in str(vars(record))


async def test_a_missing_database_is_unavailable(shared_postgresql: Postgresql) -> None:
    async with open_database(Settings(database_url=shared_postgresql.url("nowhere"))) as database:
        with pytest.raises(DatabaseUnavailable):
            await execute(database, ONE)


async def test_a_connection_the_server_ended_is_unavailable_once(database: Database) -> None:
    with pytest.raises(DatabaseUnavailable):
        await execute(database, text("SELECT pg_terminate_backend(pg_backend_pid())"))
    await execute(database, ONE)


@pytest.mark.parametrize("way", ["transaction", "statement", "lookup"])
async def test_a_connection_that_is_being_ended_is_unavailable_once(
    database: Database, way: str
) -> None:
    """The server's last word has come, the end of the connection has not."""
    async with database.reading() as connection:
        raw = await connection.get_raw_connection()
        driver: Any = raw.driver_connection
    fields = b"SFATAL\0C57P02\0Mterminating connection\0\0"
    driver._protocol.data_received(b"E" + (len(fields) + 4).to_bytes(4) + fields)

    async def read() -> None:
        if way == "lookup":
            await Lookup(ONE).one(database)
        elif way == "statement":
            async with database.reading() as connection:
                await connection.execute(ONE)
        else:
            async with database.transaction() as session:
                await session.execute(ONE)

    with pytest.raises(DatabaseUnavailable):
        await read()
    await read()


def test_a_connection_lost_between_two_steps_of_the_driver_is_unavailable() -> None:
    with pytest.raises(DatabaseUnavailable), database_errors.running():
        raise asyncpg.InternalClientError("cannot switch to state 12")


async def test_a_unique_value_that_exists_stays_an_integrity_error(either: Database) -> None:
    now = "CURRENT_TIMESTAMP"
    with pytest.raises(IntegrityError):
        async with either.transaction() as session:
            for _ in range(2):
                await session.execute(account(created_at=text(now)))
    await execute(either, ONE)


async def test_a_mistake_in_a_statement_is_not_an_outage(either: Database) -> None:
    for way in (execute, read, fetch_one):
        with pytest.raises((DBAPIError, asyncpg.PostgresError)) as caught:
            await way(either, text("SELECT * FROM no_such_table"))
        assert not isinstance(caught.value, DatabaseUnavailable)


async def test_a_conflict_of_transactions_is_not_an_outage(database: Database) -> None:
    with pytest.raises(DBAPIError) as caught:
        async with database.transaction() as one, database.transaction() as other:
            for session in (one, other):
                await session.execute(text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
                await session.execute(select(Account))
                await session.execute(account(email=f"{uuid4()}@example.org"))
            await one.commit()
    assert sqlstate(caught.value) == "40001"


async def test_a_read_only_server_is_unavailable_for_what_changes_something(
    database: Database,
) -> None:
    with pytest.raises(DatabaseUnavailable):
        async with database.transaction() as session:
            await session.execute(text("SET TRANSACTION READ ONLY"))
            await session.execute(account())
    await execute(database, account())


def sqlstate(error: DBAPIError) -> str:
    return str(error.orig.sqlstate)  # type: ignore[union-attr]


@pytest.mark.parametrize("error", [OSError("disk"), TimeoutError("Redis"), RuntimeError("x")])
async def test_other_errors_inside_a_transaction_are_not_the_databases(
    either: Database, error: Exception
) -> None:
    with pytest.raises(type(error)) as caught:
        async with either.transaction() as session:
            await session.execute(ONE)
            raise error
    assert caught.value is error


@pytest.mark.parametrize("turns", range(0, 60, 5))
async def test_what_is_cancelled_leaves_no_thread_behind(tmp_path: Path, turns: int) -> None:
    """It would tell a loop that is gone. Cancelled while it connects, and at later moments."""
    settings = Settings(database_url=f"sqlite:///{tmp_path}/service.sqlite3")
    before = set(threading.enumerate())
    async with open_database(settings) as database:

        async def read() -> None:
            async with database.reading() as connection:
                await connection.execute(text("SELECT 1"))

        reading = [asyncio.create_task(read()) for _ in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in reading:
            task.cancel()
        await asyncio.wait(reading)
    names = [thread.name for thread in set(threading.enumerate()) - before]
    assert not [name for name in names if "_connection_worker_thread" in name]


async def test_a_connection_that_comes_back_at_the_end_is_closed(tmp_path: Path) -> None:
    settings = Settings(database_url=f"sqlite:///{tmp_path}/service.sqlite3")
    used: list[Any] = []
    async with open_database(settings) as database:

        async def read() -> None:
            async with database.reading() as connection:
                raw = (await connection.get_raw_connection()).driver_connection
                assert raw is not None
                raw._tx.put_nowait((None, lambda: time.sleep(0.2)))  # it comes back after that
                used.append(raw)

        reading = asyncio.create_task(read())
        await until(lambda: bool(used))
        reading.cancel()
        await asyncio.wait({reading})
    assert reading.cancelled()
    assert not used[0]._thread.is_alive()


async def test_a_locked_sqlite_file_is_unavailable_in_time(embedded_settings: Settings) -> None:
    settings = impatient(embedded_settings)
    async with open_database(settings) as database, database.transaction() as session:
        await session.execute(account(created_at=text("CURRENT_TIMESTAMP")))
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            await execute(database, account(created_at=text("CURRENT_TIMESTAMP")))
        assert time.monotonic() - began < 4.5


# Values


SECRET = "s3cret-v4lue"


def everything_about(error: BaseException) -> str:
    """What a log would show: the error and its whole chain, as `logging` formats it."""
    formatted = logging.Formatter().formatException((type(error), error, error.__traceback__))
    return formatted + repr(error)


@pytest.mark.parametrize(
    "statement",
    [
        account(id=SECRET),
        account(password_hash=12345678),
        account(email=None, password_hash=SECRET),
        account(stamp=SECRET * 20),
        select(cast(SECRET, String)).where(text("no_such_column = 1")),
    ],
    ids=["wrong type", "wrong type of text", "not null", "too long", "no such column"],
)
async def test_no_value_is_in_the_text_of_an_error(database: Database, statement: Any) -> None:
    with pytest.raises(Exception) as caught:
        await execute(database, statement)
    told = everything_about(caught.value)
    # The traceback shows lines of code, among them those of this test: none holds the value.
    assert SECRET not in told
    assert "12345678" not in told
    assert "ann@example.org" not in told


async def test_a_duplicate_does_not_tell_the_address(database: Database) -> None:
    await execute(database, account())
    with pytest.raises(IntegrityError) as caught:
        await execute(database, account())
    told = everything_about(caught.value)
    assert "uq_accounts_email" in told
    assert "ann@example.org" not in told
    assert "argon2id" not in told


# URLs


def url_of(text_: str) -> Settings:
    return Settings(database_url=text_)


def connect_arguments(url: str) -> dict[str, Any]:
    """What asyncpg is called with."""
    translated = engine_url(url_of(url))
    _, arguments = translated.get_dialect()().create_connect_args(translated)
    return dict(arguments)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
def test_all_schemes_mean_the_same(scheme: str) -> None:
    url = f"{scheme}://ann:pw@db.example.org:6432/media"
    assert engine_url(url_of(url)).drivername == "postgresql+asyncpg"
    assert libpq_url(url_of(url)) == "postgresql://ann:pw@db.example.org:6432/media"
    assert connect_arguments(url) == {
        "host": "db.example.org",
        "port": 6432,
        "user": "ann",
        "password": "pw",
        "database": "media",
    }


def test_parameters_reach_both_drivers_as_each_knows_them() -> None:
    url = (
        "postgresql://ann:pw@db/media?sslmode=verify-full&sslrootcert=/ca.pem&application_name=x%20y"
        "&connect_timeout=5&channel_binding=require"
    )
    assert connect_arguments(url)["dsn"] == (
        "postgresql://?sslmode=verify-full&sslrootcert=%2Fca.pem&application_name=x+y"
    )
    assert libpq_url(url_of(url)) == url.replace("/ca.pem", "%2Fca.pem")


def test_asyncpgs_name_for_sslmode_is_understood() -> None:
    url = "postgresql://ann:pw@db/media?ssl=require"
    assert connect_arguments(url)["dsn"] == "postgresql://?sslmode=require"
    assert libpq_url(url_of(url)) == "postgresql://ann:pw@db/media?sslmode=require"


def test_a_sqlite_url_keeps_its_path() -> None:
    assert str(engine_url(url_of("sqlite:///var/x.sqlite3"))) == "sqlite+aiosqlite:///var/x.sqlite3"


async def connects(url: str) -> None:
    """With both drivers, as the service uses them."""
    async with open_database(url_of(url)) as database:
        assert await Lookup(select(text("1"))).one(database)
    async with await psycopg.AsyncConnection.connect(libpq_url(url_of(url))) as connection:
        await connection.execute("SELECT 1")


async def test_the_end_of_a_pool_is_no_news(
    server_settings: Settings, log_lines: list[dict[str, Any]]
) -> None:
    async with open_database(server_settings) as database, database.transaction() as session:
        await session.execute(ONE)
    assert log_lines == []


async def test_a_password_of_special_characters_is_accepted(shared_postgresql: Postgresql) -> None:
    password = "p@ss/w:rd?#&=+% é\"'"
    literal = password.replace("'", "''")
    shared_postgresql.psql(f"CREATE ROLE odd LOGIN PASSWORD '{literal}'")
    where = f"127.0.0.1:{shared_postgresql.port}/postgres"
    await connects(f"postgresql://odd:{quote(password, safe='')}@{where}")


async def test_parameters_with_spaces_are_accepted(shared_postgresql: Postgresql) -> None:
    await connects(shared_postgresql.url() + "?options=-c%20search_path%3Dpublic&sslmode=prefer")


@pytest.fixture
def socket_directory() -> Iterator[Path]:
    """Short: a socket's path has 107 bytes at most."""
    directory = Path(tempfile.mkdtemp(dir="/tmp", prefix="pg"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


async def test_a_unix_socket_is_reached(server_directory: Path, socket_directory: Path) -> None:
    options = ("-c", f"unix_socket_directories={socket_directory}")
    server = Postgresql(server_directory / "on-a-socket", options=options)
    with running(server.create()) as server:
        user = f"service:{server.password}"
        for url in (
            f"postgresql://{user}@/postgres?host={socket_directory}&port={server.port}",
            f"postgresql://{user}@{quote(str(socket_directory), safe='')}:{server.port}/postgres",
        ):
            await connects(url)


async def test_an_ipv6_address_is_reached(server_directory: Path) -> None:
    if not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("IPv6 is not enabled")
    server = Postgresql(server_directory / "ipv6", host="::1")
    with running(server.create()) as server:
        await connects(f"postgresql://service:{server.password}@[::1]:{server.port}/postgres")


async def test_a_verified_certificate_is_required_where_asked(
    server_directory: Path, tmp_path: Path
) -> None:
    certificate, key = make_certificate(tmp_path)
    server = Postgresql(server_directory / "tls")
    server.create()
    for path in (certificate, key):
        shutil.copy(path, server.directory / path.name)
        if who := unprivileged():
            os.chown(server.directory / path.name, who["user"], who["group"])
        (server.directory / path.name).chmod(0o600)
    server.options = (
        *("-c", "ssl=on", "-c", f"ssl_cert_file={server.directory / certificate.name}"),
        *("-c", f"ssl_key_file={server.directory / key.name}"),
    )
    with running(server):
        verified = f"?sslmode=verify-full&sslrootcert={certificate}"
        await connects(server.url().replace("127.0.0.1", "localhost") + verified)
        other, _ = make_certificate(tmp_path, "other")
        async with open_database(
            url_of(server.url() + f"?sslmode=verify-full&sslrootcert={other}")
        ) as database:
            with pytest.raises(DatabaseUnavailable):
                await execute(database, ONE)
