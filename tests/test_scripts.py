"""The scripts of operators, as far as they go without a container engine."""

import os
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
    files = (path for path in (checkout / "secrets").iterdir() if path.is_file())
    secrets = {path.name: path.read_text() for path in files}
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


# A Job of which each look takes the next id, where it is listed; everything else succeeds.
KUBECTL = """#!/bin/sh
echo "$*" >>"$LOG"
case $* in
*metadata.uid*) head -n 1 "$JOBS" && sed -i 1d "$JOBS" ;;
*status.succeeded*) echo 1 ;;
esac
"""


def roll_out(folder: Path, namespace: str, jobs: str) -> tuple[int, list[str]]:
    """The exit code, and what kubectl was asked for."""
    (folder / "kustomization.yaml").write_text(namespace)
    (folder / "bin").mkdir()
    (folder / "bin" / "kubectl").write_text(KUBECTL)
    (folder / "bin" / "kubectl").chmod(0o755)
    (folder / "jobs").write_text(jobs)
    (folder / "log").touch()
    files = {"LOG": str(folder / "log"), "JOBS": str(folder / "jobs")}
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        [ROOT / "deploy" / "kubernetes" / "rollout", folder],
        env=clean_environment(PATH=path, **files),
        capture_output=True,
        timeout=60,
    )
    return done.returncode, (folder / "log").read_text().splitlines()


@pytest.mark.parametrize(
    "line", ["namespace: service", 'namespace: "service"', "namespace: 'service' # of us"]
)
def test_a_rollout_is_in_the_namespace_of_its_overlay(tmp_path: Path, line: str) -> None:
    code, asked = roll_out(tmp_path, f"kind: Kustomization\n{line}\n", "a\na\na\n")
    assert code == 0
    assert {each.split()[1] for each in asked if each.startswith("--namespace")} == {"service"}
    assert asked[-2].endswith("--selector phase=last")


def test_a_rollout_without_a_namespace_begins_nothing(tmp_path: Path) -> None:
    assert roll_out(tmp_path, "resources: [../base]\n", "") == (64, [])


@pytest.mark.parametrize(("jobs", "applied"), [("a\nb\n", 1), ("a\na\nb\n", 2)])
def test_a_rollout_makes_way_for_one_that_began_later(
    tmp_path: Path, jobs: str, applied: int
) -> None:
    """Whose manifests would else be overwritten by older ones."""
    code, asked = roll_out(tmp_path, "namespace: service\n", jobs)
    assert code == 1
    assert len([each for each in asked if each.startswith("apply")]) == applied
