"""Gunicorn's configuration file, as Gunicorn itself reads it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import require
from servers import ROOT, clean_environment, find_program, make_certificate
from service import master
from service.settings import Settings

CONFIG = ROOT / "gunicorn_async_config.py"
CANARY = "Kanarienvogel-in-the-coal-mine"
AS_ROOT = os.geteuid() == 0
# Prints what Gunicorn made of the file, before it does anything with it.
SHOW = """
import json, sys
from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.config import Config
app = WSGIApplication("")
hooks = [n for n, s in app.cfg.settings.items() if callable(s.get()) and s.get() != s.default]
values = {name: setting.get() for name, setting in app.cfg.settings.items()}
values |= {"hooks": hooks, "address": app.cfg.address, "class": app.cfg.worker_class_str}
print(json.dumps(values, default=lambda value: f"<{type(value).__name__}>"))
"""


def gunicorn(
    directory: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run Gunicorn with the file, to an end that has to come by itself."""
    return subprocess.run(
        [sys.executable, "-m", "gunicorn", "-c", str(CONFIG), *arguments],
        cwd=directory,
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
    )


def loaded(directory: Path, **variables: str) -> dict[str, Any]:
    """Every setting of Gunicorn under this environment."""
    shown = subprocess.run(
        [sys.executable, "-c", SHOW, "-c", str(CONFIG)],
        cwd=directory,
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shown.returncode == 0, shown.stderr
    values: dict[str, Any] = json.loads(shown.stdout)
    return values


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    require(find_program("openssl"), "openssl")
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def everything(
    tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]
) -> dict[str, Any]:
    """Gunicorn's settings where every one of ours has a value that is not the default."""
    directory = tmp_path_factory.mktemp("everything")
    certfile, keyfile = certificate
    variables = {name: text for name, text, _, _ in GIVEN}
    return loaded(
        directory,
        **variables,
        CERTFILE=str(certfile),
        KEYFILE=str(keyfile),
        PIDFILE=str(directory / "pid"),
        WORKER_TMP_DIR=str(directory),
    )


OTHER_USER = "65534" if AS_ROOT else str(os.geteuid())
OTHER_GROUP = "65533" if AS_ROOT else str(os.getegid())
GIVEN = [
    ("BIND", "127.0.0.1:9001", "bind", ["127.0.0.1:9001"]),
    ("BIND_MODE", "0640", "umask", 0o137),
    ("BACKLOG", "511", "backlog", 511),
    ("WEB_CONCURRENCY", "7", "workers", 7),
    ("WORKER_CONNECTIONS", "77", "worker_connections", 77),
    ("WORKER_TIMEOUT_SECONDS", "99", "timeout", 99),
    ("SHUTDOWN_GRACE_SECONDS", "44", "graceful_timeout", 44),
    ("KEEPALIVE_SECONDS", "66", "keepalive", 66),
    ("MAX_REQUESTS", "555", "max_requests", 555),
    ("MAX_REQUESTS_JITTER", "55", "max_requests_jitter", 55),
    ("LOG_LEVEL", "warning", "loglevel", "warning"),
    ("PROC_NAME", "library", "proc_name", "library"),
    ("RUN_AS_USER", OTHER_USER, "user", int(OTHER_USER)),
    ("RUN_AS_GROUP", OTHER_GROUP, "group", int(OTHER_GROUP)),
    (
        "FORWARDED_ALLOW_IPS",
        "10.0.0.0/8,192.0.2.1",
        "forwarded_allow_ips",
        ["10.0.0.0/8", "192.0.2.1"],
    ),
]


@pytest.mark.parametrize(("variable", "text", "name", "value"), GIVEN)
def test_a_setting_reaches_gunicorn(
    everything: dict[str, Any], variable: str, text: str, name: str, value: Any
) -> None:
    """Each from the service's settings, under Gunicorn's name."""
    assert everything[name] == value


