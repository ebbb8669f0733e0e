"""Mail that a request leads to by way of a job, on both back ends."""

import asyncio
import json
from typing import Any

from anyio import fail_after
from sqlalchemy import select, text

from api import Api
from service.jobs import Job
from service.outbox import DELIVER, Mail
from service.tasks import TASKS

WAITING = f"SELECT id, task_name, args FROM procrastinate_jobs WHERE task_name <> '{DELIVER}'"


async def settle(api: Api) -> None:
    """Until the jobs that requests left are done. Beside PostgreSQL, where no worker runs in a
    test, mails are left in the outbox with their text."""
    if not api.resources.database.is_postgresql:
        with fail_after(20):
            while await api.resources.jobs.counts():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return
    async with api.resources.database.transaction() as session:
        jobs = (await session.execute(text(WAITING))).all()
        delete = text("DELETE FROM procrastinate_jobs WHERE id = :id")
        for job_id, _, _ in jobs:
            await session.execute(delete, {"id": job_id})
    for job_id, task, arguments in jobs:
        given: Any = json.loads(arguments) if isinstance(arguments, str) else arguments
        await TASKS[task].run(api.resources, Job(job_id, task, 1, given))


async def mails(api: Api, to: str = "ada@example.org", subject: str | None = None) -> list[Mail]:
    """What is or was in the outbox for somebody, oldest first."""
    await settle(api)
    wanted = select(Mail).where(Mail.recipient == to).order_by(Mail.created_at)
    async with api.resources.database.transaction() as session:
        found = list(await session.scalars(wanted))
    return [mail for mail in found if subject in (None, mail.subject)]
