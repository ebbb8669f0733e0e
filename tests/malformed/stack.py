"""The real service, reached through nginx and straight."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from malformed import HOST, Attack, Outcome, exchange
from nginx import Nginx
from nginx_checks import OPEN
from servers import Web, free_port, wait_until


@dataclass
class Target:
    """Somewhere to send bytes to, and what it wrote."""

    name: str
    nginx: Nginx
    web: Web

    def connect(self) -> socket.socket:
        if self.name == "nginx":
            return self.nginx.connect()
        return socket.create_connection(("127.0.0.1", self.web.port), 20)

    def send(self, attack: Attack) -> Outcome:
        with closing(self.connect()) as connection:
            return exchange(connection, attack, silent=getattr(attack, self.name) == "waits")

    def lines(self) -> list[dict[str, Any]]:
        """What it has written about requests and what is none; all of it has to be valid JSON."""
        if self.name == "nginx":
            return self.nginx.lines
        return [event for event in self.web.events() if "request_id" in event]

    def everything_written(self) -> str:
        return self.web.log + self.nginx.errors + repr(self.nginx.lines)


@contextmanager
def running_service(directory: Path, kind: str, database: Path) -> Iterator[dict[str, Target]]:
    """The service on a migrated database, and nginx of this kind before it."""
    port = free_port()
    nginx = Nginx(directory, kind, OPEN | {"UPSTREAM": f"127.0.0.1:{port}"})
    nginx.folder("run")
    shutil.copy(database, directory / "service.sqlite3")
    environment = {
        "DATABASE_URL": f"sqlite:///{directory}/service.sqlite3",
        "ALLOWED_HOSTS": HOST.decode(),
        "UPLOAD_FOLDER": str(nginx.folder("media")),
    }
    web = Web(directory / "web", environment, port=port)
    try:
        web.start()
        nginx.start()
        wait_until(lambda: nginx.ask("/health/live").status_code == 200, seconds=20)
        yield {name: Target(name, nginx, web) for name in ("nginx", "app")}
    finally:
        nginx.stop()
        web.stop()
