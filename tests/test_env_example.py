"""`.env.example`: what it offers is accepted, by the service and by the Compose files."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from servers import ROOT, clean_environment, require, run_service
from stack import copy_checkout

PRODUCTION = {
    "ENVIRONMENT": "production",
    "SECRET_KEY": "k3y-0f-the-t3sts-k3y-0f-the-t3sts",
    "DATABASE_URL": "postgresql://service:pa55@127.0.0.1/service",
    "REDIS_URL": "redis://127.0.0.1/0",
    "MAIL_PASSWORD": "pa55",
}
EXAMPLE = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))


def test_every_line_of_the_example_is_accepted(tmp_path: Path) -> None:
    """Both stacks hand all of it to the service, which takes near misses for mistakes."""
    given = {name: value for name, value in EXAMPLE.items() if name != "MEDIA_STORE_URL"}
    done = run_service("check", environment=clean_environment(**PRODUCTION, **given), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_variable_of_the_compose_files_is_in_the_example() -> None:
    files = [(ROOT / name).read_text() for name in ("compose.yaml", "compose.production.yaml")]
    asked = {name for text in files for name in re.findall(r"(?<!\$)\$\{([A-Z_]+)", text)}
    known = EXAMPLE.keys() | set(re.findall(r"[A-Z_]{4,}", (ROOT / ".env.example").read_text()))
    images_and_limits = {name for name in asked if name.endswith(("_IMAGE", "_CPUS", "_MEMORY"))}
    assert asked - known - images_and_limits <= {
        *("COMPOSE_PROJECT_NAME", "REVISION", "HEALTH_TOKEN", "INTERNAL_CLIENTS"),
        "ACME_CHALLENGES",
    }


@pytest.mark.parametrize("given", [True, False])
def test_the_secret_of_an_object_store_reaches_whatever_reads_the_settings(
    tmp_path: Path, given: bool
) -> None:
    """And what needs none of it is not changed by it."""
    require(shutil.which("docker"), "Docker Compose")
    copy_checkout(tmp_path)
    (tmp_path / "secrets").mkdir()
    if given:
        (tmp_path / "secrets" / "aws_secret_access_key").write_text("s3cret")
    done = subprocess.run(
        ["scripts/stack", "production", "--profile", "deploy", "config", "--format", "json"],
        cwd=tmp_path,
        env=clean_environment(**{name: "x" for name in EXAMPLE if name.startswith("MAIL_")})
        | {"ALLOWED_HOSTS": "localhost", "MAX_CONTENT_LENGTH": "16777216"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    having = {
        name
        for name, service in services.items()
        for secret in service.get("secrets", [])
        if secret["source"] == "aws_secret_access_key"
    }
    assert having == ({"web", "web-next", "worker", "migrate"} if given else set())
    assert "secret_key" in str(services["web"]["secrets"])
