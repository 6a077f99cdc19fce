"""The first screen of an audit: which group behaves better, on what, how sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from salience.behaviour.hierarchy import LEAST
from salience.behaviour.measures import FORMS, MEASURES, STATISTICS
from salience.behaviour.similarity import WINDOW, ssim_possible
from salience.report.behaviour import wording
from salience.report.behaviour.material import Material
from salience.report.words import count, grid, listed

Row = Mapping[str, Any]
_JUDGED = ("better", "worse", "different")


@dataclass(frozen=True)
class Number:
    """A group's answer in one form: its mean with interval, and what is to be said of it against the reference.

    ``sign`` and ``verdict`` are empty for the reference itself.
    """

    statistic: str
    condition: str
    better: str
    value: str
    interval: str
    sign: str = ""
    verdict: str = ""
    difference: str = ""
    q: str = ""


@dataclass(frozen=True)
class Line:
    """A group's row under a measure: its numbers in both forms, none where it has none."""

    group: str
    tone: int
    published: tuple[Number, ...]
    corrected: tuple[Number, ...]


@dataclass(frozen=True)
class Block:
    """A measure's rows."""

    measure: str
    title: str
    question: str
    lines: tuple[Line, ...]
    missing: str


@dataclass(frozen=True)
class Verdict:
    """The first screen: a title, what was found, and what was not."""

    title: str
    shown: tuple[str, ...]
    others: tuple[str, ...]


def overview(material: Material) -> list[Block]:
    """Return the table of groups and measures, both forms side by side."""
    rows = material.audit.overview()
    blocks = []
    for measure in material.audit.asked:
        lines = []
        for tone, group in enumerate(material.groups):
            of = [r for r in rows if (r["measure"], r["group"]) == (measure, group)]
            cells = {form: tuple(_number(r) for r in of if r["form"] == form) for form in FORMS}
            lines.append(Line(group, tone, cells["published"], cells["corrected"]))
        title = wording.TITLES[measure].partition(":")[0]
        missing = _missing(material, measure, lines)
        blocks.append(Block(measure, title, MEASURES[measure].question, tuple(lines), missing))
    return blocks


def _number(row: Row) -> Number:
    of = STATISTICS[row["measure"], row["form"], row["statistic"]]
    value, interval = wording.value_text(row)
    condition = "" if row["condition"] in (wording.ALL, "clean") else wording.condition_title(row["condition"])
    sign, verdict = wording.VERDICTS[row["verdict"]] if row["verdict"] else ("", "")
    gap = {"value": row["difference"], "low": row["difference_low"], "high": row["difference_high"]}
    return Number(
        wording.statistic_title(of.name),
        condition,
        {"higher": "↑", "lower": "↓", "neither": ""}[row["direction"]],
        value,
        interval,
        sign,
        verdict,
        "" if gap["value"] is None else wording.told(gap, sign=True),
        "" if row["difference_q"] is None else wording.chance_text(row["difference_q"]),
    )


def _missing(material: Material, measure: str, lines: Sequence[Line]) -> str:
    """Return why a measure, or a form of it, has no numbers."""
    if measure == "stability" and not any(x.published or x.corrected for x in lines):
        return "Every group has one run: stability compares runs of one recipe."
    small = [g for g in sorted({material.view.grid(m) for m in material.audit.models}) if not ssim_possible(g)]
    if small and measure in ("out-of-set", "geometry", "stability"):
        where = "Under flips and turns" if measure == "geometry" else "Here"
        grids = listed([grid(h, w) for h, w in small])
        return f"The published SSIM needs maps of {grid(WINDOW, WINDOW)} and more. {where} {grids} maps have none."
    return "" if any(x.published or x.corrected for x in lines) else "Nothing could be measured."


def verdict(material: Material) -> Verdict:
    """Return what the page begins with."""
    said = material.audit.sentences()
    quiet = [s for s in said if s.startswith("No difference between") and " can be shown with " not in s]
    shown = [s for s in said if s not in quiet]
    return Verdict(
        _title(material),
        *(tuple(s.replace("-0", f"{wording.MINUS}0") for s in part) for part in (shown, quiet)),
    )


def _title(material: Material) -> str:
    reference, *others = material.groups
    if not others:
        return f"How {reference} behaves"
    if len(others) > 1:
        return f"How {count(len(others) + 1, 'group')} behave: {listed([reference, *others], 5)}"
    group = others[0]
    runs = {g: len(m) for g, m in material.audit.groups.items()}
    if min(runs.values()) < LEAST and set(runs.values()) != {1}:
        here, there = runs[group], runs[reference]
        with_so_many = f"{count(here, 'run')} a group" if here == there else f"{here} and {there} runs"
        return f"No difference can be shown with {with_so_many}"
    rows = [r for r in material.audit.overview() if r["group"] == group and r["verdict"] in _JUDGED]
    for form in ("corrected", "published"):
        of = {v: [r["measure"] for r in rows if r["form"] == form and r["verdict"] == v] for v in _JUDGED}
        if any(of.values()):
            title = _judgement(group, reference, of)
            return title if form == "corrected" else f"As published only, {title}"
    return f"No difference between {group} and {reference} is shown"


def _judgement(group: str, reference: str, of: Mapping[str, Sequence[str]]) -> str:
    """Return which of two is better, in what."""
    parts = [
        f"{word} in {listed([MEASURES[m].topic for m in dict.fromkeys(of[word])], 5)}"
        for word in ("better", "worse")
        if of[word]
    ]
    if parts:
        return f"{group} is {' and '.join(parts)}"
    return f"{group} and {reference} differ in {listed([MEASURES[m].topic for m in dict.fromkeys(of['different'])], 5)}"
