"""The platform's tables: the job queue and the outbox."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.util import await_only

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# The schema that procrastinate 3.10 ships, as a copy: this revision must stay what it was.
PROCRASTINATE = Path(__file__).parents[1] / "procrastinate_3.10.sql"


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        # asyncpg takes several statements at once only without preparing them.
        driver: Any = op.get_bind().connection.driver_connection
        await_only(driver.execute(PROCRASTINATE.read_text()))
    else:
        op.create_table(
            "embedded_jobs",
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("task", sa.String(100), nullable=False),
            sa.Column("arguments", sa.JSON, nullable=False),
            sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
            sa.Column("status", sa.String(10), nullable=False, server_default="todo"),
            sa.Column("run_at", sa.DateTime(timezone=True), nullable=False),
        )
    op.create_table(
        "mails",
        sa.Column("key", sa.String(200), primary_key=True),
        sa.Column("recipient", sa.String(320), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True)),
        sa.Column("refused", sa.String(200)),
    )
