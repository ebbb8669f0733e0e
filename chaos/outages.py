"""The ways in which dependencies fail. Each prepares what it needs when it is called, before the
service starts; the block that it returns is the outage."""

import ctypes
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from chaos.hang_rig import Rig
from servers import Postgresql, RedisServer

CLONE_NEWNET = 0x40000000


Outage = AbstractContextManager[None]
Act = Callable[[Rig], Outage]


@contextmanager
def stopped(rig: Rig, name: str) -> Iterator[None]:
    """Refuses connections; those there were are closed."""
    if name == "mail":
        port = rig.ports["mail"]
        rig.stop_mail()
        yield
        rig.start_mail(port)
        return
    server = server_of(rig, name)
    server.stop()
    yield
    server.start()


@contextmanager
def frozen(rig: Rig, name: str) -> Iterator[None]:
    """Accepts connections, in the kernel, and never answers."""
    server = server_of(rig, name)
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


def server_of(rig: Rig, name: str) -> Postgresql | RedisServer:
    servers = {"postgresql": rig.postgresql, "redis": rig.redis, "store": rig.store}
    return servers[name]  # type: ignore[return-value]


def slow(rig: Rig, name: str) -> Outage:
    """Each answer comes a second late."""
    proxy = rig.reached_through_proxy(name)
    return _while(proxy, "delay_seconds", 1.0, 0.0)


def silent(rig: Rig, name: str) -> Outage:
    proxy = rig.reached_through_proxy(name)
    return _while(proxy, "silent", True, False)


def half_closed(rig: Rig, name: str) -> Outage:
    """Says that it will send no more, and goes on to read; new connections as well."""
    proxy = rig.reached_through_proxy(name)

    @contextmanager
    def outage() -> Iterator[None]:
        proxy.half_close()
        yield
        proxy.half_closed = False

    return outage()


@contextmanager
def _while(target: object, name: str, value: object, after: object) -> Iterator[None]:
    setattr(target, name, value)
    try:
        yield
    finally:
        setattr(target, name, after)


def own_network() -> None:
    """Give this process and its children a network of their own. Raises OSError where it may not.

    Called before any thread is started: those that run stay where they are.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no network namespace")
    _ip("link", "set", "lo", "up")
    # Else what is delivered here is looked up before any other rule is.
    _ip("rule", "add", "pref", "100", "lookup", "local")
    _ip("rule", "del", "pref", "0")


@contextmanager
def black_holed(rig: Rig, name: str) -> Iterator[None]:
    """What the server sends vanishes, the answer to a connection's first packet as well."""
    rule = ("pref", "10", "ipproto", "tcp", "sport", str(rig.ports[name]), "blackhole")
    _ip("rule", "add", *rule)
    yield
    _ip("rule", "del", *rule)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
