"""The figures of scores, laid out as numbers that templates draw in SVG: axes, the plane, ranks, curves.

Nothing here knows of runs or HTML: positions go in, places on the paper come out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

CHARACTER = 0.62
"""Width of a character over the size of its font: a guess on the safe side, before a browser has drawn it."""


def shortened(name: str, most: int) -> str:
    """Return a name of at most ``most`` characters."""
    return name if len(name) <= most else name[: most - 1].rstrip() + "…"


# ---------------------------------------------------------------------- axes


@dataclass(frozen=True)
class Axis:
    """Part of a number line; ``ticks`` are (share of its length, text)."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def share(self, value: float) -> float:
        """Return where a value lies, 0 at the low end and 1 at the high one; what is beyond lies at the end."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def axis(values: Sequence[float], low: float | None = None, high: float | None = None, most: int = 5) -> Axis:
    """Return an axis with round ends around ``values``, within the bounds of what they can be, with few ticks."""
    found = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    least, largest = min(found), max(found)
    if largest - least < 1e-9:
        least, largest = least - 0.05, largest + 0.05
    rough = (largest - least) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * (1 - 1e-9))
    first, last = math.floor(least / step + 1e-9), math.ceil(largest / step - 1e-9)
    if low is not None:
        first = max(first, math.floor(low / step + 1e-9))
    if high is not None:
        last = min(last, math.ceil(high / step - 1e-9))
    last = max(last, first + 1)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = tuple(((k - first) / (last - first), f"{k * step:.{digits}f}") for k in range(first, last + 1))
    ticks = tuple((at, text.replace("-", "\N{MINUS SIGN}")) for at, text in ticks)
    return Axis(first * step, last * step, ticks)


# ---------------------------------------------------------------------- the plane


@dataclass(frozen=True)
class Point:
    """A method in the plane: means with the ends of their intervals, all in [0, 1]."""

    name: str
    baseline: bool
    x: tuple[float, float, float]
    y: tuple[float, float, float]


@dataclass(frozen=True)
class Box:
    """A rectangle on the paper."""

    x0: float
    y0: float
    x1: float
    y1: float

    def meets(self, other: Box) -> bool:
        """Tell whether two rectangles share more than an edge."""
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1

    def within(self, other: Box) -> bool:
        """Tell whether this one lies inside of the other."""
        return self.x0 >= other.x0 and self.y0 >= other.y0 and self.x1 <= other.x1 and self.y1 <= other.y1


@dataclass(frozen=True)
class Label:
    """A text centred in its box; ``leader`` is the end of a line to its dot, None where it stands beside it."""

    text: str
    x: float
    y: float
    box: Box
    leader: tuple[float, float] | None


@dataclass(frozen=True)
class Spot:
    """A method on the paper: its dot, the ends of its cross, its label."""

    point: Point
    number: int
    x: float
    y: float
    left: float
    right: float
    top: float
    bottom: float
    label: Label


@dataclass(frozen=True)
class Plane:
    """The plane of completeness and soundness, ``side`` wide and high; y grows downwards."""

    side: float
    numbered: bool
    spots: tuple[Spot, ...]
    levels: tuple[tuple[float, float, str], ...]
    """Lines on which the smaller value is the same: (x and y of their corner, text)."""


LEVELS = (0.2, 0.4, 0.6, 0.8)
DOT = 6.0
FONT = 12.5


def plane(points: Sequence[Point], side: float, *, numbered: bool = False, words: Sequence[Box] = ()) -> Plane:
    """Lay methods out in the plane, with labels that meet neither each other nor a dot.

    Parameters
    ----------
    points
        The best first; they are numbered in this order.
    side
        Width and height in units of the drawing.
    numbered
        Label the dots by numbers, where names have no room.
    words
        Boxes of other text, which labels avoid where they can.
    """
    at = [(side * p.x[0], side * (1 - p.y[0])) for p in points]
    dots = [Box(x - DOT, y - DOT, x + DOT, y + DOT) for x, y in at]
    crosses = [
        box
        for p, (x, y) in zip(points, at, strict=True)
        for box in (
            Box(side * p.x[1], y - 1, side * p.x[2], y + 1),
            Box(x - 1, side * (1 - p.y[2]), x + 1, side * (1 - p.y[1])),
        )
    ]
    paper = Box(0, 0, side, side)
    taken: list[Box] = []
    spots = []
    for i, (p, (x, y)) in enumerate(zip(points, at, strict=True)):
        text = str(i + 1) if numbered else shortened(p.name, 26)
        label = _place(text, x, y, paper, [*dots, *taken], [*words, *crosses])
        taken.append(label.box)
        ends = (side * p.x[1], side * p.x[2], side * (1 - p.y[2]), side * (1 - p.y[1]))
        spots.append(Spot(p, i + 1, x, y, *ends, label))
    levels = tuple((side * v, side * (1 - v), f"{v:.1f}") for v in LEVELS)
    return Plane(side, numbered, tuple(spots), levels)


def _place(text: str, x: float, y: float, paper: Box, blocked: Sequence[Box], disliked: Sequence[Box]) -> Label:
    """Return the nearest free place for a text around (x, y), one that is liked if there is one near."""
    width, height = CHARACTER * FONT * len(text) + 10, FONT + 4
    best: tuple[float, Label] | None = None
    radius = DOT + 3
    while best is None or radius < best[0]:
        for turn in range(16):
            angle = 2 * math.pi * turn / 16
            across, up = math.cos(angle), math.sin(angle)
            middle_x = x + across * radius + width / 2 * max(-1.0, min(1.0, 1.6 * across))
            middle_y = y - up * radius - height / 2 * max(-1.0, min(1.0, 1.6 * up))
            box = Box(middle_x - width / 2, middle_y - height / 2, middle_x + width / 2, middle_y + height / 2)
            if not box.within(paper) or any(box.meets(b) for b in blocked):
                continue
            cost = radius + 14 * sum(box.meets(b) for b in disliked)
            if best is None or cost < best[0]:
                end = (min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1))
                far = radius > DOT + 8
                best = cost, Label(text, middle_x, middle_y, box, end if far else None)
        radius += 5
        if radius > 3 * (paper.x1 - paper.x0):  # no room at all: then beside the dot, whatever is there
            box = Box(x, y - height / 2, x + width, y + height / 2)
            return best[1] if best else Label(text, x + width / 2, y, box, None)
    return best[1]


# ---------------------------------------------------------------------- ranks


@dataclass(frozen=True)
class Track:
    """One method's ranks over the columns: the path of its line, and its dots as (x, y, rank)."""

    name: str
    baseline: bool
    path: str
    dots: tuple[tuple[float, float, int], ...]
    first: str
    last: str
    moves: int
    """The largest number of places it moves between two columns."""


