"""The figures of a comparison, laid out as numbers that templates draw: scatter, steps, bins, places.

Nothing here knows of runs or HTML: values go in, places on the paper come out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from salience.report.trust.figures import Axis, axis

Ends = tuple[float, float, float]
"""A value with the lower and upper end of its interval."""

Floats = npt.NDArray[np.float64]


def percents(line: Axis, ends: Ends) -> Ends:
    """Return where a value and its ends lie on an axis, in per cent of its length; without ends all at the value."""
    value, low, high = (round(100 * line.share(v), 2) for v in whole(ends))
    return value, low, high


def whole(ends: Ends) -> Ends:
    """Return a value with its ends, both at the value where there are none."""
    value, low, high = ends
    return (value, low, high) if math.isfinite(low) and math.isfinite(high) else (value, value, value)


def around_zero(values: Sequence[float]) -> Axis:
    """Return an axis around ``values`` that always holds zero."""
    return axis([0.0, *(v for v in values if math.isfinite(v))])


# ---------------------------------------------------------------------- scatter


@dataclass(frozen=True)
class Dot:
    """A concept in the scatter: its place on the paper, and the ends of its cross."""

    concept: int
    x: float
    y: float
    left: float
    right: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Scatter:
    """Means of two models against each other, ``side`` wide and high; y grows downwards.

    ``ticks`` are (place from the left, text), the same on both axes; ``zero`` is where zero lies from the left.
    """

    side: float
    dots: tuple[Dot, ...]
    ticks: tuple[tuple[float, str], ...]
    zero: float


def scatter(points: Mapping[int, tuple[Ends, Ends]], side: float) -> Scatter:
    """Lay concept -> (value of the first model, of the second) out on equal axes; later ones are drawn on top."""
    line = around_zero([v for pair in points.values() for ends in pair for v in ends])

    def across(value: float) -> float:
        return round(side * line.share(value), 1)

    def up(value: float) -> float:
        return round(side * (1 - line.share(value)), 1)

    dots = tuple(
        Dot(concept, across(x[0]), up(y[0]), across(x[1]), across(x[2]), up(y[2]), up(y[1]))
        for concept, (x, y) in ((c, (whole(x), whole(y))) for c, (x, y) in points.items())
    )
    return Scatter(side, dots, tuple((round(side * at, 1), text) for at, text in line.ticks), across(0.0))


# ---------------------------------------------------------------------- steps of a sum


@dataclass(frozen=True)
class Step:
    """One summand: the bar from the sum before it to the sum after it, in per cent of the axis."""

    key: str
    value: float
    start: float
    width: float
    end: float

    @property
    def sign(self) -> str:
        """Return ``up``, ``down`` or ``none``."""
        return "up" if self.value > 0 else "down" if self.value < 0 else "none"


@dataclass(frozen=True)
class Waterfall:
    """How a sum comes about: its steps, and the sum itself as a last bar from zero."""

    axis: Axis
    steps: tuple[Step, ...]
    total: Step
    zero: float


def waterfall(parts: Sequence[tuple[str, float]], total: float | None = None) -> Waterfall:
    """Lay out summands (key, value) one after the other; ``total`` is theirs unless it is given."""
    ends = np.concatenate([[0.0], np.cumsum([value for _, value in parts])])
    whole = float(ends[-1]) if total is None else total
    line = around_zero([*ends.tolist(), whole])

    def step(key: str, value: float, start: float, end: float) -> Step:
        low, high = sorted((line.share(start), line.share(end)))
        return Step(key, value, round(100 * low, 2), round(100 * (high - low), 2), round(100 * line.share(end), 2))

    steps = tuple(step(key, v, float(ends[i]), float(ends[i + 1])) for i, (key, v) in enumerate(parts))
    return Waterfall(line, steps, step("total", whole, 0.0, whole), round(100 * line.share(0.0), 2))


# ---------------------------------------------------------------------- distributions


@dataclass(frozen=True)
class Spread:
    """How differences are spread over images: counts of equal bins from ``-limit`` to ``limit``, zero in the middle."""

    limit: float
    counts: tuple[int, ...]
    below: int
    zero: int
    above: int


BINS = 20
"""Even, so that zero is an edge."""


def spread(values: Floats) -> Spread:
    """Count values (N,) in equal bins around zero; what is exactly zero is in no bin."""
    limit = float(np.abs(values).max(initial=0.0))
    half = BINS // 2
    own = values[values != 0]
    # By size and sign apart: the edges of one histogram over both round, and put tiny values on the wrong side.
    steps = np.minimum((np.abs(own) / limit * half).astype(np.int64), half - 1) if limit else own.astype(np.int64)
    counts = np.bincount(np.where(own < 0, half - 1 - steps, half + steps), minlength=BINS)
    return Spread(
        limit, tuple(counts.tolist()), int((values < 0).sum()), int((values == 0).sum()), int((values > 0).sum())
    )


PLACES = 24
"""Rows and columns of a map of places."""


def places(rows: Floats, columns: Floats, areas: Floats) -> Floats:
    """Return how often each cell of an image is covered: (PLACES, PLACES), relative to the cell covered most.

    Parameters
    ----------
    rows, columns, areas
        Centres in [0, 1] and shares of the image, (N,) each: a segment counts as the square of its area.
    """
    (top, bottom), (left, right) = (_cells(middle, np.sqrt(areas)) for middle in (rows, columns))
    steps = np.zeros((PLACES + 1, PLACES + 1))
    for down, across, sign in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
        np.add.at(steps, (down, across), sign)
    found: Floats = steps.cumsum(axis=0).cumsum(axis=1)[:PLACES, :PLACES]
    return found / found.max() if found.max() > 0 else found


def _cells(middle: Floats, length: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the first cell of each stretch around its middle, and the one after the last: at least one each."""
    first = np.clip(np.round((middle - length / 2) * PLACES), 0, PLACES - 1).astype(np.int64)
    end = np.clip(np.round((middle + length / 2) * PLACES), 0, PLACES).astype(np.int64)
    return first, np.maximum(end, first + 1)
