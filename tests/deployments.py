"""A whole deployment as people and operators see it, and somebody who uses it."""

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2 as httpx

from mail_server import MailServer
from servers import (
    Web,
    clean_environment,
    end_with_parent,
    run_service,
    service_command,
    wait_until,
)

PASSWORD = "correct horse battery staple"
PATIENCE_SECONDS = 60


@dataclass
class Letter:
    to: str
    subject: str
    text: str


@dataclass
class Deployment:
    """A running service as people and operators see it."""

    web: Web
    logs: tuple[Path, ...]
    mail: MailServer | None = None

    def letters(self, to: str, subject: str, text: str = "") -> list[Letter]:
        """The mails somebody got, from the mail server or, where there is none, from the log."""
        found = received(self.mail) if self.mail else self._printed()
        return [m for m in found if (m.to, m.subject) == (to, subject) and text in m.text]

    def letter(self, to: str, subject: str, text: str = "") -> Letter:
        """The first letter like this, once it has come."""
        first: Letter = wait_until(
            lambda: self.letters(to, subject, text), seconds=PATIENCE_SECONDS
        )[0]
        return first

    def _printed(self) -> list[Letter]:
        events = self.events(message="mail_printed")
        return [Letter(event["to"], *event["text"].split("\n\n", 1)) for event in events]

    def events(self, **wanted: str) -> list[dict[str, Any]]:
        """Log lines of all processes that have these members."""
        whole = [path.read_text().rpartition("\n")[0] for path in self.logs]
        lines = [line for text in whole for line in text.splitlines()]
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return [event for event in events if wanted.items() <= event.items()]


def received(mail: MailServer) -> list[Letter]:
    return [
        Letter(str(message["To"]), str(message["Subject"]), body.get_content())
        for message in mail.messages
        if (body := message.get_body(("plain",)))
    ]


def migrate(environment: dict[str, str], cwd: Path) -> None:
    result = run_service("migrate", environment=clean_environment(**environment), cwd=cwd)
    assert result.returncode == 0, result.stderr


@contextlib.contextmanager
def working(environment: dict[str, str], cwd: Path) -> Iterator[Path]:
    """`service worker` beside a block; gives the path of its log."""
    path = cwd / "worker.log"
    with path.open("ab") as log:
        process = subprocess.Popen(
            service_command("worker"),
            cwd=cwd,
            env=clean_environment(**environment),
            stdout=log,
            stderr=log,
            preexec_fn=end_with_parent,
        )
    try:
        yield path
    finally:
        process.kill()
        process.wait(10)


class Person:
    """Somebody with a browser, a mailbox and an HTTP client."""

    def __init__(self, deployment: Deployment, email: str) -> None:
        self.deployment = deployment
        self.email = email
        self.client = httpx.Client(base_url=deployment.web.url, timeout=30)
        self.request_ids: dict[str, str] = {}  # of uploads, by their item  # media

    def register(self) -> str:
        """Ask for an account; gives the text of the mail that came."""
        body = {"email": self.email, "password": PASSWORD}
        assert self.client.post("/api/accounts", json=body).status_code == 202
        return self.deployment.letter(self.email, "Confirm your account").text

    def join(self) -> None:
        """Have a confirmed account, and be logged in."""
        (token,) = re.findall(r"POST /api/accounts/confirm:\s+(\S+)", self.register())
        answer = self.client.post("/api/accounts/confirm", json={"token": token})
        assert (answer.status_code, answer.content) == (204, b"")
        assert self.log_in() == 200

    def log_in(self, password: str = PASSWORD) -> int:
        form = {"username": self.email, "password": password}
        answer = self.client.post("/login", data=form)
        if answer.is_success:
            self.client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return answer.status_code

    # media: from here
    def upload(self, content: bytes, name: str) -> dict[str, Any]:
        """Upload a file in a request with an id of its own."""
        request_id = f"upload-{uuid4().hex}"
        headers = {"X-Request-ID": request_id}
        answer = self.client.post("/api/media", files={"file": (name, content)}, headers=headers)
        assert answer.status_code == 202, answer.text
        assert answer.headers["x-request-id"] == request_id
        item = dict(answer.json())
        self.request_ids[item["id"]] = request_id
        return item

    def wait_for(self, item: dict[str, Any]) -> dict[str, Any]:
        """An item once its processing has ended."""

        def ended() -> dict[str, Any] | None:
            found = self.client.get(f"/api/media/{item['id']}").json()
            return dict(found) if found["status"] in ("ready", "failed") else None

        found: dict[str, Any] = wait_until(ended, seconds=PATIENCE_SECONDS, every=0.1)
        return found

    # media: to here
