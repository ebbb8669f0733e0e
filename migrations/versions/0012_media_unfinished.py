"""An index of the items that are not processed yet, which are counted at each upload."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

UNFINISHED = sa.text("status IN ('received', 'processing')")
INDEX = "ix_media_items_unfinished_account_id"


def upgrade() -> None:
    context = op.get_context()
    if context.dialect.name != "postgresql":
        _create_index(sqlite_where=UNFINISHED)
        return
    with context.autocommit_block():  # so that uploads go on meanwhile
        # What a run that was killed left is of no use.
        op.drop_index(INDEX, "media_items", if_exists=True, postgresql_concurrently=True)
        _create_index(postgresql_where=UNFINISHED, postgresql_concurrently=True)


def _create_index(**options: Any) -> None:
    op.create_index(INDEX, "media_items", ["account_id"], **options)
