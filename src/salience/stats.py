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
    if groups is not None and len(groups) != len(x):
        raise ValueError(f"{len(x)} values have {len(groups)} groups: one for each is needed")
    if groups is None:
        sums, sizes = x, np.ones(len(x), dtype=np.float64)
    else:
        _, index = np.unique(np.asarray([str(g) for g in groups]), return_inverse=True)
        sums = np.bincount(index, x).astype(np.float64)
        sizes = np.bincount(index).astype(np.float64)
    generator = np.random.Generator(np.random.Philox(seed))
    means = np.empty(draws)
    step = max(1, 4_000_000 // len(sums))
    for at in range(0, draws, step):
        pick = generator.integers(0, len(sums), (min(step, draws - at), len(sums)))
        means[at : at + len(pick)] = sums[pick].sum(1) / sizes[pick].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(x.mean()), float(low), float(high), level, len(sums))
