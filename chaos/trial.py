"""The service in a Kubernetes cluster, with PostgreSQL, Redis and mail outside of it."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.account import Bearer

from chaos.cluster import Cluster
from chaos.overlay import IMAGE, NAMESPACE, Overlay
from chaos.stack import BOUNDLESS, Servers, open_servers
from mail_server import MailServer
from nginx_checks import OPEN
from servers import ROOT
from stack import docker

REPLICAS = 2
WORKER_TIMEOUT_SECONDS = 50  # more than what a stop may take
ROLLOUT_SECONDS = 240
FIRST, SECOND, NEVER_READY = "first", "second", "never-ready"
# Each is another image, as a release is.
VERSIONS = {
    SECOND: f'FROM {IMAGE}:{FIRST}\nLABEL version="{SECOND}"\n',
    NEVER_READY: f'FROM {IMAGE}:{FIRST}\nCMD ["sleep", "3600"]\n',
}
BRIDGE = "docker0"


@dataclass
class Trial:
    """Two web pods and two workers. Kept: what an auditor asks for."""

    servers: Servers
    database_url: str
    overlay: Overlay
    cluster: Cluster = field(default_factory=lambda: Cluster(NAMESPACE))
    bearer: Bearer = field(default_factory=Bearer)

    @property
    def mail(self) -> MailServer:
        return self.servers.mail

    @property
    def url(self) -> str:
        return self.cluster.site()

    def query(self, sql: str) -> str:
        return self.servers.postgresql.psql(sql, self.database_url.rpartition("/")[2])

    def stored(self, item_id: str) -> bytes | None:
        path = self.overlay.uploads / item_id.replace("-", "") / "original"
        return path.read_bytes() if path.exists() else None

    def roll_out(self, version: str, seconds: int = ROLLOUT_SECONDS, **changed: str) -> str:
        """With settings changed. Raises RuntimeError."""
        self.overlay.write(version, changed)
        return roll_out(self.overlay.path, seconds)

    def scale(self, app: str, replicas: int) -> None:
        self.cluster.kubectl("scale", f"deployment/{app}", f"--replicas={replicas}")

    def image_of(self, pod: str) -> str:
        """Its version."""
        found = self.cluster.get("pod", pod)["spec"]["containers"][0]["image"]
        return str(found).rpartition(":")[2]


@contextmanager
def open_trial() -> Iterator[Trial]:
    """The first version, running; all of it is removed at the end."""
    old = not Cluster("default").knows("policy/v1")  # no image is built where no cluster answers
    build()
    with open_servers(host=node_address(), options=("-c", "max_connections=200")) as servers:
        trial = _trial(servers, old=old)
        trial.overlay.copy_base()
        try:
            trial.bearer.insert(servers.postgresql, trial.database_url)
            trial.roll_out(FIRST)
            for app in ("web", "worker"):
                trial.scale(app, REPLICAS)
                trial.cluster.wait_for_pods(app, REPLICAS)
            yield trial
        finally:
            remove()


def roll_out(folder: Path, seconds: int = ROLLOUT_SECONDS) -> str:
    """By deploy/kubernetes/rollout, which is beside the folder of an overlay. Raises RuntimeError
    with what it says where it fails."""
    result = subprocess.run(
        [folder.parent / "rollout", folder],
        check=False,
        env=os.environ | {"ROLLOUT_SECONDS": str(seconds), "MIGRATION_SECONDS": str(seconds)},
        capture_output=True,
        text=True,
        timeout=3 * seconds + 60,
    )
    if result.returncode:
        raise RuntimeError(result.stderr)
    return result.stdout


def node_address() -> str:
    """Of this machine, where pods reach it: NODE_ADDRESS, or that of the engine's bridge."""
    if given := os.environ.get("NODE_ADDRESS"):
        return given
    command = ["ip", "-json", "-4", "address", "show", BRIDGE]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return str(json.loads(shown)[0]["addr_info"][0]["local"])


def build() -> None:
    """Images of each version, in the engine that the node uses."""
    docker("build", "--quiet", "--tag", f"{IMAGE}:{FIRST}", ".", cwd=ROOT)
    for version, text in VERSIONS.items():
        docker("build", "--quiet", "--tag", f"{IMAGE}:{version}", "-", input=text)


def remove() -> None:
    subprocess.run(
        ["kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found"],
        check=False,
        capture_output=True,
        timeout=180,
    )
    docker("rmi", "--force", *(f"{IMAGE}:{version}" for version in (FIRST, *VERSIONS)), check=False)


def _trial(servers: Servers, *, old: bool) -> Trial:
    uploads = servers.directory / "media"
    uploads.mkdir()
    uploads.chmod(0o777)
    url = servers.new_database("trial")
    overlay = Overlay(
        servers.directory / "kubernetes",
        uploads,
        settings={
            "ALLOWED_HOSTS": "localhost",
            "MAIL_SERVER": node_address(),
            "MAIL_PORT": str(servers.mail.port),
            "MAIL_USE_TLS": "false",
            "WORKER_TIMEOUT_SECONDS": str(WORKER_TIMEOUT_SECONDS),
            **BOUNDLESS,
        },
        secrets={
            "secret_key": secrets.token_urlsafe(32),
            "database_url": url,
            "redis_url": servers.redis.url,
        },
        nginx={**OPEN, "MAX_CONTENT_LENGTH": str(2**24)},
        ports=[servers.postgresql.port, servers.redis.port, servers.mail.port],
        old=old,
    )
    return Trial(servers, url, overlay)
