"""Real servers for tests: PostgreSQL, Redis and Gunicorn, each in a temporary directory on a free
port of the loopback interface, and ended with the process that started it."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import json
import os
import pwd
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

ROOT = Path(__file__).resolve().parents[1]
PR_SET_PDEATHSIG = 1
OWN_PORTS = (15_000, 32_000)  # below those of /proc/sys/net/ipv4/ip_local_port_range
CLAIMS: deque[int] = deque()
MOST_CLAIMS = 300  # until then the first of them is bound, or nobody wants it any more
CHANCE = random.SystemRandom()  # property tests give `random` the same seed again and again


def free_port() -> int:
    """A port that nobody has, and that nobody is given before it is bound, in any process.

    Not one that the kernel would choose: any connection to anywhere may be given that meanwhile.
    """
    while True:
        port = CHANCE.randrange(*OWN_PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe, _claim(port) as claim:
            probe.bind(("127.0.0.1", port))
            CLAIMS.append(claim.detach())
            if len(CLAIMS) > MOST_CLAIMS:
                os.close(CLAIMS.popleft())
            return port


def _claim(port: int) -> socket.socket:
    """A name that only one process can have, and that is free again when it ends."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0service-tests-{port}")
    except OSError:
        claim.close()
        raise
    return claim


def end_with_parent() -> None:
    """Run in the child: the kernel kills it when the test process dies, however it dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def as_at_a_terminal() -> None:
    """Run in the child: Ctrl-C ends it. Where this suite itself was started in the background, that
    is ignored, and a shell cannot change what it was born with."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def wait_until(condition: Callable[[], Any], *, seconds: float = 30, every: float = 0.02) -> Any:
    """The first true result of a condition. Raises TimeoutError.

    `seconds` is for a busy machine; how long something may take is for the test to measure.
    """
    end = time.monotonic() + seconds
    while True:
        if result := condition():
            return result
        if time.monotonic() > end:
            raise TimeoutError(f"not true within {seconds} s: {condition}")
        time.sleep(every)


def cpu_seconds(pid: int) -> float:
    """What a process has taken of CPU since it began."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle_cpu_seconds(pid: int) -> float:
    """What it takes in a second in which it has nothing to do: the median of five, as its start may
    not be over in the first of them."""
    taken = []
    for _ in range(5):
        before = cpu_seconds(pid)
        time.sleep(1)
        taken.append(cpu_seconds(pid) - before)
    return statistics.median(taken)


def whole_lines(log: str) -> list[str]:
    """Without the end of what is being written."""
    return log.rpartition("\n")[0].splitlines()


def children(pid: int) -> list[int]:
    out = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
    return list(map(int, out.stdout.split()))


def has_ended(pid: int) -> bool:
    """Also where nobody has asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter while it is read
        return True


def find_program(name: str, *more: str) -> str | None:
    """A program from PATH or from where Debian keeps it."""
    candidates = [shutil.which(name), *more]
    return next((path for path in candidates if path and os.path.exists(path)), None)


def docker_program() -> str | None:
    """The distribution's first: another one in PATH may be a wrapper."""
    candidates = ("/usr/bin/docker", shutil.which("docker"))
    return next((path for path in candidates if path and os.path.exists(path)), None)


def postgresql_program(name: str) -> str | None:
    return find_program(name, *sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), reverse=True))


def speaks_postgresql(host: str, port: int, prefix: tuple[str, ...] = ()) -> bool:
    """Whether a server or a pooler lets clients in."""
    program = postgresql_program("pg_isready")
    assert program
    command = [*prefix, program, "-h", host, "-p", str(port), "-t", "1"]
    return subprocess.run(command, capture_output=True).returncode == 0


def require(found: object, name: str) -> None:
    """Skip, by name, what this machine cannot run. In CI nothing may be skipped."""
    if not found:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")


