"""The table of covered operators in the documentation is the registry's.

Run as a script with --write to bring it up to date.
"""

from __future__ import annotations

import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "trainable-graph.md"
START = "<!-- covered operators: written by tests/test_trainable_table.py --write -->"
END = "<!-- end -->"


def table() -> str:
    from hedgerow.models.gradients import rules

    rows = ["| family | operator | kind | how |", "|---|---|---|---|"]
    for rule in rules():
        note = rule.note.replace("|", "\\|")
        rows.append(f"| {rule.family} | `{rule.operator}` | {rule.kind} | {note} |")
    return "\n".join(rows)


def test_the_table_of_covered_operators_is_current() -> None:
    page = PAGE.read_text()
    found = page.split(START)[1].split(END)[0].strip()
    assert found == table(), "run: python tests/test_trainable_table.py --write"


if __name__ == "__main__" and "--write" in sys.argv:
    before, rest = PAGE.read_text().split(START)
    PAGE.write_text(f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}")
