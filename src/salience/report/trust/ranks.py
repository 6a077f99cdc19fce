"""How the ranking of methods holds when the background changes, or the smoothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from salience.report.trust.figures import Slopes, slopes
from salience.scores import Board, Scores, Setting
from salience.stats import kendall_tau

TAU = "\N{GREEK SMALL LETTER TAU}"


@dataclass(frozen=True)
class RanksView:
    """Ranks of a metric over backgrounds, or over smoothings (``over``), with Kendall's tau of each pair."""

    key: str
    over: str
    metric: str
    wide: Slopes
    narrow: Slopes
    taus: tuple[tuple[str, str, str], ...]
    methods: int


def ranks(
    scores: Scores, model: str, metrics: Sequence[str], backgrounds: Sequence[str], smooths: Sequence[float]
) -> list[RanksView]:
    """Return the charts of a model: for each metric with a direction that has several columns."""
    there = {s for s in scores.settings if s.model == model}
    found = []
    for m, metric in enumerate(metrics):
        sign = {"higher": 1, "lower": -1}.get(scores.direction(metric), 0)
        if not sign:
            continue
        for k, smooth in enumerate(smooths):
            columns = {b: Setting(model, metric, b, smooth) for b in backgrounds}
            found.append(_view(scores, f"b.{m}.{k}", "backgrounds", metric, columns, there, sign))
        for k, background in enumerate(backgrounds):
            columns = {f"{s:g} px" if s else "as it is": Setting(model, metric, background, s) for s in smooths}
            found.append(_view(scores, f"s.{m}.{k}", "smoothings", metric, columns, there, sign))
    return [view for view in found if view is not None]


def _view(
    scores: Scores,
    key: str,
    over: str,
    metric: str,
    columns: Mapping[str, Setting],
    there: set[Setting],
    sign: int,
) -> RanksView | None:
    boards = {name: scores.board(s) for name, s in columns.items() if s in there}
    boards = {name: board for name, board in boards.items() if board.methods}
    if len(boards) < 2:
        return None
    names = list(boards)
    common = [m for m in next(iter(boards.values())).methods if all(m in b.methods for b in boards.values())]
    if len(common) < 2:
        return None
    values = {name: [sign * v for v in _means(board, common)] for name, board in boards.items()}
    places = {m: [_rank(values[name], i) for name in names] for i, m in enumerate(common)}
    baselines = [m for m in common if scores.methods[m]["kind"] != "method"]
    between = [f"{TAU} {_tau(values[a], values[b])}" for a, b in pairwise(names)]
    taus = tuple((a, b, _tau(values[a], values[b])) for i, a in enumerate(names) for b in names[i + 1 :])
    wide = slopes(names, places, baselines, between, 860, 190, 21)
    narrow = slopes(names, places, baselines, between, 350, 108, 11)
    return RanksView(key, over, metric, wide, narrow, taus, len(common))


def _means(board: Board, methods: Sequence[str]) -> list[float]:
    return [float(board.means[board.methods.index(m)]) for m in methods]


def _rank(values: Sequence[float], i: int) -> int:
    """Return the place of a value when they fall, ties in their own order, 1 the best."""
    return 1 + sum(v > values[i] or (v == values[i] and j < i) for j, v in enumerate(values))


def _tau(first: Sequence[float], second: Sequence[float]) -> str:
    tau = kendall_tau(first, second)
    return "undefined" if np.isnan(tau) else f"{tau:.2f}".replace("-", "\N{MINUS SIGN}")
