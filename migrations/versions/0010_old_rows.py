"""What is looked for by its age has an index: by who removes it, and by who counts jobs.

A statement that reads a whole table would be ended at its time limit, once the table is large.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# (name, table, columns, which rows)
OURS = (
    ("ix_mails_created_at", "mails", ["created_at"], None),
    ("ix_accounts_unconfirmed_created_at", "accounts", ["created_at"], "confirmed_at IS NULL"),
    ("ix_api_keys_expires_at", "api_keys", ["expires_at"], None),
)
QUEUE = "procrastinate_jobs"
OF_THE_QUEUE = (
    ("ix_procrastinate_jobs_todo_scheduled_at_id", QUEUE, ["scheduled_at", "id"], "status='todo'"),
    ("ix_procrastinate_jobs_failed_id", QUEUE, ["id"], "status='failed'"),
)


def upgrade() -> None:
    context = op.get_context()
    if context.dialect.name != "postgresql":
        for index in OURS:
            _create_index(*index)
        return
    with context.autocommit_block():  # so that requests and jobs go on meanwhile
        for index in OURS + OF_THE_QUEUE:
            # What a run that was killed left is of no use.
            op.drop_index(*index[:2], if_exists=True, postgresql_concurrently=True)
            _create_index(*index, postgresql_concurrently=True)


def _create_index(
    name: str, table: str, columns: list[str], which: str | None, **options: Any
) -> None:
    where = None if which is None else sa.text(which)
    op.create_index(name, table, columns, postgresql_where=where, sqlite_where=where, **options)
