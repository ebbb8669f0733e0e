"""API keys, and when scheduled tasks are due."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"  # "0002" without the media library: docs/adopting.md
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A table of their own, of which the release before knows nothing: in `tokens` it would take
    # each of them for a login, one that may only read among them.
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column(
            "account_id", sa.Uuid, sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("ending", sa.String(4), nullable=False),
        sa.Column("may_write", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column("last_used_at", sa.DateTime(timezone=True)),
        sa.UniqueConstraint("digest", name="uq_api_keys_digest"),
    )
    op.create_index("ix_api_keys_account_id", "api_keys", ["account_id"])
    op.create_table(
        "schedule",
        sa.Column("task", sa.String(100), primary_key=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
    )