def unprivileged() -> dict[str, Any]:
    """PostgreSQL refuses to run as root: keyword arguments that make a child somebody else."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@dataclass
class Postgresql:
    """A cluster of its own, with a superuser named service and the password `sesame-open`."""

    directory: Path
    host: str = "127.0.0.1"
    options: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    initdb: tuple[str, ...] = ()  # more options
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    password: str = "sesame-open"

    def create(self) -> Postgresql:
        self.directory.mkdir(parents=True, exist_ok=True)
        who = unprivileged()
        if who:
            os.chown(self.directory, who["user"], who["group"])
        secret = self.directory / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)
        initdb = postgresql_program("initdb")
        assert initdb, "PostgreSQL is not installed"
        subprocess.run(
            [initdb, "-D", self.directory / "data", "-U", "service", "-A", "scram-sha-256"]
            + ["--pwfile", secret, "-E", "UTF8", "--no-sync", "--locale", "C", *self.initdb],
            check=True,
            capture_output=True,
            cwd="/",
            **who,
        )
        return self

    def start(self) -> Postgresql:
        program = postgresql_program("postgres")
        assert program
        settings = {
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 60,
            "shared_buffers": "32MB",
        }
        options = [item for name, value in settings.items() for item in ("-c", f"{name}={value}")]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, program, "-D", self.directory / "data", *options, *self.options],
                stdout=log,
                stderr=log,
                cwd="/",
                preexec_fn=end_with_parent,
                **({} if self.prefix else unprivileged()),
            )
        wait_until(self.answers, seconds=30)
        return self

    def answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError((self.directory / "log").read_text()[-2000:])
        return speaks_postgresql(self.host, self.port, self.prefix[:4])

    def stop(self) -> None:
        """Fast shutdown, also of a frozen server."""
        if self.process is None:
            return
        self.thaw()
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.process = None

    def processes(self) -> list[int]:
        assert self.process is not None
        return [self.process.pid, *children(self.process.pid)]

    def freeze(self) -> None:
        """SIGSTOP to every process: it accepts connections, in the kernel, and never answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)  # first of all, so that no child is missed
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def allow(self, network: str) -> Postgresql:
        """Also clients from there, before it is started: a machine's own are let in anyway."""
        with (self.directory / "data" / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {network} scram-sha-256\n")
        return self

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://service:{self.password}@{self.host}:{self.port}/{database}"

    def psql(self, sql: str, database: str = "postgres") -> str:
        program = postgresql_program("psql")
        assert program
        command = [
            program,
            "-X",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            sql,
            self.url(database),
        ]
        result = subprocess.run(command, capture_output=True, text=True, timeout=30)
        if result.returncode:
            raise RuntimeError(result.stderr)
        return result.stdout.strip()

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"test_{time.monotonic_ns()}"
        self.psql(f"CREATE DATABASE {name}")
        return self.url(name)


@dataclass
class OneProcess:
    """A server that is one process; subclasses start it."""

    directory: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def freeze(self) -> None:
        """It accepts connections, in the kernel, and never answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


@dataclass
class RedisServer(OneProcess):
    host: str = "127.0.0.1"

    def start(self) -> RedisServer:
        program = find_program("redis-server")
        assert program, "Redis is not installed"
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [program, "--port", str(self.port), "--bind", self.host, "--save", ""]
        command += ["--protected-mode", "no"]  # says nothing of loopback
        self.process = subprocess.Popen(
            [*command, "--dir", str(self.directory)],
            stdout=subprocess.DEVNULL,
            preexec_fn=end_with_parent,
        )
        wait_until(self.answers)
        return self

    def answers(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection((self.host, self.port), 1) as s,
        ):
            s.sendall(b"PING\r\n")
            return s.recv(10).startswith(b"+PONG")
        return False

    def flush(self) -> None:
        """Forget everything."""
        with socket.create_connection((self.host, self.port), 5) as s:
            s.sendall(b"FLUSHALL\r\n")
            assert s.recv(10) == b"+OK\r\n"

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"


def make_certificate(directory: Path, *, days: int = 2) -> tuple[Path, Path]:
    """(certificate, key) for localhost and 127.0.0.1, signed by itself."""
    certificate, key = directory / "tls.crt", directory / "tls.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        + ["-nodes", "-days", str(days), "-keyout", key, "-out", certificate]
        + ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )
    return certificate, key


def clean_environment(**more: str) -> dict[str, str]:
    """What a process needs of the machine, and nothing that configures the service."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | more


def service_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "service", *arguments]


