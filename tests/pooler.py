"""PgBouncer in transaction mode before a PostgreSQL, as small as it can be: what a session keeps
from one transaction to the next reaches somebody else."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

from servers import (
    OneProcess,
    Postgresql,
    end_with_parent,
    find_program,
    speaks_postgresql,
    unprivileged,
    wait_until,
)

SESSIONS = 3


@dataclass
class Pgbouncer(OneProcess):
    """`server` has to be there before `start`."""

    server: Postgresql | None = None
    sessions: int = SESSIONS  # at PostgreSQL, for each database
    host: str = "127.0.0.1"

    def start(self) -> Pgbouncer:
        program = find_program("pgbouncer", "/usr/sbin/pgbouncer")
        assert program, "PgBouncer is not installed"
        assert self.server is not None
        self.directory.mkdir(parents=True, exist_ok=True)
        users, settings = self.directory / "users.txt", self.directory / "pgbouncer.ini"
        users.write_text(f'"service" "{self.server.password}"\n')
        settings.write_text(
            f"""[databases]
* = host={self.server.host} port={self.server.port}

[pgbouncer]
listen_addr = {self.host}
listen_port = {self.port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = {self.sessions}
max_client_conn = 500
server_round_robin = 1
server_login_retry = 1
"""
        )
        who = unprivileged()  # it refuses to run as root, too
        if who:
            for path in (self.directory, users, settings):
                os.chown(path, who["user"], who["group"])
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [program, settings], stdout=log, stderr=log, preexec_fn=end_with_parent, **who
            )
        wait_until(self.answers)
        return self

    def answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError((self.directory / "log").read_text()[-2000:])
        return speaks_postgresql(self.host, self.port)

    def url(self, database_url: str) -> str:
        """The same database, through this."""
        assert self.server is not None
        return database_url.replace(
            f"{self.server.host}:{self.server.port}", f"{self.host}:{self.port}"
        )
