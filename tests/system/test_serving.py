"""Gunicorn with the shipped configuration: starting, reloading, replacing workers and stopping,
with clients connected all the while. A failed request is a failed test.
"""

import contextlib
import os
import pwd
import resource
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import httpx2 as httpx
import pytest

from conftest import require
from servers import Web, children, find_program, free_port, has_ended, make_certificate, wait_until
from service.master import UNREACHABLE_SECONDS
from service.settings import Settings
from system.health_faults import UnixConnection
from traffic import Traffic

pytestmark = pytest.mark.alone

MakeWeb = Callable[..., Web]
Environment = dict[str, str]
CANARY = "Kanarienvogel-in-the-coal-mine"
ONE = {"WEB_CONCURRENCY": "1"}
LONG_DRAIN = {"SHUTDOWN_DRAIN_SECONDS": "6", "SHUTDOWN_GRACE_SECONDS": "12"}


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Conversation:
    """One connection, by hand: a request can be sent in parts."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)

    def __enter__(self) -> "Conversation":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def begin(self) -> None:
        """A POST whose body has not come yet: the worker is waiting in the middle of a request."""
        self.socket.sendall(
            b"POST /api/accounts/confirm HTTP/1.1\r\nHost: localhost\r\n"
            b'Content-Type: application/json\r\nContent-Length: 18\r\n\r\n{"token": '
        )

    def finish(self) -> tuple[int, dict[str, str]]:
        self.socket.sendall(b'"short"}')
        return self.receive()

    def ask(self, path: str = "/health/live") -> tuple[int, dict[str, str]]:
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return self.receive()

    def receive(self) -> tuple[int, dict[str, str]]:
        """(status, headers) of an answer that came whole."""
        with self.socket.makefile("rb") as file:
            status = int(file.readline().split()[1])
            lines = iter(lambda: file.readline().decode().strip(), "")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            length = int(headers.get("content-length", 0))
            assert len(file.read(length)) == length
        return status, headers


@contextlib.contextmanager
def in_the_middle_of_a_request(web: Web) -> Iterator[Conversation]:
    with Conversation(web.port) as conversation:
        conversation.begin()
        wait_until(lambda: gauge(web, "http_requests_in_progress") == 1)
        yield conversation


def gauge(web: Web, name: str) -> float:
    lines = web.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split()[0] == name)


# Starting


def test_a_wrong_configuration_binds_nothing(tmp_path: Path, embedded_environment: Environment):
    """The port is taken: who tries to bind it complains of that, and not of the configuration."""
    web = Web(tmp_path / "web", embedded_environment | {"MAIL_PORT": CANARY, "DEBUG": CANARY})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", web.port))
        taken.listen()
        web.start(wait=None)
        assert web.process
        assert web.process.wait(20) == 78
    assert web.log.startswith("configuration error: 2 problems\n")
    assert "in use" not in web.log
    assert CANARY not in web.log
    assert list((tmp_path / "shm").iterdir()) == []


def test_a_wrong_configuration_never_accepts(tmp_path: Path, embedded_environment: Environment):
    """From its start to its end nothing listens."""
    web = Web(tmp_path / "web", embedded_environment | {"MAIL_PORT": CANARY})
    web.start(wait=None)
    assert web.process
    while web.process.poll() is None:
        assert not accepts(web.port)
    assert web.process.returncode == 78
    assert len(web.log.splitlines()) == 2


WATCH_IMPORTS = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in ("service.app", "fastapi", "sqlalchemy"):
            with open(os.environ["IMPORTS"], "a") as file:
                file.write(f"{name} {os.getpid()}\\n")
sys.meta_path.insert(0, Watch())
"""
WATCH_FREEZE = """
import gc as _gc, os as _os
exec(compile(open({config!r}).read(), {config!r}, "exec"))
_shipped = post_worker_init
def post_worker_init(worker):
    _shipped(worker)
    with open(_os.environ["FROZEN"], "a") as file:
        file.write(f"{{_gc.get_freeze_count()}}\\n")
"""


@pytest.fixture
def preloaded(make_web: MakeWeb, tmp_path: Path, embedded_environment: Environment) -> Web:
    """Two workers, with what they import and freeze written down."""
    (tmp_path / "sitecustomize.py").write_text(WATCH_IMPORTS)
    config = tmp_path / "watched.py"
    config.write_text(WATCH_FREEZE.format(config=str(Web.config)))
    watched = {
        "PYTHONPATH": str(tmp_path),
        "IMPORTS": str(tmp_path / "imports"),
        "FROZEN": str(tmp_path / "frozen"),
    }
    web = make_web(embedded_environment | watched, config=config)
    wait_until(lambda: len((tmp_path / "frozen").read_text().splitlines()) == 2)
    return web


