"""What the database itself writes down while it is changed, and what is asked of it in the end."""

from __future__ import annotations

from chaos.stack import Stack

# In the transaction of each change, so that what is written here is what has committed.
TABLES = """
CREATE TABLE witness_revisions (account_id uuid, revision bigint);
CREATE TABLE witness_ends (item_id uuid);
CREATE FUNCTION witness_revision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO witness_revisions VALUES (NEW.account_id, NEW.revision); RETURN NULL; END $$;
CREATE FUNCTION witness_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO witness_ends VALUES (NEW.id); RETURN NULL; END $$;
CREATE TRIGGER witness AFTER INSERT OR UPDATE ON media_changes
FOR EACH ROW EXECUTE FUNCTION witness_revision();
CREATE TRIGGER witness AFTER UPDATE ON media_items FOR EACH ROW
WHEN (NEW.status IN ('ready', 'failed') AND OLD.status NOT IN ('ready', 'failed'))
EXECUTE FUNCTION witness_end();
"""
ENDED_TWICE = (
    "SELECT count(*) FROM (SELECT FROM witness_ends GROUP BY item_id HAVING count(*) > 1) AS twice"
)
# Each number from 1 to the newest is there, and once.
GAPS = """
SELECT coalesce(sum(latest - found) + sum(rows - found), 0) FROM (
    SELECT latest, count(DISTINCT revision) AS found, count(*) AS rows
    FROM media_revisions LEFT JOIN witness_revisions USING (account_id)
    GROUP BY account_id, latest
) AS accounts
"""
# Answers, changes, mails and jobs of items that are not there, and items without their change.
ORPHAN_ROWS = """
SELECT (SELECT count(*) FROM idempotency_keys WHERE location NOT IN
        (SELECT '/api/media/' || id FROM media_items))
    + (SELECT count(*) FROM media_changes WHERE NOT deleted AND item_id NOT IN
        (SELECT id FROM media_items))
    + (SELECT count(*) FROM media_items WHERE id NOT IN (SELECT item_id FROM media_changes))
    + (SELECT count(*) FROM mails WHERE key NOT IN
        (SELECT 'media-' || replace(id::text, '-', '') FROM media_items))
    + (SELECT count(*) FROM procrastinate_jobs WHERE args ? 'item_id' AND args->>'item_id' NOT IN
        (SELECT id::text FROM media_items))
    + (SELECT count(*) FROM procrastinate_jobs WHERE args ? 'key' AND args->>'key' NOT IN
        (SELECT key FROM mails))
"""
JOBS_LEFT = "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
JOBS_FAILED = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'failed'"
# The last commit of a mail's row is the record of its acceptance.
RECORDED = (
    "SELECT key, extract(epoch FROM pg_xact_commit_timestamp(xmin)) FROM mails"
    " WHERE sent_at IS NOT NULL"
)
REFUSED = "SELECT key FROM mails WHERE refused IS NOT NULL"
ITEMS = "SELECT title, replace(id::text, '-', ''), status, has_thumbnail::int FROM media_items"
COMMIT_TIMES = ("-c", "track_commit_timestamp=on")


def prepare(stack: Stack) -> None:
    """Before it is started."""
    stack.query(TABLES)


def recorded(stack: Stack) -> dict[str, float]:
    """When the acceptance of each mail was recorded, in seconds since 1970, by its key."""
    rows = (line.split("|") for line in stack.query(RECORDED).splitlines())
    return {key: float(when) for key, when in rows}
