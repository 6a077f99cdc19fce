"""Ranks: of rankings that are compared, and of differences that are tested."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from salience.stats.units import Floats, Units


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Kendall's tau-b of two rankings of the same things, in [-1, 1]; NaN where one of them is all ties.

    Raises
    ------
    ValueError
        When the two are not equally long, or shorter than two.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 2:
        raise ValueError("two vectors of equal length, at least 2, are needed")
    upper = np.triu_indices(len(a), 1)
    da, db = (np.sign(x[:, None] - x[None, :])[upper] for x in (a, b))
    spread = float(np.sqrt((da**2).sum() * (db**2).sum()))
    return float((da * db).sum()) / spread if spread else float("nan")


def signed_ranks(units: Units) -> Units:
    """Return Wilcoxon's signed ranks in the place of the units' sums: the sign times the rank of the size in its row.

    Ties get the mean of their ranks, zeros the value 0 and no rank.
    """
    ranks = midranks(np.abs(units.sums)) - (units.sums == 0).sum(axis=1, keepdims=True)
    return Units(np.sign(units.sums) * ranks, units.sizes, units.members)


def midranks(x: Floats) -> Floats:
    """Return ranks from 1 within each row of (M, G), the mean rank where values are equal."""
    order = np.argsort(x, axis=1, kind="stable")
    rising = np.take_along_axis(x, order, axis=1)
    place = np.arange(x.shape[1])
    step = rising[:, 1:] > rising[:, :-1]
    edge = np.ones((len(x), 1), dtype=bool)
    first = np.maximum.accumulate(np.where(np.hstack([edge, step]), place, 0), axis=1)
    last = np.minimum.accumulate(np.where(np.hstack([step, edge]), place, x.shape[1])[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty_like(x)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, axis=1)
    return ranks
