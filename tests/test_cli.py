"""The command line as operators and containers use it: exit codes, words, and what it costs."""

import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from mail_server import mail_server, make_certificate, server_context
from object_stores import SECRET, ObjectStore
from pooler import Pgbouncer
from servers import (
    Postgresql,
    RedisServer,
    clean_environment,
    free_port,
    run_service,
    service_command,
)

PASSWORD = "pa55-of-the-t3sts"
KEY = "k3y-0f-the-t3sts-k3y-0f-the-t3sts"
PRODUCTION = {
    "ENVIRONMENT": "production",
    "SECRET_KEY": KEY,
    "DATABASE_URL": f"postgresql://service:{PASSWORD}@127.0.0.1:9/service",
    "REDIS_URL": f"redis://:{PASSWORD}@127.0.0.1:9/0",
    "MAIL_SERVER": "127.0.0.1",
    "ALLOWED_HOSTS": "service.example.org",
}
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A command in an empty directory: `run("check", NAME="value")`."""

    def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return run_service(*arguments, environment=clean_environment(**environment), cwd=tmp_path)

    return run


# usage


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("--nonsense",), ("Check",)])
def test_an_unknown_command_is_explained(run: Run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: service COMMAND")


@pytest.mark.parametrize("flag", ["-h", "--help", "help"])
def test_help_is_given(run: Run, flag: str) -> None:
    done = run(flag)
    assert (done.returncode, done.stderr) == (0, "")
    for command in ("worker", "migrate", "check", "settings", "static", "health"):
        assert re.search(rf"^  {command}\b", done.stdout, re.MULTILINE)


def test_the_version_is_told_and_the_revision_where_it_is_known(run: Run) -> None:
    assert run("--version").stdout == f"service {version('service')}\n"
    assert (
        run("--version", REVISION="1a2b3c4").stdout == f"service {version('service')} (1a2b3c4)\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "--nope"),
        ("check", "--conn"),
        ("check", "--format", "xml"),
        ("migrate", "head"),
        ("static",),
        ("static", "one", "two"),
        ("static", "folder", "--set", "DEBUG=true"),
    ],
)
def test_an_unknown_option_is_refused(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).returncode == 2


@pytest.mark.parametrize("given", ["LOG_LEVEL", "=debug", "", PASSWORD])
def test_a_setting_without_a_value_is_refused_and_not_repeated(run: Run, given: str) -> None:
    done = run("check", "--set", given)
    assert done.returncode == 2
    assert done.stderr.endswith("argument --set: expected NAME=VALUE\n")


# check


def test_a_right_configuration_is_ok(run: Run) -> None:
    assert (done := run("check")).returncode == 0
    assert done.stdout == "configuration: ok\n"


def test_a_right_configuration_is_ok_in_json(run: Run) -> None:
    done = run("check", "--format", "json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"ok": True, "problems": []})


def test_every_mistake_is_told_at_once(run: Run) -> None:
    done = run("check", LOG_LEVEL="loud", MAIL_PORT="many", DATABSE_URL="x")
    assert (done.returncode, done.stdout) == (78, "")
    assert "3 problems" in done.stderr
    for name in ("LOG_LEVEL (environment)", "MAIL_PORT (environment)", "DATABSE_URL"):
        assert name in done.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RUN_AS_USER", "no-such-user"),
        ("RUN_AS_GROUP", "no-such-group"),
        ("PIDFILE", "missing/pid"),
        ("BIND", "unix:missing/socket"),
    ],
)
def test_check_names_what_is_wrong_on_this_machine(run: Run, variable: str, value: str) -> None:
    done = run("check", **{variable: value})
    assert done.returncode == 78
    assert done.stderr.splitlines()[1].strip().startswith(f"{variable} (environment)")


def test_mistakes_are_told_to_programs(run: Run) -> None:
    done = run("check", "--format", "json", LOG_LEVEL="loud")
    body = json.loads(done.stdout)
    assert (done.returncode, body["ok"], done.stderr) == (78, False, "")
    (problem,) = body["problems"]
    assert (problem["variable"], problem["source"]) == ("LOG_LEVEL", "environment")


def test_deploy_applies_the_rules_of_production(run: Run) -> None:
    assert run("check").returncode == 0
    done = run("check", "--deploy")
    assert done.returncode == 78
    for name in ("SECRET_KEY", "DATABASE_URL", "REDIS_URL", "MAIL_SERVER", "ALLOWED_HOSTS"):
        assert name in done.stderr
    values = {name: value for name, value in PRODUCTION.items() if name != "ENVIRONMENT"}
    assert run("check", "--deploy", **values).returncode == 0


def test_the_command_line_wins(run: Run) -> None:
    done = run("check", "--set", "LOG_LEVEL=debug", LOG_LEVEL="loud")
    assert done.returncode == 0
    done = run("check", "--set", "LOG_LEVEL=loud", "--set", "LOG_LEVEL=info")
    assert done.returncode == 0, "the last one counts"


def problems(done: "subprocess.CompletedProcess[str]") -> dict[str, str]:
    """Variable → what was found there."""
    return {
        problem["variable"]: problem["given"] for problem in json.loads(done.stdout)["problems"]
    }


def connect(run: Run, **environment: str) -> "subprocess.CompletedProcess[str]":
    return run("check", "--connect", "--format", "json", **environment)


def test_connect_is_content_with_what_it_reaches(
    run: Run, database_url: str, shared_redis: RedisServer
) -> None:
    with mail_server() as mail:
        done = connect(
            run,
            DATABASE_URL=database_url,
            REDIS_URL=shared_redis.url,
            MAIL_SERVER="127.0.0.1",
            MAIL_PORT=str(mail.port),
            MAIL_USE_TLS="false",
        )
    assert (done.returncode, json.loads(done.stdout)["problems"]) == (0, [])


def test_connect_names_each_dependency_that_is_away(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    began = time.monotonic()
    done = connect(
        run,
        DATABASE_URL=PRODUCTION["DATABASE_URL"],
        REDIS_URL=PRODUCTION["REDIS_URL"],
        MAIL_SERVER="127.0.0.1",
        MAIL_PORT="9",
        UPLOAD_FOLDER=str(tmp_path / "file" / "x"),
    )
    assert done.returncode == 78
    found = problems(done)
    assert set(found) == {"DATABASE_URL", "REDIS_URL", "MAIL_SERVER", "UPLOAD_FOLDER"}
    assert found["DATABASE_URL"] == "ConnectionRefusedError"
    assert found["UPLOAD_FOLDER"] == "NotADirectoryError"
    assert PASSWORD not in done.stdout + done.stderr
    assert time.monotonic() - began < 12


def test_connect_does_not_wait_for_ever(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        done = connect(
            run,
            DATABASE_URL=f"postgresql://service:{PASSWORD}@127.0.0.1:{port}/service",
            REDIS_URL=f"redis://127.0.0.1:{port}/0",
            MAIL_SERVER="127.0.0.1",
            MAIL_PORT=str(port),
            MAIL_TIMEOUT_SECONDS="1",
        )
    assert set(problems(done)) == {"DATABASE_URL", "REDIS_URL", "MAIL_SERVER"}
    assert time.monotonic() - began < 12


# In production their address would have to be https.
NOT_FOR_CLIENTS = {"MEDIA_STORE_REDIRECT": "false"}


def test_connect_is_content_with_a_bucket_that_it_may_use(
    run: Run, object_store: ObjectStore
) -> None:
    done = connect(run, **object_store.variables(**NOT_FOR_CLIENTS))
    assert set(problems(done)) == {"DATABASE_URL"}, "which is empty"


@pytest.mark.parametrize(
    ("wrong", "variable", "given"),
    [
        ({"MEDIA_STORE_URL": "s3://no-such-bucket"}, "MEDIA_STORE_URL", "no such bucket"),
        (
            {"AWS_ACCESS_KEY_ID": "AKIDUNKNOWN"},
            "AWS_ACCESS_KEY_ID",
            "one that it does not know",
        ),
        ({"AWS_SECRET_ACCESS_KEY": "wr0ng"}, "AWS_SECRET_ACCESS_KEY", "another one"),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            "AWS_ENDPOINT_URL",
            "ConnectionRefused",
        ),
    ],
)
def test_connect_says_what_is_wrong_with_an_object_store(
    run: Run, rclone_store: ObjectStore, wrong: dict[str, str], variable: str, given: str
) -> None:
    done = connect(run, **rclone_store.variables(**NOT_FOR_CLIENTS, **wrong))
    assert done.returncode == 78
    assert problems(done)[variable] == given
    assert SECRET not in done.stdout + done.stderr
    assert "wr0ng" not in done.stdout + done.stderr


def test_connect_notices_a_missing_key(run: Run, moto_store: ObjectStore, tmp_path: Path) -> None:
    without = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", **NOT_FOR_CLIENTS}
    machine = {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    done = connect(run, **moto_store.variables(**without), **machine)
    assert problems(done)["AWS_ACCESS_KEY_ID"] == "none, neither given nor found"


def test_the_secret_of_an_object_store_may_be_a_file(
    run: Run, rclone_store: ObjectStore, tmp_path: Path
) -> None:
    variables = rclone_store.variables(AWS_SECRET_ACCESS_KEY="", **NOT_FOR_CLIENTS)
    (tmp_path / "key").write_text(SECRET + "\n")
    done = connect(run, **variables, AWS_SECRET_ACCESS_KEY_FILE=str(tmp_path / "key"))
    assert set(problems(done)) == {"DATABASE_URL"}, "which is empty"


def test_connect_notices_an_empty_schema(run: Run, shared_postgresql: Postgresql) -> None:
    done = connect(run, DATABASE_URL=shared_postgresql.new_database())
    assert (done.returncode, problems(done)) == (78, {"DATABASE_URL": "an empty database"})
    assert "service migrate" in done.stdout


def test_connect_notices_a_missing_sqlite_file_and_does_not_make_it(
    run: Run, tmp_path: Path
) -> None:
    done = connect(run)
    assert (done.returncode, problems(done)) == (78, {"DATABASE_URL": "an empty database"})
    assert not (tmp_path / "var" / "service.sqlite3").exists()
    assert run("migrate").returncode == 0
    assert connect(run).returncode == 0


def test_connect_notices_an_older_schema(
    run: Run, database_url: str, shared_postgresql: Postgresql
) -> None:
    name = database_url.rpartition("/")[2]
    shared_postgresql.psql("UPDATE alembic_version SET version_num = '0001'", name)
    assert problems(connect(run, DATABASE_URL=database_url)) == {"DATABASE_URL": "an older one"}


def test_connect_notices_a_pool_that_the_server_cannot_hold(run: Run, database_url: str) -> None:
    """The server has 60 connections, of which it keeps 3; a job worker takes 16 of them."""
    pool = {"DATABASE_URL": database_url, "DATABASE_POOL_SIZE": "9"}
    assert connect(run, **pool, WEB_CONCURRENCY="4").returncode == 0
    done = connect(run, **pool, WEB_CONCURRENCY="5")
    assert (done.returncode, problems(done)) == (78, {"DATABASE_POOL_SIZE": "66"})
    replicas = {"WEB_CONCURRENCY": "1", "WEB_REPLICAS": "5", "WORKER_REPLICAS": "3"}
    assert problems(connect(run, **pool, **replicas)) == {"DATABASE_POOL_SIZE": "98"}
    few = {"WEB_CONCURRENCY": "5", "WORKER_REPLICAS": "0"}
    assert connect(run, **pool, **few).returncode == 0


def test_connect_goes_through_the_pooler_as_well(
    run: Run, database_url: str, shared_pooler: Pgbouncer, shared_postgresql: Postgresql
) -> None:
    """And notices where it leads to another database, or stands where the server should."""
    url = shared_pooler.url(database_url)
    done = connect(run, DATABASE_URL=database_url, DATABASE_POOLER_URL=url)
    assert (done.returncode, problems(done)) == (0, {})
    other = shared_pooler.url(shared_postgresql.url())
    done = connect(run, DATABASE_URL=database_url, DATABASE_POOLER_URL=other)
    assert problems(done) == {"DATABASE_POOLER_URL": "another"}
    done = connect(run, DATABASE_URL=url)
    given = "a pooler, whose URL is for DATABASE_POOLER_URL"
    assert problems(done) == {"DATABASE_URL": given}


def test_connect_notices_a_wrong_password(run: Run, shared_postgresql: Postgresql) -> None:
    done = connect(run, DATABASE_URL=shared_postgresql.url().replace("sesame-open", PASSWORD))
    assert problems(done) == {"DATABASE_URL": "InvalidPasswordError"}
    assert PASSWORD not in done.stdout + done.stderr


# settings


def test_settings_are_listed_with_their_sources_and_without_secrets(
    run: Run, tmp_path: Path
) -> None:
    secret = tmp_path / "mail-password"
    secret.write_text(f"{PASSWORD}-in-a-file\n")
    values = PRODUCTION | {"MAIL_USERNAME": "ann", "MAIL_PASSWORD_FILE": str(secret)}
    values["HEALTH_TOKEN"] = f"{PASSWORD}-t0ken-t0ken-t0ken"
    done = run("settings", "--set", "LOG_LEVEL=debug", **values)
    assert done.returncode == 0
    for hidden in (PASSWORD, KEY):
        assert hidden not in done.stdout + done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "postgresql://service:***@127.0.0.1:9/service" in lines["DATABASE_URL"]
    assert lines["DATABASE_URL"].endswith("[environment]")
    assert lines["MAIL_PASSWORD"].endswith("[MAIL_PASSWORD_FILE]")
    assert lines["LOG_LEVEL"].endswith("debug  [command line]")
    assert lines["MAIL_PORT"].endswith("587  [default]")


def test_settings_are_listed_for_programs(run: Run) -> None:
    done = run("settings", "--format", "json", **PRODUCTION)
    rows = {row["variable"]: row for row in json.loads(done.stdout)}
    assert rows["SECRET_KEY"] == {
        "variable": "SECRET_KEY",
        "value": "**********",
        "source": "environment",
    }
    assert rows["MAIL_PORT"]["value"] == "587"


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """As `service settings | head -1`."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        service_command("settings"),
        stdout=writing,
        stderr=subprocess.PIPE,
        env=clean_environment(),
        cwd=tmp_path,
        text=True,
    )
    os.close(reading)
    os.close(writing)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (141, "")


