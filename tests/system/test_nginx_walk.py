"""The way of one person through the service behind its proxy, as in production: over https, the app
on a Unix socket, files sent by nginx."""

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from nginx import Nginx
from nginx_checks import OPEN
from nginx_checks.answers import MEDIA_POLICY, SECURITY, assert_secure, values
from pictures import ANY_NAMES, halves, saved
from servers import Web, run_service, wait_until

pytestmark = pytest.mark.alone

PASSWORD = "correct horse battery staple"
PHOTO = saved(halves((1200, 800)), "JPEG", quality=95)  # media
FRESH_SECONDS = 10  # of the public listing  # media


@dataclass
class Behind:
    nginx: Nginx
    web: Web


@pytest.fixture(scope="module")
def behind(nginx_kind: str, nginx_directory: Path, migrated_sqlite: Path) -> Iterator[Behind]:
    """The real service behind nginx, on one machine."""
    directory = nginx_directory / f"walk-{nginx_kind}"
    nginx = Nginx(directory, nginx_kind, OPEN)
    run, media = nginx.folder("run"), nginx.folder("media")
    shutil.copy(migrated_sqlite, directory / "service.sqlite3")
    environment = {
        "DATABASE_URL": f"sqlite:///{directory}/service.sqlite3",
        "BIND": f"unix:{run}/web.sock",
        "ALLOWED_HOSTS": nginx.name,
        "PUBLIC_URL": f"https://{nginx.name}",
        "UPLOAD_FOLDER": str(media),
        "X_ACCEL_REDIRECT": "true",
    }
    web = Web(directory / "web", environment)
    static = nginx.folder("static")
    made = run_service("static", str(static), environment=web.variables(), cwd=directory)
    assert made.returncode == 0, made.stderr
    try:
        web.start(wait=None)
        nginx.start()
        wait_until(lambda: nginx.ask("/health/live").status_code == 200, seconds=20)
        yield Behind(nginx, web)
    finally:
        nginx.stop()
        web.stop()


@pytest.fixture(scope="module")
def signed_in(behind: Behind) -> dict[str, str]:
    """The headers of somebody who asked for an account, opened the mailed link and logged in."""
    nginx = behind.nginx
    account = {"email": "ada@example.org", "password": PASSWORD}
    assert nginx.ask("/api/accounts", "POST", json=account).status_code == 202
    link = re.compile(r"/confirm\?token=([A-Za-z0-9._-]+)")
    token = wait_until(lambda: link.search(behind.web.log), seconds=20)[1]
    page = nginx.ask(f"/confirm?token={token}")
    assert page.status_code == 200
    assert "<form" in page.text
    policy = page.headers["content-security-policy"]
    assert "form-action 'self'" in policy
    assert_secure(page, content_security_policy=policy)
    assert nginx.ask("/confirm", "POST", data={"token": token}).status_code == 200
    login = {"username": account["email"], "password": PASSWORD}
    answer = nginx.ask("/login", "POST", data=login)
    assert answer.status_code == 200
    assert token not in str(nginx.lines) + nginx.errors
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


def test_who_opened_the_mailed_link_can_log_in(behind: Behind, signed_in: dict[str, str]) -> None:
    answer = behind.nginx.ask("/api/accounts/me", headers=signed_in)
    assert answer.json()["email"] == "ada@example.org"


# media: from here
def test_a_picture_from_upload_to_thumbnail(behind: Behind, signed_in: dict[str, str]) -> None:
    nginx = behind.nginx
    sent = nginx.ask(
        "/api/media",
        "POST",
        headers=signed_in,
        files={"file": ("sun rise.jpg", PHOTO)},
        data={"title": "Sunrise"},
    )
    assert sent.status_code == 202, sent.text

    def ready() -> bool:
        item = nginx.ask(sent.headers["location"], headers=signed_in).json()
        assert item["status"] != "failed"
        return bool(item["status"] == "ready")

    wait_until(ready, seconds=30, every=0.1)
    item = nginx.ask(sent.headers["location"], headers=signed_in).json()
    original = nginx.ask(item["url"], headers=signed_in)
    assert (original.status_code, original.content == PHOTO) == (200, True)
    assert_secure(original, content_security_policy=MEDIA_POLICY)
    part = nginx.ask(item["url"], headers={**signed_in, "Range": "bytes=0-9"})
    assert (part.status_code, part.content) == (206, PHOTO[:10])
    thumbnail = nginx.ask(item["thumbnail_url"], headers=signed_in)
    assert thumbnail.headers["content-type"] == "image/webp"
    assert thumbnail.content.startswith(b"RIFF")
    stranger = nginx.ask(item["url"])
    assert stranger.status_code == 404
    assert stranger.json()["request_id"] == stranger.headers["x-request-id"]


def test_what_failed_comes_from_the_disk_as_well(behind: Behind, signed_in: dict[str, str]) -> None:
    """Through the app nginx would make a copy of it for each client that reads it slowly."""
    nginx, content = behind.nginx, b"\x89PNG\r\n\x1a\nnot really"
    files, public = {"file": ("a.png", content)}, {"public": "true"}
    sent = nginx.ask("/api/media", "POST", headers=signed_in, files=files, data=public)

    def failed() -> bool:
        item = nginx.ask(sent.headers["location"], headers=signed_in).json()
        return bool(item["status"] == "failed")

    wait_until(failed, seconds=30, every=0.1)
    answer = nginx.ask(sent.json()["url"])
    assert (answer.status_code, answer.content) == (200, content)
    assert re.fullmatch('"[0-9a-f]+-[0-9a-f]+"', answer.headers["etag"])  # nginx's: time and size
    assert values(answer, "cache-control") == ["no-store"]
    assert_secure(answer, content_security_policy=MEDIA_POLICY)


