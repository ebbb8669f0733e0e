"""What takes dependencies away, each in its own manner, and gives them back."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loops import end_tasks, stop_listening
from servers import Postgresql, Web, postgresql_program, wait_until, whole_lines

SMALL_DISK_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Answer:
    """What a probe was told, and how long it took."""

    status: int
    body: bytes
    headers: dict[str, str]
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def told(self) -> tuple[int, Any]:
        return self.status, self.json


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


@dataclass
class Service(Web):
    """Gunicorn, asked with as little overhead as there can be; also over a Unix socket."""

    def connection(self, timeout: float = 5) -> http.client.HTTPConnection:
        bind = self.environment.get("BIND", "")
        if bind.startswith("unix:"):
            return UnixConnection(bind.removeprefix("unix:"), timeout)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def probe(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """One request on a connection of its own."""
        with contextlib.closing(self.connection()) as connection:
            began = time.perf_counter()
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            body = response.read()
            seconds = time.perf_counter() - began
            fields = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, body, fields, seconds)

    def status(self, path: str, *, timeout: float = 5) -> int:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"Gunicorn ended: {self.log[-3000:]}")
        try:
            return self.probe(path).status
        except (OSError, http.client.HTTPException):
            return 0

    def metrics(self) -> str:
        return self.probe("/metrics").body.decode()

    def first(self, path: str, status: int, *, seconds: float = 20) -> Answer:
        """The first answer with a status. Raises TimeoutError."""

        def answered() -> Answer | None:
            answer = self.probe(path)
            return answer if answer.status == status else None

        found: Answer = wait_until(answered, seconds=seconds, every=0.01)
        return found

    def seconds_until(self, path: str, status: int, *, seconds: float = 10) -> float:
        began = time.perf_counter()
        self.first(path, status, seconds=seconds)
        return time.perf_counter() - began

    def events(self) -> list[dict[str, Any]]:
        """The log's lines."""
        return [json.loads(line) for line in whole_lines(self.log) if line.startswith("{")]

    def changes(self) -> list[tuple[str, str]]:
        """(event, check) of every line about a check."""
        return [(e["message"], e["check"]) for e in self.events() if "check" in e]


def open_sockets(pid: int) -> int:
    """Sockets a process holds."""
    return sum(target.startswith("socket:") for target in _descriptors(pid))


def open_files(pid: int) -> int:
    """Descriptors a process holds, but for those of metrics, which are made as they are needed."""
    return sum("/service-metrics-" not in target for target in _descriptors(pid))


def _descriptors(pid: int) -> Iterator[str]:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(link)


class Proxy:
    """A TCP proxy on the loopback interface that can be slow, or accept and never answer."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.delay_seconds = 0.0
        self.silent = False
        self.accepted = 0
        self.open = 0
        self._loop = asyncio.new_event_loop()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        serving = asyncio.start_server(self._serve, sock=self._listener)
        server = self._loop.run_until_complete(serving)
        self._loop.run_forever()
        self._loop.run_until_complete(stop_listening(server))
        self._loop.run_until_complete(end_tasks())
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.open += 1
        writers = [writer]
        try:
            await self._silence()
            server = await asyncio.open_connection("127.0.0.1", self.target_port)
            writers.append(server[1])
            pumps = self._pump(reader, server[1], 0), self._pump(server[0], writer, 1)
            tasks = [asyncio.ensure_future(pump) for pump in pumps]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # asyncio's streams would log a cancelled handler as an error
        finally:
            self.open -= 1
            for each in writers:
                each.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delays: int
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await asyncio.sleep(self.delay_seconds * delays)
                await self._silence()
                writer.write(data)
                await writer.drain()

    async def _silence(self) -> None:
        """Wait it out; what was said into it is lost, and its connection with it."""
        if self.silent:
            while self.silent:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            raise ConnectionResetError


@dataclass
class Namespaces:
    """Two network namespaces joined by a cable that can be cut; their addresses exist nowhere else.

    The service runs in `near`, and listens on a Unix socket; the server runs in `far`.
    """

    near: str
    far: str
    near_address: str = "10.231.7.1"
    far_address: str = "10.231.7.2"

    @classmethod
    def make(cls) -> Namespaces:
        """Raises CalledProcessError or FileNotFoundError where the machine has none."""
        _remove_orphans()
        made = cls(f"service-near-{os.getpid()}", f"service-far-{os.getpid()}")
        try:
            made._make()
        except BaseException:
            made.remove()
            raise
        return made

    def _make(self) -> None:
        for name in (self.near, self.far):
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        # Made inside: the machine's own namespace never sees either end.
        cable = ["link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns"]
        _run("ip", "-n", self.near, *cable, self.far)
        for name, address in ((self.near, self.near_address), (self.far, self.far_address)):
            _run("ip", "-n", name, "address", "add", f"{address}/30", "dev", "cable")
            _run("ip", "-n", name, "link", "set", "cable", "up")

    def remove(self) -> None:
        for name in (self.near, self.far):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def cut(self) -> None:
        """From now on nothing that the server sends arrives."""
        _run("ip", "-n", self.far, "route", "add", "blackhole", self.near_address)

    def mend(self) -> None:
        _run("ip", "-n", self.far, "route", "del", "blackhole", self.near_address)


def _remove_orphans() -> None:
    """Namespaces of test runs that were killed."""
    for path in Path("/run/netns").glob("service-*-*"):
        pid = path.name.rpartition("-")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@functools.cache
def no_namespaces() -> str:
    """Why this machine has no network namespaces; empty where it has."""
    if shutil.which("ip") is None:
        return "the command ip is missing"
    try:
        Namespaces.make().remove()
    except subprocess.CalledProcessError as error:
        return f"{' '.join(error.cmd)}: {error.stderr.decode().strip()}"
    return ""


@dataclass
class FarPostgresql(Postgresql):
    """A server inside a namespace, asked from the other."""

    namespaces: Namespaces | None = None

    def create(self) -> FarPostgresql:
        super().create()
        with (self.directory / "data" / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet scram-sha-256\n")
        return self

    def psql(self, sql: str, database: str = "postgres") -> str:
        assert self.namespaces is not None
        program = postgresql_program("psql")
        assert program
        command = [
            "ip",
            "netns",
            "exec",
            self.namespaces.near,
            program,
            "-X",
            "-A",
            "-t",
            "-c",
            sql,
        ]
        command.append(self.url(database))
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout.strip()


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A new folder with a file system of 16 MiB. Raises CalledProcessError where it cannot be
    mounted."""
    folder.mkdir()
    with mounted(folder, SMALL_DISK_BYTES):
        yield folder


@contextlib.contextmanager
def mounted(folder: Path, size_bytes: int) -> Iterator[None]:
    """A file system of this size on a folder. Raises CalledProcessError where it cannot be."""
    _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=1777", "tmpfs", str(folder))
    try:
        yield
    finally:
        _run("umount", "-l", str(folder))
