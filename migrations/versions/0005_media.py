"""Answers that are remembered, and an index of the public items."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

PUBLIC = sa.text("public AND status = 'ready'")
INDEX = "ix_media_items_public_created_at_id"


def upgrade() -> None:
    _index_public_items()  # first, as it commits by itself
    op.create_table(
        "idempotency_keys",
        sa.Column("account_id", sa.Uuid, primary_key=True),
        sa.Column("key", sa.String(200), primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("location", sa.String(200), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])


def _index_public_items() -> None:
    context = op.get_context()
    if context.dialect.name != "postgresql":
        _create_index(sqlite_where=PUBLIC)
        return
    with context.autocommit_block():  # so that uploads go on meanwhile
        # What a run that was killed left is of no use.
        op.drop_index(INDEX, "media_items", if_exists=True, postgresql_concurrently=True)
        _create_index(postgresql_where=PUBLIC, postgresql_concurrently=True)


def _create_index(**options: Any) -> None:
    op.create_index(INDEX, "media_items", ["created_at", "id"], **options)
