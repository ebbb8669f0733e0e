"""Housekeeping, however much there is: it reads what it removes and not the rows beside it, in
batches."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, select

from servers import Postgresql, wait_until
from service import idempotency, outbox
from service.accounts import housekeeping
from service.health import Health
from service.idempotency import FirstAnswer
from service.jobs import Job
from service.lifecycle import Lifecycle
from service.media import revisions
from service.resources import open_resources
from service.settings import Settings

pytestmark = pytest.mark.anyio

OLD, KEPT = 10, 20_000
ROWS = f"generate_series(1, {KEPT + OLD}) AS n"
WHEN = f"now() - CASE WHEN n <= {OLD} THEN interval '1 year' ELSE interval '1 minute' END"
ACCOUNT = "00000000-0000-0000-0000-000000000001"
FILL = {
    "mails": f"""
        INSERT INTO mails (key, recipient, subject, text, created_at, sent_at)
        SELECT n, 'ada@example.org', 'Hello', '', {WHEN}, now() FROM {ROWS}
    """,
    "accounts": f"""
        INSERT INTO accounts (id, email, password_hash, stamp, created_at, confirmed_at)
        SELECT gen_random_uuid(), n || '@example.org', '', '', now() - interval '1 year',
            CASE WHEN n > {OLD} THEN now() END FROM {ROWS}
    """,
    "tokens": f"""
        INSERT INTO tokens (digest, account_id, created_at, expires_at)
        SELECT sha256(n::text::bytea), '{ACCOUNT}', now(), {WHEN} + interval '1 hour' FROM {ROWS}
    """,
    "api_keys": f"""
        INSERT INTO api_keys (id, account_id, digest, name, ending, may_write, created_at,
            expires_at)
        SELECT gen_random_uuid(), '{ACCOUNT}', sha256(n::text::bytea), '', '', false, now(), {WHEN}
        FROM {ROWS}
    """,
    "idempotency_keys": f"""
        INSERT INTO idempotency_keys (account_id, key, fingerprint, status, location, body,
            created_at)
        SELECT '{ACCOUNT}', n, '', 202, '', '', {WHEN} FROM {ROWS}
    """,
    # media: from here
    "media_changes": f"""
        INSERT INTO media_changes (item_id, account_id, revision, deleted, recorded_at)
        SELECT gen_random_uuid(), '{ACCOUNT}', n, true, {WHEN} FROM {ROWS}
    """,
    # media: to here
}
TASKS: dict[str, Callable[[Any, Job], Awaitable[None]]] = {
    "mails": outbox.expire,
    "accounts": housekeeping.clean_up,
    "tokens": housekeeping.clean_up,
    "api_keys": housekeeping.clean_up,
    "idempotency_keys": idempotency.expire,
    "media_changes": revisions.forget,  # media
}
READ = "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_user_tables"
# What a session has read is counted for good when it ends.
OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


@pytest.mark.parametrize("table", FILL)
async def test_what_is_old_is_found_by_an_index(
    table: str, server_settings: Settings, shared_postgresql: Postgresql
) -> None:
    name = server_settings.database_url.get_secret_value().rpartition("/")[2]
    psql = partial(shared_postgresql.psql, database=name)
    psql(
        "INSERT INTO accounts (id, email, password_hash, stamp, created_at, confirmed_at)"
        f" VALUES ('{ACCOUNT}', 'ada@example.org', '', '', now(), now())"
    )
    psql(FILL[table])
    psql("VACUUM ANALYZE")
    wait_until(lambda: psql(OTHERS) == "0")
    before = int(psql(READ))
    async with open_resources(server_settings, Health(Lifecycle())) as resources:
        await TASKS[table](resources, Job(1, "test", 1, {}))
    removed = f"SELECT n_tup_del FROM pg_stat_user_tables WHERE relname = '{table}'"
    wait_until(lambda: psql(removed) == str(OLD))
    assert int(psql(READ)) - before < 20 * OLD


async def test_rows_with_a_key_of_two_columns_are_removed_in_batches(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.removal.BATCH", 2)
    now = datetime.now(UTC)
    answer = {"account_id": UUID(ACCOUNT), "fingerprint": b"", "status": 202, "location": ""}
    ages = {"a": 25, "b": 25, "c": 25, "d": 25, "e": 25, "new": 23}
    deletions = []
    async with open_resources(settings, Health(Lifecycle())) as resources:
        async with resources.database.transaction() as session:
            session.add_all(
                FirstAnswer(key=key, body="", created_at=now - timedelta(hours=hours), **answer)
                for key, hours in ages.items()
            )

        @event.listens_for(resources.database.engine.sync_engine, "before_cursor_execute")
        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith("DELETE"):
                deletions.append(statement)

        await idempotency.expire(resources, Job(1, "idempotency.expire", 1, {}))
        async with resources.database.transaction() as session:
            assert list(await session.scalars(select(FirstAnswer.key))) == ["new"]
    assert len(deletions) == 3
