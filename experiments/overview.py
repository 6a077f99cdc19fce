"""Prints an audit's overview and sentences as Markdown: ``python experiments/overview.py RUN``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from salience.behaviour.audit import Audit, read_audit

MARKS = {"better": " ▲", "worse": " ▼", "different": " ≠"}


def overview(audit: Audit) -> list[str]:
    """Return a table with a line for each number and a column for each group, then what the audit says in words."""
    groups = list(audit.groups)
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in audit.overview():
        under = "" if row["condition"] in ("all", "clean") else f", {row['condition']}"
        name = (row["measure"], row["form"], f"{row['statistic']}{under}", row["direction"])
        lines.setdefault(name, {})[row["group"]] = cell(row)
    head = ["measure", "form", "number", "better", *(f"{g} ({len(audit.groups[g])})" for g in groups)]
    rows = [[*name, *(found.get(g, "") for g in groups)] for name, found in lines.items()]
    table = ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)]
    legend = (
        f"Number of runs in brackets; [ ] is the 95 % interval; against `{groups[0]}`: ▲ better, ▼ worse, ≠ different, "
        "beyond chance."
    )
    return [*table, "", legend, "", *(f"- {sentence}" for sentence in audit.sentences()), ""]


def cell(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return ""
    interval = "" if row["low"] is None else f" [{row['low']:.2f}, {row['high']:.2f}]"
    return f"{row['value']:.3f}{interval}{MARKS.get(row['verdict'] or '', '')}"


if __name__ == "__main__":
    print("\n".join(overview(read_audit(Path(sys.argv[1])))))
