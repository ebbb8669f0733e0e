"""`schemathesis run` against a live service, with all of its checks and phases."""

import os
import re
import subprocess
import sys
from pathlib import Path

from servers import ROOT, Web, clean_environment

SECONDS = 420  # on a busy machine; alone it takes some twenty
COUNTED = re.compile(
    r'http_request_duration_seconds_count\{method="(\w+)",route="([^"]+)",status="(\d+)"\}'
)


def run_schemathesis(
    web: Web, directory: Path, *options: str, credentials: str = "", cases: int = 15, seed: int = 1
) -> subprocess.CompletedProcess[str]:
    """Up to `cases` generated requests an operation and phase, beside those that are the same
    every time, with this bearer token or none."""
    directory.mkdir()
    tests = ROOT / "tests"
    environment = clean_environment(
        SCHEMATHESIS_HOOKS=str(tests / "schemathesis_hooks.py"), CREDENTIALS=credentials
    )
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(tests), environment.get("PYTHONPATH")))
    )
    program = Path(sys.executable).with_name("schemathesis")
    settings = ["--config-file", tests / "schemathesis.toml"]
    amount = ["--max-examples", str(cases), "--seed", str(seed)]
    return subprocess.run(
        [
            program,
            *settings,
            "run",
            f"{web.url}/openapi.json",
            "--checks",
            "all",
            *amount,
            *options,
        ],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def answered(web: Web) -> set[tuple[str, str, int]]:
    """(method, path as OpenAPI has it, status) of all that was answered, by the service's own
    count."""
    found = COUNTED.findall(web.get("/metrics").text)
    return {(method, path, int(status)) for method, path, status in found}