def test_the_application_is_imported_once(preloaded: Web, tmp_path: Path) -> None:
    """In the master; the workers have it from there."""
    assert preloaded.process
    imports = (tmp_path / "imports").read_text().split("\n")[:-1]
    pid = preloaded.process.pid
    assert sorted(imports) == [f"fastapi {pid}", f"service.app {pid}", f"sqlalchemy {pid}"]


def test_what_is_imported_is_out_of_the_collectors_sight(preloaded: Web, tmp_path: Path) -> None:
    """Or every collection in a worker would write to, and so copy, all of its memory."""
    counts = [int(line) for line in (tmp_path / "frozen").read_text().splitlines()]
    assert all(count > 50_000 for count in counts)


def test_workers_share_most_of_their_memory(preloaded: Web) -> None:
    """What is theirs alone is the smaller part."""
    for pid in preloaded.workers():
        sizes = {
            line.split()[0]: int(line.split()[1])
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        }
        assert sizes["Private_Dirty:"] < 0.5 * sizes["Rss:"], sizes


def test_the_master_opens_nothing_but_its_listener(preloaded: Web) -> None:
    """No connection, no thread and no event loop is there to be inherited."""
    assert preloaded.process
    pid = preloaded.process.pid
    assert len(os.listdir(f"/proc/{pid}/task")) == 1
    targets = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    kinds = [target.split(":")[0] for target in targets]
    assert kinds.count("socket") == 1, targets
    assert "anon_inode" not in kinds, targets
    assert not any("sqlite" in target for target in targets)


def test_a_process_may_open_as_many_files_as_it_is_allowed_to(
    make_web: MakeWeb, embedded_environment: Environment
) -> None:
    web = make_web(embedded_environment, prefix=("prlimit", "--nofile=256:2048"))
    limits = {resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in web.workers()}
    assert limits == {(2048, 2048)}


def test_the_process_id_is_written_while_the_service_runs(
    make_web: MakeWeb, tmp_path: Path, embedded_environment: Environment
) -> None:
    """And gone afterwards."""
    pidfile = tmp_path / "pid"
    web = make_web(embedded_environment | {"PIDFILE": str(pidfile)})
    assert web.process
    assert int(pidfile.read_text()) == web.process.pid
    assert web.stop(signal.SIGTERM) == 0
    assert not pidfile.exists()


def test_on_a_unix_socket_the_proxys_word_is_taken_for_the_client(
    make_web: MakeWeb, tmp_path: Path, embedded_environment: Environment
) -> None:
    """The access log names the client, not the proxy."""
    path = tmp_path / "app.sock"
    web = make_web(embedded_environment | {"BIND": f"unix:{path}"}, wait=None)
    wait_until(lambda: path.exists() and ask_at(path) == (404, ""), seconds=60)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=30) as client:
        headers = {"X-Forwarded-For": "192.0.2.7"}
        assert client.get("http://localhost/from-a-client", headers=headers).status_code == 404
    [event] = wait_until(lambda: [e for e in web.events("request") if "client" in e["path"]])
    assert event["client"] == "192.0.2.7"
    web.stop(signal.SIGTERM)
    assert not path.exists()


@pytest.mark.parametrize("mode", [Settings().bind_mode, "0666"])
def test_who_may_connect_to_a_unix_socket_is_a_setting(
    make_web: MakeWeb, tmp_path: Path, embedded_environment: Environment, mode: str
) -> None:
    """Who may write to it connects, and is believed. The umask of who starts it does not matter."""
    path = tmp_path / "app.sock"
    listening = {"BIND": f"unix:{path}", "BIND_MODE": mode}
    umask = ("sh", "-c", 'umask 027; exec "$@"', "sh")
    make_web(embedded_environment | ONE | listening, prefix=umask, wait=None)
    wait_until(path.exists)
    assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)


def test_a_peers_proxy_is_served_and_not_believed(
    make_web: MakeWeb, tmp_path: Path, embedded_environment: Environment
) -> None:
    """It says who the client is, as would anybody else who reaches that address."""
    path = tmp_path / "app.sock"
    port = free_port()
    peers = {"BIND": f"unix:{path}", "PEER_BIND": f"127.0.0.1:{port}"}
    web = make_web(embedded_environment | peers, wait=None)
    wait_until(lambda: path.exists() and ask_at(path) == (404, ""), seconds=60)
    headers = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
    answer = httpx.get(f"http://127.0.0.1:{port}/from-a-peer", headers=headers, timeout=30)
    assert answer.status_code == 404
    [event] = wait_until(lambda: [e for e in web.events("request") if "peer" in e["path"]])
    assert event["client"] == "127.0.0.1"
    assert web.stop(signal.SIGTERM) == 0