def socket_of(nginx: Nginx, **more: Any) -> ClientConnection:
    """A browser's, but for its name for this machine."""
    return connect(
        f"wss://{nginx.name}:{nginx.port}/ws/media",
        sock=socket.create_connection(("127.0.0.1", nginx.port), 10),
        ssl=nginx.tls(),
        proxy=None,
        **more,
    )


def test_a_socket_over_tls_tells_of_an_upload(behind: Behind, signed_in: dict[str, str]) -> None:
    """No line of a log has its token, which stands where a browser puts it."""
    nginx = behind.nginx
    token = signed_in["Authorization"].split()[1]
    with socket_of(nginx, subprotocols=["bearer", token]) as live:
        assert live.subprotocol == "bearer"
        sent = nginx.ask(
            "/api/media", "POST", headers=signed_in, files={"file": ("a.txt", b"hello")}
        )
        told = {}
        while (told.get("id"), told.get("status")) != (sent.json()["id"], "ready"):
            told = json.loads(live.recv(30))
    line = nginx.line(path="/ws/media", status=101)
    [closed] = wait_until(lambda: behind.web.events("websocket_closed"))
    assert (closed["reason"], closed["request_id"]) == ("client", line["request_id"])
    assert token not in str(nginx.lines) + nginx.errors + behind.web.log


def test_a_socket_that_is_refused_is_told_why(behind: Behind) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        socket_of(behind.nginx)
    response = refusal.value.response
    assert response.status_code == 401
    assert response.headers.get_all("content-type") == ["application/problem+json"]
    problem = json.loads(response.body or b"")
    assert response.headers.get_all("x-request-id") == [problem["request_id"]]
    assert len(response.headers.get_all("strict-transport-security")) == 1


def test_an_upload_that_is_too_large(behind: Behind, signed_in: dict[str, str]) -> None:
    """The app's limit is for the file, and what its framing adds is let through to it."""
    limit = 16 * 1024 * 1024
    for size, status in ((limit, 202), (limit + 1, 413), (limit + 200_000, 413)):
        files = {"file": ("a.bin", os.urandom(1024) * (size // 1024) + b"x" * (size % 1024))}
        answer = behind.nginx.ask("/api/media", "POST", headers=signed_in, files=files)
        assert answer.status_code == status
        if status == 413:
            assert answer.json()["title"] == "Content Too Large"


def test_a_picture_of_any_name(behind: Behind, signed_in: dict[str, str]) -> None:
    nginx = behind.nginx
    for name in ANY_NAMES:
        files = {"file": (name, PHOTO)}
        sent = nginx.ask("/api/media", "POST", headers=signed_in, files=files)
        original = nginx.ask(sent.json()["url"], headers=signed_in)
        assert (original.status_code, original.content == PHOTO) == (200, True), name


def test_the_public_listing_outlives_the_app(behind: Behind, signed_in: dict[str, str]) -> None:
    nginx, path = behind.nginx, "/api/public/media?limit=7"
    sent = nginx.ask(
        "/api/media",
        "POST",
        headers=signed_in,
        files={"file": ("a.txt", b"hello")},
        data={"public": "true"},
    )
    item_id = sent.json()["id"]
    first = wait_until(
        lambda: (answer := nginx.ask(path)).status_code == 200 and item_id in answer.text and answer
    )
    behind.web.stop()
    try:
        time.sleep(FRESH_SECONDS + 1)
        old = nginx.ask(path)
        assert (old.status_code, old.content) == (200, first.content)
        assert nginx.ask(sent.headers["location"], headers=signed_in).status_code == 502
    finally:
        behind.web.start(wait=None)
        wait_until(lambda: nginx.ask("/health/live").status_code == 200, seconds=20)


# media: to here


def test_pages_and_what_they_load(behind: Behind) -> None:
    for path in ("/", "/docs"):
        page = behind.nginx.ask(path)
        assert page.status_code == 200
        assert_secure(page, content_security_policy=page.headers["content-security-policy"])
        assert page.headers["content-security-policy"] != SECURITY["content-security-policy"]
        loaded = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
        assert loaded
        for asset in loaded:
            answer = behind.nginx.ask(asset)
            assert answer.status_code == 200
            assert values(answer, "cache-control") == ["public, max-age=31536000, immutable"]
            (behind.nginx.folder("static") / asset.rpartition("/")[2]).unlink(missing_ok=True)
    for asset in loaded:  # and again from the app
        again = behind.nginx.ask(asset)
        assert again.status_code == 200
        assert values(again, "cache-control") == ["public, max-age=31536000, immutable"]
        assert_secure(again)


def test_the_app_is_told_who_asks(behind: Behind) -> None:
    """Its own errors carry the id that nginx logs."""
    answer = behind.nginx.ask("/nowhere", headers={"X-Request-ID": "from-the-client"})
    assert answer.json()["request_id"] == "from-the-client"
    assert values(answer, "x-request-id") == ["from-the-client"]
    assert behind.nginx.line(request_id="from-the-client")["upstream_status"] == "404"


def test_probes_and_metrics_inside(behind: Behind) -> None:
    """Under a host that the app is asked for by nobody."""
    nginx = behind.nginx
    for path in ("/health", "/health/live", "/health/ready", "/health/startup", "/metrics"):
        assert nginx.internal(path, headers={"Host": "10.1.2.3:8081"}).status_code == 200
    assert nginx.internal("/health/detailed").status_code == 401
    token = {"Authorization": "Bearer token-of-the-tests"}
    assert nginx.internal("/health/detailed", headers=token).status_code == 200
