"""Write the tables of methods, metrics and models into the documentation: python docs/tables.py [--check]."""

from __future__ import annotations

import sys
from pathlib import Path

from salience.behaviour.measures import MEASURES, STATISTICS
from salience.listing import method_rows, metric_rows, model_rows

ROOT = Path(__file__).resolve().parent.parent
FILES = ("README.md", "docs/audit.md", "docs/evaluate.md", "docs/models.md")


def methods() -> str:
    lines = ["| method | what it shows | signed | settings | source |", "|---|---|---|---|---|"]
    for row in method_rows():
        signed = "yes" if row["signed"] else ""
        lines.append(f"| `{row['method']}` | {row['summary']} | {signed} | {row['settings']} | {row['reference']} |")
    return "\n".join(lines)


def models() -> str:
    lines = ["| spec | what it loads | example |", "|---|---|---|"]
    lines += [f"| `{row['prefix']}:` | {row['summary']} | `{row['example']}` |" for row in model_rows()]
    return "\n".join(lines)


def metrics() -> str:
    lines = ["| metric | what it tells | better | range | of a signed map | source |", "|---|---|---|---|---|---|"]
    for row in metric_rows():
        better = "" if row["direction"] == "neither" else row["direction"]
        low, high = ("unbounded" if v is None else f"{v:g}" for v in row["range"])
        sign = "" if row["sign"] == "none" else f"{row['sign']} values"
        name = f"| `{row['metric']}` | {row['summary']} "
        lines.append(f"{name}| {better} | {low} to {high} | {sign} | {row['reference']} |")
    return "\n".join(lines)


def measures() -> str:
    """A section a measure: what it asks, and its numbers in both forms with what fools them."""
    lines: list[str] = []
    for measure in MEASURES.values():
        lines += [f"## {measure.name.capitalize()}", "", measure.question, ""]
        lines += ["| form | statistic | what it is | better | what fools it |", "|---|---|---|---|---|"]
        for statistic in STATISTICS.values():
            if statistic.measure == measure.name:
                better = "" if statistic.direction == "neither" else statistic.direction
                cells = (statistic.form, f"`{statistic.name}`", statistic.summary, better, statistic.fools)
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip()


TABLES = (("methods", methods), ("metrics", metrics), ("models", models), ("measures", measures))


def fill(text: str) -> str:
    for name, table in TABLES:
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if begin in text:
            head, rest = text.split(begin, 1)
            text = f"{head}{begin}{table()}\n{end}{rest.split(end, 1)[1]}"
    return text


def main() -> None:
    stale = []
    for name in FILES:
        path = ROOT / name
        old = path.read_text(encoding="utf-8")
        new = fill(old)
        if new != old:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(new, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.exit(f"stale tables in {', '.join(stale)}: run python docs/tables.py")


if __name__ == "__main__":
    main()
