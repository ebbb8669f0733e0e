"""Jobs that take long make way for the others, and leave them a place in each worker.

Whoever runs as many of those as it may takes the next of the others: by the index that orders all
jobs, whose end with the slow ones is not read. Planned as 0009 has it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

FETCH = """
CREATE FUNCTION fetch_prompt_job(target_queue_names varchar[], p_worker_id bigint)
RETURNS SETOF procrastinate_jobs LANGUAGE sql
SET enable_sort = off SET enable_bitmapscan = off SET enable_seqscan = off
AS $$
    WITH candidate AS (
        SELECT id FROM procrastinate_jobs
        WHERE status = 'todo' AND priority >= 0 AND queue_name = ANY (target_queue_names)
        AND (scheduled_at IS NULL OR scheduled_at <= now())
        ORDER BY priority DESC, id LIMIT 1
        FOR UPDATE SKIP LOCKED
    )
    UPDATE procrastinate_jobs AS job SET status = 'doing', worker_id = p_worker_id
    FROM candidate WHERE job.id = candidate.id
    RETURNING job.*
$$
"""


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(FETCH)
        return
    priority = sa.Column("priority", sa.Integer, nullable=False, server_default="0")
    op.add_column("embedded_jobs", priority)
