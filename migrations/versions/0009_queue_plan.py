"""The next job is found by its index, whatever PostgreSQL thinks of how many there are.

A queue is empty most of the time, and that is what statistics remember of it. When a thousand jobs
come then, the planner takes each of them, sorts them all and keeps one, at every fetch, until the
table is analyzed again.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "ALTER FUNCTION procrastinate_fetch_job_v2"
            " SET enable_sort = off SET enable_bitmapscan = off SET enable_seqscan = off"
        )
