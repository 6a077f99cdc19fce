"""What the page of an audit calls things."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from salience.behaviour.traits import Direction
from salience.behaviour.view import BACKGROUND, CLEAN, OBJECT, OUT_OF_SET
from salience.behaviour.wording import interval_words
from salience.report.words import DASH

MINUS = "\N{MINUS SIGN}"
ALL = "all"

TITLES = {
    "entropy": "Entropy: how focused",
    "out-of-set": "Out of set: how robust",
    "geometry": "Geometry: how equivariant",
    "stability": "Stability across runs",
    "degradation": "Degradation: what the answer depends on",
}
GALLERIES = {
    "entropy": "Least focused images",
    "out-of-set": "Images whose maps change most under noise and corruption",
    "geometry": "Least equivariant images",
    "stability": "Images on which runs agree least",
    "degradation": "Images whose maps change most when degraded",
}
FORMS = {"published": "as published", "corrected": "corrected"}
VERDICTS = {
    "better": ("up", "better"),
    "worse": ("down", "worse"),
    "different": ("other", "different"),
    "not shown": ("none", "no difference shown"),
    "cannot be shown": ("none", "cannot be shown"),
}
"""Sign and words of what a difference is judged to be."""

_STATISTICS = {
    "chance-corrected": "Correlation beyond chance",
    "gain": "Gain over the floor",
    "score-after": "Probability left",
    "pearson": "Correlation",
    "spearman": "Rank correlation",
    "pearson-unchanged": "Correlation where the prediction is kept",
    "pearson-agreed": "Correlation where runs agree on the class",
    "ssim-fixed": "SSIM of the same class",
    "ssim-sd": "SSIM, standard deviation over pairs",
    "zero": "Share of empty maps",
}
_KINDS = {
    "salt-pepper": "Salt and pepper",
    "gaussian-noise": "Gaussian noise",
    "jpeg": "JPEG",
    "road": "ROAD",
}
_CONDITIONS = {
    ALL: "mean over conditions",
    CLEAN: "clean",
    OUT_OF_SET: "second dataset",
    BACKGROUND: "background blurred",
    OBJECT: "salient regions blurred",
    "flip-lr": "flip left to right",
    "flip-tb": "flip top to bottom",
}


def kind_of(condition: str) -> str:
    """Return what a disturbance is without its strength: ``salt-pepper`` of ``salt-pepper-0.1``."""
    head, _, strength = condition.rpartition("-")
    return head if head and re.fullmatch(r"\d+(\.\d+)?", strength) else condition


def kind_title(kind: str) -> str:
    """Return a kind of disturbances in words."""
    words = _KINDS.get(kind) or kind.replace("-", " ")
    return words[0].upper() + words[1:]


def condition_title(condition: str) -> str:
    """Return a condition in words, with its strength."""
    if condition in _CONDITIONS:
        return _CONDITIONS[condition]
    if found := re.fullmatch(r"rotate([+-])(\d+)", condition):
        return f"turn by {found[1].replace('-', MINUS)}{found[2]}°"
    if found := re.fullmatch(r"shift(\d+)-(.+)", condition):
        return f"shift {found[1]} px {found[2].replace('-', ' and ')}"
    if found := re.fullmatch(r"scale-(.+)", condition):
        return f"scale by {found[1]}"
    kind = kind_of(condition)
    if kind != condition:
        title = kind_title(kind)
        return f"{title if title.isupper() else title[0].lower() + title[1:]} {condition.removeprefix(f'{kind}-')}"
    return condition.replace("-", " ")


def statistic_title(name: str) -> str:
    """Return a statistic's name in words."""
    words = _STATISTICS.get(name) or re.sub(r"\bssim\b", "SSIM", name.replace("-", " "))
    return words[0].upper() + words[1:]


def direction_words(direction: Direction) -> str:
    """Return which values are better."""
    return "Neither high nor low is better." if direction == "neither" else f"{direction.capitalize()} is better."


def range_words(low: float, high: float) -> str:
    """Return the range that values are in."""
    ends = ("no bound" if math.isinf(v) else f"{v:g}".replace("-", MINUS) for v in (low, high))
    return " to ".join(ends)


def told(row: Mapping[str, Any], *, sign: bool = False) -> str:
    """Return a row's value and interval with true minus signs."""
    return interval_words(row, sign=sign).replace("-", MINUS)


def value_text(row: Mapping[str, Any], *, sign: bool = False) -> tuple[str, str]:
    """Return a row's value, and its interval: empty where it has none."""
    value, _, interval = told(row, sign=sign).partition(" ")
    return value, interval


def two_digits(value: float) -> str:
    """Return a number with two digits; zero has no sign."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", MINUS)


def chance_text(value: float | None) -> str:
    """Return an adjusted p-value; a dash where nothing was tested."""
    if value is None or not math.isfinite(value):
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"
