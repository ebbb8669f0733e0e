"""The way of one person through the service, on real processes: embedded, and beside PostgreSQL,
Redis, a mail server, a worker and two web workers."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from mail_server import MailServer, mail_server
from pictures import halves, saved
from servers import (
    Postgresql,
    RedisServer,
    Web,
    clean_environment,
    end_with_parent,
    run_service,
    service_command,
    wait_until,
)

ADA = "ada@example.org"
PASSWORD = "correct horse battery staple"
PHOTO = saved(halves((1200, 800)), "JPEG", quality=95)
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
    mails: Callable[[], list[Letter]]
    logs: tuple[Path, ...]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.web.url, timeout=30)

    def letters(self, subject: str, text: str = "") -> list[Letter]:
        return [m for m in self.mails() if m.subject == subject and text in m.text]

    def letter(self, subject: str, text: str = "") -> Letter:
        """The first letter like this, once it has come."""
        found = wait_until(lambda: self.letters(subject, text), seconds=PATIENCE_SECONDS)
        first: Letter = found[0]
        return first

    def events(self, **wanted: str) -> list[dict[str, Any]]:
        """Log lines of all processes that have these members."""
        whole = [path.read_text().rpartition("\n")[0] for path in self.logs]
        lines = [line for text in whole for line in text.splitlines()]
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return [event for event in events if wanted.items() <= event.items()]


@pytest.fixture
def embedded(tmp_path: Path, make_web: Callable[..., Web]) -> Deployment:
    environment = {"DATABASE_URL": f"sqlite:///{tmp_path}/service.sqlite3"}
    migrated(environment, tmp_path)
    web = make_web(environment)

    def mails() -> list[Letter]:
        printed = deployment.events(message="mail_printed")
        parts = [(event["to"], *event["text"].split("\n\n", 1)) for event in printed]
        return [Letter(*part) for part in parts]

    deployment = Deployment(web, mails, (web.log_path,))
    return deployment


@pytest.fixture
def distributed(
    tmp_path: Path,
    make_web: Callable[..., Web],
    shared_postgresql: Postgresql,
    shared_redis: RedisServer,
) -> Iterator[Deployment]:
    with mail_server() as mail:
        environment = {
            "DATABASE_URL": shared_postgresql.new_database(),
            "REDIS_URL": shared_redis.url,
            "MAIL_SERVER": "127.0.0.1",
            "MAIL_PORT": str(mail.port),
            "MAIL_USE_TLS": "false",
            "SECRET_KEY": "k3y-0f-the-t3sts-k3y-0f-the-t3sts",
            "UPLOAD_FOLDER": str(tmp_path / "uploads"),
        }
        migrated(environment, tmp_path)
        web = make_web({**environment, "WEB_CONCURRENCY": "2"})
        # Links lead to the web process, of which the worker need not know.
        with working(environment, tmp_path) as log:
            yield Deployment(web, lambda: received(mail), (web.log_path, log))


@pytest.fixture(params=["embedded", "distributed"])
def deployment(request: pytest.FixtureRequest) -> Deployment:
    chosen: Deployment = request.getfixturevalue(request.param)
    return chosen


def migrated(environment: dict[str, str], cwd: Path) -> None:
    result = run_service("migrate", environment=clean_environment(**environment), cwd=cwd)
    assert result.returncode == 0, result.stderr


def received(mail: MailServer) -> list[Letter]:
    return [
        Letter(str(message["To"]), str(message["Subject"]), message.get_content())
        for message in mail.messages
    ]


class working:  # noqa: N801
    """`service worker` beside a block; gives the path of its log."""

    def __init__(self, environment: dict[str, str], cwd: Path) -> None:
        self.path = cwd / "worker.log"
        with self.path.open("ab") as log:
            self.process = subprocess.Popen(
                service_command("worker"),
                cwd=cwd,
                env=clean_environment(**environment),
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent,
            )

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(10)


def register(deployment: Deployment, client: httpx.Client, email: str = ADA) -> str:
    """Ask for an account; gives the text of the mail that came."""
    before = len(deployment.mails())
    answer = client.post("/api/accounts", json={"email": email, "password": PASSWORD})
    assert answer.status_code == 202
    wait_until(lambda: len(deployment.mails()) > before, seconds=PATIENCE_SECONDS)
    letter = deployment.letter("Confirm your account")
    assert letter.to == email
    return letter.text


def log_in(client: httpx.Client, email: str = ADA) -> None:
    answer = client.post("/login", data={"username": email, "password": PASSWORD})
    assert answer.status_code == 200
    client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"


def upload(client: httpx.Client, content: bytes, name: str, request_id: str) -> dict[str, Any]:
    answer = client.post(
        "/api/media", files={"file": (name, content)}, headers={"X-Request-ID": request_id}
    )
    assert answer.status_code == 202, answer.text
    assert answer.headers["x-request-id"] == request_id
    return dict(answer.json())


def done(client: httpx.Client, item: dict[str, Any]) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        found = client.get(f"/api/media/{item['id']}").json()
        return dict(found) if found["status"] in ("ready", "failed") else None

    found: dict[str, Any] = wait_until(ended, seconds=PATIENCE_SECONDS, every=0.1)
    return found


def test_from_registration_to_logout(deployment: Deployment) -> None:
    """One walk, as every step needs the one before."""
    with deployment.client() as client:
        text = register(deployment, client)
        (link,) = re.findall(r"http://\S+/confirm\?token=\S+", text)
        page = client.get(link)
        assert page.status_code == 200
        (token,) = re.findall(r'name="token" value="([^"]+)"', page.text)
        assert client.post("/login", data={"username": ADA, "password": PASSWORD}).is_client_error
        assert "is confirmed" in client.post("/confirm", data={"token": token}).text

        log_in(client)
        assert client.get("/api/accounts/me").json()["email"] == ADA

        item = upload(client, PHOTO, "photo.jpg", "the-request-of-the-photo")
        ready = done(client, item)
        assert (ready["status"], ready["content_type"]) == ("ready", "image/jpeg")
        assert (ready["width"], ready["height"]) == (1200, 800)
        assert [row["id"] for row in client.get("/api/media").json()["items"]] == [item["id"]]
        assert client.get(ready["url"]).content == PHOTO
        thumbnail = client.get(ready["thumbnail_url"])
        assert thumbnail.headers["content-type"] == "image/webp"
        assert thumbnail.content[8:12] == b"WEBP"

        assert client.post("/logout").status_code == 204
        assert client.get("/api/accounts/me").status_code == 401


def test_the_token_of_the_mail_confirms_through_the_api(deployment: Deployment) -> None:
    with deployment.client() as client:
        text = register(deployment, client)
        (token,) = re.findall(r"POST /api/accounts/confirm:\s+(\S+)", text)
        answer = client.post("/api/accounts/confirm", json={"token": token})
        assert (answer.status_code, answer.content) == (204, b"")
        assert client.post("/api/accounts/confirm", json={"token": token}).status_code == 400
        log_in(client)


def test_each_upload_is_told_of_once_and_under_its_request(deployment: Deployment) -> None:
    with deployment.client() as client:
        text = register(deployment, client)
        (token,) = re.findall(r"POST /api/accounts/confirm:\s+(\S+)", text)
        client.post("/api/accounts/confirm", json={"token": token})
        log_in(client)
        first = upload(client, PHOTO, "first.jpg", "request-of-first.jpg")
        second = upload(client, PHOTO[:500], "second.jpg", "request-of-second.jpg")
        assert done(client, first)["status"] == "ready"
        assert done(client, second)["reason"] == "The image is damaged."
        deployment.letter("Your upload is ready", "first.jpg")
        deployment.letter("Your upload could not be processed", "second.jpg")
        # Whatever would come twice has come by the time of what was asked for after it.
        upload(client, b"third", "third.txt", "request-of-the-third")
        deployment.letter("Your upload is ready", "third.txt")
        assert len(deployment.letters("Your upload is ready", "first.jpg")) == 1
        assert len(deployment.letters("Your upload could not be processed")) == 1
        for item in (first, second):
            assert_logged(deployment, item)


def assert_logged(deployment: Deployment, item: dict[str, Any]) -> None:
    """That the worker's lines about an upload carry the id of its request."""
    (event,) = deployment.events(message="media_processed", media_id=item["id"])
    request_id = f"request-of-{item['filename']}"
    assert event["request_id"] == request_id
    done = ["media.process", "mail.deliver"]
    wait_until(lambda: tasks(deployment, request_id) == done)


def tasks(deployment: Deployment, request_id: str) -> list[str]:
    """What was done for a request, in order."""
    events = deployment.events(message="job_done", request_id=request_id)
    return [event["task"] for event in events]
