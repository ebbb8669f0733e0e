"""A stack in which everything may be broken: with a second worker, a database that flushes to disk,
and where a scenario asks for it a small disk, an object store, or clocks that jump."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from chaos import clock, witness
from chaos.clock import Clocks, open_clocks
from chaos.stack import Kind, Servers, Stack, new_stack, open_servers
from chaos.unreliable_store import UnreliableStore
from object_stores import BIN, BUCKET, Rclone
from servers import Worker, running
from system.health_faults import Proxy, mounted

NAME = "losses"
PREFIX = "losses"
DISK_BYTES = 512 * 1024 * 1024  # what the load brings, and room
SMALL_SEGMENTS = ("--wal-segsize=1",)  # so that a full disk soon stops the log as well
FLUSHED = ("-c", "fsync=on", *witness.COMMIT_TIMES)
SMALL_LOG = ("-c", "min_wal_size=2MB", "-c", "max_wal_size=16MB")

Place = Literal["", "uploads on a small disk", "database on a small disk", "object store", "clocks"]


@dataclass
class Site:
    """`mail` stands between the service and the mail server. `disk` is the folder of a small
    disk."""

    stack: Stack
    workers: list[Worker]
    mail: Proxy
    disk: Path | None = None
    store: UnreliableStore | None = None
    clocks: Clocks | None = None

    def start(self) -> Site:
        witness.prepare(self.stack)
        self.stack.start()
        for worker in self.workers[1:]:
            worker.start()
        return self

    def stop(self) -> None:
        for worker in self.workers[1:]:
            worker.stop(signal.SIGTERM)
        self.stack.stop()


@contextmanager
def open_site(place: Place) -> Iterator[Site]:
    """Not started; stopped at the end. Raises CalledProcessError where the machine cannot do it."""
    with ExitStack() as opened:
        clocks = opened.enter_context(open_clocks()) if place == "clocks" else None
        with clocks.servers.for_children() if clocks else nullcontext():
            servers = opened.enter_context(_servers(place))
        mail = opened.enter_context(Proxy(servers.mail.port))
        everywhere = {"MAIL_PORT": str(mail.port)}
        if clocks:
            everywhere |= clocks.service.variables
        if place == "uploads on a small disk":
            everywhere["TMPDIR"] = str(_uploads(servers.directory))
        store = _store(opened, servers, everywhere) if place == "object store" else None
        stack = new_stack(servers, NAME, Kind(), environment={}, everywhere=everywhere)
        if store:
            stack.uploads = servers.directory / "store" / "kept" / BUCKET / PREFIX
        second = replace(stack.worker, directory=stack.worker.directory.with_name("worker-2"))
        disk = _disk(place, servers.directory)
        site = Site(stack, [stack.worker, second], mail, disk, store, clocks)
        opened.callback(site.stop)
        yield site


def _uploads(directory: Path) -> Path:
    return directory / NAME / "media"


def _disk(place: Place, directory: Path) -> Path | None:
    folders = {
        "uploads on a small disk": _uploads(directory),
        "database on a small disk": directory / "postgresql",
    }
    return folders.get(place)


def _servers(place: Place) -> AbstractContextManager[Servers]:
    options: dict[str, Any] = {"options": FLUSHED}
    if place == "database on a small disk":
        options = {"options": (*FLUSHED, *SMALL_LOG), "initdb": SMALL_SEGMENTS}
    return open_servers(partial(_mounted, place), **options)


@contextmanager
def _mounted(place: Place, directory: Path) -> Iterator[None]:
    """Before nginx' container is started, which would not see what is mounted later."""
    folder = _disk(place, directory)
    if folder is None:
        yield
        return
    folder.mkdir(parents=True)
    folder.parent.chmod(0o777)
    with mounted(folder, DISK_BYTES):
        yield


@cache
def missing(place: Place) -> str:
    """What this machine lacks for a place; empty where it has all of it."""
    if place == "clocks" and not clock.compiler():
        return "a C compiler"
    if place == "object store" and not (BIN / "rclone").exists():
        return "rclone"
    if place.endswith("small disk"):
        with TemporaryDirectory(prefix="service-disk-") as folder:
            try:
                with mounted(Path(folder), 1024 * 1024):
                    return ""
            except (subprocess.CalledProcessError, FileNotFoundError):
                return "the right to mount a file system"
    return ""


def _store(opened: ExitStack, servers: Servers, everywhere: dict[str, str]) -> UnreliableStore:
    """One that keeps files, where the auditor can read them, behind what makes it unreliable."""
    rclone = opened.enter_context(running(Rclone(servers.directory / "store")))
    store = opened.enter_context(UnreliableStore(rclone.port))
    more = {"MEDIA_STORE_URL": f"s3://{BUCKET}/{PREFIX}", "AWS_ENDPOINT_URL": store.url}
    by_the_application = {"MEDIA_STORE_REDIRECT": "false", "X_ACCEL_REDIRECT": "false"}
    everywhere |= rclone.variables(**more, **by_the_application)
    return store
