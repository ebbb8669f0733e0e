"""`.env.example`: what it offers is accepted, by the service and by the Compose files."""

import re
from pathlib import Path

from servers import ROOT, clean_environment, run_service

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