def run_service(
    *arguments: str, environment: Mapping[str, str], cwd: Path, seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run one of the service's commands to its end."""
    return subprocess.run(
        service_command(*arguments),
        env=dict(environment),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


@dataclass
class Web:
    """Gunicorn with the shipped configuration, in a directory of its own."""

    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    config: Path = ROOT / "gunicorn_async_config.py"
    # Not `python -m gunicorn`: started anew (USR2), that finds Gunicorn's modules for Python's own.
    program: tuple[str, ...] = (sys.executable, str(Path(sys.executable).with_name("gunicorn")))
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def variables(self) -> dict[str, str]:
        defaults = {
            "BIND": f"127.0.0.1:{self.port}",
            "BIND_MODE": "0666",  # nginx of the tests is somebody else
            "WEB_CONCURRENCY": "1",
            "UPLOAD_FOLDER": str(self.directory / "uploads"),
            "SHUTDOWN_DRAIN_SECONDS": "0.5",
            "SHUTDOWN_GRACE_SECONDS": "5",
            "HEALTH_TOKEN": "token-of-the-tests",
            "MAILS_PER_NETWORK": "1000",  # all clients are at one address
        }
        return clean_environment(**(defaults | dict(self.environment)))

    def start(self, *, wait: str | None = "/health/live") -> Web:
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [*self.program, "-c", str(self.config), *self.arguments]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *command],
                cwd=self.directory,
                env=self.variables(),
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent,
            )
        if wait is not None:
            wait_until(lambda: self.status(wait) == 200, seconds=60)
            workers = int(self.variables()["WEB_CONCURRENCY"])
            # One worker answers: what is sent to all of them next is to find all of them.
            wait_until(lambda: workers == 1 or len(self.beating()) == workers)
        return self

    @property
    def log_path(self) -> Path:
        return self.directory / "web.log"

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, *, timeout: float = 30, **more: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=timeout, **more)

    def status(self, path: str, *, timeout: float = 5) -> int:
        """The status of a GET; 0 where nothing answers."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"Gunicorn ended: {self.log[-3000:]}")
        try:
            return self.get(path, timeout=timeout).status_code
        except httpx.HTTPError:
            return 0

    def metrics(self) -> str:
        return self.get("/metrics").text

    def beating(self) -> set[int]:
        """The workers that have begun and whose heart beats."""
        try:
            beats = re.findall(r'heartbeat[^ ]*pid="([0-9]+)"[^ ]* ([0-9.e+]+)', self.metrics())
        except httpx.HTTPError:  # busy
            return set()
        return {int(pid) for pid, at in beats if float(at)}

    def workers(self) -> list[int]:
        assert self.process is not None
        return children(self.process.pid)

    def send_signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def events(self, message: str = "") -> list[dict[str, Any]]:
        """The log's lines, of this message or all; every one has to be valid JSON."""
        events = [json.loads(line) for line in whole_lines(self.log)]
        return [event for event in events if message in ("", event["message"])]

    def stop(self, number: int = signal.SIGQUIT, *, seconds: float = 20) -> int:
        """End it and return its exit code."""
        if self.process is None:
            return 0
        process, self.process = self.process, None
        if process.poll() is None:
            process.send_signal(number)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait(5)


@contextlib.contextmanager
def running(server: Any, **more: Any) -> Iterator[Any]:
    """Start a server for a block and end it whatever happens."""
    try:
        yield server.start(**more)
    finally:
        server.stop()


@dataclass
class Worker:
    """`service worker`, with the tasks of `job_tasks.py` beside the service's own.

    The tasks write what they do to `notes`, one line each, in the worker's directory.
    """

    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = (sys.executable, str(ROOT / "tests" / "job_tasks.py"), "worker")
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> Worker:
        self.directory.mkdir(parents=True, exist_ok=True)
        notes = str(self.directory.parent / "notes")
        defaults = {"UPLOAD_FOLDER": str(self.directory.parent / "uploads"), "NOTES": notes}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.program,
                cwd=self.directory,
                env=clean_environment(**(defaults | dict(self.environment))),
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent,
            )
        return self

    @property
    def log_path(self) -> Path:
        return self.directory / "worker.log"

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def lines(self, message: str) -> list[dict[str, Any]]:
        """The log lines with a message."""
        found = [json.loads(line) for line in whole_lines(self.log) if line.startswith("{")]
        return [line for line in found if line["message"] == message]

    def wait_for(self, message: str, *, seconds: float = 60) -> dict[str, Any]:
        """The first log line with a message."""

        def first() -> dict[str, Any] | None:
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"the worker ended: {self.log[-3000:]}")
            return next(iter(self.lines(message)), None)

        line: dict[str, Any] = wait_until(first, seconds=seconds)
        return line

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def send_signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGKILL, *, seconds: float = 20) -> int:
        """End it and return its exit code."""
        if self.process is None:
            return 0
        process, self.process = self.process, None
        if process.poll() is None:
            process.send_signal(number)
            if number != signal.SIGKILL:
                process.send_signal(signal.SIGCONT)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait(5)
