"""The ways in which Redis, the mail server, the object store and the disk fail, each its own."""

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from chaos.hang_rig import Rig
from chaos.outages import Outage
from faulty_store import FaultyStore
from servers import RedisServer, running
from system.health_faults import SMALL_DISK_BYTES, mounted

OTHER_PASSWORD = "another-password"


def redis_failover(rig: Rig) -> Outage:
    """It dies, and the service's way leads to another, which knows nothing."""
    other = RedisServer(rig.servers.directory / "other-redis")
    rig.stack.enter_context(running(other))
    proxy = rig.reached_through_proxy("redis")

    @contextmanager
    def outage() -> Iterator[None]:
        rig.redis.stop()
        yield
        proxy.target_port = other.port
        rig.redis = other

    return outage()


def redis_client(rig: Rig, password: str | None = None) -> "redis.Redis":
    return redis.Redis(port=rig.redis.port, password=password, socket_timeout=5)


@contextmanager
def redis_password(rig: Rig) -> Iterator[None]:
    """One that the service does not have; who was let in is sent away."""
    with redis_client(rig) as admin:
        admin.config_set("requirepass", OTHER_PASSWORD)
        _send_away(admin)
    yield
    with redis_client(rig, OTHER_PASSWORD) as admin:
        admin.config_set("requirepass", "")


@contextmanager
def redis_full(rig: Rig) -> Iterator[None]:
    """Others have all connections."""
    with redis_client(rig) as admin:
        admin.config_set("maxclients", 1)
        _send_away(admin)
        yield
        admin.config_set("maxclients", 10_000)


def _send_away(admin: "redis.Redis") -> None:
    for kind in ("normal", "pubsub"):
        admin.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


@contextmanager
def redis_read_only(rig: Rig) -> Iterator[None]:
    """A replica of a primary that is gone."""
    with redis_client(rig) as admin, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        admin.replicaof("127.0.0.1", nobody.getsockname()[1])
        yield
        admin.replicaof("NO", "ONE")


@contextmanager
def mail_password(rig: Rig) -> Iterator[None]:
    assert rig.mail is not None
    right, rig.mail.password = rig.mail.password, OTHER_PASSWORD
    yield
    rig.mail.password = right


@contextmanager
def mail_full(rig: Rig) -> Iterator[None]:
    assert rig.mail is not None
    rig.mail.answers["MAIL"] = "421 4.7.0 Too many connections"
    yield
    del rig.mail.answers["MAIL"]


@contextmanager
def store_key(rig: Rig) -> Iterator[None]:
    """The store has another secret than the service."""
    assert rig.store is not None
    for secret in (OTHER_PASSWORD, type(rig.store).secret):
        rig.store.stop()
        rig.store.secret = secret
        rig.store.start()
        if secret == OTHER_PASSWORD:
            yield


def store_full(rig: Rig) -> Outage:
    """It asks to slow down."""
    faulty = rig.stack.enter_context(FaultyStore())
    faulty.answer = (503, "SlowDown")
    assert rig.store is not None
    direct = rig.store.port
    proxy = rig.reached_through_proxy("store")

    @contextmanager
    def outage() -> Iterator[None]:
        proxy.target_port = faulty.server.server_port
        proxy.cut()
        yield
        proxy.target_port = direct
        proxy.cut()  # what was connected before is still another server's

    return outage()


def disk_full(rig: Rig) -> Outage:
    rig.stack.enter_context(mounted(rig.media, SMALL_DISK_BYTES))

    @contextmanager
    def outage() -> Iterator[None]:
        filler = rig.media / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield
        filler.unlink()

    return outage()


def disk_read_only(rig: Rig) -> Outage:
    rig.stack.enter_context(mounted(rig.media, SMALL_DISK_BYTES))

    @contextmanager
    def outage() -> Iterator[None]:
        _remount(rig, "ro")
        yield
        _remount(rig, "rw")

    return outage()


def _remount(rig: Rig, how: str) -> None:
    command = ["mount", "-o", f"remount,{how}", str(rig.media)]
    subprocess.run(command, check=True, capture_output=True)
