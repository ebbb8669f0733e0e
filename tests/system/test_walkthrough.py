"""The way of one person through the service, on real processes: embedded, and beside PostgreSQL,
Redis, a mail server, a worker and two web workers."""

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
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
    running,
    service_command,
    wait_until,
)

PASSWORD = "correct horse battery staple"
PHOTO = saved(halves((1200, 800)), "JPEG", quality=95)  # media
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


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("walk")


@pytest.fixture(scope="module")
def embedded(directory: Path) -> Iterator[Deployment]:
    environment = {"DATABASE_URL": f"sqlite:///{directory}/service.sqlite3"}
    migrate(environment, directory)
    with running(Web(directory / "embedded", environment)) as web:
        yield Deployment(web, (web.log_path,))


@pytest.fixture(scope="module")
def distributed(
    directory: Path, shared_postgresql: Postgresql, shared_redis: RedisServer
) -> Iterator[Deployment]:
    with mail_server() as mail:
        environment = {
            "DATABASE_URL": shared_postgresql.new_database(),
            "REDIS_URL": shared_redis.url,
            "MAIL_SERVER": "127.0.0.1",
            "MAIL_PORT": str(mail.port),
            "MAIL_USE_TLS": "false",
            "SECRET_KEY": "k3y-0f-the-t3sts-k3y-0f-the-t3sts",
            "UPLOAD_FOLDER": str(directory / "uploads"),
            "WEB_CONCURRENCY": "2",
        }
        migrate(environment, directory)
        web = Web(directory / "web", environment)
        with working(environment, directory) as log, running(web):
            yield Deployment(web, (web.log_path, log), mail)


@pytest.fixture(params=["embedded", "distributed"])
def deployment(request: pytest.FixtureRequest) -> Deployment:
    chosen: Deployment = request.getfixturevalue(request.param)
    return chosen


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

    def register(self) -> str:
        """Ask for an account; gives the text of the mail that came."""
        body = {"email": self.email, "password": PASSWORD}
        assert self.client.post("/api/accounts", json=body).status_code == 202
        return self.deployment.letter(self.email, "Confirm your account").text

    def log_in(self, password: str = PASSWORD) -> int:
        form = {"username": self.email, "password": password}
        answer = self.client.post("/login", data=form)
        if answer.is_success:
            self.client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return answer.status_code

    # media: from here
    def upload(self, content: bytes, name: str) -> dict[str, Any]:
        """Upload a file in a request with an id of its own."""
        request_id = f"request-of-{name}"
        headers = {"X-Request-ID": request_id}
        answer = self.client.post("/api/media", files={"file": (name, content)}, headers=headers)
        assert answer.status_code == 202, answer.text
        assert answer.headers["x-request-id"] == request_id
        return dict(answer.json())

    def wait_for(self, item: dict[str, Any]) -> dict[str, Any]:
        """An item once its processing has ended."""

        def ended() -> dict[str, Any] | None:
            found = self.client.get(f"/api/media/{item['id']}").json()
            return dict(found) if found["status"] in ("ready", "failed") else None

        found: dict[str, Any] = wait_until(ended, seconds=PATIENCE_SECONDS, every=0.1)
        return found

    # media: to here


@pytest.fixture
def person(deployment: Deployment, request: pytest.FixtureRequest) -> Iterator[Person]:
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    person = Person(deployment, f"{name[-60:].strip('-')}@example.org")
    with person.client:
        yield person


