"""The numbers beside the headline: accuracy with intervals, who is right where, and how many concepts are sure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from salience.comparison.strata import QUADRANTS
from salience.report import words
from salience.report.comparison import wording
from salience.report.comparison.material import Material

Z = 1.959963984540054
"""The 97.5th percentile of the normal distribution."""


@dataclass(frozen=True)
class Accuracy:
    """A model's share of right predictions with its 95 % interval, in words; ``side`` as on the bars."""

    model: str
    side: str
    text: str
    reach: str


@dataclass(frozen=True)
class Overview:
    """What the strip says. ``quadrants`` are (key, name, images), empty without labels or for one model alone."""

    accuracy: tuple[Accuracy, ...]
    labelled: int
    test: str
    told: str
    quadrants: tuple[tuple[str, str, int], ...]
    agreement: str
    images: int
    units: int


def wilson(right: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share ``right / n``: it has a width even where all are right."""
    if not n:
        return 0.0, 1.0
    share, spread = right / n, Z * Z / n
    middle = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def overview(material: Material, model: str) -> Overview:
    """Return the strip of one model against the reference, or of one model alone."""
    c = material.comparison
    pair = dict.fromkeys((c.reference, model))
    known = c.labels >= 0
    right = {m: (c.predicted(m) == c.labels)[known] for m in pair}
    accuracy = tuple(
        _accuracy(material, m, "reference" if m == c.reference and not c.alone else "model", r, np.flatnonzero(known))
        for m, r in right.items()
        if len(r)
    )
    p = None if c.alone else c.mcnemar(model)
    found = material.quadrants(model) if not c.alone else []
    naming = material.naming(model)
    counts = tuple((q, naming.quadrant(q), found.count(q)) for q in QUADRANTS) if any(found) else ()
    same = "" if c.alone else _agreement(material, model)
    return Overview(
        accuracy,
        int(known.sum()),
        "" if p is None else wording.q_text(p, "p"),
        _told(material, model, p, {m: float(r.mean()) for m, r in right.items() if len(r)}),
        counts,
        same,
        len(material.pictures),
        len(set(c.groups)),
    )


def _accuracy(
    material: Material, model: str, side: str, right: npt.NDArray[np.bool_], rows: npt.NDArray[np.int64]
) -> Accuracy:
    share = float(right.mean())
    groups = len({material.comparison.groups[i] for i in rows})
    low, high = wilson(int(right.sum()), len(right))
    if groups < len(right):  # images of one group are no independent trials
        _, low, high = material.ends(right.astype(np.float64)[:, None], rows)[0]
    ends = f"[{100 * low:.0f}, {100 * high:.0f}]" if math.isfinite(low) else ""
    return Accuracy(model, side, words.percent(share, 1 if len(right) >= 200 else 0), ends)


def _agreement(material: Material, model: str) -> str:
    c = material.comparison
    same = c.predicted(c.reference) == c.predicted(model)
    return f"{int(same.sum())} of {words.count(len(same), 'image')}"


def _told(material: Material, model: str, p: float | None, shares: dict[str, float]) -> str:
    """Say whether accuracy tells the models apart."""
    c = material.comparison
    if p is None:
        return ""
    if p >= 0.05:
        return f"Accuracy does not tell them apart (McNemar's exact {wording.q_text(p, 'p')})."
    better, other = (model, c.reference) if shares[model] > shares[c.reference] else (c.reference, model)
    return f"{better} is right more often than {other} (McNemar's exact {wording.q_text(p, 'p')})."
