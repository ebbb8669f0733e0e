"""Uploaded items: what tests of the media library do again and again."""

from pathlib import Path
from typing import Any

from sqlalchemy import select, text

from api import Api, Headers
from service.jobs import Job
from service.media import tasks
from service.outbox import Mail


def job(item_id: str, attempt: int = 1) -> Job:
    return Job(1, tasks.PROCESS, attempt, {"item_id": item_id})


async def process(api: Api, item_id: str, attempt: int = 1) -> None:
    """What the worker would do with an upload."""
    await tasks.process(api.resources, job(item_id, attempt))


async def erase(api: Api, item_id: str) -> None:
    """What the worker would do after an item was deleted."""
    await tasks.erase(api.resources, Job(2, tasks.ERASE, 1, {"item_id": item_id}))


async def get(api: Api, headers: Headers, item_id: str) -> dict[str, Any]:
    return dict((await api.client.get(f"/api/media/{item_id}", headers=headers)).json())


async def mails(api: Api) -> list[Mail]:
    async with api.resources.database.transaction() as session:
        return list(await session.scalars(select(Mail)))


def stored(api: Api) -> list[Path]:
    """Every file in the folder of uploads."""
    folder = Path(api.resources.settings.upload_folder)
    return [path for path in folder.rglob("*") if path.is_file()]


async def queued(api: Api) -> list[str]:
    """The names of the tasks that wait or run."""
    sql = "SELECT task FROM embedded_jobs ORDER BY id"
    if api.resources.database.is_postgresql:
        sql = "SELECT task_name FROM procrastinate_jobs ORDER BY id"
    async with api.resources.database.reading() as connection:
        return list(await connection.scalars(text(sql)))
