"""compose.production.yaml on a real engine: what an operator deploys, breaks and restores."""

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from pictures import halves, saved
from servers import ROOT, make_certificate, wait_until
from service.settings import Settings
from stack import Person, Stack, docker, require_engine, stack_directory
from traffic import Traffic

PHOTO = saved(halves((1200, 800)), "JPEG", quality=95)  # media
MAIL_PASSWORD = "the-mail-passw0rd"
MARKER = "sesame-in-a-dotenv"
SERVICES = ("web", "worker", "nginx", "postgres", "redis")
OWN_LAYERS_MB = 120
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("containers"),
]


@pytest.fixture(scope="module")
def production() -> Iterator[Stack]:
    """The first deploy, in a directory of its own, and a mail server beside."""
    require_engine()
    with stack_directory() as directory:
        stack = Stack(directory, "production")
        (directory / "deploy" / "postgres" / "service.sh").chmod(0o600)  # as a umask of 077 has it
        tls = directory / "secrets" / "tls"
        tls.mkdir(parents=True)  # as its owner's umask has it, and then closed
        certificate, key = make_certificate(tls)
        shutil.copy(certificate, tls / "fullchain.pem")
        shutil.copy(key, tls / "privkey.pem")
        (tls / "privkey.pem").chmod(0o644)
        stack.certificate = certificate
        (directory / "secrets" / "mail_password").write_text(MAIL_PASSWORD)
        (directory / "secrets" / "mail_password").chmod(0o644)
        (directory / ".env").write_text(
            "ALLOWED_HOSTS=localhost\nMAIL_SERVER=mail\nMAIL_PORT=1025\nMAIL_USE_TLS=false\n"
            "MAIL_USERNAME=service\nMAIL_FROM=service@example.org\n"
            # The tests come from the engine's gateway, as many clients.
            "TRUSTED_PROXIES=172.16.0.0/12,192.168.0.0/16\n"
            "WEB_MEMORY=400M\n"
        )
        try:
            stack.make("deploy")
            mail = ("--target", "development", "--tag", f"{stack.project}-mail")
            docker("build", "--quiet", *mail, ".", cwd=directory)
            start_mail(stack)
            yield stack
        finally:
            docker("rm", "--force", f"{stack.project}-mail", check=False)
            stack.remove()
            docker("rmi", "--force", f"{stack.project}-mail", check=False)


def start_mail(stack: Stack) -> None:
    image = f"{stack.project}-mail"
    docker(
        *("run", "--detach", "--name", image, "--network", f"{stack.project}_front"),
        *("--network-alias", "mail", "--volume", f"{ROOT}/deploy/development/mail.py:/mail.py:ro"),
        *(image, "python", "/mail.py", "service", MAIL_PASSWORD),
    )


def letter(stack: Stack, to: str, subject: str) -> str:
    """The text of a mail, once it has come."""

    pattern = rf"^----- mail to {re.escape(to)}: {re.escape(subject)}\n(.*?)\n-----$"

    def find() -> str | None:
        printed = docker("logs", f"{stack.project}-mail").stdout
        found = re.search(pattern, printed, re.DOTALL | re.MULTILINE)
        return found and found[1]

    text: str = wait_until(find, seconds=60, every=0.5)
    return text


@pytest.fixture(scope="module")
def ada(production: Stack) -> Iterator[Person]:
    """An account, confirmed and logged in."""
    with production.client() as client:
        person = Person(client, "ada@example.org")
        person.register()
        person.confirm(letter(production, person.email, "Confirm your account"))
        person.log_in()
        yield person


def test_everything_is_healthy_after_a_deploy(production: Stack) -> None:
    healthy = dict.fromkeys(SERVICES, "healthy")

    def health() -> dict[str, str]:
        return {name: production.inspect(name)["State"]["Health"]["Status"] for name in SERVICES}

    wait_until(lambda: health() == healthy, seconds=60, every=1)
    with production.client() as client:
        assert client.get("/health").json()["status"] in ("healthy", "degraded")


def test_every_dependency_is_reached_as_the_guide_asks(production: Stack) -> None:
    production.compose("exec", "-T", "web", "service", "check", "--deploy", "--connect")


