"""An account that is logged in, without asking the service for it."""

import hashlib
import secrets

from servers import Postgresql


class Bearer:
    """A token and what the database keeps of it."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(32)
        self.digest = hashlib.sha256(self.token.encode()).hexdigest()
        self.header = f"Bearer {self.token}"

    def insert(self, postgresql: Postgresql, url: str) -> None:
        """Add the account and the token to a migrated database."""
        postgresql.psql(
            "WITH account AS (INSERT INTO accounts (id, email, password_hash, stamp, created_at,"
            " confirmed_at) VALUES (gen_random_uuid(), 'ada@example.org', 'x', 'x', now(), now())"
            " RETURNING id) INSERT INTO tokens (digest, account_id, created_at, expires_at)"
            f" SELECT '\\x{self.digest}', id, now(), now() + interval '1 day' FROM account",
            url.rpartition("/")[2],
        )
