"""Concepts, slices and numbers of a comparison in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from salience.comparison.wording import percent_digits
from salience.report import words
from salience.report.comparison.figures import Ends

FIXED = 0.35
"""Position entropy up to which a concept is said to be always in one place."""

MOSTLY = 0.6

CLASS = "class:"


@dataclass(frozen=True)
class Names:
    """How the models and the slices of a comparison are called on the page."""

    reference: str
    model: str
    alone: bool
    short: Mapping[str, str] = field(default_factory=dict)
    """Whole class name -> the one without synonyms."""

    def kind(self, stratum: str) -> str:
        """Return the class that a stratum is of, without synonyms."""
        return self.short.get(class_of(stratum), class_of(stratum))

    def stratum(self, stratum: str) -> str:
        """Return which images a stratum holds, as the end of "on ..."."""
        known = {
            "all": "all images",
            "both-right": "images that both get right",
            "only-reference": f"images that only {self.reference} gets right",
            "only-model": f"images that only {self.model} gets right",
            "both-wrong": "images that both get wrong",
        }
        return known.get(stratum, f"images of {self.kind(stratum)}")

    def quadrant(self, quadrant: str) -> str:
        """Return a quadrant's name."""
        return {
            "both-right": "both right",
            "only-reference": f"only {self.reference} right",
            "only-model": f"only {self.model} right",
            "both-wrong": "both wrong",
        }[quadrant]


def class_of(stratum: str) -> str:
    """Return the class that a stratum is of."""
    return stratum.removeprefix(CLASS)


def place(row: float, column: float) -> str:
    """Return where something lies in an image: (0, 0) is its top left corner, (1, 1) its bottom right one."""
    down = "top" if row < 0.3 else "bottom" if row > 0.7 else ""
    across = "left" if column < 0.3 else "right" if column > 0.7 else ""
    if down and across:
        return f"the {down} {across} corner"
    if down:
        return f"the {down}"
    return f"the {across} side" if across else "the middle"


def lying(spot: str) -> str:
    """Return :func:`place` with its preposition: ``at the top``, ``on the left side``, ``in the middle``."""
    return f"{'at' if spot in ('the top', 'the bottom') else 'on' if spot.endswith('side') else 'in'} {spot}"


@dataclass(frozen=True)
class ConceptName:
    """How a concept is called: in a sentence, as a title, and where it lies."""

    number: int
    title: str
    phrase: str
    where: str
    place: str
    """Where it always lies; empty where it has no fixed place."""


def concept_name(row: Mapping[str, Any]) -> ConceptName:
    """Name a row of the table ``concepts``: by the user's mask, or by its number and, where it has one, its place."""
    number, given = int(row["concept"]), row["name"]
    spot, entropy = place(row["row"], row["column"]), row["position_entropy"]
    entropy = 1.0 if entropy is None else entropy
    area = f"{words.percent(row['median_area'], 1 if row['median_area'] < 0.095 else 0)} of the image"
    where = (
        f"always {lying(spot)}" if entropy <= FIXED else f"mostly {lying(spot)}" if entropy <= MOSTLY else "anywhere"
    )
    title = str(given) if given else f"Concept {number}"
    fixed = spot if entropy <= FIXED and not given else ""
    phrase = f"\N{LEFT DOUBLE QUOTATION MARK}{given}\N{RIGHT DOUBLE QUOTATION MARK}" if given else f"concept {number}"
    if fixed:
        phrase = f"what is {lying(spot)}"
    return ConceptName(number, title, phrase, f"{where}, {area}", fixed)


# ---------------------------------------------------------------------- numbers


def q_text(q: float, name: str = "q") -> str:
    """Return a p- or q-value: ``q = 0.03``, ``q < 0.001``, ``not tested``."""
    if math.isnan(q):
        return "not tested"
    return f"{name} < 0.001" if q < 0.001 else f"{name} = {q:.3f}" if q < 0.1 else f"{name} = {q:.2f}"


def fixed(value: float, digits: int, sign: str = "-") -> str:
    """Return a number with ``digits`` decimals and a true minus sign; what rounds to zero has no sign."""
    text = f"{value:{sign}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", words.MINUS)


def signed(value: float, digits: int) -> str:
    """Return a number with its sign, also where that is plus."""
    return fixed(value, digits, "+")


def share_ends(ends: Ends) -> str:
    """Return ``31.2 % [24.1, 38.0]``; without an interval where there is none."""
    digits = percent_digits(*ends)
    return f"{fixed(100 * ends[0], digits)}{words.NBSP}%{bracket(ends, 100, digits)}"


def points(ends: Ends) -> str:
    """Return a difference of two shares: ``+31.2 points [24.1, 38.0]``, a point being 1 % of the attribution."""
    digits = percent_digits(*ends)
    return f"{signed(100 * ends[0], digits)} points{bracket(ends, 100, digits)}"


def least(value: float) -> str:
    """Return the smallest effect that could be shown, which is never told as 0: ``3.1``, ``0.042``."""
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def scalar_ends(ends: Ends, digits: int | None = None) -> str:
    """Return a difference of the explained scalar: ``+1.20 [0.80, 1.60]``; without an interval where there is none."""
    shown = digits_of(ends) if digits is None else digits
    return signed(ends[0], shown) + bracket(ends, 1, shown)


def digits_of(ends: Ends) -> int:
    """Return how many decimals show an interval."""
    size = max((abs(v) for v in ends if math.isfinite(v)), default=0.0)
    return 2 if size >= 0.1 or size == 0 else min(6, 1 - math.floor(math.log10(size)))


def bracket(ends: Ends, scale: float, digits: int) -> str:
    """Return the ends of an interval in brackets, after a space; nothing where there is none."""
    if not all(map(math.isfinite, ends[1:])):
        return ""
    low, high = (fixed(scale * v, digits) for v in ends[1:])
    return f" [{low}, {high}]"


def effect_text(family: str, ends: Ends) -> str:
    """Return an effect with its interval in the unit of its family."""
    return scalar_ends(ends) if family == "ledger" else points(ends)
