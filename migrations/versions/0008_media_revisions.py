"""Changes of items, numbered for each account.

New tables alone: the release before this goes on writing items and knows nothing of them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


ACCOUNT = "accounts.id"
DELETED = sa.text("deleted")


def upgrade() -> None:
    op.create_table(
        "media_revisions",
        sa.Column(
            "account_id", sa.Uuid, sa.ForeignKey(ACCOUNT, ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("latest", sa.BigInteger, nullable=False),
        sa.Column("forgotten", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_table(
        "media_changes",
        sa.Column("item_id", sa.Uuid, primary_key=True),
        sa.Column(
            "account_id", sa.Uuid, sa.ForeignKey(ACCOUNT, ondelete="CASCADE"), nullable=False
        ),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index(
        "ix_media_changes_account_id_revision",
        "media_changes",
        ["account_id", "revision"],
        unique=True,
    )
    op.create_index(
        "ix_media_changes_deleted_recorded_at",
        "media_changes",
        ["recorded_at"],
        postgresql_where=DELETED,
        sqlite_where=DELETED,
    )
