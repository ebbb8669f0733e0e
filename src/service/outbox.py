"""Mail that is sent once an event: a row with the event's key, and a job that delivers it."""

import asyncio
import logging
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from sqlalchemy import String, Text, and_, delete, or_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from service.database import Base, UtcDateTime
from service.errors import Unavailable
from service.job_list import FAILED_KEPT
from service.jobs import Job, Task
from service.mail import MailDelayed, MailRefused
from service.removal import remove
from service.resources import Resources

log = logging.getLogger(__name__)

DELIVER = "mail.deliver"
# A key's event commits with it, or is a job, which may run again as long as it is there. So rows
# outlive failed jobs by far: when they go, nothing is left that could use their key again.
KEPT = 3 * FAILED_KEPT
EXPIRY_SECONDS = 24 * 3600
RECORD_SECONDS = 20.0  # less than a worker that is told to stop leaves to its jobs
RECORD_PAUSE_SECONDS = 0.5


class Mail(Base):
    """A message to one person. The text is removed once it is sent: it may hold a link's token."""

    __tablename__ = "mails"

    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    recipient: Mapped[str] = mapped_column(String(320))
    subject: Mapped[str] = mapped_column(String(200))
    text: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    sent_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    refused: Mapped[str | None] = mapped_column(String(200))


async def post(
    resources: Resources, session: AsyncSession, *, key: str, to: str, subject: str, text: str
) -> None:
    """Send a mail once the session commits; a second one with the same key is not sent."""
    created_at = datetime.now(UTC)
    values = {"key": key, "recipient": to, "subject": subject, "text": text}
    statement = resources.database.insert(Mail).values(**values, created_at=created_at)
    added = await session.execute(statement.on_conflict_do_nothing().returning(Mail.key))
    if added.scalar_one_or_none() is not None:
        await resources.jobs.enqueue(session, DELIVER, key=key)


async def cancel(session: AsyncSession, key: str) -> None:
    """Once the session commits, a mail that was not sent yet will not be."""
    waiting = (Mail.sent_at.is_(None), Mail.refused.is_(None))
    await session.execute(delete(Mail).where(Mail.key == key, *waiting))


async def deliver(resources: Resources, job: Job) -> None:
    """Hand one mail to the server and record it. The server's acceptance and the record are two
    steps: where this process is killed between them, or finds no database for long, another sends
    the mail again, under the same Message-ID."""
    key = job.arguments["key"]
    async with resources.database.transaction() as session:
        mail = await session.get(Mail, key)
    if mail is None or mail.sent_at is not None or mail.refused is not None:
        return
    taken = resources.mailer.taken
    try:
        if key not in taken:
            message = resources.mailer.compose(mail.key, mail.recipient, mail.subject, mail.text)
            await resources.mailer.send(message)
            taken.add(key)
    except MailRefused as error:
        log.warning("mail_refused", extra={"mail": key, "reason": str(error)})
        await _record(resources, key, refused=str(error)[:200])
    else:
        await _record_sent(resources, key)
        taken.discard(key)


async def _record_sent(resources: Resources, key: str) -> None:
    """Try for a while: without the record another worker would send the mail again."""
    sent_at = datetime.now(UTC)
    end = monotonic() + RECORD_SECONDS
    while True:
        try:
            return await _record(resources, key, sent_at=sent_at)
        except Unavailable:
            if monotonic() > end:
                raise
        await asyncio.sleep(RECORD_PAUSE_SECONDS)


async def give_up(resources: Resources, job: Job, error: BaseException) -> None:
    """No server took the mail for about a day: the links in it have expired."""
    await _record(resources, job.arguments["key"], refused=f"given up: {error}"[:200])


async def _record(resources: Resources, key: str, **outcome: Any) -> None:
    statement = update(Mail).where(Mail.key == key, Mail.sent_at.is_(None))
    async with resources.database.transaction() as session:
        await session.execute(statement.values(text="", **outcome))


async def expire(resources: Resources, job: Job) -> None:
    """Remove old mails that were sent or refused; one that still has to go stays."""
    ended = or_(Mail.sent_at.is_not(None), Mail.refused.is_not(None))
    old = Mail.created_at < datetime.now(UTC) - KEPT
    removed = await remove(resources.database, Mail, and_(ended, old))
    log.info("mails_removed", extra={"count": removed})


TASKS = (
    Task(DELIVER, deliver, give_up, 34, first_delay_seconds=2.0, outages=(MailDelayed,)),
    Task("mail.expire", expire, every_seconds=EXPIRY_SECONDS),
)
