"""What a scenario of `hangs` breaks and asks: one web process of two workers, the worker, and the
servers behind them, each of which can be reached through a proxy."""

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx2 as httpx
import psutil
from bench.account import Bearer

from api import PASSWORD, hash_of_password
from chaos.asking import Person
from chaos.breakable_proxy import BreakableProxy
from chaos.stack import BOUNDLESS, Servers, open_servers
from mail_server import MailServer
from object_stores import SECRET, Rclone
from servers import Postgresql, RedisServer, Web, Worker, free_port, service_command, wait_until

WORKERS = 2
EMAIL = "ada@example.org"
POOL_SECONDS, STATEMENT_SECONDS = 2.0, 5.0  # as shipped


class Store(Rclone):
    """A bucket whose server can be given another key."""

    secret = SECRET

    def command(self) -> list[str]:
        command = super().command()
        at = command.index("--auth-key") + 1
        key, _, _ = command[at].partition(",")
        return [*command[:at], f"{key},{self.secret}", *command[at + 1 :]]


@dataclass
class Rig:
    """`ports` are those at which the service finds its dependencies, by their names."""

    servers: Servers
    stack: ExitStack
    ports: dict[str, int]
    media: Path
    postgresql: Postgresql
    redis: RedisServer
    store: Store | None = None
    mail: MailServer | None = None
    mail_login: tuple[str, str] = ("", "")
    service: "Service | None" = None

    def start_mail(self, port: int) -> None:
        """Another server than before, as one that was stopped cannot be started again."""
        user, password = self.mail_login
        more = {"auth_require_tls": False} if user else {}
        self.mail = MailServer(port=port, user=user, password=password, **more)
        self.mail.controller.start()
        self.ports["mail"] = port

    def stop_mail(self) -> None:
        if self.mail is not None:
            self.mail.controller.stop()
            self.mail = None

    def reached_through_proxy(self, dependency: str) -> BreakableProxy:
        proxy = BreakableProxy(self.ports[dependency])
        self.stack.enter_context(proxy)
        self.ports[dependency] = proxy.port
        return proxy

    @property
    def environment(self) -> dict[str, str]:
        """The service's, as it ships but for what it is told of these servers."""
        url = self.postgresql.url(self.servers.template)
        own = {
            "DATABASE_URL": url.replace(
                f":{self.postgresql.port}/", f":{self.ports['postgresql']}/"
            ),
            "REDIS_URL": f"redis://127.0.0.1:{self.ports['redis']}/0",
            "MAIL_SERVER": "127.0.0.1",
            "MAIL_PORT": str(self.ports["mail"]),
            "MAIL_USE_TLS": "false",
            "MAIL_USERNAME": self.mail_login[0],
            "MAIL_PASSWORD": self.mail_login[1],
            "SECRET_KEY": secrets.token_urlsafe(32),
            "UPLOAD_FOLDER": str(self.media),
            "ACCESS_LOG": "false",
            "WEB_CONCURRENCY": str(WORKERS),
            **BOUNDLESS,
        }
        if self.store is not None:
            own |= self.store.variables(
                AWS_ENDPOINT_URL=f"http://127.0.0.1:{self.ports['store']}",
                MEDIA_STORE_REDIRECT="false",
            )
        return own

    def query(self, sql: str) -> str:
        return self.postgresql.psql(sql, self.servers.template)


@dataclass
class Service:
    """The processes that are to outlive every outage."""

    web: Web
    worker: Worker
    ports: dict[str, int]

    def processes(self) -> list[psutil.Process]:
        return [*map(psutil.Process, self.web.workers()), psutil.Process(self.worker.pid)]

    def memory_mib(self) -> list[int]:
        """Resident, of each, at the least of a few moments: a login takes 19 for its hash."""
        return list(map(_resident_mib, self.processes()))

    def connections(self, dependency: str) -> int:
        """That they hold to a dependency."""
        port = self.ports[dependency]
        return sum(
            found.raddr.port == port and found.status != psutil.CONN_TIME_WAIT
            for process in self.processes()
            for found in process.net_connections("tcp")
            if found.raddr
        )

    def lines(self, since: datetime) -> list[dict[str, str]]:
        """What they logged from then on, each with its `process`: web or worker."""
        began = since.strftime("%Y-%m-%dT%H:%M:%S.") + f"{since.microsecond // 1000:03d}Z"
        logs = (self.web.log, self.worker.log)
        return [
            {"process": name, **line}
            for name, log in zip(("web", "worker"), logs, strict=True)
            for line in map(json.loads, filter(_is_json, log.splitlines()))
            if line["time"] >= began
        ]


def _is_json(line: str) -> bool:
    return line.startswith("{")


def _resident_mib(process: psutil.Process) -> int:
    moments = []
    for _ in range(10):
        moments.append(process.memory_info().rss // 2**20)
        time.sleep(0.05)
    return int(min(moments))


@contextmanager
def open_rig(*, store: bool = False, mail_login: tuple[str, str] = ("", "")) -> Iterator[Rig]:
    """The servers, and nothing of the service yet."""
    with ExitStack() as stack:
        servers = stack.enter_context(open_servers())
        media = servers.directory / "media"
        media.mkdir()
        ports = {
            "postgresql": servers.postgresql.port,
            "redis": servers.redis.port,
        }
        bucket = None
        if store:
            bucket = Store(servers.directory / "store")
            stack.callback(bucket.stop)
            bucket.start()
            ports["store"] = bucket.port
        rig = Rig(servers, stack, ports, media, servers.postgresql, servers.redis, bucket)
        rig.mail_login = mail_login
        rig.start_mail(free_port())
        stack.callback(rig.stop_mail)
        yield rig


@contextmanager
def open_service(rig: Rig) -> Iterator[tuple[Service, Person]]:
    """Web and worker, and somebody who has an account and an item there."""
    directory, environment = rig.servers.directory, rig.environment
    web = Web(directory / "web", environment)
    worker = Worker(directory / "worker", environment, tuple(service_command("worker")))
    try:
        worker.start()
        web.start(wait="/health/ready")
        worker.wait_for("worker_ready")
        rig.service = Service(web, worker, rig.ports)
        yield rig.service, _settle_in(rig, web)
    finally:
        web.stop()
        worker.stop()


def _settle_in(rig: Rig, web: Web) -> Person:
    bearer = Bearer()
    bearer.insert(rig.postgresql, rig.postgresql.url(rig.servers.template))
    rig.query(f"UPDATE accounts SET password_hash = '{hash_of_password()}'")
    person = Person(EMAIL, PASSWORD, bearer.token)
    with httpx.Client(base_url=web.url, headers=person.bearer, timeout=20) as client:
        sent = client.post("/api/media", files={"file": ("a.txt", b"a")}, data={"title": "a"})
        assert sent.status_code == 202, sent.text
        path = sent.headers["Location"]
        wait_until(lambda: client.get(path).json()["status"] == "ready", every=0.2)
        return Person(EMAIL, PASSWORD, bearer.token, client.get(path).json()["url"])
