"""What the worker does for accounts."""

from service.accounts import housekeeping, password_reset
from service.jobs import Job, Task
from service.resources import Resources


async def mail_reset_link(resources: Resources, job: Job) -> None:
    """May run more than once: the mail's key is the request's."""
    request = {name: job.arguments[name] for name in ("email", "event", "site")}
    await password_reset.mail_link(resources, **request)


TASKS = (
    Task(password_reset.MAIL_LINK, mail_reset_link),
    Task(housekeeping.CLEAN_UP, housekeeping.clean_up, every_seconds=housekeeping.EVERY_SECONDS),
)
