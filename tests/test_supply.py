"""What `make supply` tells of a release: whether all that is shipped is in it."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from packaging.markers import Marker

from servers import ROOT, require

NEEDED = (".venv", ".venv-release", "requirements.txt", "pyproject.toml", "package-lock.json")
LOCKED = re.findall(
    r"^([\w.-]+)==(\S+?)(?: ; (.+?))? \\$", (ROOT / "requirements.txt").read_text(), re.MULTILINE
)
# Swagger UI, and what the pages are built of.
LIBRARIES = set(json.loads((ROOT / "package.json").read_text())["dependencies"].items())


def test_every_package_and_library_is_in_the_sbom_and_has_a_licence(tmp_path: Path) -> None:
    require((ROOT / ".venv-release" / "done").exists(), "What `make .venv-release/done` makes")
    for name in NEEDED:
        (tmp_path / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [ROOT / "scripts" / "supply"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sbom = json.loads((tmp_path / "dist" / "sbom.cdx.json").read_text())
    components = {(part["name"], part["version"]) for part in sbom["components"]}
    assert components == {(name, version) for name, version, _ in LOCKED} | LIBRARIES
    table = (tmp_path / "dist" / "licences.md").read_text()
    rows = re.findall(r"^\| (\S+) +\| (\S+) +\| (\S.*?) *\|$", table, re.MULTILINE)
    here = {(n, v) for n, v, marker in LOCKED if not marker or Marker(marker).evaluate()}
    assert {(canonical(name), version) for name, version, _ in rows} >= here | LIBRARIES


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [("true", 0, ""), ("echo CVE-2026-1 >$found; false", 1, "CVE-2026-1\n"), ("false", 69, "")],
    ids=["nothing", "found", "away"],
)
def test_an_audit_that_could_ask_nobody_is_told_from_one_that_found_something(
    tmp_path: Path, asked: str, code: int, said: str
) -> None:
    program = tmp_path / ".venv-release" / "bin" / "pip-audit"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/bash\nfound=${{@: -1}}\n{asked}\n")
    program.chmod(0o755)
    audit = [ROOT / "scripts" / "audit"]
    done = subprocess.run(audit, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (code, said)


def canonical(name: str) -> str:
    """As the lock writes the name of a distribution."""
    return re.sub(r"[-_.]+", "-", name).lower()