def test_the_image_knows_what_it_was_built_from(production: Stack) -> None:
    labels = production.inspect("web")["Config"]["Labels"]
    version, revision = (
        labels[f"org.opencontainers.image.{name}"] for name in ("version", "revision")
    )
    assert revision not in ("", "unknown")
    assert production.sh("web", "service --version").strip() == f"service {version} ({revision})"


# media: from here
def test_a_picture_goes_the_whole_way(production: Stack, ada: Person) -> None:
    """From account to thumbnail, over https, with the bytes sent by nginx itself."""
    item = ada.upload("sunrise.jpg", PHOTO)
    assert item["status"] == "ready"
    answer = ada.client.get(item["url"], headers=ada.bearer)
    assert answer.content == PHOTO
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert "x-accel-redirect" not in answer.headers
    part = ada.client.get(item["url"], headers={**ada.bearer, "Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, PHOTO[10:20])
    assert ada.client.get(item["thumbnail_url"], headers=ada.bearer).content[:4] == b"RIFF"
    assert ada.client.get(item["url"]).status_code == 404
    letter(production, ada.email, "Your upload is ready")


# media: to here


def test_nothing_is_published_but_nginx(production: Stack) -> None:
    published = {
        name: sorted(port for port, hosts in found["NetworkSettings"]["Ports"].items() if hosts)
        for name in SERVICES
        if (found := production.inspect(name))
    }
    assert published.pop("nginx") == ["8080/tcp", "8443/tcp", "8443/udp"]
    assert not any(published.values())


def test_databases_are_on_a_network_without_a_way_out(production: Stack) -> None:
    back, front = f"{production.project}_back", f"{production.project}_front"
    [network] = json.loads(docker("network", "inspect", back).stdout)
    assert network["Internal"] is True
    members = {
        name: set(production.inspect(name)["NetworkSettings"]["Networks"]) for name in SERVICES
    }
    assert members["postgres"] == members["redis"] == {back}
    assert members["nginx"] == {front}


@pytest.mark.parametrize("service", SERVICES)
def test_no_process_is_root_or_has_capabilities(production: Stack, service: str) -> None:
    table = docker("top", production.containers()[service], "-eo", "uid,pid,comm").stdout
    users = {line.split()[0] for line in table.splitlines()[1:]}
    assert users
    assert "0" not in users
    status = Path(f"/proc/{production.process_id(service)}/status").read_text()
    assert re.search(r"CapEff:\s*0+$", status, re.MULTILINE), status
    assert re.search(r"NoNewPrivs:\s*1$", status, re.MULTILINE), status


@pytest.mark.parametrize("service", SERVICES)
def test_the_root_is_read_only(production: Stack, service: str) -> None:
    assert production.inspect(service)["HostConfig"]["ReadonlyRootfs"] is True
    command = "touch /opt/x /srv/x /usr/x 2>&1 || true"
    assert production.sh(service, command).count("Read-only file system") == 3


def test_secrets_cannot_be_read_from_outside(production: Stack) -> None:
    """Not in what the engine tells of a container, nor in the image, nor by other users here."""
    folder = production.directory / "secrets"
    assert folder.stat().st_mode & 0o077 == 0
    secrets = [path.read_text() for path in folder.iterdir() if path.is_file()]
    secrets.remove(",")  # no former keys
    assert len(secrets) == 8
    told = "".join(json.dumps(production.inspect(name)) for name in SERVICES)
    told += docker("history", "--no-trunc", production.project).stdout
    told += production.logs()
    table = "".join(
        docker("top", c, "-eo", "pid,args").stdout for c in production.containers().values()
    )
    assert [secret for secret in secrets if secret in told or secret in table] == []
    assert production.sh("worker", "ls /run/secrets").split() == [
        *("database_url", "health_token", "mail_password", "redis_url"),
        *("secret_key", "secret_key_fallbacks"),
    ]


def test_the_database_lets_nobody_in_without_the_password_of_its_file(production: Stack) -> None:
    code = (
        "import asyncio, asyncpg; "
        "asyncio.run(asyncpg.connect('postgresql://service:wrong@postgres/service'))"
    )
    refused = production.sh("worker", f'python -c "{code}" 2>&1 || true')
    assert "password authentication failed" in refused


def test_numbers_agree_with_the_settings_they_depend_on(production: Stack) -> None:
    services = json.loads(production.compose("config", "--format", "json").stdout)["services"]
    grace = Settings().shutdown_grace_seconds
    for name in ("web", "worker", "nginx"):
        assert int(services[name]["stop_grace_period"].removesuffix("s")) > grace
    limits = {services[name]["environment"]["MAX_CONTENT_LENGTH"] for name in ("web", "front")}
    assert limits == {str(int(Settings().max_content_length))}


def test_the_service_is_no_superuser_of_its_database(production: Stack) -> None:
    query = (
        "SELECT rolsuper OR rolcreaterole OR rolcreatedb FROM pg_roles WHERE rolname = 'service'"
    )
    assert ask(production, query) == "f"


def test_own_layers_of_the_image_are_small(production: Stack) -> None:
    base = docker("image", "inspect", "--format", "{{.Size}}", "python:3.13-slim-bookworm").stdout
    own = docker("image", "inspect", "--format", "{{.Size}}", production.project).stdout
    assert (int(own) - int(base)) / 1e6 <= OWN_LAYERS_MB


def test_the_image_has_what_runs_and_nothing_that_builds(production: Stack) -> None:
    found = production.sh(
        "worker",
        "ls /opt/venv/bin; find / -xdev \\( -name tests -o -name '*.whl' -o -name gcc -o -name cc1 "
        "-o -name binutils -o -name .env -o -path '*/.cache/pip' \\) -path '/[os]*' 2>/dev/null; "
        "command -v gcc cc ld strip || true",
    )
    assert "gunicorn" in found
    assert not re.search(r"\bpip\b|pytest|/tests|gcc|\bld\b|strip|\.env", found), found


def test_no_compiled_file_has_the_time_of_its_build(production: Stack) -> None:
    """PEP 552: the flags after the magic number are 1 where it is known by its source's hash."""
    program = (
        "from pathlib import Path; folders = map(Path, ('/opt/venv', '/srv/service'));"
        "files = [file for folder in folders for file in folder.rglob('*.pyc')];"
        "print(len(files), {file.read_bytes()[4] & 1 for file in files})"
    )
    count, flags = production.sh("worker", f'python -c "{program}"').split()
    assert int(count) > 1000
    assert flags == "{1}"


@pytest.fixture(scope="module")
def careless(production: Stack) -> Iterator[str]:
    """The image of a checkout that only its owner reads, with settings in files of theirs."""
    image = f"{production.project}-careless"
    with stack_directory() as directory:
        for path in directory.rglob("*.py"):
            path.chmod(0o600)
        for place in (".env", "src/.env", "src/service/.env.production", "migrations/.env"):
            (directory / place).write_text(f"SECRET_KEY={MARKER}\n")
        docker("build", "--quiet", "--tag", image, ".", cwd=directory)
    yield image
    docker("rmi", "--force", image)


def test_a_checkout_that_only_its_owner_reads_makes_an_image_that_runs(careless: str) -> None:
    """COPY keeps modes, and the container's user is somebody else."""
    assert docker("run", "--rm", careless, check=False).returncode == 78


def test_a_dotenv_is_not_taken_into_an_image(careless: str) -> None:
    grep = docker("run", "--rm", careless, "grep", "-rl", MARKER, "/srv", "/opt", check=False)
    assert (grep.returncode, grep.stdout) == (1, "")


def test_the_image_alone_refuses_to_run_without_its_configuration(production: Stack) -> None:
    result = docker("run", "--rm", "--read-only", production.project, check=False)
    assert result.returncode == 78
    for name in ("SECRET_KEY", "DATABASE_URL", "REDIS_URL", "MAIL_SERVER", "ALLOWED_HOSTS"):
        assert name in result.stderr


@pytest.mark.parametrize("service", ["web", "worker", "nginx", "redis", "postgres"])
def test_a_killed_container_comes_back_and_nothing_is_lost(
    production: Stack, ada: Person, service: str
) -> None:
    item = ada.upload("kept.jpg", PHOTO)  # media
    before = production.inspect(service)["RestartCount"]
    os.kill(production.process_id(service), signal.SIGKILL)
    wait_until(lambda: production.inspect(service)["RestartCount"] > before, seconds=30)
    with production.client() as client:
        again = Person(client, ada.email, ada.token)

        def served() -> bool:
            """503, or no answer at all, while something is away."""
            with contextlib.suppress(httpx.HTTPError):
                answers = [
                    client.get("/api/accounts/me", headers=again.bearer).is_success,
                    client.get(item["url"], headers=again.bearer).content == PHOTO,  # media
                ]
                return all(answers)
            return False

        wait_until(served, seconds=60, every=0.5)
        wait_until(lambda: production.status("/health") == 200, seconds=60, every=0.5)
        assert again.upload("after.jpg", PHOTO)["status"] == "ready"  # media


def test_workers_that_are_killed_leave_no_zombies(production: Stack) -> None:
    web = production.process_id("web")
    killed = _children(web)[0]
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: _children(web) and killed not in _children(web))
    wait_until(lambda: _zombies(production, "web") == [])


def _children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _zombies(stack: Stack, service: str) -> list[str]:
    table = docker("top", stack.containers()[service], "-eo", "pid,stat").stdout
    return [line for line in table.splitlines()[1:] if "Z" in line.split()[1]]


def mark(stack: Stack, text: str) -> None:
    """Make another release of the copy: one whose API has another name."""
    path = stack.directory / "src" / "service" / "app.py"
    changed, count = re.subn(r"title=[^,]+,", f'title="{text}",', path.read_text())
    assert count == 1
    path.write_text(changed)


@contextlib.contextmanager
def written(path: Path, text: str) -> Iterator[None]:
    """Instead of what the file holds, for a block."""
    kept = path.read_text()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(kept)


def broken(stack: Stack, module: str, error: str) -> contextlib.AbstractContextManager[None]:
    """A module that cannot be imported, for a block."""
    path = stack.directory / module
    return written(path, f"{path.read_text()}\nraise RuntimeError('{error}')\n")


def title(stack: Stack) -> str:
    with stack.client() as client:
        found: str = client.get("/openapi.json").json()["info"]["title"]
        return found


def test_a_deploy_fails_no_request_and_a_rollback_neither(production: Stack) -> None:
    first = docker("image", "inspect", "--format", "{{.Id}}", production.project).stdout.strip()
    docker("tag", first, f"{production.project}:first")
    original = title(production)
    mark(production, "second release")
    with Traffic(production.https_port, tls=production.tls) as traffic:
        time.sleep(1)
        deployed = production.make("deploy")
        during = title(production)
        rolled_back = production.make("deploy", "ROLLBACK=first")
        time.sleep(1)
    assert traffic.failures == []
    assert traffic.answered > 200
    assert during == "second release", deployed.stdout
    assert title(production) == original, rolled_back.stdout
    assert "web-next" not in production.containers()


def test_a_release_that_does_not_start_leaves_the_old_one_serving(production: Stack) -> None:
    before = title(production)
    with (
        broken(production, "src/service/app.py", "a broken release"),
        Traffic(production.https_port, tls=production.tls) as traffic,
    ):
        result = production.make("deploy", check=False)
    assert result.returncode != 0
    assert "a broken release" in result.stderr
    assert "what served before still serves" in result.stderr
    assert traffic.failures == []
    assert title(production) == before
    assert "web-next" not in production.containers()


def test_a_migration_that_fails_leaves_everything_as_it_was(production: Stack) -> None:
    """PostgreSQL too, where its service has changed."""
    settings = production.directory / ".env"
    before, former = production.containers(), tagged(production)
    with (
        written(settings, settings.read_text() + "POSTGRES_CPUS=1\n"),
        broken(production, "migrations/env.py", "a broken migration"),
    ):
        result = production.make("deploy", check=False)
    assert result.returncode != 0
    assert "a broken migration" in result.stdout + result.stderr
    assert "the migration failed; what served before still serves" in result.stderr
    assert production.containers() == before
    assert tagged(production) == former


def test_of_a_release_whose_worker_does_not_start_the_web_process_serves(
    production: Stack,
) -> None:
    """And it is said that nobody does the jobs. The tag is that of what serves, for whatever is
    started anew."""
    former = tagged(production)
    with (
        broken(production, "src/service/worker.py", "a broken worker"),
        Traffic(production.https_port, tls=production.tls) as traffic,
    ):
        result = production.make("deploy", "DEPLOY_SECONDS=60", check=False)
    assert result.returncode != 0
    assert "a broken worker" in result.stderr
    assert "the new release serves, and nobody does the jobs" in result.stderr
    assert traffic.failures == []
    assert tagged(production) == production.inspect("web")["Image"] != former
    assert "web-next" not in production.containers()
    docker("tag", former, production.project)
    production.compose("up", "--detach", "--no-deps", "--force-recreate", "--wait", "worker")


def tagged(stack: Stack) -> str:
    """The image that its containers are started from."""
    return docker("image", "inspect", "--format", "{{.Id}}", stack.project).stdout.strip()


def test_a_wrong_configuration_is_refused_before_anything_is_replaced(production: Stack) -> None:
    path = production.directory / ".env"
    before = production.containers()
    open_to_all = path.read_text().replace("ALLOWED_HOSTS=localhost", "ALLOWED_HOSTS=*")
    with written(path, open_to_all):
        result = production.make("deploy", check=False)
    assert result.returncode != 0
    assert "ALLOWED_HOSTS" in result.stderr
    assert production.containers() == before


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("TRUSTED_PROXIES=lb.example.org", "TRUSTED_PROXIES"),
        ("API_RATE=many", "API_RATE"),
        ("TLS_CERTIFICATES=./secrets/tsl", "secrets/tsl"),
    ],
)
def test_a_setting_that_nginx_cannot_use_is_refused_as_well(
    production: Stack, setting: str, said: str
) -> None:
    path = production.directory / ".env"
    before = production.containers()
    with written(path, path.read_text() + f"{setting}\n"):
        result = production.make("deploy", check=False)
    assert result.returncode != 0
    assert said in result.stderr
    assert production.containers() == before


