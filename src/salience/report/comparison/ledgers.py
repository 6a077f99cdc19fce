"""The ledger on the page: how the difference of two models' scalars comes about, concept by concept, slice by slice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from salience.report.comparison import wording
from salience.report.comparison.figures import Waterfall, waterfall
from salience.report.comparison.findings import Findings
from salience.report.comparison.material import Material

MOST_STEPS = 8
MOST_CLASSES = 12

REST, MISSED = "rest", "missed"

SLIGHT = 1e-6
"""Of the largest line: what is rounding."""


@dataclass(frozen=True)
class Line:
    """A line of a ledger: its name, its number with interval, q where it was tested."""

    key: str
    concept: int | None
    name: str
    about: str
    text: str
    q: str


@dataclass(frozen=True)
class LedgerView:
    """The ledger of a slice: means over its images, from zero to the change of the difference."""

    key: str
    name: str
    images: int
    figure: Waterfall
    lines: tuple[Line, ...]
    total: str
    gap_note: str


def ledgers(material: Material, found: Findings) -> list[LedgerView]:
    """Return the ledger of all images, of quadrants (who is wrong alone comes first) and of the largest classes."""
    if not material.comparison.has_ledger:
        return []
    counts = np.bincount(material.comparison.targets[material.comparison.targets >= 0])
    most = [int(c) for c in np.argsort(-counts, kind="stable")[:MOST_CLASSES] if counts[c]]
    keys = ["only-reference", "only-model", "all", "both-right", "both-wrong"]
    if material.comparison.alone:
        keys = ["all"]
    keys += [f"class:{material.comparison.classes[c]}" for c in sorted(most)] if len(most) > 1 else []
    views = [_ledger(material, found, key) for key in keys]
    return [v for v in views if v is not None]


def _ledger(material: Material, found: Findings, key: str) -> LedgerView | None:
    c, model = material.comparison, found.model
    rows = material.rows(key, model)
    sums = material.totals[model][rows] - (0.0 if c.alone else material.totals[c.reference][rows])
    change = material.changes[model][rows]
    if not c.alone:
        change = change - material.changes[c.reference][rows]
    kept = np.isfinite(change) & np.isfinite(sums).all(axis=1)
    rows, sums, change = rows[kept], sums[kept], change[kept]
    if not len(rows) or not sums.shape[1]:
        return None
    order = np.argsort(-np.abs(sums.mean(axis=0)), kind="stable")
    first = [int(i) for i in order[:MOST_STEPS] if sums[:, i].any()]
    others = np.setdiff1d(np.arange(sums.shape[1]), first)
    columns = [sums[:, i] for i in first] + [sums[:, others].sum(axis=1), change - sums.sum(axis=1), change]
    ends = material.ends(np.stack(columns, axis=1), rows)
    digits = 1 + wording.digits_of(max(ends, key=lambda three: abs(three[0])))
    own = {e.concept: e for e in found.effects if e.family == "ledger" and e.stratum == key}
    lines, parts = [], []
    for i, three in zip(first, ends, strict=False):
        effect = own.get(i)
        shown = effect.ends if effect is not None and math.isfinite(effect.low) else three
        own_name = material.names[i]
        chance = wording.q_text(effect.q) if effect else ""
        lines.append(Line(str(i), i, own_name.title, own_name.where, wording.scalar_ends(shown, digits), chance))
        parts.append((str(i), three[0]))
    for name, text, three in (
        (REST, f"{len(others)} other concept{'s' if len(others) != 1 else ''}", ends[-3]),
        (MISSED, "not booked: what the maps miss", ends[-2]),
    ):
        if abs(three[0]) > SLIGHT * max(abs(v) for v, _, _ in ends):
            lines.append(Line(name, None, text, "", wording.scalar_ends(three, digits), ""))
            parts.append((name, three[0]))
    naming = material.naming(model)
    share = abs(ends[-2][0] / ends[-1][0]) if ends[-1][0] else math.inf
    note = ""
    if share > 0.05:
        size = f"{100 * share:.0f} % of it" if math.isfinite(share) and share < 10 else "more than the change itself"
        note = f"The maps miss {size}: read this ledger with care."
    name = naming.stratum(key)
    figure, total = waterfall(parts, ends[-1][0]), wording.scalar_ends(ends[-1], digits)
    return LedgerView(key, f"{name[0].upper()}{name[1:]}", len(rows), figure, tuple(lines), total, note)