def test_on_a_unix_socket_a_draining_service_can_be_reached_until_shortly_before_its_end(
    make_web: MakeWeb, tmp_path: Path, embedded_environment: Environment
) -> None:
    path = tmp_path / "app.sock"
    environment = embedded_environment | LONG_DRAIN | ONE | {"BIND": f"unix:{path}"}
    web = make_web(environment, wait=None)
    wait_until(lambda: path.exists() and ask_at(path) == (404, ""), seconds=60)
    web.send_signal(signal.SIGTERM)
    wait_until(lambda: len(web.events("worker_draining")) == 1)
    answers = set()
    answered = time.monotonic()

    def stood_still() -> bool:
        """Whether the machine did, for so long that the end may have come as well."""
        return time.monotonic() - answered > UNREACHABLE_SECONDS / 2

    while path.exists():
        try:
            answers.add(ask_at(path))
            answered = time.monotonic()
        except FileNotFoundError:
            continue  # it has gone just now
        except ConnectionError:
            assert stood_still()
    assert answers == {(404, "close")}
    assert stood_still() or web.events("worker_stopped") == []
    assert web.stop(signal.SIGTERM) == 0
    assert not path.exists()


def test_the_path_of_a_socket_stays_for_the_drain_of_the_last_reload(
    make_web: MakeWeb, tmp_path: Path, embedded_environment: Environment
) -> None:
    path, drain = tmp_path / "app.sock", tmp_path / "drain"
    drain.write_text("0")
    changes = {"BIND": f"unix:{path}", "SHUTDOWN_DRAIN_SECONDS": ""}
    changes |= {"SHUTDOWN_DRAIN_SECONDS_FILE": str(drain), "SHUTDOWN_GRACE_SECONDS": "20"}
    web = make_web(embedded_environment | ONE | changes, wait=None)
    wait_until(lambda: path.exists() and ask_at(path) == (404, ""), seconds=60)
    before = web.workers()
    drain.write_text("8")
    web.send_signal(signal.SIGHUP)
    wait_until(lambda: len(web.workers()) == 1 and web.workers() != before)
    wait_until(lambda: ask_at(path) == (404, ""))
    web.send_signal(signal.SIGTERM)
    wait_until(lambda: len(web.events("worker_draining")) == 2)
    assert ask_at(path) == (404, "close")


def test_a_path_that_another_has_bound_since_is_left_alone(
    make_web: MakeWeb, tmp_path: Path, embedded_environment: Environment
) -> None:
    path = tmp_path / "app.sock"
    web = make_web(embedded_environment | LONG_DRAIN | ONE | {"BIND": f"unix:{path}"}, wait=None)
    wait_until(lambda: path.exists() and ask_at(path) == (404, ""), seconds=60)
    web.send_signal(signal.SIGTERM)
    wait_until(lambda: len(web.events("worker_draining")) == 1)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        assert web.stop(signal.SIGTERM) == 0
        assert path.exists()


def ask_at(path: Path) -> tuple[int, str]:
    """The status of a request on a connection of its own, and what becomes of that."""
    with contextlib.closing(UnixConnection(str(path), 30)) as connection:
        connection.request("GET", "/nowhere")
        answer = connection.getresponse()
        return answer.status, answer.headers.get("connection", "")


def test_over_tcp_a_strangers_word_is_not_taken(
    make_web: MakeWeb, embedded_environment: Environment
) -> None:
    """Only the proxies that are listed may say who the client is."""
    web = make_web(embedded_environment | {"FORWARDED_ALLOW_IPS": "192.0.2.1"})
    web.get("/nowhere", headers={"X-Forwarded-For": "192.0.2.7"})
    [event] = wait_until(lambda: web.events("request"))
    assert event["client"] == "127.0.0.1"


