"""`service migrate`: all at once, killed in the middle, run again; and what it leads to."""

import asyncio
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import procrastinate.schema
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, select, text
from sqlalchemy.ext.asyncio import create_async_engine

import service.migrate
import service.schedule
import service.tasks
from servers import ROOT, Postgresql, clean_environment, run_service, service_command
from service.accounts.models import Account
from service.database import Base, open_database
from service.database_url import engine_url
from service.migrate import MIGRATIONS, alembic_config, current_revision, migrate, outdated
from service.settings import Settings

pytestmark = pytest.mark.anyio

HEAD = ScriptDirectory.from_config(alembic_config()).get_current_head()


@pytest.fixture(params=["postgresql", "sqlite"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without anything, on each back end in turn."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/new/service.sqlite3"
    else:
        postgresql: Postgresql = request.getfixturevalue("shared_postgresql")
        yield postgresql.new_database()


def run_migrate(url: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return run_service("migrate", environment=clean_environment(DATABASE_URL=url), cwd=cwd)


async def in_database(url: str, function: Any) -> Any:
    engine = create_async_engine(engine_url(Settings(database_url=url)))
    async with engine.connect() as connection:
        result = await connection.run_sync(function)
    await engine.dispose()
    return result


async def revision_of(url: str) -> str | None:
    engine = create_async_engine(engine_url(Settings(database_url=url)))
    try:
        return await current_revision(engine)
    finally:
        await engine.dispose()


def test_an_empty_database_gets_the_newest_schema(empty_url: str, tmp_path: Path) -> None:
    done = run_migrate(empty_url, tmp_path)
    assert (done.returncode, done.stdout) == (0, f"schema: {HEAD} (was empty)\n")
    assert asyncio.run(revision_of(empty_url)) == HEAD


def test_a_second_run_changes_nothing(empty_url: str, tmp_path: Path) -> None:
    run_migrate(empty_url, tmp_path)
    done = run_migrate(empty_url, tmp_path)
    assert (done.returncode, done.stdout) == (0, f"schema: {HEAD} (already)\n")


def test_a_schema_of_a_newer_release_is_left_as_it_is(empty_url: str, tmp_path: Path) -> None:
    """As after a rollback."""
    run_migrate(empty_url, tmp_path)

    async def advance() -> None:
        async with (
            open_database(Settings(database_url=empty_url)) as database,
            database.transaction() as session,
        ):
            await session.execute(text("UPDATE alembic_version SET version_num = 'newer'"))

    asyncio.run(advance())
    done = run_migrate(empty_url, tmp_path)
    assert (done.returncode, done.stdout) == (0, "schema: newer (of a newer release)\n")


def test_of_four_at_once_one_migrates_and_all_succeed(empty_url: str, tmp_path: Path) -> None:
    runs = [
        subprocess.Popen(
            service_command("migrate"),
            env=clean_environment(DATABASE_URL=empty_url),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    outputs = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0] * 4, outputs
    said = sorted(out for out, _ in outputs)
    assert said == [f"schema: {HEAD} (already)\n"] * 3 + [f"schema: {HEAD} (was empty)\n"]


KILLED_AT = """
import os, signal, sys
from sqlalchemy import Engine, event
from service.__main__ import main

@event.listens_for(Engine, "after_cursor_execute")
def stop(connection, cursor, statement, *_):
    if sys.argv[1] in statement:
        os.kill(os.getpid(), signal.SIGKILL)

main(["migrate"])
"""


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mails",  # after procrastinate's tables, which take another way
        "CREATE TABLE tokens",
        "UPDATE alembic_version SET version_num='0004'",
        "ix_media_items_public_created_at_id",  # media
        "ix_api_keys_expires_at",
    ],
)
def test_the_next_run_goes_on_after_a_kill(empty_url: str, tmp_path: Path, statement: str) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT, statement],
        env=clean_environment(DATABASE_URL=empty_url),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert killed.returncode == -9, (statement, killed.stderr)
    done = run_migrate(empty_url, tmp_path)
    assert (done.returncode, done.stdout.split()[1]) == (0, HEAD), done.stderr
    assert asyncio.run(in_database(empty_url, differences)) == []


LATER = """
import sqlalchemy as sa
from alembic import op

revision = "later"
down_revision = "{head}"

def upgrade() -> None:
    op.add_column("accounts", sa.Column("more", sa.Text()))
"""


async def test_a_table_that_is_being_read_holds_nobody_up(
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log_lines: list[dict[str, Any]],
) -> None:
    """A migration waits for it, as for the end of a backup, and lets others pass meanwhile."""
    folder = shutil.copytree(MIGRATIONS, tmp_path / "migrations")
    (folder / "versions" / "later.py").write_text(LATER.format(head=HEAD))
    monkeypatch.setattr(service.migrate, "MIGRATIONS", folder)
    # A transaction that does nothing is ended after this.
    settings = Settings(database_url=database_url, database_statement_timeout_seconds=30)
    async with open_database(settings) as database:
        async with database.transaction() as backup:
            await backup.execute(text("LOCK TABLE accounts IN ACCESS SHARE MODE"))
            migrating = asyncio.create_task(migrate(settings))
            while "migration_waits_for_lock" not in [line["message"] for line in log_lines]:
                assert not migrating.done()
                await asyncio.sleep(0.02)
            async with database.reading() as connection:
                await connection.execute(text("SELECT count(*) FROM accounts"))
        assert await migrating == (HEAD, "later")


def differences(connection: Connection) -> list[Any]:
    """What autogenerate would put into the next migration, but for the queue's tables: each back
    end has its own."""
    context = MigrationContext.configure(connection, opts={"include_name": _is_ours})
    found = compare_metadata(context, Base.metadata)
    return [change for change in found if getattr(change[1], "name", "") != "embedded_jobs"]


def _is_ours(name: str | None, kind: str, _parents: object) -> bool:
    return not (kind == "table" and (name or "").startswith(("procrastinate_", "embedded_jobs")))


async def test_the_models_are_what_the_migrations_make(settings: Settings) -> None:
    assert await in_database(settings.database_url.get_secret_value(), differences) == []


async def test_the_embedded_queue_has_the_columns_of_its_model(embedded_settings: Settings) -> None:
    def compare(connection: Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))

    assert await in_database(embedded_settings.database_url.get_secret_value(), compare) == []


