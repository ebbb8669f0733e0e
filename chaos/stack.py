"""The service as it runs in production, on free ports: nginx, two web instances, the worker, and
the servers behind them. Each part can be stopped, killed and started by itself."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.account import Bearer

from chaos.instance import WORKERS, Instance
from mail_server import MailServer, mail_server
from nginx import Nginx, available
from nginx_checks import OPEN
from servers import (
    Postgresql,
    RedisServer,
    Web,
    Worker,
    run_service,
    running,
    service_command,
)

LOOPBACK = "127.0.0.1"
# What production ships with, where the tests of single parts are in a hurry.
SHIPPED = {"SHUTDOWN_DRAIN_SECONDS": "6", "SHUTDOWN_GRACE_SECONDS": "30", "ACCESS_LOG": "false"}
# One account has what many people have.
BOUNDLESS = {"MEDIA_BYTES_PER_ACCOUNT": "0", "MEDIA_UNFINISHED_PER_ACCOUNT": "1000000"}


@dataclass(frozen=True)
class Servers:
    """What all stacks share: each has a database of its own, copied from a migrated one."""

    directory: Path
    postgresql: Postgresql
    redis: RedisServer
    mail: MailServer
    template: str = "template"

    def new_database(self, name: str) -> str:
        self.postgresql.psql(f"CREATE DATABASE {name} TEMPLATE {self.template}")
        return self.postgresql.url(name)


@contextmanager
def open_servers(
    prepared: Callable[[Path], AbstractContextManager[object]] = nullcontext,
    host: str = LOOPBACK,
    **of_postgresql: Any,
) -> Iterator[Servers]:
    """`prepared` is entered with their directory, before anything is in it. Where the `host` is not
    loopback, neither are the clients."""
    directory = Path(tempfile.mkdtemp(prefix="service-chaos-"))
    directory.chmod(0o777)
    try:
        with (
            prepared(directory),
            running(_postgresql(directory, host, **of_postgresql)) as postgresql,
            running(RedisServer(directory / "redis", host=host)) as redis,
            mail_server(host=host) as mail,
        ):
            servers = Servers(directory, postgresql, redis, mail)
            postgresql.psql(f"CREATE DATABASE {servers.template}")
            environment = {"DATABASE_URL": postgresql.url(servers.template)}
            migrated = run_service("migrate", environment=os.environ | environment, cwd=directory)
            assert migrated.returncode == 0, migrated.stderr
            yield servers
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _postgresql(directory: Path, host: str, **options: Any) -> Postgresql:
    postgresql = Postgresql(directory / "postgresql", host, **options).create()
    return postgresql if host == LOOPBACK else postgresql.allow("all")


@dataclass
class Stack:
    """One deployment, and its one account.

    `threads` end after what they have started, which the kernel would end with them.
    """

    servers: Servers
    database_url: str
    nginx: Nginx
    instances: list[Instance]
    worker: Worker
    bearer: Bearer = field(default_factory=Bearer)
    uploads: Path | None = None  # where it is not nginx that reads them
    threads: ThreadPoolExecutor = field(default_factory=ThreadPoolExecutor)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.nginx.port}"

    @property
    def mail(self) -> MailServer:
        return self.servers.mail

    @cached_property
    def database(self) -> str:
        return self.database_url.rpartition("/")[2]

    def query(self, sql: str) -> str:
        return self.servers.postgresql.psql(sql, self.database)

    def stored(self, item_id: str) -> bytes | None:
        """The bytes of an upload, read where they are kept."""
        path = self.kept / item_id.replace("-", "") / "original"
        return path.read_bytes() if path.exists() else None

    @property
    def kept(self) -> Path:
        """The folder of what was uploaded."""
        return self.uploads or self.nginx.folder("media")

    @property
    def environment(self) -> Mapping[str, str]:
        """That of the service's commands."""
        return self.instances[0].web.variables()

    @property
    def workers_replaced(self) -> int:
        """Web workers beyond those of the beginning."""
        return sum(instance.workers_started - WORKERS for instance in self.instances)

    @property
    def errors(self) -> list[str]:
        """What the service's processes logged as errors, and how their tracebacks end."""
        logs = [instance.web.log for instance in self.instances] + [self.worker.log]
        lines = [line for log in logs for line in log.splitlines() if line.startswith("{")]
        found = [line for line in map(json.loads, lines) if line["level"] in ("error", "critical")]
        return [f"{line['message']}: {line.get('exception', '')[-300:]}" for line in found]

    def route_to(self, instances: list[Instance]) -> None:
        """Make nginx use these alone."""
        self.nginx.reconfigure(UPSTREAM=upstream(instances))

    def start(self) -> Stack:
        self.bearer.insert(self.servers.postgresql, self.database_url)
        for instance in self.instances:
            instance.web.start(wait=None)
        self.worker.start()
        self.nginx.start()
        for instance in self.instances:
            instance.wait_until_ready()
        return self

    def stop(self) -> None:
        self.nginx.stop()
        for instance in self.instances:
            instance.end()
        self.worker.stop(signal.SIGTERM)
        self.threads.shutdown()


@dataclass(frozen=True)
class Kind:
    """How web and nginx are configured: as they are shipped, or as others do it."""

    config: Path = Web.config
    nginx_class: type[Nginx] = Nginx
    environment: Mapping[str, str] = field(default_factory=dict)


def upstream(instances: list[Instance]) -> str:
    return " ".join(instance.web.environment["BIND"] for instance in instances)


def new_stack(
    servers: Servers,
    name: str,
    kind: Kind,
    *,
    environment: Mapping[str, str],
    everywhere: Mapping[str, str] | None = None,
    tcp: bool = False,
    arguments: tuple[str, ...] = (),
) -> Stack:
    """A stack that is not started; `environment` is that of the web instances, `everywhere` that of
    the worker too."""
    directory = servers.directory / name
    url = servers.new_database(name)
    newest = "image" if available("image") else "installed"
    nginx = kind.nginx_class(directory, newest, OPEN, name="localhost")
    run, media = nginx.folder("run"), nginx.folder("media")
    common = (
        SHIPPED
        | BOUNDLESS
        | {
            "DATABASE_URL": url,
            "REDIS_URL": servers.redis.url,
            "MAIL_SERVER": "127.0.0.1",
            "MAIL_PORT": str(servers.mail.port),
            "MAIL_USE_TLS": "false",
            "SECRET_KEY": secrets.token_urlsafe(32),
            "UPLOAD_FOLDER": str(media),
            "X_ACCEL_REDIRECT": "true",
            "WEB_CONCURRENCY": str(WORKERS),
        }
    )
    common |= everywhere or {}
    instances = []
    for number in (1, 2):
        web = Web(directory / f"web-{number}", config=kind.config, arguments=arguments)
        bind = f"127.0.0.1:{web.port}" if tcp else f"unix:{run}/web-{number}.sock"
        own = {"BIND": bind, "PIDFILE": str(web.directory / "pid")}
        web.environment = {**common, **own, **kind.environment, **environment}
        instances.append(Instance(web))
    nginx.environment = {**OPEN, "UPSTREAM": upstream(instances)}
    worker = Worker(directory / "worker", common, tuple(service_command("worker")))
    return Stack(servers, url, nginx, instances, worker)
