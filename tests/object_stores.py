"""Real servers that speak S3, each with a bucket, and the settings of the service for them."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import httpx2 as httpx

from servers import OneProcess, end_with_parent, wait_until

BUCKET = "uploads"
KEY = "AKIDOFTHETESTS"
SECRET = "s3same-0pen-of-the-0bject-st0re"
BIN = Path(sys.executable).parent


class ObjectStore(OneProcess):
    """What both servers have in common."""

    answers_ranges: ClassVar[bool]

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> "ObjectStore":
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, preexec_fn=end_with_parent
            )
        wait_until(self.answers, seconds=60)
        return self

    def answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(self.log_path.read_text()[-2000:])
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(self.url, timeout=1).status_code > 0
        return False

    @property
    def log_path(self) -> Path:
        return self.directory / "log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def variables(self, **more: str) -> dict[str, str]:
        """Settings of the service for a part of the bucket that nothing else uses."""
        given = {
            "MEDIA_STORE_URL": f"s3://{BUCKET}/tests/{os.urandom(6).hex()}",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }
        return given | more


class Moto(ObjectStore):
    """Keeps everything in memory. It believes every signature, and answers a HEAD without what the
    `response-` parameters say."""

    answers_ranges = True

    def command(self) -> list[str]:
        return [str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(self.port)]

    def start(self) -> ObjectStore:
        super().start()
        httpx.put(f"{self.url}/{BUCKET}").raise_for_status()
        return self


class Rclone(ObjectStore):
    """Keeps files, also when it is killed. It answers a range with 200 in place of 206."""

    options: ClassVar[tuple[str, ...]] = ()
    answers_ranges = False

    def command(self) -> list[str]:
        kept = self.directory / "kept"
        (kept / BUCKET).mkdir(parents=True, exist_ok=True)
        address = ["--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{KEY},{SECRET}"]
        options = ["--config", "/dev/null", *address, *self.options]
        return [str(BIN / "rclone"), "serve", "s3", *options, str(kept)]


class RcloneByHost(Rclone):
    """Takes the bucket from the name of the host."""

    options = ("--force-path-style=false",)


STORES = {"moto": Moto, "rclone": Rclone}
