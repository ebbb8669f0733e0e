"""The shortest way to rows, for what every request needs."""

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import Executable
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.util import await_, greenlet_spawn

from service.database import Database
from service.database_errors import connecting, running
from service.database_time import InTime


class Lookup:
    """A query whose parameters are single values.

    On PostgreSQL it is compiled once, and the driver runs it on a connection of the pool: the
    rest of SQLAlchemy's machinery costs twice what the query does. Columns come by position, as
    the driver gives them.
    """

    def __init__(self, statement: Executable) -> None:
        self.statement = statement
        self._compiled: SQLCompiler | None = None

    async def one(self, database: Database, **parameters: object) -> Sequence[Any] | None:
        """The row, or None. Raises DatabaseUnavailable where the database is away."""
        if not database.is_postgresql:
            async with database.reading() as connection:
                return (await connection.execute(self.statement, parameters)).one_or_none()
        # One switch into SQLAlchemy's synchronous core, where the pool lives.
        row: Sequence[Any] | None
        async with InTime(database.silence):
            row = await greenlet_spawn(self._fetch, database, "fetchrow", parameters)
        return row

    async def all(self, database: Database, **parameters: object) -> Sequence[Sequence[Any]]:
        """Every row. Raises DatabaseUnavailable where the database is away."""
        if not database.is_postgresql:
            async with database.reading() as connection:
                return (await connection.execute(self.statement, parameters)).all()
        rows: Sequence[Sequence[Any]]
        async with InTime(database.silence):
            rows = await greenlet_spawn(self._fetch, database, "fetch", parameters)
        return rows

    def _fetch(
        self,
        database: Database,
        how: Literal["fetch", "fetchrow"],
        parameters: dict[str, object],
    ) -> Any:
        if self._compiled is None:
            compiled = self.statement.compile(dialect=database.engine.dialect)  # type: ignore[attr-defined]
            assert isinstance(compiled, SQLCompiler)
            self._compiled = compiled
        values = self._compiled.construct_params(parameters)
        ordered = [values[name] for name in self._compiled.positiontup or ()]
        with connecting():
            connection = database.engine.sync_engine.raw_connection()
        driver: Any = connection.driver_connection
        try:
            with running():
                return await_(getattr(driver, how)(self._compiled.string, *ordered))
        except BaseException:
            connection.invalidate()  # whatever state it is in, nobody else shall have it
            raise
        finally:
            connection.close()
