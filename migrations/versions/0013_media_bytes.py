"""How many bytes the items of an account take, counted as they come and go.

What the release before this uploads and deletes beside it is counted by the next `media.recount`.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# Each item counts 32 KiB more than its content: `allowance.ITEM_BYTES`.
COUNT = """
INSERT INTO media_revisions (account_id, latest, stored_bytes)
SELECT account_id, 0, sum(size) + 32768 * count(*) FROM media_items WHERE true GROUP BY account_id
ON CONFLICT (account_id) DO UPDATE SET stored_bytes = excluded.stored_bytes
"""


def upgrade() -> None:
    context = op.get_context()
    if context.dialect.name == "postgresql":
        with context.autocommit_block():  # nobody waits for the table while items are counted
            op.execute(
                "ALTER TABLE media_revisions"
                " ADD COLUMN IF NOT EXISTS stored_bytes BIGINT NOT NULL DEFAULT 0"
            )
    else:
        stored = sa.Column("stored_bytes", sa.BigInteger, nullable=False, server_default="0")
        op.add_column("media_revisions", stored)
    op.execute(COUNT)
