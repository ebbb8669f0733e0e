"""Deletions that were answered, while the processes that serve and finish them are killed."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
import pytest

from api import running_api
from pictures import halves, saved
from servers import Web, Worker
from service.settings import Settings

pytestmark = pytest.mark.alone


def uploaded(settings: Settings) -> tuple[dict[str, str], str]:
    """(headers of the owner, path) of an image that waits to be processed."""

    async def upload() -> tuple[dict[str, str], str]:
        async with running_api(settings) as api:
            headers = await api.signed_in()
            item = await api.upload(headers, saved(halves(), "PNG"), "photo.png")
            return headers, f"/api/media/{item['id']}"

    return asyncio.run(upload())


def stored(settings: Settings) -> list[str]:
    """The files of items."""
    return [path.name for path in Path(settings.upload_folder).rglob("*") if path.is_file()]


def test_the_bytes_go_whatever_is_killed_and_whenever(
    server_settings: Settings, make_web: Callable[..., Web], tmp_path: Path
) -> None:
    headers, path = uploaded(server_settings)
    environment = {
        "DATABASE_URL": server_settings.database_url.get_secret_value(),
        "UPLOAD_FOLDER": server_settings.upload_folder,
    }
    workers = [Worker(tmp_path / f"worker-{number}", environment) for number in range(2)]
    dying = Worker(tmp_path / "dying", environment | {"DIE_DELETING": "1"})
    try:
        workers[0].start().wait_for("media_processed")
        assert workers[0].stop(signal.SIGTERM) == 0
        assert sorted(stored(server_settings)) == ["original", "thumbnail"]

        web = make_web(environment)
        assert httpx.delete(web.url + path, headers=headers, timeout=30).status_code == 204
        assert web.process is not None
        for pid in (web.process.pid, *web.workers()):
            os.kill(pid, signal.SIGKILL)
        assert sorted(stored(server_settings)) == ["original", "thumbnail"]

        dying.start()
        assert dying.process is not None
        assert dying.process.wait(30) == -signal.SIGKILL
        assert stored(server_settings) == ["thumbnail"]

        workers[1].start().wait_for("media_erased")
        assert stored(server_settings) == []
    finally:
        for worker in (*workers, dying):
            worker.stop()
