"""Looking into the embedded queue from outside."""

import sqlite3
from contextlib import closing

from service.settings import Settings


def embedded_jobs(settings: Settings) -> list[tuple[str, str, int]]:
    """(task, status, attempts) of every job there is."""
    path = settings.database_url.get_secret_value().removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, timeout=5)) as connection:
        sql = "SELECT task, status, attempts FROM embedded_jobs ORDER BY id"
        return connection.execute(sql).fetchall()
