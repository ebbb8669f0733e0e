"""A client of the whole application, and what tests of the API do again and again."""

import asyncio
import io
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID, uuid4

import httpx2 as httpx
from PIL import Image

from asgi import client_of
from service.accounts import passwords
from service.accounts.models import Account, ApiKey, Token
from service.accounts.sessions import KEY_PREFIX, digest
from service.app import Service, create_app
from service.health import Health
from service.resources import Resources, open_resources
from service.settings import Settings

PASSWORD = "correct horse battery staple"
PROBLEM_MEMBERS = {"type", "title", "status", "detail", "request_id"}

Headers = dict[str, str]


@dataclass(frozen=True)
class Api:
    """A running application: what a client sees of it, and what is behind it."""

    client: httpx.AsyncClient
    resources: Resources
    app: Service

    async def account(
        self, email: str = "ada@example.org", *, confirmed: bool = True, stamp: str = "stamp"
    ) -> UUID:
        """An account with PASSWORD, put straight into the database."""
        now = datetime.now(UTC)
        row = Account(
            id=uuid4(),
            email=email,
            password_hash=hash_of_password(),
            stamp=stamp,
            created_at=now,
            confirmed_at=now if confirmed else None,
        )
        async with self.resources.database.transaction() as session:
            session.add(row)
        return row.id

    async def token(self, account_id: UUID, *, lifetime_seconds: float = 3600) -> Headers:
        """The headers of a login of this account."""
        token, now = f"token-{uuid4().hex}", datetime.now(UTC)
        expires_at = now + timedelta(seconds=lifetime_seconds)
        row = Token(
            digest=digest(token), account_id=account_id, created_at=now, expires_at=expires_at
        )
        async with self.resources.database.transaction() as session:
            session.add(row)
        return {"Authorization": f"Bearer {token}"}

    async def key(self, account_id: UUID, *, may_write: bool = True, **more: Any) -> Headers:
        """The headers of a program with an API key of this account."""
        text = KEY_PREFIX + secrets.token_urlsafe(32)
        values = {"digest": digest(text), "ending": text[-4:], "created_at": datetime.now(UTC)}
        row = ApiKey(account_id=account_id, name="test", may_write=may_write, **values, **more)
        async with self.resources.database.transaction() as session:
            session.add(row)
        return {"Authorization": f"Bearer {text}"}

    async def signed_in(self, email: str = "ada@example.org") -> Headers:
        """The headers of somebody who is logged in."""
        return await self.token(await self.account(email))

    # media: from here
    async def upload(
        self,
        headers: Headers,
        content: bytes = b"hello",
        name: str = "hello.txt",
        *,
        content_type: str = "application/octet-stream",
        **fields: str,
    ) -> dict[str, Any]:
        """Upload a file that has to be accepted."""
        files = {"file": (name, content, content_type)}
        answer = await self.client.post("/api/media", headers=headers, files=files, data=fields)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    async def done(self, headers: Headers, item_id: str, *, seconds: float = 60) -> dict[str, Any]:
        """An item once its processing has ended."""
        end = time.monotonic() + seconds
        while True:
            item = (await self.client.get(f"/api/media/{item_id}", headers=headers)).json()
            if item["status"] in ("ready", "failed"):
                return dict(item)
            assert time.monotonic() < end, item
            await asyncio.sleep(0.05)

    # media: to here


@cache
def hash_of_password() -> str:
    return passwords._hashes.hash(PASSWORD)


@asynccontextmanager
async def running_api(
    settings: Settings, *, change: Callable[[Resources], Resources] = lambda resources: resources
) -> AsyncIterator[Api]:
    """The application on these settings; `change` puts something in place of what it opens."""
    opened: list[Resources] = []

    @asynccontextmanager
    async def opening(settings: Settings, health: Health) -> AsyncIterator[Resources]:
        async with open_resources(settings, health) as resources:
            opened.append(change(resources))
            yield opened[0]

    app = create_app(settings, open_resources=opening)
    async with client_of(app) as client:
        yield Api(client, opened[0], app)


def assert_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """That an answer is a problem as RFC 9457 has it, under the id in its header; its body."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert set(body) >= PROBLEM_MEMBERS
    assert body["status"] == status
    assert body["request_id"] == answer.headers["x-request-id"]
    return dict(body)


# media: from here
def image(size: tuple[int, int] = (40, 30), kind: str = "JPEG", **more: Any) -> bytes:
    """A small picture in one colour."""
    out = io.BytesIO()
    Image.new(more.pop("mode", "RGB"), size, more.pop("color", "navy")).save(out, kind, **more)
    return out.getvalue()


# media: to here