def test_paths_reach_gunicorn(everything: dict[str, Any], certificate: tuple[Path, Path]) -> None:
    """Certificate, key, process id and heartbeat files."""
    assert everything["certfile"] == str(certificate[0])
    assert everything["keyfile"] == str(certificate[1])
    assert everything["pidfile"].endswith("/pid")
    assert everything["worker_tmp_dir"] == str(Path(everything["pidfile"]).parent)


@pytest.fixture(scope="module")
def defaults(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return loaded(tmp_path_factory.mktemp("defaults"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("class", "service.lifecycle.DrainingWorker"),
        ("wsgi_app", "service.app:create_app()"),
        ("preload_app", True),
        ("control_socket_disable", True),
        ("accesslog", None),
        ("errorlog", "-"),
        ("certfile", None),
        ("keyfile", None),
        ("pidfile", None),
        ("user", os.geteuid()),
        ("group", os.getegid()),
        ("umask", 0o117),
        ("reload", False),
        ("daemon", False),
        ("proxy_protocol", "off"),
        ("workers", 1),
        ("bind", ["127.0.0.1:8000"]),
        ("forwarded_allow_ips", ["127.0.0.1", "::1"]),
    ],
)
def test_what_holds_without_any_setting(defaults: dict[str, Any], name: str, value: Any) -> None:
    """A developer's machine: one worker on the loopback interface."""
    assert defaults[name] == value


def test_every_number_is_the_settings_own(defaults: dict[str, Any]) -> None:
    """One number, one owner: nothing is repeated in the file."""
    settings = Settings()
    assert defaults["backlog"] == settings.backlog
    assert defaults["worker_connections"] == settings.worker_connections
    assert defaults["timeout"] == settings.worker_timeout_seconds
    assert defaults["graceful_timeout"] == settings.shutdown_grace_seconds
    assert defaults["keepalive"] == settings.keepalive_seconds
    assert defaults["max_requests"] == settings.max_requests
    assert defaults["max_requests_jitter"] == settings.max_requests_jitter
    assert defaults["worker_tmp_dir"] == settings.worker_tmp_dir
    assert defaults["proc_name"] == settings.proc_name


def test_the_hooks_are_there(defaults: dict[str, Any]) -> None:
    """Reload, preloading, stack dumps and the count of workers that ended."""
    hooks = {"on_starting", "pre_fork", "post_fork", "post_worker_init", "child_exit"}
    assert hooks <= set(defaults["hooks"])


def test_on_a_unix_socket_the_proxy_is_believed(tmp_path: Path) -> None:
    """Its peer has no address that could be listed."""
    values = loaded(tmp_path, BIND=f"unix:{tmp_path}/app.sock", FORWARDED_ALLOW_IPS="10.0.0.1")
    assert values["address"] == [f"{tmp_path}/app.sock"]
    assert values["forwarded_allow_ips"] == ["*"]


def test_peers_have_an_address_of_their_own(tmp_path: Path) -> None:
    """Beside the one of the proxy that belongs to this app."""
    values = loaded(tmp_path, BIND=f"unix:{tmp_path}/app.sock", PEER_BIND="127.0.0.1:9002")
    assert values["bind"] == [f"unix:{tmp_path}/app.sock", "127.0.0.1:9002"]


def test_without_its_directory_heartbeats_go_where_temporary_files_go(tmp_path: Path) -> None:
    """Not every machine has /dev/shm."""
    values = loaded(tmp_path, WORKER_TMP_DIR="/nonexistent", TMPDIR=str(tmp_path))
    assert values["worker_tmp_dir"] == str(tmp_path)


def test_the_configuration_can_be_printed_without_a_secret(tmp_path: Path) -> None:
    """`--print-config` is what one pastes into a question."""
    run = gunicorn(tmp_path, "--print-config", SECRET_KEY=CANARY * 2, HEALTH_TOKEN=CANARY)
    assert run.returncode == 0
    assert "worker_class" in run.stdout
    assert CANARY not in run.stdout + run.stderr


def test_checking_the_configuration_leaves_nothing_behind(tmp_path: Path) -> None:
    """It ends with 0, in silence, and without a directory for metrics."""
    shm = tmp_path / "shm"
    shm.mkdir()
    run = gunicorn(tmp_path, "--check-config", WORKER_TMP_DIR=str(shm))
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert list(shm.iterdir()) == []


WRONG = {
    "ENVIRONMENT": "production",
    "DEBUG": "true",
    "SECRET_KEY": CANARY[:12],
    "DATABASE_URL": f"mysql://user:{CANARY}@db/app",
    "REDIS_URL": f"memory://{CANARY}",
    "MAIL_PORT": CANARY,
    "BIND": f"nowhere at {CANARY}",
    "WEB_CONCURRENCY": "-1",
    "DATABSE_URL": f"postgresql://user:{CANARY}@db/app",
}


@pytest.mark.parametrize("arguments", [(), ("--check-config",), ("--print-config",)])
def test_a_wrong_configuration_is_one_report_and_exit_code_78(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """With everything that is wrong in it, once and not once a worker, and with no value."""
    run = gunicorn(tmp_path, *arguments, **WRONG | {"WEB_CONCURRENCY": "0"})
    assert run.returncode == 78
    assert run.stdout == ""
    head, *problems = run.stderr.splitlines()
    assert head == f"configuration error: {len(problems)} problems"
    named = [problem.split()[0] for problem in problems]
    for variable in ("DEBUG", "SECRET_KEY", "MAIL_PORT", "BIND", "WEB_CONCURRENCY", "DATABSE_URL"):
        assert named.count(variable) == 1, run.stderr
    for trace in (CANARY, CANARY[:12], "Traceback"):
        assert trace not in run.stderr


def wrong(directory: Path, **variables: str) -> str:
    """The one problem this machine has with a configuration."""
    run = gunicorn(directory, "--check-config", **variables)
    assert run.returncode == 78, run.stderr
    head, problem = run.stderr.splitlines()
    assert head == "configuration error: 1 problem"
    return problem.strip()


def test_an_unknown_user_is_a_wrong_configuration(tmp_path: Path) -> None:
    """Gunicorn would find out later, and less clearly."""
    assert wrong(tmp_path, RUN_AS_USER="no-such-user").startswith("RUN_AS_USER (environment)")


def test_an_unknown_group_is_a_wrong_configuration(tmp_path: Path) -> None:
    """As is an unknown user."""
    assert wrong(tmp_path, RUN_AS_GROUP="no-such-group").startswith("RUN_AS_GROUP (environment)")


@pytest.mark.skipif(not AS_ROOT, reason="only root can change to another user")
def test_a_user_of_no_known_group_needs_one(tmp_path: Path) -> None:
    """It would be left with root's."""
    assert wrong(tmp_path, RUN_AS_USER="54321").startswith("RUN_AS_GROUP (default)")


def test_a_master_that_is_not_root_cannot_change_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every worker would fail at it, one after the other."""
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert "not root" in master._user(Settings(run_as_user="1235"))
    assert master._user(Settings(run_as_user="1234")) == ""
    assert master._user(Settings()) == ""


@pytest.mark.parametrize(
    "path",
    ["{0}/missing/app.sock", "{0}/file", "{0}/" + "x" * 120],
    ids=["no directory", "a file is there", "too long"],
)
def test_a_socket_that_cannot_be_made_is_a_wrong_configuration(tmp_path: Path, path: str) -> None:
    """Found before anything is bound."""
    (tmp_path / "file").touch()
    assert wrong(tmp_path, BIND=f"unix:{path.format(tmp_path)}").startswith("BIND (environment)")


def test_a_stale_socket_is_no_problem(tmp_path: Path) -> None:
    """A killed master leaves one behind; Gunicorn replaces it."""
    make_socket = "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])"
    path = tmp_path / "app.sock"
    subprocess.run([sys.executable, "-c", make_socket, str(path)], check=True)
    assert gunicorn(tmp_path, "--check-config", BIND=f"unix:{path}").returncode == 0


def test_a_pid_file_that_cannot_be_written_is_a_wrong_configuration(tmp_path: Path) -> None:
    """Its directory is missing."""
    assert wrong(tmp_path, PIDFILE=f"{tmp_path}/missing/pid").startswith("PIDFILE (environment)")


def test_a_missing_certificate_is_a_wrong_configuration(tmp_path: Path) -> None:
    """A worker would fail at it, and the service go up and down."""
    missing = {"CERTFILE": f"{tmp_path}/crt", "KEYFILE": f"{tmp_path}/key"}
    assert wrong(tmp_path, **missing).startswith("CERTFILE (environment)")


def test_a_key_of_another_certificate_is_a_wrong_configuration(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    """The usual mistake of a renewal by hand."""
    _, other_key = make_certificate(tmp_path)
    problem = wrong(tmp_path, CERTFILE=str(certificate[0]), KEYFILE=str(other_key))
    assert problem.startswith("CERTFILE (environment)")
    assert "belong together" in problem


class FakeLog:
    def __init__(self) -> None:
        self.errors: list[tuple[str, dict[str, Any]]] = []

    def error(self, message: str, **more: Any) -> None:
        self.errors.append((message, more))


class FakeApp:
    """Gunicorn's application: `reload` replaces the configuration, `load` makes the callable."""

    def __init__(self) -> None:
        self.cfg = "old configuration"
        self.callable = "old application"
        self.fails: BaseException | None = None

    def reload(self) -> None:
        self.cfg = "new configuration"

    def load(self) -> str:
        if self.fails:
            raise self.fails
        return "new application"


class FakeServer:
    """Gunicorn's arbiter: its `reload` ends the old workers once the application is reloaded."""

    def __init__(self) -> None:
        self.app = FakeApp()
        self.log = FakeLog()
        self.workers = "old workers"
        self.worker_age = 0
        self.child: Callable[[], None] = lambda: None

    def reload(self) -> None:
        self.app.reload()
        self.workers = "new workers"
        self.child()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeServer:
    """A guarded one that listens where the settings say."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    server = FakeServer()
    master.guard_reload(server, Settings())
    return server


def test_a_reload_replaces_everything(server: FakeServer) -> None:
    """Configuration, application, workers."""
    server.reload()
    assert server.app.cfg == "new configuration"
    assert server.app.callable == "new application"
    assert server.workers == "new workers"
    assert server.log.errors == []


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1)])
def test_a_reload_that_fails_replaces_nothing(server: FakeServer, error: BaseException) -> None:
    """The master would have ended, and left its workers behind."""
    server.app.fails = error
    server.reload()
    assert server.app.cfg == "old configuration"
    assert server.app.callable == "old application"
    assert server.workers == "old workers"
    [(message, _)] = server.log.errors
    assert message == "reload_refused"


def test_a_reload_with_a_wrong_configuration_is_refused(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all problems in one message, and no value."""
    monkeypatch.setenv("MAIL_PORT", CANARY)
    monkeypatch.setenv("DEBUG", CANARY)
    server.reload()
    assert server.workers == "old workers"
    [(message, more)] = server.log.errors
    assert message == "reload_refused"
    assert [problem.split()[0] for problem in more["extra"]["problems"]] == ["DEBUG", "MAIL_PORT"]
    assert CANARY not in repr(more)


@pytest.mark.parametrize("variable", ["BIND", "PEER_BIND"])
def test_a_reload_cannot_change_an_address(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """The old one would be closed before the new one is had."""
    monkeypatch.setenv(variable, "127.0.0.1:9999")
    server.reload()
    assert server.workers == "old workers"
    [(_, more)] = server.log.errors
    assert more["extra"]["problems"][0].startswith(variable)


def test_a_reload_can_be_tried_again(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the mistake is mended."""
    server.app.fails = ValueError("x")
    server.reload()
    server.app.fails = None
    server.reload()
    assert server.workers == "new workers"


def test_a_worker_forked_by_a_reload_can_end(server: FakeServer) -> None:
    """It leaves through the same function, by SystemExit."""

    def child() -> None:
        raise SystemExit(0)

    server.child = child
    with pytest.raises(SystemExit):
        server.reload()
    assert server.log.errors == []
