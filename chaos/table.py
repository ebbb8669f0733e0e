"""The results of a part: a row a scenario, with one value a column. `met` says `yes` or `NO`, or
nothing where there is no bound."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.table import aligned

Row = Mapping[str, object]


def show(rows: Sequence[Row]) -> str:
    """As text; what is a list is left to the file."""
    if not rows:
        return "nothing to do"
    shown = {
        name: None for row in rows for name, value in row.items() if not isinstance(value, list)
    }
    return aligned([[*shown], *([str(row.get(name, "")) for name in shown] for row in rows)])


def missed(rows: Sequence[Row]) -> list[object]:
    """The scenarios that did."""
    return [row["scenario"] for row in rows if row["met"] == "NO"]


def write(parts: Mapping[str, Sequence[Row]], path: Path) -> None:
    path.write_text(json.dumps(parts, indent=2) + "\n")
