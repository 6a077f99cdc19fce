"""How far two libraries' values agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from .scene import Floats


@dataclass(frozen=True)
class Agreement:
    """Spearman's rank correlation, NaN where all values of one are equal, and the largest relative difference."""

    ranks: float
    difference: float


def of_maps(ours: Floats, theirs: Floats) -> Agreement:
    """Compare maps (N, h, w): the mean correlation, and the largest difference over the largest value of each map."""
    a, b = ours.reshape(len(ours), -1), theirs.reshape(len(theirs), -1)
    return Agreement(float(np.mean(correlations(a, b))), float(np.max(_apart(a, b))))


def of_scores(ours: Floats, theirs: Floats) -> Agreement:
    """Compare scores (N,) or curves (N, P) of the same images; those that neither library has are left out."""
    a, b = ours.reshape(1, -1), theirs.reshape(1, -1)
    if a.shape != b.shape:
        raise ValueError(f"scores of different images: {ours.shape} and {theirs.shape}")
    known = np.isfinite(a) | np.isfinite(b)
    a, b = a[:, known[0]], b[:, known[0]]
    return Agreement(float(correlations(a, b)[0]), float(_apart(a, b)[0]))


def correlations(a: Floats, b: Floats) -> Floats:
    """Return Spearman's correlation of each row of (N, n)."""
    x, y = (rankdata(v, axis=1) for v in (a, b))
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    spread = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    found: Floats = np.divide((x * y).sum(1), spread, out=np.full(len(x), np.nan), where=spread > 0)
    return found


def _apart(a: Floats, b: Floats) -> Floats:
    scale = np.abs(b).max(1, initial=0.0)
    apart = np.abs(a - b).max(1, initial=0.0)
    out: Floats = np.divide(apart, scale, out=np.where(apart > 0, np.inf, 0.0), where=scale > 0)
    return out
