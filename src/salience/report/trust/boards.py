"""Leaderboards and the plane, one for each metric, background and smoothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from salience.report import words
from salience.report.trust.figures import CHARACTER, LEVELS, Axis, Box, Plane, Point, axis, plane
from salience.scores import HEADLINE, Board, Scores, Setting
from salience.stats import interval

WIDE, NARROW = 600.0, 300.0

MEANING = "The smaller of mean worst completeness and mean worst soundness: neither silence nor noise can win it."


@dataclass(frozen=True)
class Row:
    """A line of a leaderboard; ``low``, ``mean`` and ``high`` are per cent of the axis."""

    rank: int | None
    name: str
    baseline: bool
    value: float
    low: float
    mean: float
    high: float
    text: str
    reach: str
    n: int
    seeds: str


@dataclass(frozen=True)
class BoardView:
    """A leaderboard, under the places of its metric, background (None where there is none) and smoothing."""

    key: str
    metric: int
    background: int | None
    smooth: int
    name: str
    summary: str
    direction: str
    axis: Axis
    rows: tuple[Row, ...]
    n: int
    note: str


@dataclass(frozen=True)
class Words:
    """A text in the plane, its lines one below the other; ``anchor`` as in SVG."""

    lines: tuple[str, ...]
    x: float
    y: float
    anchor: str
    kind: str


@dataclass(frozen=True)
class Drawn:
    """A plane with the words of its regions."""

    plane: Plane
    words: tuple[Words, ...]


@dataclass(frozen=True)
class PlaneView:
    """The plane under a background and a smoothing, with completeness of the ``worst`` or the ``predicted`` label."""

    key: str
    of: str
    wide: Drawn
    narrow: Drawn
    points: tuple[Point, ...]
    n: int


def value_text(value: float) -> str:
    """Return a score with three decimals, or three digits where those would hide it."""
    size = abs(value)
    if size >= 1000 or 0 < size < 0.0005:
        return words.number(value)
    return f"{value:.3f}".replace("-", words.MINUS)


def boards(
    scores: Scores, model: str, metrics: Sequence[str], backgrounds: Sequence[str], smooths: Sequence[float]
) -> list[BoardView]:
    """Return every leaderboard of a model."""
    found = []
    for s in scores.settings:
        if s.model == model:
            place = backgrounds.index(s.background) if s.background is not None else None
            view = _board(scores, s, metrics.index(s.metric), place, smooths.index(s.smooth))
            if view is not None:
                found.append(view)
    return found


def _board(scores: Scores, s: Setting, metric: int, background: int | None, smooth: int) -> BoardView | None:
    rows = [
        r
        for r in scores.ranking(s.metric, s.background, s.smooth, s.model)
        if r["background"] == s.background  # None asks for any background
    ]
    if not rows:
        return None
    entry = scores.metrics.get(s.metric, {})
    headline = s.metric.startswith(HEADLINE)
    low, high = (0.0, 1.0) if headline else (entry.get("low"), entry.get("high"))
    line = axis([v for r in rows for v in (r["low"], r["high"])], low, high)
    return BoardView(
        key=f"{metric}.{'-' if background is None else background}.{smooth}",
        metric=metric,
        background=background,
        smooth=smooth,
        name=s.metric,
        summary=MEANING if headline else str(entry.get("summary", "")),
        direction=scores.direction(s.metric),
        axis=line,
        rows=tuple(
            Row(
                r["rank"],
                r["method"],
                r["kind"] != "method",
                r["mean"],
                round(100 * line.share(r["low"]), 2),
                round(100 * line.share(r["mean"]), 2),
                round(100 * line.share(r["high"]), 2),
                value_text(r["mean"]),
                f"[{value_text(r['low'])}, {value_text(r['high'])}]",
                r["n"],
                _seeds(r),
            )
            for r in rows
        ),
        n=rows[0]["n"],
        note="; ".join(rows[0]["notes"]),
    )


def _seeds(row: Mapping[str, Any]) -> str:
    """Return whose mean a number is where that is several seeds, and how far they lie apart."""
    between = row["between_seeds"]
    return "" if between is None else f"{row['seeds']} seeds, standard deviation between them {value_text(between)}"


# ---------------------------------------------------------------------- the plane


def planes(scores: Scores, model: str, backgrounds: Sequence[str], smooths: Sequence[float]) -> list[PlaneView]:
    """Return the plane for each background, smoothing and kind of completeness that was measured."""
    found: dict[str, PlaneView] = {}
    for s in scores.settings:
        if s.model != model or not s.metric.startswith(HEADLINE) or s.background is None:
            continue
        suffix = s.metric.removeprefix(HEADLINE)
        for of, half in (("worst", "worst-completeness"), ("predicted", "completeness")):
            across, up = (
                Setting(model, f"{name}{suffix}", s.background, s.smooth) for name in (half, "worst-soundness")
            )
            if across not in scores.settings or up not in scores.settings:
                continue
            x, y = scores.board(across), scores.board(up)
            points = sorted(_points(scores, x, y), key=lambda p: -min(p.x[0], p.y[0]))
            key = f"{of}.{backgrounds.index(s.background)}.{smooths.index(s.smooth)}"
            if points and key not in found:
                found[key] = PlaneView(
                    key, of, draw(points, WIDE), draw(points, NARROW, numbered=True), tuple(points), y.n
                )
    order = {b: i for i, b in enumerate(backgrounds)}
    return sorted(found.values(), key=lambda v: (v.of != "worst", *(int(p) for p in v.key.split(".")[1:]), len(order)))


def _points(scores: Scores, x: Board, y: Board) -> list[Point]:
    return [
        Point(m, scores.methods[m]["kind"] != "method", _ends(x, x.methods.index(m)), _ends(y, i))
        for i, m in enumerate(y.methods)
        if m in x.methods
    ]


def _ends(board: Board, i: int) -> tuple[float, float, float]:
    found = interval(float(board.means[i]), board.drawn[i], board.units)
    return found.value, found.low, found.high


def draw(points: Sequence[Point], side: float, *, numbered: bool = False) -> Drawn:
    """Lay the plane out with the words of its four regions."""
    pad, line = side * 0.025, 17.0
    silent = ("Sound, but", "says nothing") if numbered else ("Sound, but only because", "it says nothing")
    regions = (
        (("Complete and sound:", "can be trusted"), side - pad, pad + 12, "end", "good"),
        (silent, pad, pad + 12, "start", "bad"),
        (("Complete, not sound:", "could justify any label"), side - pad, side - pad - line, "end", "bad"),
        (("Neither",), pad, side - pad, "start", "bad"),
    )
    told = tuple(Words(*region) for region in regions)
    boxes = []
    for w in told:
        width = CHARACTER * 13 * max(len(text) for text in w.lines)
        left = w.x - width if w.anchor == "end" else w.x
        boxes.append(Box(left, w.y - 13, left + width, w.y - 13 + line * len(w.lines)))
    boxes += [Box(side - 100, side * (1 - v) - 17, side, side * (1 - v)) for v in LEVELS]
    return Drawn(plane(points, side, numbered=numbered, words=boxes), told)