def test_from_registration_to_logout(person: Person) -> None:
    """One walk, as every step needs the one before."""
    client = person.client
    (link,) = re.findall(r"http://\S+/confirm\?token=\S+", person.register())
    page = client.get(link)
    assert page.status_code == 200
    (token,) = re.findall(r'name="token" value="([^"]+)"', page.text)
    assert person.log_in() == 401
    assert "is confirmed" in client.post("/confirm", data={"token": token}).text

    assert person.log_in() == 200
    assert client.get("/api/accounts/me").json()["email"] == person.email

    # media: from here
    item = person.upload(PHOTO, "photo.jpg")
    ready = person.wait_for(item)
    assert (ready["status"], ready["content_type"]) == ("ready", "image/jpeg")
    assert (ready["width"], ready["height"]) == (1200, 800)
    assert [row["id"] for row in client.get("/api/media").json()["items"]] == [item["id"]]
    assert client.get(ready["url"]).content == PHOTO
    thumbnail = client.get(ready["thumbnail_url"])
    assert thumbnail.headers["content-type"] == "image/webp"
    assert thumbnail.content[8:12] == b"WEBP"
    # media: to here

    assert client.post("/logout").status_code == 204
    assert client.get("/api/accounts/me").status_code == 401


def confirm_through_the_api(person: Person) -> str:
    (token,) = re.findall(r"POST /api/accounts/confirm:\s+(\S+)", person.register())
    answer = person.client.post("/api/accounts/confirm", json={"token": token})
    assert (answer.status_code, answer.content) == (204, b"")
    return str(token)


def test_the_token_of_the_mail_confirms_through_the_api_once(person: Person) -> None:
    token = confirm_through_the_api(person)
    again = person.client.post("/api/accounts/confirm", json={"token": token})
    assert again.status_code == 400
    assert person.log_in() == 200


def test_a_new_password_by_mail_ends_a_stolen_login_and_a_key(person: Person) -> None:
    confirm_through_the_api(person)
    person.log_in()
    client = person.client
    wanted = {"name": "backup", "scopes": ["write"]}
    key = client.post("/api/keys", json=wanted).json()["key"]
    with_key = {"Authorization": f"Bearer {key}"}
    assert client.get("/api/accounts/me", headers=with_key).json()["email"] == person.email

    forgotten = {"email": person.email}
    assert client.post("/api/accounts/password/forgot", json=forgotten).status_code == 202
    letter = person.deployment.letter(person.email, "Set a new password")
    (link,) = re.findall(r"http://\S+/reset\?token=\S+", letter.text)
    (token,) = re.findall(r'name="token" value="([^"]+)"', client.get(link).text)
    form = {"token": token, "password": "a new and longer password"}
    assert "is set" in client.post("/reset", data=form).text

    assert client.get("/api/accounts/me").status_code == 401
    assert client.get("/api/accounts/me", headers=with_key).status_code == 401
    assert person.log_in() == 401
    assert person.log_in("a new and longer password") == 200
    person.deployment.letter(person.email, "Your password was changed")


# media: from here
def test_each_upload_is_told_of_once_and_under_its_request(person: Person) -> None:
    confirm_through_the_api(person)
    person.log_in()
    first = person.upload(PHOTO, "first.jpg")
    second = person.upload(PHOTO[:500], "second.jpg")
    assert person.wait_for(first)["status"] == "ready"
    assert person.wait_for(second)["reason"] == "The image is damaged."
    # Whatever would come twice has come by the time of what was asked for after it.
    person.upload(b"third", "third.txt")
    ready, failed = "Your upload is ready", "Your upload could not be processed"
    for subject, name in ((ready, "first"), (failed, "second"), (ready, "third")):
        person.deployment.letter(person.email, subject, name)
    assert len(person.deployment.letters(person.email, ready)) == 2
    assert len(person.deployment.letters(person.email, failed)) == 1
    for item in (first, second):
        assert_logged(person.deployment, item)


def assert_logged(deployment: Deployment, item: dict[str, Any]) -> None:
    """That the worker's lines about an upload carry the id of its request."""
    (event,) = deployment.events(message="media_processed", media_id=item["id"])
    request_id = f"request-of-{item['filename']}"
    assert event["request_id"] == request_id
    wait_until(lambda: done(deployment, request_id) == {"media.process", "mail.deliver"})


def done(deployment: Deployment, request_id: str) -> set[str]:
    """The tasks that were done for a request; the mail may be told of before what it is about."""
    events = deployment.events(message="job_done", request_id=request_id)
    return {event["task"] for event in events}


# media: to here
