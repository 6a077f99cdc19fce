"""What ``salience compare`` prints: what differs in words, the confirmed concepts, and where everything is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from salience.listing import console_of_output
from salience.progress import counted, failure_words, short_class

if TYPE_CHECKING:
    from salience.comparison.result import Comparison
    from salience.store.place import Place

_FAILURES = 10
_ROWS = 12


def comparison_record(comparison: Comparison, page: Place | None = None) -> dict[str, Any]:
    """Return what a comparison came to, for ``--json``."""
    others = () if comparison.alone else comparison.others
    return {
        "event": "done",
        "run": str(comparison.run.folder),
        "report": None if page is None else str(page),
        "images": len(comparison.images),
        "models": list(comparison.models),
        "reference": comparison.reference,
        "accuracy": comparison.accuracy(),
        "quadrants": {m: _counts(comparison, m) for m in others},
        "mcnemar": {m: comparison.mcnemar(m) for m in others},
        "claims": comparison.claims(),
        "confirmed": comparison.confirmed.to_pylist(),
        "concepts": len(comparison.concepts),
        "failures": len(comparison.failures),
        "notes": list(comparison.notes),
    }


def _counts(comparison: Comparison, model: str) -> dict[str, int]:
    from salience.comparison.strata import QUADRANTS

    found = list(comparison.quadrants(model).values())
    return {name: found.count(name) for name in QUADRANTS} if found else {}


def print_comparison(comparison: Comparison, page: Place | None = None) -> None:
    """Print what differs, how often each model is right, and the confirmed concepts."""
    console = console_of_output()

    def say(text: str = "") -> None:
        console.print(text, highlight=False, markup=False)

    for claim in comparison.claims():
        say(claim)
    say()
    for line in _models(comparison):
        say(line)
    if len(comparison.confirmed):
        say(f"\nconfirmed by changing pixels ({counted(len(comparison.confirmed), 'effect')}):")
        _print_confirmed(comparison)
    for note in comparison.notes:
        say(f"\nnote: {note}")
    if comparison.failures:
        say(f"\n{counted(len(comparison.failures), 'failure')}:")
        for row in comparison.failures[:_FAILURES]:
            say(f"  {failure_words(row['image_id'], row['method'], row['message'])}")
        if len(comparison.failures) > _FAILURES:
            say(f"  ... and {len(comparison.failures) - _FAILURES} more: see the table 'failures'")
    say(f"\nrun:  {comparison.run.folder}")
    if page is not None:
        say(f"page: {page.absolute()}")


def _models(comparison: Comparison) -> list[str]:
    """Return a line for each model, and how it stands to the reference."""
    accuracy = comparison.accuracy()
    lines = []
    for model in comparison.models:
        value = accuracy[model]
        right = "" if value is None else f": right on {value:.1%} of {counted(_labelled(comparison), 'labelled image')}"
        role = " (reference)" if model == comparison.reference and not comparison.alone else ""
        p = None if model == comparison.reference else comparison.mcnemar(model)
        lines.append(f"{model}{role}{right}{'' if p is None else f', McNemar p = {p:.2g}'}")
    return lines


def _labelled(comparison: Comparison) -> int:
    return int((comparison.labels >= 0).sum())


def _print_confirmed(comparison: Comparison) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("concept", "model", "where", "family"):
        table.add_column(name, overflow="fold")
    for name in ("n", "effect [95 %]", "q"):
        table.add_column(name, justify="right")
    rows = comparison.confirmed.to_pylist()
    for row in rows[:_ROWS]:
        form = ".3g" if row["family"] == "ledger" else ".1%"
        low, high = (format(row[k], f"+{form}") if row[k] is not None else "" for k in ("low", "high"))
        table.add_row(
            comparison.concept_name(row["concept"]),
            row["model"],
            _where(row["stratum"]),
            row["family"],
            str(row["n"]),
            f"{format(row['effect'], f'+{form}')} [{low}, {high}]",
            f"{row['q']:.2g}",
        )
    console = console_of_output()
    console.print(table, highlight=False, markup=False)
    if len(rows) > _ROWS:
        more = f"  ... and {len(rows) - _ROWS} more: see the page, and the table 'effects'"
        console.print(more, highlight=False, markup=False)


def _where(stratum: str) -> str:
    head, colon, name = stratum.partition(":")
    return short_class(name) if colon and head == "class" else stratum