def test_with_a_certificate_it_speaks_https(
    make_web: MakeWeb, tmp_path: Path, embedded_environment: Environment
) -> None:
    """TLS 1.2 or newer, and plain HTTP no more."""
    require(find_program("openssl"), "openssl")
    certificate, key = make_certificate(tmp_path)
    pair = {"CERTFILE": str(certificate), "KEYFILE": str(key)}
    web = make_web(embedded_environment | pair, wait=None)
    trust = ssl.create_default_context(cafile=str(certificate))
    with httpx.Client(verify=trust) as client:
        url = f"https://127.0.0.1:{web.port}/health/live"

        def status() -> int:
            with contextlib.suppress(httpx.HTTPError):
                return client.get(url).status_code
            return 0

        wait_until(lambda: status() == 200, seconds=20)
    assert web.status("/health/live") == 0
    offered = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{web.port}", "-tls1_1"]
        + ["-cipher", "ALL:@SECLEVEL=0"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert "Cipher is (NONE)" in offered.stdout


@pytest.fixture
def open_environment(
    embedded_environment: Environment, migrated_sqlite: Path
) -> Iterator[Environment]:
    """One that any user can serve in. Not in pytest's folder, which each of its runs closes."""
    with tempfile.TemporaryDirectory(prefix="service-open-") as name:
        directory = Path(name)
        shutil.copy(migrated_sqlite, directory / "service.sqlite3")
        (directory / "shm").mkdir()
        for path in (directory, *directory.iterdir()):
            path.chmod(0o777)
        yield embedded_environment | {
            "DATABASE_URL": f"sqlite:///{directory}/service.sqlite3",
            "WORKER_TMP_DIR": f"{directory}/shm",
            "UPLOAD_FOLDER": f"{directory}/uploads",
            "SECRET_KEY": CANARY * 2,
        }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change to another user")
def test_workers_of_another_user_keep_their_metrics(
    open_environment: Environment, make_web: MakeWeb
) -> None:
    """The master makes the directory, and merges what is left of them."""
    other = {"RUN_AS_USER": "65534", "RUN_AS_GROUP": "65534"}
    web = make_web(open_environment | other, prefix=("sh", "-c", 'umask 077; exec "$@"', "sh"))
    for _ in range(10):
        assert web.get("/nowhere").status_code == 404
    # It is counted behind its answer.
    wait_until(lambda: gauge(web, "http_request_duration_seconds_count") == 10)
    [first, _] = web.workers()
    assert Path(f"/proc/{first}").stat().st_uid == 65534
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: gauge(web, "service_worker_exits_total") == 1)
    assert gauge(web, "http_request_duration_seconds_count") == 10


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change to another user")
@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"RUN_AS_USER": "nobody"}, {pwd.getpwnam("nobody").pw_gid}),
        ({"RUN_AS_USER": "nobody", "RUN_AS_GROUP": "4321"}, {4321}),
        ({"RUN_AS_USER": "54321", "RUN_AS_GROUP": "4321"}, {4321}),
    ],
)
def test_workers_of_another_user_are_in_none_of_roots_groups(
    open_environment: Environment, make_web: MakeWeb, other: Environment, expected: set[int]
) -> None:
    """What these may read would be open to them."""
    web = make_web(open_environment | other, prefix=("setpriv", "--groups=0,4"))
    for worker in web.workers():
        lines = Path(f"/proc/{worker}/status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines)
        groups = {int(group) for name in ("Gid", "Groups") for group in status[name].split()}
        assert groups == expected


# Logs


def test_every_line_from_start_to_end_is_json(
    make_web: MakeWeb, embedded_environment: Environment
) -> None:
    """The master's and the workers', through a reload, a crash and the end."""
    web = make_web(embedded_environment | {"LOG_LEVEL": "debug", "SECRET_KEY": CANARY * 2})
    before = web.workers()
    os.kill(before[0], signal.SIGKILL)
    web.send_signal(signal.SIGHUP)
    wait_until(lambda: not set(before) & set(web.workers()), seconds=20)
    web.get("/nowhere%0D%0A", headers={"X-Request-ID": "my-request-1"})
    with Conversation(web.port) as conversation:
        conversation.socket.sendall(b"nonsense\r\n\r\n")
        assert conversation.receive()[0] == 400
    assert web.stop(signal.SIGTERM) == 0
    loggers = {event["logger"] for event in web.events()}
    assert {"gunicorn.error", "uvicorn.error", "service.access", "service.lifecycle"} <= loggers
    assert CANARY not in web.log


def test_a_request_is_one_line(make_web: MakeWeb, embedded_environment: Environment) -> None:
    """With what one asks of it, and its id; what the path holds cannot end the line."""
    web = make_web(embedded_environment)
    path = "/nowhere%0A%7B%22level%22%3A%22error%22%7D%E2%80%A8"
    web.get(path + "?token=secret", headers={"X-Request-ID": "my-request-1"})
    [event] = wait_until(lambda: web.events("request"))
    assert unquote(event["path"]) == '/nowhere\n{"level":"error"}\u2028'
    assert event["request_id"] == "my-request-1"
    assert (event["method"], event["status"], event["client"]) == ("GET", 404, "127.0.0.1")
    assert 0 <= event["duration_ms"] < 5000


def test_probes_and_scrapes_are_not_logged(
    make_web: MakeWeb, embedded_environment: Environment
) -> None:
    """They come every few seconds for ever."""
    web = make_web(embedded_environment)
    token = {"Authorization": "Bearer token-of-the-tests"}
    for path in ("/health", "/health/live", "/health/ready", "/health/startup", "/metrics"):
        web.get(path)
    assert web.get("/health/detailed", headers=token).status_code == 200
    assert web.stop(signal.SIGTERM) == 0
    assert web.events("request") == []


def test_behind_nginx_requests_need_not_be_logged(
    make_web: MakeWeb, embedded_environment: Environment
) -> None:
    """ACCESS_LOG=false."""
    web = make_web(embedded_environment | {"ACCESS_LOG": "false"})
    assert web.get("/nowhere").status_code == 404
    assert web.stop(signal.SIGTERM) == 0
    assert web.events("request") == []


def test_for_people_the_log_is_text(make_web: MakeWeb, embedded_environment: Environment) -> None:
    """LOG_FORMAT=text: the same facts, and still one line a request."""
    web = make_web(embedded_environment | {"LOG_FORMAT": "text"})
    web.get("/nowhere%0A2026", headers={"X-Request-ID": "my-request-1"})
    wait_until(lambda: "service.access" in web.log)
    [line] = [line for line in web.log.splitlines() if "service.access" in line]
    assert " request request_id=my-request-1 method=GET path=" in line
    assert " status=404 " in line


# Stopping


def test_sigterm_finishes_what_was_begun(
    make_web: MakeWeb, embedded_environment: Environment
) -> None:
    """The answer says that it is the last; resources are closed after it, and the end is clean."""
    web = make_web(embedded_environment | LONG_DRAIN)
    with in_the_middle_of_a_request(web) as request:
        web.send_signal(signal.SIGTERM)
        wait_until(lambda: len(web.events("worker_draining")) == 2)
        status, headers = request.finish()
        assert (status, headers["connection"]) == (400, "close")
    assert web.process
    assert web.process.wait(10) == 0
    assert len(web.events("worker_stopped")) == 2


def test_new_requests_are_served_while_draining(
    make_web: MakeWeb, embedded_environment: Environment
) -> None:
    """Load balancers need a while to notice; then nothing is accepted any more."""
    web = make_web(embedded_environment | LONG_DRAIN)
    web.send_signal(signal.SIGTERM)
    signalled = time.monotonic()
    wait_until(lambda: len(web.events("worker_draining")) == 2)
    served = 0
    while served <= 5 or time.monotonic() - signalled < 2:
        with Conversation(web.port) as conversation:
            status, headers = conversation.ask()
            assert (status, headers["connection"]) == (200, "close")
            served += 1
    wait_until(lambda: not accepts(web.port))


def test_an_idle_connection_is_not_closed_while_draining(
    make_web: MakeWeb, embedded_environment: Environment
) -> None:
    """It is served once more, and told."""
    web = make_web(embedded_environment | LONG_DRAIN)
    with Conversation(web.port) as conversation:
        assert "connection" not in conversation.ask()[1]
        web.send_signal(signal.SIGTERM)
        wait_until(lambda: len(web.events("worker_draining")) == 2)
        time.sleep(0.5)
        assert conversation.ask()[1]["connection"] == "close"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_sigint_and_sigquit_end_quickly(
    make_web: MakeWeb, embedded_environment: Environment, number: int
) -> None:
    """A developer's Ctrl-C: no drain, also in the middle of a request, and no traceback."""
    web = make_web(
        embedded_environment | {"SHUTDOWN_DRAIN_SECONDS": "8", "SHUTDOWN_GRACE_SECONDS": "20"}
    )
    with in_the_middle_of_a_request(web):
        began = time.monotonic()
        assert web.stop(number) == 0
        assert time.monotonic() - began < 4
    assert not accepts(web.port)


def test_ctrl_c_at_the_terminal_ends_without_an_error(
    make_web: MakeWeb, embedded_environment: Environment
) -> None:
    """There the master and the workers get the signal, all at once."""
    web = make_web(embedded_environment)
    workers = web.workers()
    web.send_signal(signal.SIGINT)  # first, or it replaces a worker that has gone
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
    assert web.stop(signal.SIGINT) == 0
    assert [event for event in web.events() if event["level"] == "error"] == []
    assert "Traceback" not in web.log


UNHURRIED = """
exec(compile(open({config!r}).read(), {config!r}, "exec"))
_shipped = post_worker_init
def post_worker_init(worker):
    _shipped(worker)
    from service import lifecycle
    lifecycle.SHUTDOWN_MARGIN_SECONDS = 8
"""


def test_a_request_that_never_ends_is_ended_within_the_grace_time(
    make_web: MakeWeb, embedded_environment: Environment, tmp_path: Path
) -> None:
    """And the service with it, in order, for which there is much time here."""
    config = tmp_path / "unhurried.py"
    config.write_text(UNHURRIED.format(config=str(Web.config)))
    grace = {"SHUTDOWN_DRAIN_SECONDS": "0.5", "SHUTDOWN_GRACE_SECONDS": "10"}
    web = make_web(embedded_environment | grace, config=config)
    with in_the_middle_of_a_request(web):
        began = time.monotonic()
        assert web.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < 11
    assert len(web.events("worker_stopped")) == 2, "resources were closed"


def test_a_killed_master_takes_its_workers_along(
    make_web: MakeWeb, embedded_environment: Environment
) -> None:
    """They finish what they do; the port is free for the next master within seconds."""
    web = make_web(embedded_environment | LONG_DRAIN)
    workers = web.workers()
    with in_the_middle_of_a_request(web) as request:
        assert web.process
        web.process.kill()
        killed = time.monotonic()
        wait_until(lambda: not accepts(web.port))
        freed = time.monotonic() - killed
        with socket.socket() as next_one:
            next_one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            next_one.bind(("127.0.0.1", web.port))
        assert request.finish()[0] == 400
    wait_until(lambda: all(map(has_ended, workers)), seconds=15)
    assert freed < 4
    assert len(web.events("worker_stopped")) == 2


# Replacing workers


def test_one_worker_stopped_fails_no_request(
    make_web: MakeWeb, embedded_environment: Environment
) -> None:
    """Its connections move to the other, and to its successor."""
    web = make_web(embedded_environment)
    with Traffic(web.port) as traffic:
        for _ in range(2):
            before = web.workers()
            os.kill(before[0], signal.SIGTERM)
            wait_until(lambda old=before: len(new := web.workers()) == 2 and old[0] not in new)
        wait_until(lambda: traffic.answered > 200, seconds=30)
    assert traffic.failures == []


def test_a_reload_fails_no_request(make_web: MakeWeb, embedded_environment: Environment) -> None:
    """All workers are replaced, twice."""
    web = make_web(embedded_environment)
    with Traffic(web.port) as traffic:
        for _ in range(2):
            before = set(web.workers())
            web.send_signal(signal.SIGHUP)
            wait_until(lambda old=before: len(new := set(web.workers())) == 2 and not new & old)
        wait_until(lambda: traffic.answered > 200, seconds=30)
    assert traffic.failures == []


def test_recycling_fails_no_request(make_web: MakeWeb, embedded_environment: Environment) -> None:
    """MAX_REQUESTS with two workers: a dozen of them come and go."""
    often = {"MAX_REQUESTS": "20", "MAX_REQUESTS_JITTER": "20"}
    web = make_web(embedded_environment | often)
    with Traffic(web.port) as traffic:
        wait_until(lambda: len(web.events("worker_stopped")) >= 12, seconds=60, every=0.2)
    assert traffic.failures == []
    assert {event["reason"] for event in web.events("worker_stopped")} == {"recycled"}


def test_a_slow_request_outlives_the_timeout_of_a_worker_that_is_recycled(
    make_web: MakeWeb, embedded_environment: Environment
) -> None:
    """Its loop is not blocked; and a single worker goes on serving others meanwhile."""
    short = {
        "WEB_CONCURRENCY": "1",
        "MAX_REQUESTS": "10",
        "MAX_REQUESTS_JITTER": "0",
        "WORKER_TIMEOUT_SECONDS": "4",
        "SHUTDOWN_GRACE_SECONDS": "3",
    }
    web = make_web(embedded_environment | short)
    [worker] = web.workers()
    with in_the_middle_of_a_request(web) as request:
        while not web.events("worker_draining"):
            assert web.status("/health/live") == 200
        end = time.monotonic() + 7
        while time.monotonic() < end:
            assert web.status("/health/live") == 200
            time.sleep(0.1)
        assert web.workers() == [worker]
        assert request.finish()[0] == 400
    wait_until(lambda: has_ended(worker))
    assert web.status("/health/live") == 200
    assert web.events("worker_stopped")[0]["reason"] == "recycled"


def test_a_reload_ends_a_request_that_never_ends(
    make_web: MakeWeb, embedded_environment: Environment
) -> None:
    """Gunicorn itself would wait for it for ever."""
    web = make_web(embedded_environment | {"SHUTDOWN_GRACE_SECONDS": "4"})
    before = web.workers()
    with in_the_middle_of_a_request(web):
        web.send_signal(signal.SIGHUP)
        wait_until(lambda: all(map(has_ended, before)), seconds=10)
        assert web.status("/health/live") == 200


STUBBORN = """
import asyncio as _asyncio, time as _time
exec(compile(open({config!r}).read(), {config!r}, "exec"))
def post_worker_init(worker):
    app = worker.wsgi
    async def stubborn(scope, receive, send):
        async def send_or_hang(message):
            if message["type"] == "lifespan.shutdown.complete" and stubborn.hangs:
                await _asyncio.sleep(3600)
            await send(message)
        if scope.get("path") == "/hang":
            stubborn.hangs = True
        if scope.get("path") == "/thread":
            _asyncio.get_running_loop().run_in_executor(None, _time.sleep, 60)
        await app(scope, receive, send_or_hang)
    stubborn.hangs = False
    stubborn.settings, stubborn.lifecycle = app.settings, app.lifecycle
    worker.wsgi = stubborn
"""


@pytest.fixture
def stubborn(tmp_path: Path) -> Path:
    """A configuration whose application hangs at its end, or leaves a thread behind."""
    config = tmp_path / "stubborn.py"
    config.write_text(STUBBORN.format(config=str(Web.config)))
    return config


def test_a_worker_that_hangs_at_its_end_ends_itself(
    make_web: MakeWeb, embedded_environment: Environment, stubborn: Path
) -> None:
    """After the grace time, and says where it hung. Gunicorn would kill it when the service ends,
    but not at a reload."""
    one = {"WEB_CONCURRENCY": "1", "SHUTDOWN_GRACE_SECONDS": "4"}
    web = make_web(embedded_environment | one, config=stubborn)
    [worker] = web.workers()
    web.get("/hang")
    web.send_signal(signal.SIGHUP)
    wait_until(lambda: has_ended(worker), seconds=9)
    assert "Timeout (0:00:0" in web.log
    assert web.status("/health/live") == 200


def test_a_thread_that_hangs_does_not_hold_up_a_recycled_worker(
    make_web: MakeWeb, embedded_environment: Environment, stubborn: Path
) -> None:
    """All requests are answered, and a single worker's successor is waited for."""
    one = {"WEB_CONCURRENCY": "1", "MAX_REQUESTS": "5", "MAX_REQUESTS_JITTER": "0"}
    web = make_web(embedded_environment | one, config=stubborn)
    [worker] = web.workers()
    web.get("/thread")
    # As text: the watchdog's stack dump is no JSON.
    while "worker_draining" not in web.log:
        assert web.status("/health/live", timeout=15) == 200
    wait_until(lambda: has_ended(worker), seconds=9)
    assert web.status("/health/live") == 200


FAILING = """
import os as _os
exec(compile(open({config!r}).read(), {config!r}, "exec"))
def post_worker_init(worker):
    async def failing(scope, receive, send):
        raise OSError("the disk is full")
    if _os.path.exists({flag!r}):
        failing.settings, failing.lifecycle = worker.wsgi.settings, worker.wsgi.lifecycle
        worker.wsgi = failing
"""


@pytest.fixture
def disk_full(tmp_path: Path) -> Path:
    """While this file is there, no worker can start."""
    flag = tmp_path / "disk-full"
    config = tmp_path / "failing.py"
    config.write_text(FAILING.format(config=str(Web.config), flag=str(flag)))
    return flag


def test_a_service_that_cannot_start_ends(
    make_web: MakeWeb, embedded_environment: Environment, disk_full: Path
) -> None:
    """Once, with Gunicorn's code for it, for the supervisor to see."""
    disk_full.touch()
    web = make_web(embedded_environment, config=disk_full.with_name("failing.py"), wait=None)
    assert web.process
    assert web.process.wait(20) == 3
    assert "Worker failed to boot" in web.log


def test_a_worker_that_cannot_start_does_not_end_the_service(
    make_web: MakeWeb, embedded_environment: Environment, disk_full: Path
) -> None:
    """Where the service has run before, the others serve on and it is tried again."""
    web = make_web(embedded_environment, config=disk_full.with_name("failing.py"))
    [first, second] = web.workers()
    disk_full.touch()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: web.events("worker_failed_to_start"))
    assert web.status("/health/live") == 200
    assert second in web.workers()
    disk_full.unlink()
    wait_until(lambda: len(web.beating() - {first, second}) == 1)


