"""What ``salience audit`` prints: every measure of every group, what follows in words, and where everything is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from salience.behaviour.reading import audit_failures
from salience.listing import console_of_output
from salience.progress import counted, failure_words

if TYPE_CHECKING:
    from salience.behaviour.audit import Audit
    from salience.store.place import Place

_FAILURES = 10
_BESIDE = 4
"""Groups that stand beside each other in a table; more stand below each other."""
_MARKS = {"better": " better", "worse": " worse", "different": " differs"}

Row = Mapping[str, Any]


def audit_record(audit: Audit, page: Place | None = None) -> dict[str, Any]:
    """Return what an audit came to, for ``--json``."""
    return {
        "event": "done",
        "run": str(audit.run.folder),
        "report": None if page is None else str(page),
        "images": len(audit.run.images),
        "groups": {group: list(models) for group, models in audit.groups.items()},
        "method": audit.method,
        "measures": list(audit.asked),
        "overview": audit.overview(),
        "sentences": audit.sentences(),
        "failures": len(audit_failures(audit.run)),
        "notes": list(audit.notes),
    }


def print_audit(audit: Audit, page: Place | None = None) -> None:
    """Print the measures of all groups with their intervals, sentences, failures and where everything is."""
    console = console_of_output()

    def say(text: str = "") -> None:
        console.print(text, highlight=False, markup=False)

    runs = ", ".join(f"{group} ({counted(len(models), 'run')})" for group, models in audit.groups.items())
    say(f"{runs}: {counted(len(audit.run.images), 'image')}, maps of {audit.method}; [ ] is the 95 % interval")
    _print_overview(audit.overview(), list(audit.groups))
    found = audit.sentences()
    if found:
        say()
    for sentence in found:
        say(sentence)
    for note in audit.notes:
        say(f"\nnote: {note}")
    failures = audit_failures(audit.run)
    if failures:
        say(f"\n{counted(len(failures), 'failure')}:")
        for row in failures[:_FAILURES]:
            say(f"  {row['model']}: {failure_words(row['image_id'], row['method'], row['message'])}")
        if len(failures) > _FAILURES:
            say(f"  ... and {len(failures) - _FAILURES} more: see the tables 'failures'")
    say(f"\nrun:  {audit.run.folder}")
    if page is not None:
        say(f"page: {page.absolute()}")


def _print_overview(rows: Sequence[Row], groups: Sequence[str]) -> None:
    """Print a line for each number, with the groups beside each other; with many groups a line for each of them."""
    from rich.table import Table

    beside = len(groups) <= _BESIDE
    lines: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        under = "" if row["condition"] in ("all", "clean") else f", {row['condition']}"
        name: tuple[str, ...] = (row["measure"], row["form"], f"{row['statistic']}{under}", _reading(row["direction"]))
        lines.setdefault(name, {})[row["group"]] = row
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("measure", "form", "number", "better"):
        table.add_column(title, overflow="fold")
    for title in groups if beside else ("group", "value"):
        table.add_column(title, justify="right" if beside or title == "value" else "left", overflow="fold")
    before = ""
    for name, found in lines.items():
        head: tuple[str, ...] = name if name[0] != before else ("", *name[1:])
        before = name[0]
        if beside:
            table.add_row(*head, *(_cell(found.get(group)) for group in groups))
            continue
        for k, (group, row) in enumerate(found.items()):
            table.add_row(*(head if not k else ("",) * len(head)), group, _cell(row))
    console_of_output().print(table, highlight=False, markup=False)


def _reading(direction: str) -> str:
    return {"higher": "higher", "lower": "lower"}.get(direction, "")


def _cell(row: Row | None) -> str:
    if row is None or row["value"] is None:
        return "-"
    interval = "" if row["low"] is None else f" [{row['low']:.2f}, {row['high']:.2f}]"
    return f"{row['value']:.3f}{interval}{_MARKS.get(row['verdict'] or '', '')}"
