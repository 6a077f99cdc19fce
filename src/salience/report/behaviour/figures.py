"""The figures of an audit as numbers that templates draw: distributions, curves with bands, strips, matrices.

Nothing here knows of runs or HTML. Places are in per cent of a row, or in units of the drawing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from salience.behaviour.view import Floats
from salience.report.trust.figures import Axis

BINS = 40
WIDTH, HEIGHT = 260.0, 130.0


@dataclass(frozen=True)
class Dot:
    """A value with the ends of its interval, in per cent of an axis; ``floor`` is the level to be held against."""

    at: float
    low: float | None
    high: float | None
    floor: float | None = None


def dot(axis: Axis, value: float, low: float | None, high: float | None, floor: float | None = None) -> Dot:
    """Place a value on an axis."""
    ends = [None if v is None or not math.isfinite(v) else round(100 * axis.share(v), 2) for v in (low, high, floor)]
    return Dot(round(100 * axis.share(value), 2), *ends)


def histogram(values: Floats, axis: Axis, bins: int = BINS) -> tuple[tuple[float, float, float], ...]:
    """Return bars of a distribution along an axis: (start, width, height), each in per cent; the tallest has 100."""
    known = values[np.isfinite(values)]
    if not len(known):
        return ()
    shares = np.clip((known - axis.low) / (axis.high - axis.low), 0, 1)
    counts = np.bincount(np.minimum(bins - 1, (shares * bins).astype(np.int64)), minlength=bins)
    top, wide = int(counts.max()), 100 / bins
    return tuple(
        (round(i * wide, 2), round(wide, 2), round(100 * n / top, 1)) for i, n in enumerate(counts.tolist()) if n
    )


# ---------------------------------------------------------------------- curves


@dataclass(frozen=True)
class Series:
    """A curve to be: (position from 0 to 1, value, low, high) for each point, from left to right.

    ``tone`` is the place of its colour, ``kind`` the way it is drawn.
    """

    name: str
    tone: int
    points: tuple[tuple[float, float, float | None, float | None], ...]
    kind: str = "solid"


@dataclass(frozen=True)
class Line:
    """A curve on the paper: the points of its line, of its band (empty without intervals), and its dots."""

    name: str
    tone: int
    kind: str
    line: str
    band: str
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Chart:
    """Curves over a shared axis; ``across`` are (x, text), ``levels`` (y, text), ``zero`` a level that is drawn."""

    title: str
    lines: tuple[Line, ...]
    across: tuple[tuple[float, str], ...]
    levels: tuple[tuple[float, str], ...]
    zero: float | None
    words: str
    width: float = WIDTH
    height: float = HEIGHT


def chart(
    title: str,
    series: Sequence[Series],
    across: Sequence[tuple[float, str]],
    axis: Axis,
    *,
    words: str,
    zero: float | None = None,
    dots: bool = True,
) -> Chart:
    """Lay curves out on a vertical axis.

    Parameters
    ----------
    across
        Ticks of the horizontal axis: position from 0 to 1, and text.
    words
        The chart in words, for those who do not see it.
    zero
        A value at which a level is drawn.
    """

    def place(x: float, value: float) -> tuple[float, float]:
        return round(WIDTH * x, 1), round(HEIGHT * (1 - axis.share(value)), 1)

    lines = []
    for one in series:
        spots = [place(x, value) for x, value, _, _ in one.points]
        known = [(x, low, high) for x, _, low, high in one.points if low is not None and high is not None]
        band = [place(x, high) for x, _, high in known] + [place(x, low) for x, low, _ in reversed(known)]
        lines.append(
            Line(
                one.name,
                one.tone,
                one.kind,
                _points(spots),
                _points(band) if len(known) > 1 else "",
                tuple(spots) if dots else (),
            )
        )
    levels = tuple((round(HEIGHT * (1 - at), 1), text) for at, text in axis.ticks)
    level = None if zero is None or not axis.low <= zero <= axis.high else round(HEIGHT * (1 - axis.share(zero)), 1)
    return Chart(title, tuple(lines), tuple((round(WIDTH * x, 1), t) for x, t in across), levels, level, words)


def _points(found: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in found)


# ---------------------------------------------------------------------- matrices


@dataclass(frozen=True)
class Cell:
    """A pair of runs: what it says, and the depth of its colour in per cent."""

    text: str
    shade: float


@dataclass(frozen=True)
class Matrix:
    """How alike the runs of a group are; ``odd`` is the place of the run that stands out, if one does."""

    group: str
    tone: int
    names: tuple[str, ...]
    rows: tuple[tuple[Cell | None, ...], ...]
    odd: int | None
    words: str

    def is_odd(self, run: int) -> bool:
        """Tell whether a run, by its place, is the one that stands out."""
        return run == self.odd


def matrix(group: str, tone: int, names: Sequence[str], values: Floats, *, odd: str = "", words: str = "") -> Matrix:
    """Lay the similarities (R, R) of runs out; pairs without a value, and the diagonal, are ``None``."""
    rows = tuple(
        tuple(
            Cell(f"{v:.2f}".replace("-", "\N{MINUS SIGN}"), round(100 * max(0.0, v), 1)) if math.isfinite(v) else None
            for v in row
        )
        for row in values.tolist()
    )
    return Matrix(group, tone, tuple(tails(names)), rows, list(names).index(odd) if odd else None, words)


def tails(names: Sequence[str]) -> list[str]:
    """Return names without what all of them begin with, digits of a number kept whole."""
    alike = (len(set(letters)) == 1 for letters in zip(*names, strict=False))
    common = min(names)[: sum(takewhile(bool, alike))].rstrip("0123456789") if names else ""
    found = [name.removeprefix(common) for name in names]
    return list(names) if len(names) < 2 or not all(found) else found