def test_a_worker_that_cannot_start_after_a_reload_does_not_end_the_service(
    make_web: MakeWeb, tmp_path: Path, embedded_environment: Environment, disk_full: Path
) -> None:
    """Also where that asks for more workers than there have ever been."""
    number = tmp_path / "number"
    number.write_text("1")
    web = make_web(
        embedded_environment | ONE | {"WEB_CONCURRENCY_FILE": str(number)},
        config=disk_full.with_name("failing.py"),
        prefix=("env", "-u", "WEB_CONCURRENCY"),
    )
    disk_full.touch()
    number.write_text("3")
    web.send_signal(signal.SIGHUP)
    wait_until(lambda: len(web.events("worker_failed_to_start")) >= 3)
    disk_full.unlink()
    wait_until(lambda: len(web.beating()) == 3)


# Reloading


def test_a_reload_reads_files_again(
    make_web: MakeWeb, tmp_path: Path, embedded_environment: Environment
) -> None:
    """A secret that was rotated, and `.env`."""
    token = tmp_path / "token"
    token.write_text("the-first-token\n")
    directory = tmp_path / "web-0"
    directory.mkdir()
    (directory / ".env").write_text("ACCESS_LOG=true\n")
    web = make_web(embedded_environment | {"HEALTH_TOKEN": "", "HEALTH_TOKEN_FILE": str(token)})

    def status_with(text: str) -> int:
        return web.get("/health/detailed", headers={"Authorization": f"Bearer {text}"}).status_code

    assert status_with("the-first-token") == 200
    web.get("/nowhere")
    wait_until(lambda: len(web.events("request")) == 1)
    token.write_text("the-second-token\n")
    (directory / ".env").write_text("ACCESS_LOG=false\n")
    before = set(web.workers())
    web.send_signal(signal.SIGHUP)
    wait_until(lambda: len(web.workers()) == 2 and not before & set(web.workers()))
    assert status_with("the-first-token") == 401
    assert status_with("the-second-token") == 200
    web.get("/nowhere")
    assert web.stop(signal.SIGTERM) == 0
    assert len(web.events("request")) == 1


