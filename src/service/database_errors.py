"""What database drivers raise: told apart from a database that is away, and without any value."""

import logging
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, EmulatedDBAPIException
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine

from service.errors import Unavailable

log = logging.getLogger(__name__)

# https://www.postgresql.org/docs/current/errcodes-appendix.html: lost connections, resources that
# are used up, a server that stops or ends a statement, its disk, and locks or time that ran out.
# A conflict of transactions (40) is none of it: the caller decides on that.
AWAY_STATES = ("08", "53", "57", "58", "55P03", "25P03")
READ_ONLY = "25006"
QUERY_CANCELED = "57014"
AWAY_SQLITE = frozenset(
    (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    )
)
CONNECT_ERRORS = (
    PoolTimeoutError,
    DBAPIError,
    EmulatedDBAPIException,  # what a connection of the pool raises where nothing wraps it
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that is lost between two of its steps
)
ARGUMENT = re.compile(r"(invalid input for query argument \$\d+).*", re.DOTALL)


class DatabaseUnavailable(Unavailable):
    """The database is away, busy or too slow; `silent` where a statement waited in vain."""

    silent = False


class StatementTooLong(DatabaseUnavailable):
    """The server ended a statement at its time limit: it is too busy, or there is too much to do
    for one statement, which is the same the next time."""

    def __init__(self) -> None:
        super().__init__("The database took too long. Try again shortly.")


def is_away(error: BaseException) -> bool:
    """Whether a driver's error says that the database cannot work for the moment."""
    if isinstance(error, sqlite3.OperationalError):
        return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in AWAY_SQLITE
    return _state(error).startswith(AWAY_STATES)


def _state(error: BaseException) -> str:
    return str(getattr(error, "sqlstate", None) or "")


def translate(engine: AsyncEngine) -> None:
    """Make all statements of an engine raise DatabaseUnavailable where the database is away."""
    event.listen(engine.sync_engine, "handle_error", _on_error)


@contextmanager
def connecting() -> Iterator[None]:
    """Around what gets a connection and does nothing else: all that fails there is the database.

    Raises DatabaseUnavailable.
    """
    try:
        yield
    except CONNECT_ERRORS as error:
        raise _unavailable(error) from error


@contextmanager
def running() -> Iterator[None]:
    """Around a statement that the driver runs itself: the same as `translate` does for the rest.

    Raises DatabaseUnavailable.
    """
    try:
        yield
    except CONNECT_ERRORS as error:
        _strip_values(error)
        if isinstance(error, asyncpg.PostgresError) and not is_away(error):
            raise
        raise _unavailable(error, silent=isinstance(error, TimeoutError)) from error


def given_up(error: TimeoutError) -> DatabaseUnavailable:
    """For a request that has waited long enough."""
    return _unavailable(error)


def _on_error(context: ExceptionContext) -> BaseException | None:
    error = context.original_exception
    if not isinstance(error, Exception):
        return None  # cancelled, which is not the database's doing
    _strip_values(error)
    if context.sqlalchemy_exception is not None:
        _strip_values(context.sqlalchemy_exception)
    # A driver's TimeoutError, for a server that does not answer, is a disconnect to SQLAlchemy.
    # A transaction that a migration came in the way of can be done again.
    again = isinstance(root(error), asyncpg.InvalidCachedStatementError)
    if _state(error) == READ_ONLY:
        # Perhaps a primary that was relieved: its successor is where a new connection leads. The
        # others are left to whom they fail, as reading still goes well.
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False
    if context.is_disconnect or is_away(error) or again:
        return _unavailable(error, silent=isinstance(root(error), TimeoutError))
    return None


def _unavailable(error: Exception, *, silent: bool = False) -> DatabaseUnavailable:
    driver_error = root(error)
    name = type(driver_error).__name__
    text = f"{name}: {driver_error}".strip(": ")
    log.warning("database_unavailable", extra={"error": text, "seldom": name})
    too_long = _state(driver_error) == QUERY_CANCELED
    unavailable = StatementTooLong() if too_long else DatabaseUnavailable()
    unavailable.silent = silent
    return unavailable


def root(error: BaseException) -> BaseException:
    """What the driver raised, out of SQLAlchemy's wrappings."""
    inner = error.orig if isinstance(error, DBAPIError) else error.__cause__
    # A TimeoutError's cause is the cancellation that it is made of.
    return error if inner is None or isinstance(error, TimeoutError) else root(inner)


def _strip_values(error: BaseException) -> None:
    """Remove what an error repeats of the data: it may be an address or a password's hash."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, asyncpg.PostgresError):
            link.detail = None  # such as "Failing row contains (...)"
        if link.args and ARGUMENT.search(text := str(link.args[0])):
            link.args = (ARGUMENT.sub(r"\1", text), *link.args[1:])
            if isinstance(link, asyncpg.PostgresError | asyncpg.InterfaceError):
                link.__cause__ = None  # the codec's own words
        link = link.__cause__
