"""What an audit found, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from salience.behaviour.group_effects import ALL
from salience.behaviour.hierarchy import LEAST, LEVEL, runs_needed, smallest_p
from salience.behaviour.measures import MEASURES, STATISTICS
from salience.behaviour.traits import Direction, Statistic
from salience.behaviour.view import BACKGROUND, CLEAN, OBJECT

Row = Mapping[str, Any]
Verdict = Literal["better", "worse", "different", "not shown", "cannot be shown"]

_SINGULAR = {
    "are": "is",
    "have": "has",
    "keep": "keeps",
    "follow": "follows",
    "spread": "spreads",
    "focus": "focuses",
    "depend": "depends",
}
_WHEN = {ALL: "", CLEAN: "", BACKGROUND: " when the background is blurred", OBJECT: " when salient regions are blurred"}

_ORDER: dict[Verdict, int] = {"not shown": 1, "cannot be shown": 2}
"""Verdicts that are told after differences."""


@dataclass(frozen=True)
class Comparison:
    """A group's difference from the reference, and what can be said of it.

    Attributes
    ----------
    row
        Of the table ``group_effects``.
    single
        Whether both groups are one model: what is said is of these two, from their images.
    """

    row: Row
    statistic: Statistic
    single: bool
    verdict: Verdict


def compared(row: Row) -> Comparison:
    """Judge a row of ``group_effects`` that has a reference.

    A difference is shown where its adjusted p-value is below 0.05 and its interval leaves zero out.
    """
    statistic = STATISTICS[row["measure"], row["form"], row["statistic"]]
    single = row["runs"] == row["reference_runs"] == 1
    verdict: Verdict = "cannot be shown"
    if row["q"] is not None:
        shown = row["q"] < LEVEL and (row["low"] > 0 or row["high"] < 0)
        verdict = _judged(statistic.better(row["condition"]), row["value"]) if shown else "not shown"
    return Comparison(row, statistic, single, verdict)


def _judged(direction: Direction, value: float) -> Verdict:
    if direction == "neither":
        return "different"
    return "better" if (value > 0) == (direction == "higher") else "worse"


def sentences(answers: Sequence[Row], groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield what an audit found.

    Parameters
    ----------
    answers
        Rows of ``group_effects`` that answer a measure's question: of headline statistics, over all conditions.
    groups
        Models by group, the reference first.
    """
    reference, *others = groups
    if not others:
        yield from (_alone(row) for row in answers)
    found = {
        group: [compared(r) for r in answers if r["group"] == group and r["reference"] == reference]
        for group in others
        if _enough(len(groups[group]), len(groups[reference]))
    }
    yield from (_differ(alike) for alike in _alike([c for rows in found.values() for c in rows]))
    for group in others:
        here, there = len(groups[group]), len(groups[reference])
        if group not in found:
            yield _too_few(group, reference, here, there)
            continue
        rows = found[group]
        if len(others) > 1 and rows and all(c.verdict in _ORDER for c in rows):
            models = "" if here == there == 1 else " models"
            yield f"Nothing that was measured shows a difference between {group} and {reference}{models}."
        yield from (_same(c) for c in sorted(rows, key=lambda c: _ORDER.get(c.verdict, 0)) if c.verdict in _ORDER)
        if rows and here == there == 1:
            yield (
                f"{group} and {reference} are one model each: what is said of them comes from their images and holds "
                "for these two models, not for their recipes."
            )
        elif rows and smallest_p(here, there) >= LEVEL:
            yield (
                f"With {_runs(here, there)} p-values rest on the bootstrap and Student's t: dealing so few runs anew "
                f"cannot give less than {smallest_p(here, there):.2g}."
            )