def test_a_reload_with_a_wrong_configuration_is_refused(
    make_web: MakeWeb, tmp_path: Path, embedded_environment: Environment
) -> None:
    """The workers stay, the master lives, and says so once, without a value."""
    directory = tmp_path / "web-0"
    directory.mkdir()
    (directory / ".env").write_text("MAIL_PORT=25\n")
    web = make_web(embedded_environment)
    before = web.workers()
    (directory / ".env").write_text(f"MAIL_PORT={CANARY}\nLOG_LEVEL={CANARY}\n")
    web.send_signal(signal.SIGHUP)
    wait_until(lambda: web.events("reload_refused"))
    time.sleep(1)
    assert web.workers() == before
    assert web.status("/health/live") == 200
    [refusal] = web.events("reload_refused")
    assert [problem.split()[0] for problem in refusal["problems"]] == ["LOG_LEVEL", "MAIL_PORT"]
    assert CANARY not in web.log
    (directory / ".env").write_text("MAIL_PORT=26\n")
    web.send_signal(signal.SIGHUP)
    wait_until(lambda: len(web.workers()) == 2 and not set(before) & set(web.workers()))


@pytest.fixture
def end_of(tmp_path: Path) -> Iterator[list[int]]:
    """Process ids to end after the test: a second master is not the test's child."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
        wait_until(lambda pid=pid: has_ended(pid))


def second_master(web: Web, tmp_path: Path, end_of: list[int]) -> int:
    """Start one beside the first, until its workers serve."""
    shm = tmp_path / "shm"
    web.send_signal(signal.SIGUSR2)
    second = tmp_path / "pid.2"
    wait_until(second.exists, seconds=20)
    end_of.append(master := int(second.read_text()))
    wait_until(lambda: len(children(master)) == 2)
    wait_until(lambda: len(list(shm.glob("service-metrics-*"))) == 2)
    new = set(children(master))
    wait_until(lambda: web.beating() == new, seconds=20)
    return master


def stays_ready_until(web: Web, condition: Callable[[], bool]) -> None:
    """Asked again and again, each time on a connection of its own."""
    end = time.monotonic() + 60
    while not condition():
        answer = web.get("/health/ready")
        assert answer.status_code == 200, answer.text
        assert time.monotonic() < end


def test_a_second_master_takes_over_without_a_failed_request(
    make_web: MakeWeb, tmp_path: Path, embedded_environment: Environment, end_of: list[int]
) -> None:
    """USR2 and then TERM to the old one: how new code is deployed in place."""
    pidfile = tmp_path / "pid"
    web = make_web(embedded_environment | {"PIDFILE": str(pidfile)}, wait="/health/ready")
    old = web.workers()
    with Traffic(web.port) as traffic:
        master = second_master(web, tmp_path, end_of)
        answered = traffic.answered
        web.send_signal(signal.SIGTERM)
        stays_ready_until(web, lambda: all(map(has_ended, old)))
        assert web.stop(signal.SIGTERM) == 0
        wait_until(lambda: traffic.answered > answered + 100, seconds=30)
        wait_until(lambda: pidfile.exists() and int(pidfile.read_text()) == master)
    assert traffic.failures == []
    heartbeats = httpx.get(f"http://127.0.0.1:{web.port}/metrics").text
    assert not any(f'pid="{pid}"' in heartbeats for pid in old)
    assert len(list((tmp_path / "shm").glob("service-metrics-*"))) == 1


def test_a_second_master_that_is_taken_back_leaves_the_service_ready(
    make_web: MakeWeb, tmp_path: Path, embedded_environment: Environment, end_of: list[int]
) -> None:
    """USR2 and then TERM to the new one, whose code is no better. The first still tells its end."""
    pidfile = {"PIDFILE": f"{tmp_path}/pid"}
    web = make_web(embedded_environment | LONG_DRAIN | pidfile, wait="/health/ready")
    master = second_master(web, tmp_path, end_of)
    new = children(master)
    os.kill(master, signal.SIGTERM)
    stays_ready_until(web, lambda: all(map(has_ended, new)))
    wait_until(lambda: master not in web.workers())
    web.send_signal(signal.SIGTERM)
    wait_until(lambda: web.status("/health/ready") == 503)


def test_a_worker_less_leaves_the_service_ready(
    make_web: MakeWeb, embedded_environment: Environment
) -> None:
    """By SIGTTOU. The one that stays still tells its end."""
    web = make_web(embedded_environment | LONG_DRAIN, wait="/health/ready")
    with contextlib.ExitStack() as stack:
        for _ in range(16):  # so that one of them holds the worker that is to go
            stack.enter_context(Conversation(web.port)).begin()
        wait_until(lambda: gauge(web, "http_requests_in_progress") == 16)
        web.send_signal(signal.SIGTTOU)
        told_again = time.monotonic() + 2.5
        stays_ready_until(web, lambda: time.monotonic() > told_again)
    stays_ready_until(web, lambda: len(web.workers()) == 1)
    web.send_signal(signal.SIGTERM)
    wait_until(lambda: web.status("/health/ready") == 503)
