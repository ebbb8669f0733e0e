"""An index of the public items."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

PUBLIC = sa.text("public AND status = 'ready'")
INDEX = "ix_media_items_public_created_at_id"


def upgrade() -> None:
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
