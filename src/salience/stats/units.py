"""What is resampled: images, or the groups (patient, scene) that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

_CONSTANT = 1e-12
"""Spreads below this share of the largest contribution are rounding: the values are all equal."""


@dataclass(frozen=True, eq=False)
class Units:
    """M rows of values, summed within each of G independent units.

    Attributes
    ----------
    sums
        Sum of each row's values over each unit (M, G).
    sizes
        Values in each unit (G,), the same for all rows.
    members
        Which of a study's units these are (G,), rising: parts of a study that share a unit share its number.
    """

    sums: Floats
    sizes: Floats
    members: Numbers

    @property
    def n(self) -> int:
        """The number of independent units."""
        return len(self.sizes)

    @cached_property
    def mean(self) -> Floats:
        """Mean over values (M,): units of several values weigh by their number."""
        mean: Floats = self.sums.sum(axis=1) / self.sizes.sum()
        return mean

    @cached_property
    def spread(self) -> Floats:
        """Standard deviation over units of what each contributes to the mean (M,); NaN for one unit.

        For units of one value each it is the standard deviation of the values. Otherwise it is that of the ratio
        estimator's linear terms ``(sum_g - mean * size_g) G / N``, so ``spread / sqrt(G)`` is the mean's standard
        error in both cases.
        """
        if self.n < 2:
            return np.full(len(self.sums), np.nan)
        terms = (self.sums - self.mean[:, None] * self.sizes) * (self.n / self.sizes.sum())
        spread = np.sqrt((terms**2).sum(axis=1) / (self.n - 1))
        largest = np.abs(self.sums).max(axis=1) * self.n / self.sizes.sum()
        return np.where(spread <= _CONSTANT * largest, 0.0, spread)

    def rows(self, which: npt.NDArray[np.bool_]) -> Units:
        """Return the chosen rows (M,) over the same units."""
        return Units(self.sums[which], self.sizes, self.members)


def unit_numbers(groups: Sequence[object] | None, count: int) -> Numbers:
    """Return the number of each value's unit (N,): its group by rank of the name, or itself where none are given.

    Raises
    ------
    ValueError
        When there are not as many groups as values.
    """
    if groups is None:
        return np.arange(count, dtype=np.int64)
    if len(groups) != count:
        raise ValueError(f"{count} values have {len(groups)} groups: one for each is needed")
    numbers: Numbers = np.unique(np.asarray([str(g) for g in groups]), return_inverse=True)[1].astype(np.int64)
    return numbers


def sum_units(values: Floats, numbers: Numbers) -> Units:
    """Sum rows of values (M, N) within the units that ``numbers`` (N,) names."""
    order = np.argsort(numbers, kind="stable")
    members, first, sizes = np.unique(numbers[order], return_index=True, return_counts=True)
    sums = values[:, order] if len(members) == len(numbers) else np.add.reduceat(values[:, order], first, axis=1)
    return Units(np.ascontiguousarray(sums, dtype=np.float64), sizes.astype(np.float64), members)


def units_of(values: npt.ArrayLike, groups: Sequence[object] | None = None) -> Units:
    """Return rows of values (M, N), or one row (N,), by independent unit.

    Raises
    ------
    ValueError
        When values are missing or not finite, or groups are not as many as columns.
    """
    x = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if x.ndim != 2 or not x.size or not np.isfinite(x).all():
        raise ValueError("a non-empty matrix of finite values is needed")
    return sum_units(x, unit_numbers(groups, x.shape[1]))