@dataclass(frozen=True)
class Slopes:
    """Ranks of methods in columns, a line for each: ``columns`` are (x, text), ``between`` (x, text) stand between."""

    width: float
    height: float
    tracks: tuple[Track, ...]
    columns: tuple[tuple[float, str], ...]
    between: tuple[tuple[float, str], ...]


ROW = 27.0


def slopes(
    columns: Sequence[str],
    ranks: Mapping[str, Sequence[int]],
    baselines: Sequence[str],
    between: Sequence[str],
    width: float,
    margin: float,
    most: int,
) -> Slopes:
    """Lay out how ranks change from column to column.

    Parameters
    ----------
    ranks
        Method -> its rank in each column, 1 the best.
    between
        A text for each pair of neighbouring columns.
    margin
        Room for names at both sides.
    most
        Characters of a name at most.
    """
    step = (width - 2 * margin) / max(1, len(columns) - 1)
    xs = [margin + step * i for i in range(len(columns))]
    tracks = []
    for name, places in ranks.items():
        ys = [ROW * (r - 0.5) for r in places]
        path = f"M{xs[0]:.1f} {ys[0]:.1f}"
        for (x0, x1), (y0, y1) in zip(pairwise(xs), pairwise(ys), strict=True):
            bend = (x1 - x0) * 0.45
            path += f"C{x0 + bend:.1f} {y0:.1f} {x1 - bend:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
        moves = max((abs(a - b) for a, b in pairwise(places)), default=0)
        short = shortened(name, most)
        dots = tuple(zip(xs, ys, places, strict=True))
        tracks.append(Track(name, name in baselines, path, dots, short, short, moves))
    rows = max((max(r) for r in ranks.values()), default=1)
    middles = [(a + b) / 2 for a, b in pairwise(xs)]
    return Slopes(
        width,
        ROW * rows,
        tuple(sorted(tracks, key=lambda t: not t.baseline)),  # methods are drawn over baselines
        tuple(zip(xs, columns, strict=True)),
        tuple(zip(middles, between, strict=True)),
    )


# ---------------------------------------------------------------------- curves


@dataclass(frozen=True)
class Band:
    """A mean curve with its interval: shares (P,) in [0, 1] and values (P,) each."""

    shares: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Trace:
    """A band on the paper: the points of its line, and the outline of its interval."""

    kind: str
    line: str
    band: str
    area: float


def trace(kind: str, found: Band, width: float, height: float, top: float = 1.0) -> Trace:
    """Lay a band out on paper of ``width`` x ``height``, values from 0 to ``top`` upwards."""

    def at(share: float, value: float) -> str:
        return f"{width * share:.1f},{height * (1 - min(1.0, max(0.0, value / top))):.1f}"

    def points(values: Sequence[float]) -> list[str]:
        return [at(s, v) for s, v in zip(found.shares, values, strict=True)]

    upper, lower = points(found.high), points(found.low)
    return Trace(kind, " ".join(points(found.mean)), " ".join([*upper, *reversed(lower)]), area(found))


def area(found: Band) -> float:
    """Return the area under the mean by the trapezoid rule."""
    pairs = zip(
        zip(found.shares, found.shares[1:], strict=False), zip(found.mean, found.mean[1:], strict=False), strict=True
    )
    return sum((b - a) * (u + v) / 2 for (a, b), (u, v) in pairs)