def interval_words(row: Row, *, sign: bool = False) -> str:
    """Return a row's value with its interval, where it has one: ``+0.12 [0.08, 0.16]``.

    Narrow intervals have more digits, up to four: their ends should differ.
    """
    width = 1.0 if row["low"] is None else row["high"] - row["low"]
    digits = min(4, max(2, math.ceil(-math.log10(width / 2)))) if width > 0 else 2
    value, low, high = (None if row[c] is None else round(row[c], digits) + 0.0 for c in ("value", "low", "high"))
    told = f"{value:{'+' if sign else ''}.{digits}f}"
    return told if low is None else f"{told} [{low:.{digits}f}, {high:.{digits}f}]"


def singular(phrase: str) -> str:
    """Return what one model does, of the words for what several do."""
    verb, _, rest = phrase.partition(" ")
    return f"{_SINGULAR[verb]} {rest}".replace(" their ", " its ")


def _enough(here: int, there: int) -> bool:
    """Tell whether two groups of so many runs can be compared."""
    return here == there == 1 or min(here, there) >= LEAST


def _alike(found: Sequence[Comparison]) -> list[list[Comparison]]:
    """Put together the groups that differ from the reference in the same, in the order in which they come."""
    alike: dict[tuple[object, ...], list[Comparison]] = {}
    for c in found:
        if c.verdict not in _ORDER:
            key = (
                *(c.row[name] for name in ("measure", "form", "statistic", "condition")),
                c.row["value"] > 0,
                c.single,
            )
            alike.setdefault(key, []).append(c)
    return list(alike.values())


def _differ(alike: Sequence[Comparison]) -> str:
    """Tell of groups that differ from the reference in the same."""
    row, statistic, single = alike[0].row, alike[0].statistic, alike[0].single
    phrase = statistic.more if row["value"] > 0 else statistic.less
    turned = "; lower is better" if statistic.better(row["condition"]) == "lower" else ""
    sizes = ", ".join(interval_words(c.row, sign=True) for c in alike)
    *first, last = (str(c.row["group"]) for c in alike)
    names = f"{', '.join(first)} and {last}" if first else last
    if single and len(alike) == 1:
        return f"{names} {singular(phrase)} than {row['reference']}{_when(row)} ({sizes}{turned})."
    models = "" if single else " models"
    return f"{names}{models} {phrase} than {row['reference']}{models}{_when(row)} ({sizes}{turned})."


def _same(found: Comparison) -> str:
    """Tell of a group that is not shown to differ from the reference in something."""
    row, statistic = found.row, found.statistic
    models = "" if found.single else " models"
    form = " as published" if statistic.form == "published" else ""
    topic = f"{MEASURES[statistic.measure].topic}{form}{_when(row)}"
    who, size = f"No difference between {row['group']} and {row['reference']}{models}", interval_words(row, sign=True)
    if found.verdict == "not shown":
        return f"{who} is shown in {topic} ({size})."
    return f"{who} can be shown in {topic}: too few runs or images have a number ({size})."


def _when(row: Row) -> str:
    return _WHEN.get(row["condition"], f" under {row['condition']}")


def _too_few(group: str, reference: str, here: int, there: int) -> str:
    needed = runs_needed()
    return (
        f"No difference between {group} and {reference} models can be shown with {_runs(here, there)}: the smallest "
        f"p-value that dealing them anew can give is {smallest_p(here, there):.2g}; {needed} runs a group can give "
        f"{smallest_p(needed, needed):.2g}."
    )


def _runs(here: int, there: int) -> str:
    if here == there:
        return f"{here} run{'' if here == 1 else 's'} a group"
    return f"{here} and {there} runs"


def _alone(row: Row) -> str:
    when = _when(row)
    whose = "" if row["runs"] >= LEAST else " (of this run, not of its recipe)" if row["runs"] == 1 else ""
    if row["runs"] == 2:
        whose = " (of these two runs, not of their recipe)"
    what = f"{row['measure']} as published" if row["form"] == "published" else f"corrected {row['measure']}"
    return f"{row['group']}: {what} ({row['statistic']}) is {interval_words(row)}{when}{whose}."
