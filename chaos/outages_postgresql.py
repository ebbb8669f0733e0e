"""The ways in which PostgreSQL fails that nothing else has."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from chaos.breakable_proxy import BreakableProxy
from chaos.hang_rig import Rig
from chaos.outages import Outage
from servers import Postgresql, postgresql_program, running, unprivileged

OWN = "application_name LIKE 'service%'"
OTHER_PASSWORD = "another-password"
LOCAL_LOGIN = "ALTER ROLE service PASSWORD '{}'"
END_SERVICE = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OWN}"
COPY_OPTIONS = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync")


@contextmanager
def password(rig: Rig) -> Iterator[None]:
    """Another one than the service has; who was let in is sent away."""
    server, right = rig.postgresql, rig.postgresql.password
    server.psql(LOCAL_LOGIN.format(OTHER_PASSWORD))
    server.password = OTHER_PASSWORD
    server.psql(END_SERVICE)
    yield
    server.psql(LOCAL_LOGIN.format(right))
    server.password = right


@contextmanager
def full(rig: Rig) -> Iterator[None]:
    """Others have all connections, those of the service among them."""
    assert rig.service is not None
    url, taken = rig.postgresql.url(), list[psycopg.Connection]()
    processes = rig.service.processes()
    for process in processes:
        process.suspend()  # else it might be faster
    try:
        rig.postgresql.psql(END_SERVICE)
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                taken.append(psycopg.connect(url, connect_timeout=10))
    finally:
        for process in processes:
            process.resume()
    yield
    for connection in taken:
        connection.close()


@contextmanager
def read_only(rig: Rig) -> Iterator[None]:
    """New transactions may change nothing."""
    _set_read_only(rig.postgresql, "on")
    yield
    _set_read_only(rig.postgresql, "off")


def _set_read_only(server: Postgresql, value: str) -> None:
    server.psql(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    server.psql("SELECT pg_reload_conf()")


class Standby(Postgresql):
    """A copy of a primary that follows it."""

    def follow(self, primary: Postgresql) -> "Standby":
        program, who = postgresql_program("pg_basebackup"), unprivileged()
        assert program
        self.directory.mkdir(parents=True)
        if who:
            os.chown(self.directory, who["user"], who["group"])
        subprocess.run(
            [program, "-d", primary.url(), "-D", self.directory / "data", *COPY_OPTIONS],
            check=True,
            capture_output=True,
            cwd="/",
            **who,
        )
        return self


def _with_standby(rig: Rig) -> tuple[Standby, BreakableProxy]:
    proxy = rig.reached_through_proxy("postgresql")
    standby = Standby(rig.servers.directory / "standby").follow(rig.postgresql)
    rig.stack.enter_context(running(standby))
    return standby, proxy


def failover(rig: Rig) -> Outage:
    """The primary dies; its standby is promoted, and the service's way leads there."""
    standby, proxy = _with_standby(rig)

    @contextmanager
    def outage() -> Iterator[None]:
        assert rig.postgresql.process is not None
        rig.postgresql.process.send_signal(signal.SIGQUIT)
        rig.postgresql.stop()
        yield
        _take_over(rig, standby, proxy)

    return outage()


def demoted(rig: Rig) -> Outage:
    """As when a primary is relieved: it stays, read-only, and connections to it are not cut."""
    standby, proxy = _with_standby(rig)

    @contextmanager
    def outage() -> Iterator[None]:
        _set_read_only(rig.postgresql, "on")
        yield
        _take_over(rig, standby, proxy)

    return outage()


def _take_over(rig: Rig, standby: Standby, proxy: BreakableProxy) -> None:
    standby.psql("SELECT pg_promote()")
    standby.psql("ALTER SYSTEM RESET default_transaction_read_only")
    standby.psql("SELECT pg_reload_conf()")
    proxy.target_port = standby.port
    if rig.postgresql.process is not None:
        rig.stack.callback(rig.postgresql.stop)  # this one's server, from now on another
    rig.postgresql = standby
