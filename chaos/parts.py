"""What a part of the suite is, and how its scenarios are run: several side by side, as they mostly
wait, each in a process and with servers of its own."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from chaos.table import Row


@dataclass(frozen=True)
class Options:
    """`short` is for the test suite; `only` chooses scenarios by a part of their name, `events` how
    many there are in each."""

    short: bool = False
    only: str = ""
    events: int | None = None

    @property
    def arguments(self) -> list[str]:
        """As the command takes them."""
        events = [] if self.events is None else ["--events", str(self.events)]
        return [*(["--short"] if self.short else []), "--only", self.only, *events]


@dataclass(frozen=True)
class Part:
    """`names` are those of the scenarios; `run` runs one, and returns its rows."""

    names: Callable[[Options], Sequence[str]]
    run: Callable[[str, Options], Sequence[Row]]
    at_once: int = 1


def run_part(title: str, part: Part, options: Options) -> list[Row]:
    """The rows of all scenarios, in their order. One that could not be run has missed its bound."""
    runs: list[subprocess.Popen[str]] = []

    def run(name: str) -> list[Row]:
        command = [sys.executable, "-m", "chaos", *options.arguments, "--scenario", name, title]
        # Ctrl-C at the terminal is for this process, which then ends the others.
        runs.append(
            process := subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, start_new_session=True
            )
        )
        out, _ = process.communicate()
        rows: list[Row] = [{"scenario": name, "met": "NO", "problem": "could not be run"}]
        if process.returncode == 0:
            rows = json.loads(out)
        for row in rows:
            print(", ".join(f"{key}: {value}" for key, value in row.items()), file=sys.stderr)
        return rows

    with ThreadPoolExecutor(part.at_once) as threads:
        try:
            return [row for rows in threads.map(run, part.names(options)) for row in rows]
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in runs:
                process.terminate()  # and what it started with it
            raise
