"""Items of the media library that nobody had to upload."""

from bench.account import Bearer
from servers import Postgresql

PAGE_ITEMS = 20  # the API's default


def insert_items(postgresql: Postgresql, url: str, bearer: Bearer) -> None:
    """Add a page of items to the account of a token: public ones, ready, with a preview."""
    postgresql.psql(
        "INSERT INTO media_items (id, account_id, title, filename, public, size, status, progress,"
        " attempt, content_type, sha256, width, height, has_thumbnail, created_at, updated_at)"
        " SELECT gen_random_uuid(), t.account_id, 'Sunrise ' || n, 'sunrise ' || n || '.jpg', true,"
        " 28231, 'ready', 100, 1, 'image/jpeg', sha256(n::text::bytea), 1200, 800, true,"
        " now() - n * interval '1 minute', now()"
        f" FROM tokens t, generate_series(1, {PAGE_ITEMS}) AS n"
        f" WHERE t.digest = '\\x{bearer.digest}'; ANALYZE",
        url.rpartition("/")[2],
    )


def insert_received(
    postgresql: Postgresql, url: str, bearer: Bearer, count: int, size: int
) -> list[str]:
    """Add items that were just received, of `size` bytes each; their ids, as in storage keys."""
    found = postgresql.psql(
        "WITH added AS (INSERT INTO media_items (id, account_id, title, filename, public, size,"
        " status, progress, attempt, has_thumbnail, created_at, updated_at)"
        f" SELECT gen_random_uuid(), t.account_id, 'Sunrise', 'sunrise.jpg', false, {size},"
        f" 'received', 0, 0, false, now(), now() FROM tokens t, generate_series(1, {count})"
        f" WHERE t.digest = '\\x{bearer.digest}' RETURNING id)"
        " SELECT replace(id::text, '-', '') FROM added",
        url.rpartition("/")[2],
    )
    return found.split()
