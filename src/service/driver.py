"""asyncpg as the pool needs it: connections that close at once, and statements that outlive a
migration.

A prepared statement whose result a migration has changed, such as by a wider column, fails the next
time it runs. asyncpg prepares its own anew, but not those that SQLAlchemy keeps.
"""

from typing import Any

import asyncpg

from service import tracing


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

    async def executemany(self, *arguments: Any, **more: Any) -> None:
        self.begun = ""
        await super().executemany(*arguments, **more)

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
