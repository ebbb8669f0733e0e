"""Whoever is woken by an alert finds it in docs/operations.md."""

import re

from servers import ROOT

NAME = r"`([A-Z]\w+)`"


def test_every_alert_has_a_row_that_says_what_to_do_and_every_row_an_alert() -> None:
    rules = (ROOT / "deploy" / "prometheus" / "rules.yml").read_text()
    page = (ROOT / "docs" / "operations.md").read_text()
    section = page.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| `")]
    documented = [name for row in rows for name in re.findall(NAME, row[0])]
    assert sorted(documented) == sorted(re.findall(r"- alert: (\w+)", rules))
    assert all(cell.strip() for row in rows for cell in row)
