"""Requests that may be repeated: the first answer to a key is kept, and given again.

https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/. The answer commits with
what the request did, and the key's uniqueness decides between two at once: so there is no state
"under way" in which a killed process could leave a key.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import Header
from pydantic import AfterValidator
from sqlalchemy import LargeBinary, String, Text, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column
from starlette.responses import Response

from service.database import Base, UtcDateTime
from service.errors import ServiceError
from service.jobs import Job, Task
from service.removal import remove
from service.resources import Resources
from service.texts import Matching

KEPT = timedelta(hours=24)
EXPIRY_SECONDS = 3600
# A string of RFC 8941, as the draft has it, or its content alone, as most clients send it.
KEY = Matching(
    r'^(?:"[ !#-\[\]-~]{1,200}"|[!#-+\--\[\]-~]{1,200})$',
    "1 to 200 printable ASCII characters without quotes and backslashes; with spaces and commas "
    "only where the key stands in double quotes",
)

IdempotencyKey = Annotated[
    Annotated[str, KEY] | None,
    Header(
        alias="Idempotency-Key",
        description="A repeated request with this key gets the first answer; kept for 24 hours",
        examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"],
    ),
    AfterValidator(lambda key: key and key.strip('"')),
]


class KeyReused(ServiceError):
    status = 422

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key came with another request before.")


@dataclass(frozen=True)
class Repeatable:
    """A request that has a key; the fingerprint is of all that it asks for."""

    account_id: UUID
    key: str
    fingerprint: bytes


class Repeated(Exception):
    """Another request with the same key was faster."""

    def __init__(self, request: Repeatable) -> None:
        super().__init__()
        self.request = request


@dataclass(frozen=True)
class Answer:
    """JSON about something that was made."""

    status: int
    location: str
    body: bytes

    def response(self) -> Response:
        headers = {"Location": self.location}
        return Response(self.body, self.status, headers, media_type="application/json")


class FirstAnswer(Base):
    """The answer to the first request with a key."""

    __tablename__ = "idempotency_keys"

    account_id: Mapped[UUID] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary(32))
    status: Mapped[int]
    location: Mapped[str] = mapped_column(String(200))
    body: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


async def first_answer(resources: Resources, request: Repeatable) -> Answer | None:
    """What was answered before. Raises KeyReused where that was to another request."""
    statement = select(FirstAnswer).where(
        FirstAnswer.account_id == request.account_id, FirstAnswer.key == request.key
    )
    async with resources.database.transaction() as session:
        first = (await session.scalars(statement)).one_or_none()
    if first is None:
        return None
    if first.fingerprint != request.fingerprint:
        raise KeyReused
    return Answer(first.status, first.location, first.body.encode())


async def keep(
    resources: Resources, session: AsyncSession, request: Repeatable, answer: Answer
) -> None:
    """Give this answer to all that repeat the request, once the session commits.

    Where another request with the key is about to commit, this waits for it. Raises Repeated.
    """
    statement = resources.database.insert(FirstAnswer).values(
        account_id=request.account_id,
        key=request.key,
        fingerprint=request.fingerprint,
        status=answer.status,
        location=answer.location,
        body=answer.body.decode(),
        created_at=datetime.now(UTC),
    )
    kept = await session.execute(statement.on_conflict_do_nothing().returning(FirstAnswer.key))
    if kept.scalar_one_or_none() is None:
        raise Repeated(request)


async def expire(resources: Resources, job: Job) -> None:
    """Forget old answers."""
    old = FirstAnswer.created_at < datetime.now(UTC) - KEPT
    await remove(resources.database, FirstAnswer, old)


TASKS = (Task("idempotency.expire", expire, every_seconds=EXPIRY_SECONDS),)