def test_the_queues_tables_are_those_of_the_installed_procrastinate() -> None:
    """When this fails, procrastinate was upgraded: add a migration with the SQL of its
    `sql/migrations` that is new, and a copy of its new schema for this test."""
    copies = sorted((ROOT / "migrations").glob("procrastinate_*.sql"))
    assert copies[-1].read_text() == procrastinate.schema.SchemaManager.get_schema()


def test_no_migration_offers_a_way_down() -> None:
    for path in (ROOT / "migrations").rglob("*.py*"):
        if path.suffix in (".py", ".mako"):
            assert "def downgrade" not in path.read_text(), path


def test_alembic_without_the_lock_is_refused(tmp_path: Path) -> None:
    ini = tmp_path / "alembic.ini"
    ini.write_text(f"[alembic]\nscript_location = {ROOT / 'migrations'}\n")
    command = [sys.executable, "-m", "alembic", "-c", str(ini), "upgrade", "head"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "run `service migrate`" in done.stderr


def test_a_schema_of_a_newer_release_is_not_outdated() -> None:
    assert (outdated(HEAD), outdated("9999")) == (False, False)
    assert (outdated(None), outdated("0001")) == (True, True)


def test_a_database_that_is_away_is_named_without_a_traceback(tmp_path: Path) -> None:
    done = run_migrate("postgresql://service:sesame-open@127.0.0.1:9/postgres", tmp_path)
    assert done.returncode == 69
    assert re.fullmatch(
        r"DATABASE_URL: the database cannot be reached \(\w+\)\n", done.stderr.splitlines(True)[-1]
    )
    assert "Traceback" not in done.stderr
    assert "sesame" not in done.stderr


def test_a_wrong_password_is_named_without_it(
    shared_postgresql: Postgresql, tmp_path: Path
) -> None:
    done = run_migrate(shared_postgresql.url().replace("sesame-open", "wrong-one"), tmp_path)
    assert done.returncode == 69
    assert "InvalidPasswordError" in done.stderr
    assert "wrong-one" not in done.stderr


async def test_sqlite_is_left_in_wal_mode(embedded_settings: Settings) -> None:
    """Else the first two workers would both try to change the mode, and one would fail."""
    path = embedded_settings.database_url.get_secret_value().removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_rows_survive_a_migration_that_changes_nothing(settings: Settings) -> None:
    before, after = await migrate(settings)
    assert before == after == HEAD
    url = settings.database_url.get_secret_value()
    assert await in_database(url, lambda c: c.execute(select(Account.id)).all()) == []


async def test_a_sqlite_file_is_for_this_user_alone(tmp_path: Path) -> None:
    await migrate(Settings(database_url=f"sqlite:///{tmp_path}/var/service.sqlite3"))
    path = tmp_path / "var" / "service.sqlite3"
    assert [each.stat().st_mode & 0o777 for each in (path, path.parent)] == [0o600, 0o700]
