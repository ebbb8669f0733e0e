"""A real nginx with the shipped configuration, rendered as it is in production, on free ports: the
one installed on this machine (its oldest supported version) or the one of the container image."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx2 as httpx

from echo import Echo
from servers import (
    PR_SET_PDEATHSIG,
    ROOT,
    clean_environment,
    docker_program,
    find_program,
    free_port,
    wait_until,
)

IMAGE = os.environ.get("NGINX_IMAGE", "nginxinc/nginx-unprivileged:stable")
RENDER = ROOT / "deploy" / "nginx" / "render"
TEMPLATE = ROOT / "nginx.conf"
NAME = "example.org"
KINDS = ("installed", "image")
LONGEST_LIFE_SECONDS = 900  # of a container whose test process died

Change = tuple[str, str | None]


def stop_with_parent() -> None:
    """Run in the child. Not SIGKILL: nginx's master has to end its workers."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def installed() -> str | None:
    return find_program("nginx", "/usr/sbin/nginx")


@cache
def image_there() -> str | None:
    """The image, where an engine answers and has it."""
    program = docker_program()
    if program is None:
        return None
    found = subprocess.run([program, "image", "inspect", IMAGE], capture_output=True, timeout=30)
    return IMAGE if found.returncode == 0 else None


def available(kind: str) -> str | None:
    return installed() if kind == "installed" else image_there()


def changed(template: str, changes: Iterable[Change]) -> str:
    """The template with texts replaced, or with the whole lines gone that hold them.

    Each has to be there, so that no change is none.
    """
    for old, new in changes:
        assert old in template, f"the template has no {old!r}"
        if new is None:
            kept = [line for line in template.splitlines(keepends=True) if old not in line]
            template = "".join(kept)
        else:
            template = template.replace(old, new)
    return template


