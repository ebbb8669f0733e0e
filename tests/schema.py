"""`schemathesis run` against a live service, with all of its checks and phases."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from servers import ROOT, Web, clean_environment

PROGRAM = Path(sys.executable).with_name("schemathesis")
SECONDS = 420  # on a busy machine; alone it takes some twenty
COUNTED = re.compile(
    r'http_request_duration_seconds_count\{method="(\w+)",route="([^"]+)",status="(\d+)"\}'
)


# The second one is tried on what the first one owns.
USERS = """
[auth.wfc]
path = "users.json"
user = "owner"
peers = ["owner", "other"]
"""


def run_schemathesis(
    web: Web, directory: Path, *options: str, tokens: Sequence[str], cases: int = 15, seed: int = 1
) -> subprocess.CompletedProcess[str]:
    """Up to `cases` generated requests an operation and phase, beside those that are the same
    every time; with the bearer tokens of two accounts, or none."""
    directory.mkdir()
    tests = ROOT / "tests"
    settings = (tests / "schemathesis.toml").read_text()
    (directory / "schemathesis.toml").write_text(settings + (USERS if tokens else ""))
    (directory / "users.json").write_text(json.dumps({"auth": users(*tokens) if tokens else []}))
    environment = clean_environment(SCHEMATHESIS_HOOKS=str(tests / "schemathesis_hooks.py"))
    path = (str(tests), environment.get("PYTHONPATH", ""))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    amount = ["--checks", "all", "--max-examples", str(cases), "--seed", str(seed)]
    return subprocess.run(
        [PROGRAM, "run", f"{web.url}/openapi.json", *amount, *options],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def users(owner: str, other: str) -> list[dict[str, object]]:
    """As Web Fuzzing Commons writes them."""
    return [
        {"name": name, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {token}"}]}
        for name, token in (("owner", owner), ("other", other))
    ]


def answered(web: Web) -> set[tuple[str, str, int]]:
    """(method, path as OpenAPI has it, status) of all that was answered, by the service's own
    count."""
    found = COUNTED.findall(web.get("/metrics").text)
    return {(method, path, int(status)) for method, path, status in found}
