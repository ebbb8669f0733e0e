"""asyncpg as the pool needs it: connections that close at once, statements that outlive a
migration, and transactions that a pooler can hand from one session to the next.

A prepared statement whose result a migration has changed, such as by a wider column, fails the next
time it runs. asyncpg prepares its own anew, but not those that SQLAlchemy keeps.

PgBouncer in transaction mode gives each transaction whichever session is free. So through one
nothing is kept in a session: every statement is in a transaction, prepared there without a name and
run at once, as the driver needs a message each for that; limits are set with each BEGIN, in one
message with it.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import asyncpg

from service import tracing
from service.settings import Settings


class Connection(asyncpg.Connection):  # type: ignore[misc]
    """`begun` is how a transaction was begun in which nothing has run yet, or empty."""

    begun = ""

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Say goodbye without waiting, also where a statement was given up or cancelled.

        asyncpg would wait for an answer, which never comes from a server that is frozen. What such
        a statement does meanwhile ends at its statement_timeout.
        """
        self.terminate()

    async def execute(self, query: str, *values: Any, **more: Any) -> str:
        """Also begins and ends transactions."""
        self.begun = ""
        with tracing.query(query):
            status: str = await super().execute(query, *values, **more)
        self.begun = query if query.startswith("BEGIN") else ""
        return status

    async def executemany(self, query: str, *arguments: Any, **more: Any) -> None:
        self.begun = ""
        with tracing.query(query):
            await super().executemany(query, *arguments, **more)

    async def fetch(self, query: str, *values: Any, **more: Any) -> list[Any]:
        with tracing.query(query):
            rows: list[Any] = await super().fetch(query, *values, **more)
        return rows

    async def fetchrow(self, query: str, *values: Any, **more: Any) -> Any:
        with tracing.query(query):
            return await super().fetchrow(query, *values, **more)

    async def prepare(self, query: str, **more: Any) -> "Statement":
        return Statement(self, query, await self.prepare_now(query, **more))

    async def prepare_now(self, query: str, **more: Any) -> Any:
        """asyncpg's own statement."""
        return await super().prepare(query, **more)


class PooledConnection(Connection):
    """Through a pooler. `limits` are statements that go along with each BEGIN."""

    limits = ""

    async def execute(self, query: str, *values: Any, **more: Any) -> str:
        limits = self.limits if query.startswith("BEGIN") else ""
        return await super().execute(query + limits, *values, **more)

    async def fetch(self, query: str, *values: Any, **more: Any) -> list[Any]:
        rows: list[Any] = await self._alone(partial(super().fetch, query, *values, **more))
        return rows

    async def fetchrow(self, query: str, *values: Any, **more: Any) -> Any:
        return await self._alone(partial(super().fetchrow, query, *values, **more))

    async def _alone(self, run: Callable[[], Awaitable[Any]]) -> Any:
        """In a transaction of its own. asyncpg's would also end one whose statement was given up,
        and wait for the answer of a server that is silent."""
        await self.execute("BEGIN;")
        try:
            found = await run()
        except asyncpg.PostgresError:
            await self.execute("ROLLBACK;")
            raise
        except BaseException:
            self.terminate()
            raise
        await self.execute("COMMIT;")
        return found


def connect_arguments(settings: Settings) -> dict[str, Any]:
    """What SQLAlchemy and asyncpg are told about every connection of the pool."""
    milliseconds = str(int(settings.database_statement_timeout_seconds * 1000))
    limits = {
        "statement_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
    }
    session = {"application_name": "service", "timezone": "UTC"}
    arguments = {
        "timeout": settings.database_connect_timeout_seconds,
        # The server ends a long statement; this ends the wait for a server that does not.
        "command_timeout": settings.database_statement_timeout_seconds + 0.5,
    }
    if not settings.pooled:
        more = {"connection_class": Connection, "server_settings": session | limits}
        return arguments | more
    local = " ".join(f"SET LOCAL {name} = {value};" for name, value in limits.items())
    return arguments | {
        "connection_class": type("LimitedConnection", (PooledConnection,), {"limits": local}),
        "server_settings": session,  # which a pooler knows and sets anew where they differ
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": str,  # none
    }


class Statement:
    """What SQLAlchemy uses of a prepared statement. It is prepared anew, and run, where the schema
    has changed since; in a transaction only as its first statement, as all of it has failed."""

    def __init__(self, connection: Connection, query: str, prepared: Any) -> None:
        self.connection = connection
        self.query = query
        self.prepared = prepared

    def get_attributes(self) -> Any:
        return self.prepared.get_attributes()

    def get_statusmsg(self) -> str:
        status: str = self.prepared.get_statusmsg()
        return status

    async def fetch(self, *values: Any) -> list[Any]:
        """The rows. Raises asyncpg's errors."""
        with tracing.query(self.query):
            return await self._fetch(*values)

    async def _fetch(self, *values: Any) -> list[Any]:
        begun, self.connection.begun = self.connection.begun, ""
        try:
            rows: list[Any] = await self.prepared.fetch(*values)
        except asyncpg.InvalidCachedStatementError:
            if self.connection.is_in_transaction():
                if not begun:
                    raise
                await self.connection.execute("ROLLBACK")
                await self.connection.execute(begun)
            self.prepared = await self.connection.prepare_now(self.query)
            self.connection.begun = ""
            rows = await self.prepared.fetch(*values)
        return rows
