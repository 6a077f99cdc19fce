"""Bootstrap intervals of means: percentile, and bias-corrected and accelerated (BCa)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from salience.stats.units import Floats, Units, units_of

_BLOCK = 4_000_000
"""Numbers held at once by a loop over draws."""
_TIE = 1e-12
"""Draws nearer to the mean than this share of their spread are equal to it."""


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
    x = _vector(values)
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
    if x.ndim != 2:
        raise ValueError("a non-empty matrix of finite values is needed")
    units = units_of(x, groups)
    return _means(units, draws, seed), units.n


def bca_interval(
    values: npt.ArrayLike,
    *,
    groups: Sequence[object] | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the mean of ``values`` (N,) with its BCa interval; see :func:`bca_limits`.

    Raises
    ------
    ValueError
        When there are no values, or one is not finite, or groups are not as many.
    """
    units = units_of(_vector(values), groups)
    low, high = bca_limits(units, level=level, draws=draws, seed=seed)
    return Interval(float(units.mean[0]), float(low[0]), float(high[0]), level, units.n)


def bca_limits(
    units: Units, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the ends (M,), (M,) of bias-corrected and accelerated bootstrap intervals of M means.

    Published (Efron 1987): quantiles of the bootstrap means at ``Phi(z0 + (z0 + z) / (1 - a (z0 + z)))``, with the
    bias ``z0`` from the share of draws below the mean, ties counted half, and the acceleration ``a`` from the
    jackknife over units. Ours: a row is turned so that its mean is not negative before it is measured, so the interval
    of the negated row is exactly the negated interval. Rows without spread have no width; one unit has no interval:
    NaN.
    """
    low, high = units.mean.copy(), units.mean.copy()
    if units.n < 2:
        return np.full_like(low, np.nan), np.full_like(high, np.nan)
    step = max(1, _BLOCK // draws)
    varied = np.flatnonzero(units.spread > 0)
    for at in range(0, len(varied), step):
        which = varied[at : at + step]
        sign = np.where(units.mean[which] < 0, -1.0, 1.0)
        turned = Units(units.sums[which] * sign[:, None], units.sizes, units.members)
        ends = _bca_of_turned(turned, level, draws, seed)
        low[which] = np.where(sign > 0, ends[0], -ends[1])
        high[which] = np.where(sign > 0, ends[1], -ends[0])
    return low, high


def _bca_of_turned(units: Units, level: float, draws: int, seed: int) -> Floats:
    means = np.sort(_means(units, draws, seed), axis=1)
    tie = _TIE * units.spread[:, None]
    value = units.mean[:, None]
    below = ((means < value - tie).sum(axis=1) + (means <= value + tie).sum(axis=1)) / (2 * draws)
    bias = ndtri(np.clip(below, 0.5 / draws, 1 - 0.5 / draws))
    total, size = units.sums.sum(axis=1, keepdims=True), units.sizes.sum()
    without = (total - units.sums) / (size - units.sizes)  # the mean with each unit left out
    gap = without.mean(axis=1, keepdims=True) - without
    acceleration = (gap**3).sum(axis=1) / (6 * (gap**2).sum(axis=1) ** 1.5)
    moved = bias + ndtri(np.array([[(1 - level) / 2], [(1 + level) / 2]]))  # (2, M)
    # The denominator is positive but for a few units of very unequal weight, where the quantile is the last draw.
    at = ndtr(bias + moved / np.maximum(1 - acceleration * moved, 1e-9)) * (draws - 1)
    floor = np.minimum(at.astype(np.int64), draws - 2)
    row = np.arange(len(means))
    lower, upper = means[row, floor], means[row, floor + 1]
    ends: Floats = lower + (at - floor) * (upper - lower)
    return ends


def _means(units: Units, draws: int, seed: int) -> Floats:
    means = np.empty((len(units.sums), draws))
    at = 0
    for times in _times(units.n, draws, seed):
        means[:, at : at + len(times)] = units.sums @ times.T / (times @ units.sizes)
        at += len(times)
    return means


def _times(units: int, draws: int, seed: int) -> Iterator[Floats]:
    """Yield how often each unit is drawn, (some draws, units) at a time."""
    generator = np.random.Generator(np.random.Philox(seed))
    step = max(1, _BLOCK // units)
    for at in range(0, draws, step):
        pick = generator.integers(0, units, (min(step, draws - at), units))
        place = (np.arange(len(pick))[:, None] * units + pick).ravel()
        yield np.bincount(place, minlength=pick.size).reshape(pick.shape).astype(np.float64)


def _vector(values: npt.ArrayLike) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not len(x) or not np.isfinite(x).all():
        raise ValueError("a non-empty vector of finite values is needed")
    return x
