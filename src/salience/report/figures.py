"""Small figures for the page, as numbers that its templates draw in SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

BINS = 10


@dataclass(frozen=True)
class Bin:
    """One bar of the confidence histogram: a share of confidences, and how many images in it are what."""

    low: int
    high: int
    right: int
    wrong: int
    unknown: int

    @property
    def total(self) -> int:
        """Return the number of images."""
        return self.right + self.wrong + self.unknown


def histogram(confidences: Iterable[tuple[float, bool | None]]) -> list[Bin]:
    """Count (probability of the predicted class, right or wrong or unknown) in ten equal bins from 0 to 1."""
    counts = [[0, 0, 0] for _ in range(BINS)]
    for probability, right in confidences:
        if probability == probability:
            place = 2 if right is None else 0 if right else 1
            counts[min(BINS - 1, max(0, int(probability * BINS)))][place] += 1
    step = 100 // BINS
    return [Bin(i * step, (i + 1) * step, *found) for i, found in enumerate(counts)]


#: what the points of a curve beside a map mean
CURVES = {"agreement": "correlation with the final map", "fitness": "best fitness so far"}


def curve_of(diagnostics: Mapping[str, float]) -> tuple[str, list[tuple[int, float]]] | None:
    """Return (kind, points by the number of queries) of the curve stored beside a map, None where there is none."""
    found: dict[str, list[tuple[int, float]]] = {}
    for name, value in diagnostics.items():
        kind, at, queries = name.partition("@")
        if at and kind in CURVES and queries.isdecimal() and value == value:
            found.setdefault(kind, []).append((int(queries), value))
    return next(((kind, sorted(points)) for kind, points in found.items()), None)


@dataclass(frozen=True)
class Line:
    """One method's mean curve, as the points of an SVG polyline, with its last value."""

    name: str
    points: str
    queries: int
    last: float
    place: int


@dataclass(frozen=True)
class Chart:
    """Lines over the number of queries, on a logarithmic axis; ``ticks`` are (x, text) and ``levels`` (y, text)."""

    of: str
    width: int
    height: int
    lines: list[Line]
    ticks: list[tuple[float, str]]
    levels: list[tuple[float, str]]


def chart(of: str, curves: Mapping[str, list[tuple[int, float]]], width: int = 640, height: int = 200) -> Chart:
    """Lay mean curves (method -> points) out as a chart."""
    queries = [n for points in curves.values() for n, _ in points]
    values = [v for points in curves.values() for _, v in points]
    left, right = math.log2(min(queries)), math.log2(max(queries))
    low, high = min(0.0, *values), max(values)
    span, tall = max(right - left, 1e-9), max(high - low, 1e-9)

    def x(n: float) -> float:
        return round(width * (math.log2(n) - left) / span, 1)

    def y(v: float) -> float:
        return round(height * (high - v) / tall, 1)

    lines = [
        Line(name, " ".join(f"{x(n)},{y(v)}" for n, v in points), points[-1][0], points[-1][1], i)
        for i, (name, points) in enumerate(curves.items())
    ]
    ticks = [(x(1 << k), f"{1 << k:,}") for k in range(math.ceil(left), math.floor(right) + 1)]
    levels = [(y(v), f"{v:.2f}") for v in (low, (low + high) / 2, high)]
    return Chart(of, width, height, lines, ticks, levels)
