"""A copy of the checkout that can be taken apart, with the packages of this run and none of its
source; and the code of a guide, which is run on it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

from servers import ROOT
from stack import copy_checkout

NEVER_OUTDATED = 4_000_000_000  # seconds since 1970: make installs nothing into the copy
LONGEST_COMMAND_SECONDS = 3000
OF_THIS_RUN = re.compile(r"PYTHONPATH|VIRTUAL_ENV|PYTEST_|MAKE")
BLOCK = re.compile(r"(?:^`([^`\n]+)`:\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Code of a page: a shell's, or the content of the file that is named right above it."""

    language: str
    text: str
    path: str = ""


@dataclass(frozen=True)
class Copy:
    directory: Path

    def run(
        self, *command: str, check: bool = True, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A command inside the copy, as somebody runs it who works on it."""
        environment = {name: os.environ[name] for name in os.environ if not OF_THIS_RUN.match(name)}
        result = subprocess.run(
            command,
            cwd=self.directory,
            env=environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=LONGEST_COMMAND_SECONDS,
        )
        assert result.returncode == 0 or not check, result.stdout[-6000:] + result.stderr[-6000:]
        return result

    def python(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(".venv/bin/python", *arguments, check=check)

    def follow(self, block: Block) -> None:
        """Do what a block says."""
        if block.path:
            path = self.directory / block.path
            assert not path.exists(), f"{block.path} is there already"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        else:
            self.run("bash", "-euo", "pipefail", text=block.text)


def make_copy(directory: Path) -> Copy:
    """A repository of what a clone would have, with what is not committed yet."""
    copy_checkout(directory)
    _make_environment(directory)
    copy = Copy(directory)
    copy.run("git", "init", "--quiet")
    return copy


def _make_environment(directory: Path) -> None:
    """`.venv` without an installation: a path file leads to this run's packages and to the copy's
    source. The path file beside those packages, which leads to the original's, is not followed."""
    own = directory / ".venv"
    venv.create(own, symlinks=True)
    packages = Path(sysconfig.get_path("purelib"))
    path_file = own / packages.relative_to(sys.prefix) / "copy.pth"
    path_file.write_text(f"{directory}/src\n{packages}\n")
    for program in (Path(sys.prefix) / "bin").iterdir():
        target = own / "bin" / program.name
        if not program.is_file() or target.exists() or program.name.startswith("python"):
            continue
        content = program.read_bytes()
        if content.startswith(b"#!"):
            target.write_bytes(content.replace(sys.prefix.encode(), bytes(own)))
            target.chmod(0o755)
        else:
            target.symlink_to(program)
    for made in ("dev", "runtime"):
        (own / made).touch()
        os.utime(own / made, (NEVER_OUTDATED, NEVER_OUTDATED))
    if (ROOT / ".venv-lint" / "done").exists():
        (directory / ".venv-lint").symlink_to(ROOT / ".venv-lint")


def section(page: Path, title: str) -> list[Block]:
    """The blocks under a heading of the second level."""
    text = page.read_text()
    assert f"\n## {title}\n" in text, f"{page} has no {title!r}"
    body = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return [Block(language, code, path) for path, language, code in BLOCK.findall(body)]