def test_changed_settings_and_secrets_are_in_force_after_a_deploy(production: Stack) -> None:
    """Also those of nginx, which goes on running."""
    path = production.directory / ".env"
    nginx = production.containers()["nginx"]
    token = secrets.token_urlsafe(36)
    (production.directory / "secrets" / "health_token").write_text(token)
    path.write_text(path.read_text() + "DOCS_ENABLED=false\nHSTS_SECONDS=300\n")
    with Traffic(production.https_port, tls=production.tls) as traffic:
        production.make("deploy")
    assert traffic.failures == []
    assert production.containers()["nginx"] == nginx
    with production.client() as client:
        answer = client.get("/docs")
        assert answer.status_code == 404
        assert answer.headers["Strict-Transport-Security"] == "max-age=300; includeSubDomains"
    for service in ("web", "worker"):
        assert production.sh(service, "cat /run/secrets/health_token") == token


def test_of_two_deploys_at_once_one_is_refused(production: Stack) -> None:
    with (production.directory / ".deploy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = production.make("deploy", check=False)
    assert result.returncode != 0
    assert "another deploy is running" in result.stderr


def test_a_deploy_starts_what_is_down(production: Stack) -> None:
    production.compose("stop", "nginx", "redis")
    production.make("deploy")
    assert production.status("/health") == 200
    assert "redis" in production.containers()


def test_stacks_of_one_name_are_told_apart(production: Stack) -> None:
    result = production.make("stop", "STACK=development", check=False)
    assert result.returncode != 0
    assert "give development another name" in result.stderr
    assert "web" in production.containers()


def test_a_certificate_is_exchanged_without_a_restart(production: Stack) -> None:
    tls = production.directory / "secrets" / "tls"
    certificate, key = make_certificate(tls)
    (tls / "fullchain.pem").write_bytes(certificate.read_bytes())
    (tls / "privkey.pem").write_bytes(key.read_bytes())
    production.compose("exec", "-T", "nginx", "/srv/front/reload")
    # For a moment workers of before may still take connections.
    wait_until(lambda: all(production.status("/health/live") == 200 for _ in range(10)))


def test_a_reload_that_nginx_refuses_is_no_success(production: Stack) -> None:
    """A zone with another key: nginx finds out when it has the signal, and has told nobody."""
    folder = f"{production.project}_front:/srv/front"
    change = r"s/limit_req_zone +\S+( +zone=api:)/limit_req_zone $binary_remote_addr$uri\1/"
    editing = ("run", "--rm", "--user", "0", "--volume", folder, "--entrypoint", "sed")
    kept = production.sh("nginx", "cat /srv/front/nginx.conf; cat /tmp/nginx.conf")
    docker(*editing, production.project, "-i.kept", "-E", change, "/srv/front/nginx.conf")
    try:
        command = ("exec", "-T", "nginx", "/srv/front/reload", "--if-changed")
        refused = production.compose(*command, check=False)
        assert refused.returncode != 0
        assert "the one of before is in force" in refused.stderr
    finally:
        restoring = ("run", "--rm", "--user", "0", "--volume", folder, "--entrypoint", "mv")
        at = "/srv/front/nginx.conf"
        docker(*restoring, production.project, f"{at}.kept", at)
    # What comes next looks whether it has changed against what is in force.
    assert production.sh("nginx", "cat /srv/front/nginx.conf; cat /tmp/nginx.conf") == kept
    production.compose(*command)


def ask(stack: Stack, query: str) -> str:
    return stack.sh("postgres", f'psql -U postgres -d service -XAtc "{query}"').strip()


def test_a_backup_is_restored_into_an_empty_stack(production: Stack, ada: Person) -> None:
    # media: from here
    with production.client() as client:
        item = Person(client, ada.email, ada.token).upload("backed-up.jpg", PHOTO)
    # media: to here
    tasks = "SELECT count(*) FROM schedule"
    wait_until(lambda: ask(production, tasks) != "0", seconds=90, every=1)
    production.compose("stop", "worker")  # by which the folder is read
    assert production.make("backup", "STACK=production", check=False).returncode != 0
    assert not list((production.directory / "backups").iterdir())
    production.compose("start", "worker")
    made = production.make("backup", "STACK=production").stdout
    backup = re.search(r"backups/\d{8}T\d{6}Z", made)
    assert backup, made
    refused = production.make("restore", "STACK=production", f"BACKUP={backup[0]}", check=False)
    assert refused.returncode != 0
    assert "is serving" in refused.stderr

    production.make("stop", "STACK=production")
    refused = production.make("restore", "STACK=production", f"BACKUP={backup[0]}", check=False)
    assert "is not empty" in refused.stderr
    docker("rm", "--force", f"{production.project}-mail", check=False)
    production.compose("--profile", "*", "down", "--volumes")
    docker("rmi", "--force", production.project)  # as on a new server
    production.make("restore", "STACK=production", f"BACKUP={backup[0]}")
    assert ask(production, tasks) == "0"
    production.make("deploy")
    start_mail(production)
    with production.client() as client:
        person = Person(client, ada.email)
        person.log_in()
        assert client.get(item["url"], headers=person.bearer).content == PHOTO  # media
        assert person.upload("after.jpg", PHOTO)["status"] == "ready"  # media


def test_a_damaged_backup_is_refused(production: Stack, tmp_path: Path) -> None:
    (tmp_path / "database.dump").write_bytes(b"not what was written")
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  database.dump\n")
    result = production.make("restore", "STACK=production", f"BACKUP={tmp_path}", check=False)
    assert result.returncode != 0
    assert "is damaged" in result.stderr


def test_stop_removes_the_containers_and_keeps_the_volumes(production: Stack) -> None:
    production.make("stop", "STACK=production")
    assert production.containers() == {}
    volumes = docker("volume", "ls", "--quiet", "--filter", f"name={production.project}").stdout
    assert f"{production.project}_postgres" in volumes


def test_a_first_deploy_that_fails_says_why(production: Stack) -> None:
    production.make("stop", "STACK=production")
    with broken(production, "migrations/env.py", "a broken migration"):
        result = production.make("deploy", check=False)
    assert result.returncode != 0
    assert "a broken migration" in result.stdout + result.stderr
    assert "nothing is served" in result.stderr