# static


def test_the_files_of_pages_are_written_without_any_configuration(run: Run, tmp_path: Path) -> None:
    """An image is built where there is none; what is wrong with one is not looked at."""
    done = run("static", "public/static", ENVIRONMENT="production", MAIL_PORT="many")
    files = list((tmp_path / "public" / "static").iterdir())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"static: {len(files)} files in public/static\n"
    assert list(tmp_path.iterdir()) == [tmp_path / "public"]  # and nothing else is made


@pytest.mark.parametrize("folder", ["file", "file/below", "/proc/nothing"])
def test_a_folder_that_cannot_be_is_told(run: Run, tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("here already")
    done = run("static", folder)
    assert (done.returncode, done.stdout) == (73, "")
    assert re.fullmatch(rf"{folder}: the files cannot be written \(.+\)\n", done.stderr)


# health


class Answering:
    """A server that says one thing to everybody, on any socket."""

    def __init__(self, listener: socket.socket, answer: bytes, context: Any = None) -> None:
        self.listener, self.answer, self.context = listener, answer, context
        self.asked: list[bytes] = []
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                if self.context is not None:
                    connection = self.context.wrap_socket(connection, server_side=True)
                self.asked.append(connection.recv(4096))
                with contextlib.suppress(OSError):  # who asked may have heard enough
                    connection.sendall(self.answer)
                connection.close()

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{'status': 'pass'}"
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\n\r\n{'reason': 'draining'}"


@contextmanager
def answering(
    answer: bytes, family: int = socket.AF_INET, address: Any = ("127.0.0.1", 0), **more: Any
) -> Iterator[Answering]:
    with socket.socket(family) as listener:
        listener.bind(address)
        listener.listen()
        server = Answering(listener, answer, **more)
        yield server
        listener.shutdown(socket.SHUT_RDWR)
    server.thread.join(5)


@pytest.mark.parametrize("state", ["live", "ready", "startup"])
def test_health_asks_for_the_state_it_was_told(run: Run, state: str) -> None:
    with answering(OK) as server:
        done = run("health", state, BIND=f"127.0.0.1:{server.port}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert server.asked[0].startswith(f"GET /health/{state} HTTP/1.1\r\n".encode())


def test_health_asks_whether_it_is_ready_by_default(run: Run) -> None:
    with answering(OK) as server:
        assert run("health", BIND=f"0.0.0.0:{server.port}").returncode == 0
    assert server.asked[0].startswith(b"GET /health/ready ")


def test_health_fails_with_the_reason(run: Run) -> None:
    with answering(UNAVAILABLE) as server:
        done = run("health", BIND=f"127.0.0.1:{server.port}")
    assert (done.returncode, done.stderr) == (1, "{'reason': 'draining'}\n")


@pytest.mark.parametrize("answer", [b"", b"nonsense", b"HTTP/1.1 301 Moved\r\n\r\n", b"x" * 10**6])
def test_health_fails_on_any_other_answer(run: Run, answer: bytes) -> None:
    with answering(answer) as server:
        assert run("health", BIND=f"127.0.0.1:{server.port}").returncode == 1


@pytest.mark.parametrize("arguments", [("alive",), ("LIVE",), ("live", "ready"), ("--help",)])
def test_health_knows_three_states(run: Run, arguments: tuple[str, ...]) -> None:
    done = run("health", *arguments)
    assert (done.returncode, done.stderr) == (2, "usage: service health [live|ready|startup]\n")


def test_health_fails_where_nothing_listens(run: Run) -> None:
    bind = f"127.0.0.1:{free_port()}"
    done = run("health", BIND=bind)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{bind}: ConnectionRefusedError")


@pytest.mark.parametrize("bind", ["nonsense", "unix:/nowhere/at.all", "127.0.0.1:x"])
def test_health_fails_without_a_traceback(run: Run, bind: str) -> None:
    done = run("health", BIND=bind)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_health_speaks_ipv6(run: Run) -> None:
    if not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("IPv6 is not enabled")
    with answering(OK, socket.AF_INET6, ("::1", 0)) as server:
        assert run("health", BIND=f"[::1]:{server.port}").returncode == 0
        assert run("health", BIND=f"[::]:{server.port}").returncode == 0


def test_health_speaks_over_a_unix_socket(run: Run, tmp_path: Path) -> None:
    path = f"/tmp/health-{os.getpid()}-{time.monotonic_ns()}.sock"
    try:
        with answering(OK, socket.AF_UNIX, path):
            assert run("health", BIND=f"unix:{path}").returncode == 0
    finally:
        os.unlink(path)


def test_health_speaks_tls_where_the_app_does(run: Run, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    with answering(OK, context=server_context(certificate, key)) as server:
        bind = f"127.0.0.1:{server.port}"
        assert run("health", BIND=bind, CERTFILE=str(certificate)).returncode == 0


def test_health_reads_the_address_from_a_file(run: Run, tmp_path: Path) -> None:
    with answering(OK) as server:
        (tmp_path / "bind").write_text(f"127.0.0.1:{server.port}\n")
        assert run("health", BIND_FILE=str(tmp_path / "bind")).returncode == 0
    assert run("health", BIND_FILE=str(tmp_path / "missing")).returncode == 1


def test_health_reads_the_address_from_dotenv_in_development_alone(
    run: Run, tmp_path: Path
) -> None:
    with answering(OK) as server:
        (tmp_path / ".env").write_text(f"BIND=127.0.0.1:{server.port}\n")
        assert run("health").returncode == 0
        bind = f"127.0.0.1:{free_port()}"
        assert run("health", ENVIRONMENT="production", BIND=bind).returncode == 1


def test_health_does_not_wait_for_ever(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        done = run("health", BIND=f"127.0.0.1:{silent.getsockname()[1]}")
    assert done.returncode == 1
    assert time.monotonic() - began < 10


def test_health_does_not_listen_for_ever(run: Run) -> None:
    """To a server that says a little every now and then."""
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def trickle() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    while not stopped.wait(0.5):
                        connection.sendall(b"x")
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        began = time.monotonic()
        done = run("health", BIND=f"127.0.0.1:{listener.getsockname()[1]}")
        stopped.set()
        thread.join()
    assert done.returncode == 1
    assert time.monotonic() - began < 10


def test_health_costs_little(tmp_path: Path) -> None:
    """Little more CPU than Python itself: a container runs it every few seconds all its life."""
    spent: dict[str, list[float]] = {"health": [], "python": []}
    commands = {"health": service_command("health"), "python": [sys.executable, "-c", "pass"]}
    with answering(OK) as server:
        environment = clean_environment(BIND=f"127.0.0.1:{server.port}", ENVIRONMENT="production")
        for name in 20 * list(commands):
            child = os.posix_spawn(commands[name][0], commands[name], environment)
            _, status, usage = os.wait4(child, 0)
            assert status == 0
            spent[name].append(usage.ru_utime + usage.ru_stime)
    medians = {name: statistics.median(seconds) for name, seconds in spent.items()}
    assert medians["health"] <= 3 * medians["python"], medians
    least = {name: min(seconds) for name, seconds in spent.items()}
    assert least["health"] <= 2.5 * least["python"], least


def test_health_imports_nothing_heavy(run: Run) -> None:
    program = (
        "import sys; from service.__main__ import main; code = main(['health']);"
        "print(' '.join(sorted(sys.modules))); sys.exit(code)"
    )
    with answering(OK) as server:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=clean_environment(BIND=f"127.0.0.1:{server.port}", ENVIRONMENT="production"),
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    heavy = {"pydantic", "fastapi", "sqlalchemy", "httpx", "asyncio", "ssl", "re", "socket"}
    heavy |= {"http", "json", "logging", "argparse", "enum", "typing", "subprocess", "selectors"}
    assert not heavy & loaded
    assert {name for name in loaded if name.startswith("service")} == {
        "service",
        "service.__main__",
        "service.healthcheck",
        "service.sources",
    }
