"""An object store behind real processes: web workers, a worker, PostgreSQL, Redis."""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from api import running_api
from object_stores import SECRET, ObjectStore, Rclone
from objects import keys_older_than, settings_of
from pictures import halves, saved
from servers import Web, Worker, running, wait_until
from service.settings import Settings
from service.storage import open_storage

pytestmark = [pytest.mark.alone, pytest.mark.timeout(240)]

PATIENCE_SECONDS = 60
PHOTO = saved(halves((1200, 800)), "JPEG", quality=95)
LARGE = os.urandom(12 * 1024 * 1024)


@dataclass
class Site:
    """Processes on an object store, and somebody who is logged in."""

    web: Web
    worker: Worker
    store: ObjectStore
    variables: dict[str, str]
    headers: dict[str, str]

    def upload(self, content: bytes, name: str, **fields: str) -> httpx.Response:
        files = {"file": (name, content)}
        url = f"{self.web.url}/api/media"
        return httpx.post(url, headers=self.headers, files=files, data=fields, timeout=60)

    def item(self, item_id: str) -> dict[str, Any]:
        return dict(self.web.get(f"/api/media/{item_id}", headers=self.headers).json())

    def ended(self, item_id: str) -> dict[str, Any]:
        def item() -> dict[str, Any] | None:
            found = self.item(item_id)
            return found if found["status"] in ("ready", "failed") else None

        return dict(wait_until(item, seconds=PATIENCE_SECONDS, every=0.2))

    def download(self, url: str, **headers: str) -> httpx.Response:
        """As a client does that follows: the token stays behind, as at every other host."""
        answer = self.web.get(url, headers=self.headers | headers, follow_redirects=False)
        assert answer.status_code == 307, answer.text
        return httpx.get(answer.headers["location"], headers=headers, timeout=60)

    def kept(self) -> list[str]:
        async def keys() -> list[str]:
            async with open_storage(settings_of(self.variables)) as storage:
                return await keys_older_than(storage, -60)

        return asyncio.run(keys())

    @property
    def logs(self) -> str:
        return self.web.log + self.worker.log


async def signed_in(settings: Settings) -> dict[str, str]:
    async with running_api(settings) as api:
        return await api.signed_in()


@pytest.fixture
def site(
    own_object_store: ObjectStore, server_settings: Settings, tmp_path: Path
) -> Iterator[Site]:
    variables = own_object_store.variables() | {
        "DATABASE_URL": server_settings.database_url.get_secret_value(),
        "REDIS_URL": server_settings.redis_url.get_secret_value(),
        "WEB_CONCURRENCY": "2",
        "SECRET_KEY": "k3y-0f-the-t3sts-k3y-0f-the-t3sts",
    }
    headers = asyncio.run(signed_in(server_settings))
    worker = Worker(tmp_path / "worker", variables)
    with running(Web(tmp_path / "web", variables)) as web, running(worker):
        worker.wait_for("worker_ready", seconds=PATIENCE_SECONDS)
        yield Site(web, worker, own_object_store, variables, headers)


def test_the_way_of_a_file(site: Site) -> None:
    photo = site.ended(site.upload(PHOTO, "photo.jpg").json()["id"])
    large = site.ended(site.upload(LARGE, "large.bin").json()["id"])
    assert (photo["status"], large["status"]) == ("ready", "ready")
    assert len(site.kept()) == 3, "two originals and a thumbnail"

    assert site.download(large["url"]).content == LARGE
    answer = site.download(photo["url"])
    assert (answer.content, answer.headers["content-type"]) == (PHOTO, "image/jpeg")
    part = site.download(large["url"], Range="bytes=6000000-6000099")
    assert part.content == LARGE[6_000_000:6_000_100]
    thumbnail = site.web.get(photo["thumbnail_url"], headers=site.headers)
    assert (thumbnail.status_code, thumbnail.headers["content-type"]) == (200, "image/webp")
    assert site.web.status(photo["url"]) == 404, "for a stranger"

    for item in (photo, large):
        url = f"{site.web.url}/api/media/{item['id']}"
        assert httpx.delete(url, headers=site.headers, timeout=30).status_code == 204
    wait_until(lambda: site.kept() == [], seconds=PATIENCE_SECONDS, every=0.2)
    assert site.web.status(photo["url"]) == 404
    assert "X-Amz" not in site.logs
    assert SECRET not in site.logs


def test_what_was_accepted_survives_the_death_of_the_store(site: Site) -> None:
    """Only rclone keeps its files when it is killed; moto is frozen instead, and thawed."""
    killed = isinstance(site.store, Rclone)
    site.worker.stop()
    accepted = [site.upload(PHOTO, f"{n}.jpg").json()["id"] for n in range(4)]
    site.store.stop() if killed else site.store.freeze()
    worker = site.worker.start()
    worker.wait_for("job_delayed", seconds=PATIENCE_SECONDS)
    refused = site.upload(PHOTO, "late.jpg")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert refused.headers["content-type"] == "application/problem+json"
    health = site.web.get("/health").json()
    assert (health["status"], health["checks"]["media_store"]) == ("degraded", False)
    assert site.web.status("/health/ready") == 200
    assert {site.item(item)["status"] for item in accepted} <= {"received", "processing"}

    site.store.start() if killed else site.store.thaw()
    assert {site.ended(item)["status"] for item in accepted} == {"ready"}
    assert site.upload(PHOTO, "again.jpg").status_code == 202
    wait_until(lambda: site.web.get("/health").json()["status"] == "healthy", seconds=30)
    assert worker.lines("job_retried") == worker.lines("job_failed") == []
