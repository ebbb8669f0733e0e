"""The scripts of operators, as far as they go without a container engine."""

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from servers import ROOT, clean_environment

ELSEWHERE = "postgresql://service:pa55@db.example.org:5432/service"
MOUNTED = {
    "production": ["deploy/postgres/service.sh"],
    "development": ["src/service/app.py", "nginx.conf", "deploy/nginx/start", "migrations/env.py"],
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the scripts need of one, and a backup of nothing."""
    for name in ("scripts", "deploy", "migrations", "src"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("nginx.conf", "gunicorn_async_config.py", "compose.production.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "media.tar").touch()
    sums = subprocess.run(["sha256sum", "media.tar"], cwd=tmp_path / "backup", capture_output=True)
    (tmp_path / "backup" / "SHA256SUMS").write_bytes(sums.stdout)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "mail_password").write_text("pa55")
    return tmp_path


def run(checkout: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=checkout,
        env=clean_environment(DOCKER_HOST="unix:///nowhere.sock"),
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "command",
    [("scripts/backup", "production"), ("scripts/restore", "backup", "production")],
    ids=["backup", "restore"],
)
def test_a_database_elsewhere_is_not_mistaken_for_that_of_the_stack(
    checkout: Path, command: tuple[str, ...]
) -> None:
    """Its own would be there too, and empty."""
    (checkout / "secrets" / "database_url").write_text(ELSEWHERE)
    done = run(checkout, *command)
    assert done.returncode == 1
    assert "not the stack's" in done.stderr
    assert "pa55" not in done.stdout + done.stderr
    assert not (checkout / "backups").exists()


def test_a_restore_on_a_new_server_makes_the_secrets_that_were_not_brought_along(
    checkout: Path,
) -> None:
    (checkout / "secrets" / "secret_key").write_text("brought along")
    assert run(checkout, "scripts/restore", "backup", "production").returncode != 0
    secrets = {path.name: path.read_text() for path in (checkout / "secrets").iterdir()}
    assert secrets["secret_key"] == "brought along"
    assert secrets["database_password"] in secrets["database_url"]
    assert secrets["postgres_password"]


def test_a_folder_is_no_secret(checkout: Path) -> None:
    """An engine makes one of a file that it is to mount and that is not there."""
    (checkout / "secrets" / "postgres_password").mkdir()
    done = run(checkout, "scripts/secrets")
    assert done.returncode != 0
    assert "secrets/postgres_password: Is a directory" in done.stderr


@pytest.mark.parametrize("stack", ["production", "development"])
def test_what_is_mounted_can_be_read_whatever_the_umask_was(checkout: Path, stack: str) -> None:
    secret = checkout / "deploy" / "kubernetes" / "production" / "secrets" / "secret_key"
    secret.parent.mkdir(exist_ok=True)
    secret.touch()
    for path in (checkout, *checkout.rglob("*")):
        path.chmod(path.stat().st_mode & 0o700)
    run(checkout, "scripts/stack", stack, "version")
    for name in MOUNTED[stack]:
        mode = stat.S_IMODE((checkout / name).stat().st_mode)
        assert mode & 0o055 == (0o055 if mode & 0o100 else 0o044), name
    assert stat.S_IMODE(secret.stat().st_mode) & 0o077 == 0
