"""Statistics used by all rooms, written once. The unit of resampling is the image, or the group it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval.

    Attributes
    ----------
    value, low, high
        The mean, and the ends of the interval.
    level
        Its coverage, e.g. 0.95.
    n
        Independent units behind it (images, or groups).
    """

    value: float
    low: float
    high: float
    level: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(value: float, drawn: npt.NDArray[np.float64], n: int, level: float = 0.95) -> Interval:
    """Return an estimate with the percentile interval of its bootstrap draws (D,)."""
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high), level, n)


def bootstrap_mean(
    values: npt.ArrayLike,
    *,
    groups: Sequence[object] | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the mean of ``values`` (N,) with a percentile bootstrap interval.

    Parameters
    ----------
    groups
        Values of one group (patient, scene) are drawn together, so copies of an image do not narrow the interval.

    Raises
    ------
    ValueError
        When there are no values, or one is not finite, or groups are not as many.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not len(x) or not np.isfinite(x).all():
        raise ValueError("a non-empty vector of finite values is needed")
    means, n = bootstrap_means(x[None], groups=groups, draws=draws, seed=seed)
    return interval(float(x.mean()), means[0], n, level)


def bootstrap_means(
    values: npt.ArrayLike,
    *,
    groups: Sequence[object] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[npt.NDArray[np.float64], int]:
    """Return bootstrap means (M, draws) of M rows of ``values`` (M, N), and the number of independent units.

    All rows see the same draws of images: the difference of two rows' means is a paired bootstrap of their difference.

    Raises
    ------
    ValueError
        When values are missing or not finite, or groups are not as many as columns.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or not x.size or not np.isfinite(x).all():
        raise ValueError("a non-empty matrix of finite values is needed")
    if groups is not None and len(groups) != x.shape[1]:
        raise ValueError(f"{x.shape[1]} values have {len(groups)} groups: one for each is needed")
    if groups is None:
        sums, sizes = x, np.ones(x.shape[1], dtype=np.float64)
    else:
        _, index = np.unique(np.asarray([str(g) for g in groups]), return_inverse=True)
        sums = np.stack([np.bincount(index, row) for row in x]).astype(np.float64)
        sizes = np.bincount(index).astype(np.float64)
    units = sums.shape[1]
    generator = np.random.Generator(np.random.Philox(seed))
    means = np.empty((len(x), draws))
    step = max(1, 4_000_000 // units)
    for at in range(0, draws, step):
        pick = generator.integers(0, units, (min(step, draws - at), units))
        place = (np.arange(len(pick))[:, None] * units + pick).ravel()
        times = np.bincount(place, minlength=pick.size).reshape(pick.shape).astype(np.float64)  # each is drawn
        means[:, at : at + len(pick)] = sums @ times.T / (times @ sizes)
    return means, units


def bootstrap_p(drawn: npt.NDArray[np.float64]) -> float:
    """Return the two-sided p-value of a difference being zero, from its bootstrap draws (D,).

    Twice the smaller tail beyond zero, with one draw added to each (so never 0), at most 1.
    """
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(drawn) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's step-down method: they control the family-wise error."""
    count = len(p_values)
    adjusted, largest = [0.0] * count, 0.0
    for rank, i in enumerate(sorted(range(count), key=lambda k: p_values[k])):
        largest = max(largest, min(1.0, (count - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


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
