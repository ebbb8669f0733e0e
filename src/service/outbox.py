"""Mail that is sent once an event: a row with the event's key, and a job that delivers it."""

from datetime import UTC, datetime

from sqlalchemy import String, Text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from service.database import Base, UtcDateTime
from service.jobs import Job, Task
from service.mail import MailRefused
from service.resources import Resources

DELIVER = "mail.deliver"


class Mail(Base):
    """A message to one person. The text is removed once it is sent: it may hold a link's token."""

    __tablename__ = "mails"

    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    recipient: Mapped[str] = mapped_column(String(320))
    subject: Mapped[str] = mapped_column(String(200))
    text: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    sent_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    refused: Mapped[str | None] = mapped_column(String(200))


async def post(
    resources: Resources, session: AsyncSession, *, key: str, to: str, subject: str, text: str
) -> None:
    """Send a mail once the session commits; a second one with the same key is not sent."""
    insert = postgresql.insert if resources.database.is_postgresql else sqlite.insert
    created_at = datetime.now(UTC)
    values = {"key": key, "recipient": to, "subject": subject, "text": text}
    statement = insert(Mail).values(**values, created_at=created_at)
    added = await session.execute(statement.on_conflict_do_nothing().returning(Mail.key))
    if added.scalar_one_or_none() is not None:
        await resources.jobs.enqueue(session, DELIVER, key=key)


async def deliver(resources: Resources, job: Job) -> None:
    """Hand one mail to the server and record it. The server's acceptance and the record are two
    steps: a process killed between them sends the mail again, under the same Message-ID."""
    key = job.arguments["key"]
    async with resources.database.transaction() as session:
        mail = await session.get(Mail, key)
    if mail is None or mail.sent_at is not None or mail.refused is not None:
        return
    message = resources.mailer.compose(mail.key, mail.recipient, mail.subject, mail.text)
    outcome: dict[str, object] = {"text": ""}
    try:
        await resources.mailer.send(message)
        outcome["sent_at"] = datetime.now(UTC)
    except MailRefused as error:
        outcome["refused"] = str(error)[:200]
    async with resources.database.transaction() as session:
        await session.execute(update(Mail).where(Mail.key == key).values(**outcome))


TASKS = (Task(DELIVER, deliver, max_attempts=12, first_delay_seconds=2.0),)
