"""Results: a row each, printed as a table and written as JSON."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """Values of one figure over the rounds; the median is held against the bound."""

    name: str
    values: Sequence[float]
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool:
        low = self.at_least is None or self.median >= self.at_least
        return low and (self.at_most is None or self.median <= self.at_most)

    @property
    def wanted(self) -> str:
        low = "" if self.at_least is None else f">= {self.at_least:g}"
        high = "" if self.at_most is None else f"<= {self.at_most:g}"
        return f"{low} {high}".strip()

    def as_dict(self) -> dict[str, object]:
        return {
            "name": self.name,
            "median": self.median,
            "lowest": min(self.values),
            "highest": max(self.values),
            "rounds": len(self.values),
            "wanted": self.wanted,
            "met": self.met,
            "note": self.note,
        }


def show(rows: Sequence[Row]) -> str:
    """The table as text."""
    head = ("figure", "median", "lowest", "highest", "wanted", "met", "note")
    lines = [
        (
            row.name,
            f"{row.median:.3g}",
            f"{min(row.values):.3g}",
            f"{max(row.values):.3g}",
            row.wanted,
            "yes" if row.met else "NO",
            row.note,
        )
        for row in rows
    ]
    return aligned([head, *lines])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of as many cells each, as columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def write(rows: Sequence[Row], path: Path) -> None:
    path.write_text(json.dumps([row.as_dict() for row in rows], indent=2) + "\n")
