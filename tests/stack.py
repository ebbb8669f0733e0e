"""The project's containers for tests: a copy of the checkout with a project name, ports, secrets
and volumes of its own, all of which are removed at the end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx

from servers import (
    ROOT,
    as_at_a_terminal,
    clean_environment,
    docker_program,
    end_with_parent,
    free_port,
    require,
    wait_until,
)

DOCKER = docker_program() or "docker"
COMPOSE_FILES = {"development": "compose.yaml", "production": "compose.production.yaml"}
PASSWORD = "correct horse battery staple"


def docker(*arguments: str, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [DOCKER, *arguments], capture_output=True, text=True, timeout=300, **more
    )
    if check and result.returncode:
        raise RuntimeError(f"docker {' '.join(arguments)}: {result.stdout}{result.stderr}")
    return result


def engine_answers() -> bool:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        commands = ([DOCKER, "info"], [DOCKER, "compose", "version"])
        runs = [subprocess.run(c, capture_output=True, timeout=20) for c in commands]
        return all(run.returncode == 0 for run in runs)
    return False


def require_engine() -> None:
    """Skip where no container engine answers. In CI one has to."""
    require(engine_answers(), "A Docker engine with Compose")


def copy_checkout(target: Path) -> None:
    """What a clone would have, with what is not committed yet."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


@dataclass
class Stack:
    """One of the two Compose files, from a directory of its own."""

    directory: Path
    kind: str
    project: str = field(
        default_factory=lambda: f"test-{os.getpid()}-{time.monotonic_ns() % 10**9}"
    )
    https_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    certificate: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        ports = {"HTTPS_PORT": self.https_port, "HTTP_PORT": self.http_port}
        if self.kind == "development":
            for name in ("WEB_PORT", "POSTGRES_PORT", "REDIS_PORT", "INTERNAL_PORT"):
                ports[name] = self._port(name)
        numbers = {name: str(port) for name, port in ports.items()}
        return clean_environment(COMPOSE_PROJECT_NAME=self.project, **numbers)

    def _port(self, name: str) -> int:
        ports: dict[str, int] = self.__dict__.setdefault("_ports", {})
        return ports.setdefault(name, free_port())

    def make(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One of the project's make targets, as an operator runs it."""
        result = subprocess.run(
            ["make", "--no-print-directory", *arguments],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        if check and result.returncode:
            raise RuntimeError(
                f"make {arguments}: {result.stdout}{result.stderr}{self.logs()[-5000:]}"
            )
        return result

    def run(self, log: Path) -> subprocess.Popen[bytes]:
        """`make run`, until it is interrupted."""
        with log.open("wb") as out:
            return subprocess.Popen(
                ["make", "--no-print-directory", "run", "MODE=containers"],
                cwd=self.directory,
                env=self.environment,
                stdout=out,
                stderr=out,
                preexec_fn=_own_group,
            )

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return docker(
            *("compose", "--file", COMPOSE_FILES[self.kind], *arguments),
            check=check,
            cwd=self.directory,
            env=self.environment,
        )

    def logs(self, *services: str) -> str:
        return self.compose("logs", "--no-log-prefix", *services, check=False).stdout

    def containers(self) -> dict[str, str]:
        """Service to container id, of those that run."""
        lines = self.compose("ps", "--format", "{{.Service}} {{.ID}}").stdout.split("\n")
        return dict(line.split() for line in lines if line)

    def inspect(self, service: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(
            docker("inspect", self.containers()[service]).stdout
        )
        return found[0]

    def sh(self, service: str, command: str, *, check: bool = True) -> str:
        """What a shell in a container prints."""
        return self.compose("exec", "-T", service, "sh", "-c", command, check=check).stdout

    def process_id(self, service: str) -> int:
        """Of the container's first process, on this machine."""
        return int(self.inspect(service)["State"]["Pid"])

    @property
    def url(self) -> str:
        return f"https://localhost:{self.https_port}"

    @property
    def tls(self) -> ssl.SSLContext:
        """What a client believes: the mounted certificate, or any while nginx makes its own."""
        if self.certificate:
            return ssl.create_default_context(cafile=str(self.certificate))
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, verify=self.tls, timeout=20, http2=False)

    def status(self, path: str) -> int:
        """The status of a GET; 0 where nothing answers."""
        try:
            with self.client() as client:
                return client.get(path).status_code
        except httpx.HTTPError:
            return 0

    def remove(self) -> None:
        """Everything that bears the project's name."""
        self.compose("--profile", "*", "down", "--volumes", "--timeout", "5", check=False)
        images = docker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
        own = [image for image in images if re.match(rf"{self.project}[:-]", image)]
        if own:
            docker("rmi", "--force", *own, check=False)


def _own_group() -> None:
    os.setpgid(0, 0)
    as_at_a_terminal()
    end_with_parent()


@dataclass
class Person:
    """Somebody who uses the service from outside."""

    client: httpx.Client
    email: str
    token: str = ""

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def register(self) -> None:
        body = {"email": self.email, "password": PASSWORD}
        assert self.client.post("/api/accounts", json=body).status_code == 202

    def confirm(self, letter: str) -> None:
        """With the link of a mail's text."""
        found = re.search(r"/confirm\?token=([\w.-]+)", letter)
        assert found, letter
        answer = self.client.post("/api/accounts/confirm", json={"token": found[1]})
        assert answer.status_code == 204, answer.text

    def log_in(self) -> None:
        form = {"username": self.email, "password": PASSWORD}
        answer = self.client.post("/login", data=form)
        assert answer.status_code == 200, answer.text
        self.token = answer.json()["access_token"]

    # media: from here
    def upload(self, name: str, content: bytes) -> dict[str, Any]:
        """The item, once it has been processed."""

        def send() -> httpx.Response | None:
            """503 while one of the web workers has not noticed that something is back."""
            form = {"files": {"file": (name, content)}, "data": {"title": name}}
            answer = self.client.post("/api/media", headers=self.bearer, **form)
            return answer if answer.status_code != 503 else None

        sent: httpx.Response = wait_until(send, seconds=30, every=0.5)
        assert sent.status_code == 202, sent.text
        path = sent.headers["Location"]

        def processed() -> dict[str, Any] | None:
            time.sleep(0.3)  # within the limits of the front door
            item: dict[str, Any] = self.client.get(path, headers=self.bearer).json()
            return item if item["status"] in ("ready", "failed") else None

        item: dict[str, Any] = wait_until(processed, seconds=60)
        return item

    # media: to here


@contextlib.contextmanager
def stack_directory() -> Iterator[Path]:
    """A copy of the checkout where an engine can mount it from."""
    with tempfile.TemporaryDirectory(prefix="service-stack-") as name:
        path = Path(name)
        path.chmod(0o755)
        copy_checkout(path)
        yield path