def render(
    output: Path, template: Path = TEMPLATE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The script, with these variables and none of the machine's that configure it."""
    return subprocess.run(
        [str(RENDER), str(output), str(template)],
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=60,
    )


def valid_json(line: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError as error:
        raise AssertionError(f"{line!r} is no JSON: {error}") from error


@dataclass
class Nginx:
    """`directory` must be open to other users, as nginx's workers are others."""

    directory: Path
    kind: str = "installed"
    environment: Mapping[str, str] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    name: str = NAME
    http_port: int = field(default_factory=free_port)
    port: int = field(default_factory=free_port)
    internal_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    container: str = ""
    client: httpx.Client | None = None

    def folder(self, name: str) -> Path:
        """One that nginx and the tests may write."""
        path = self.directory / name
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777)
        return path

    def variables(self) -> dict[str, str]:
        defaults = {
            "SERVER_NAMES": f"{self.name},*.wild.example",
            "UPSTREAM": f"unix:{self.folder('run')}/web.sock",
            "HTTP_PORT": str(self.http_port),
            "HTTPS_PORT": str(self.port),
            "INTERNAL_PORT": str(self.internal_port),
            "PUBLIC_HTTPS_PORT": str(self.port),
            "TLS_FOLDER": str(self.folder("tls")),
            "CACHE_FOLDER": str(self.folder("cache")),
            "STATIC_FOLDER": str(self.folder("static")),
            "MEDIA_FOLDER": str(self.folder("media")),
            "ACME_FOLDER": str(self.folder("acme")),
            "PID_FILE": str(self.folder("state") / "nginx.pid"),
            "ACCESS_LOG_FILE": str(self.folder("logs") / "access.log"),
            "ERROR_LOG_FILE": str(self.folder("logs") / "error.log"),
            "WORKER_PROCESSES": "2",
            "HTTP3": "auto",
        }
        return defaults | dict(self.environment)

    @property
    def config(self) -> Path:
        return self.folder("state") / "nginx.conf"

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o777)
        shutil.copy(RENDER, self.directory / "render")
        template = self.directory / "template"
        template.write_text(changed(TEMPLATE.read_text(), self.changes))

    def start(self) -> Nginx:
        self._prepare()
        started = self._in_container() if self.kind == "image" else self._on_machine()
        with (self.directory / "output").open("ab") as output:
            self.process = subprocess.Popen(
                started,
                env=clean_environment(**self.variables()),
                stdout=output,
                stderr=output,
                preexec_fn=stop_with_parent,
            )
        wait_until(self._answers, seconds=30)
        limits = httpx.Limits(max_connections=300)
        self.client = httpx.Client(verify=self.tls(), timeout=30, limits=limits)
        return self

    @property
    def _rendering(self) -> str:
        return f"{self.directory}/render {self.config} {self.directory}/template"

    def _command(self) -> str:
        start = f"exec nginx -e {self.folder('logs')}/error.log -c {self.config} -g 'daemon off;'"
        return f"{self._rendering} && {start}"

    def _on_machine(self) -> list[str]:
        program = installed()
        assert program
        path = f"PATH=$PATH:{Path(program).parent}; export PATH; "
        return ["sh", "-c", path + self._command()]

    def _in_container(self) -> list[str]:
        """As production runs it: not root, nothing writable but what it is given."""
        program = docker_program()
        assert program
        self.container = f"service-test-nginx-{secrets.token_hex(6)}"
        options = ["--rm", "--name", self.container, "--network", "host", "--read-only"]
        options += ["--tmpfs", "/tmp", "--cap-drop", "ALL", "--entrypoint", "sh"]
        options += [
            "--security-opt",
            "no-new-privileges",
            "-v",
            f"{self.directory}:{self.directory}",
        ]
        if os.geteuid() != 0:
            options += ["--user", f"{os.getuid()}:{os.getgid()}"]
        for name, value in self.variables().items():
            options += ["-e", f"{name}={value}"]
        end = f"(sleep {LONGEST_LIFE_SECONDS}; kill 1) & "
        return [program, "run", *options, IMAGE, "-c", end + self._command()]

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"nginx ended: {self.output[-3000:]}{self.errors[-3000:]}")
        with contextlib.suppress(httpx.HTTPError):
            return self.internal("/nginx-health").status_code == 200
        return False

    def run(self, *arguments: str) -> None:
        """nginx's own commands, such as `-s reload`."""
        self._beside(["nginx", "-e", "/dev/null", "-c", str(self.config), *arguments])

    def reconfigure(self, **environment: str) -> None:
        """Make it use other variables, as an operator does: render and reload."""
        self.environment = {**self.environment, **environment}
        self._beside(["sh", "-c", self._rendering])
        self.run("-s", "reload")

    def _beside(self, command: list[str]) -> None:
        variables = self.variables()
        if self.kind == "image":
            program = docker_program()
            assert program
            given = [
                item for name, value in variables.items() for item in ("-e", f"{name}={value}")
            ]
            command = [program, "exec", *given, self.container, *command]
        elif command[0] == "nginx":
            command[0] = str(installed())
        environment = clean_environment(**variables)
        subprocess.run(command, check=True, capture_output=True, timeout=30, env=environment)

    def stop(self) -> None:
        if self.client:
            self.client.close()
        if self.process is None:
            return
        process, self.process = self.process, None
        if self.container:
            program = docker_program()
            assert program
            subprocess.run([program, "rm", "-f", self.container], capture_output=True, timeout=60)
        elif process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)

    # What it wrote

    @property
    def output(self) -> str:
        return (self.directory / "output").read_text()

    @property
    def errors(self) -> str:
        path = self.folder("logs") / "error.log"
        return path.read_text() if path.exists() else ""

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The access log; every line has to be valid JSON."""
        whole = (self.folder("logs") / "access.log").read_bytes().rpartition(b"\n")[0]
        return [valid_json(line) for line in whole.splitlines()]

    def line(self, **wanted: Any) -> dict[str, Any]:
        """The first line with these members, once it is there."""

        def first() -> dict[str, Any] | None:
            return next((line for line in self.lines if wanted.items() <= line.items()), None)

        found: dict[str, Any] = wait_until(first, seconds=5)
        return found

    # Its clients

    @property
    def certificate(self) -> Path:
        return self.folder("tls") / "development.crt"

    def tls(self) -> ssl.SSLContext:
        """Trusts this nginx alone."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def ask(
        self, path: str, method: str = "GET", *, host: str = "", sni: str = "", **more: Any
    ) -> httpx.Response:
        """Over https, on a connection that is kept."""
        assert self.client
        self.client.cookies.clear()
        headers = {"Host": host or f"{self.name}:{self.port}", **more.pop("headers", {})}
        extensions = {"sni_hostname": sni or self.name}
        url = f"https://127.0.0.1:{self.port}{path}"
        return self.client.request(method, url, headers=headers, extensions=extensions, **more)

    def plain(
        self, path: str, method: str = "GET", *, host: str = "", **more: Any
    ) -> httpx.Response:
        """On the http port."""
        url = f"http://127.0.0.1:{self.http_port}{path}"
        return httpx.request(method, url, headers={"Host": host or self.name}, **more)

    def internal(self, path: str, **more: Any) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.internal_port}{path}", timeout=5, **more)

    def connect(
        self, *, name: str = "", receive_bytes: int = 0, context: ssl.SSLContext | None = None
    ) -> ssl.SSLSocket:
        """A connection by hand."""
        raw = socket.socket()
        if receive_bytes:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        raw.settimeout(30)
        raw.connect(("127.0.0.1", self.port))
        return (context or self.tls()).wrap_socket(raw, server_hostname=name or self.name)

    def head(self, method: str, path: str, *lines: str) -> bytes:
        """A request's head."""
        first = (f"{method} {path} HTTP/1.1", f"Host: {self.name}")
        return "\r\n".join([*first, *lines, "", ""]).encode("latin-1")


@dataclass
class Site:
    """nginx and the upstreams behind it; the second one is not asked where nothing names it."""

    nginx: Nginx
    echo: Echo
    second: Echo


@contextlib.contextmanager
def running_site(
    directory: Path, kind: str, environment: Mapping[str, str], changes: tuple[Change, ...] = ()
) -> Iterator[Site]:
    """Start a site for a block; `unix:/web.sock` and `unix:/next.sock` are its two upstreams."""
    run = f"unix:{directory}/run"
    here = {name: value.replace("unix:", run) for name, value in environment.items()}
    nginx = Nginx(directory, kind, here, changes)
    folder = nginx.folder("run")
    with Echo(folder / "web.sock") as echo, Echo(folder / "next.sock", "second") as second:
        try:
            yield Site(nginx.start(), echo, second)
        finally:
            nginx.stop()
