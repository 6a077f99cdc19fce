"""How a number is distributed on a second dataset, against the first: an effect size and a two-sample test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from salience.behaviour.hierarchy import DRAWS, Mean
from salience.behaviour.view import Floats, Numbers
from salience.stats import bootstrap_means, midranks


@dataclass(frozen=True, eq=False)
class Samples:
    """Values of R runs on the images of the first dataset, (R, N), and of the second, (R, M); NaN where missing.

    Images that lack a value in one of the runs do not count: all runs are compared on the same ones.
    """

    first: Floats
    second: Floats
    first_units: Sequence[str] | None = None
    second_units: Sequence[str] | None = None

    def whole(self) -> Samples | None:
        """Return the samples without images that lack a value; ``None`` where one of them is then empty."""
        a, b = (np.flatnonzero(np.isfinite(x).all(axis=0)) for x in (self.first, self.second))
        if not len(a) or not len(b):
            return None
        return Samples(self.first[:, a], self.second[:, b], _kept(self.first_units, a), _kept(self.second_units, b))


def cliffs_delta(first: Floats, second: Floats) -> Floats:
    """Return Cliff's delta (R,) of rows (R, M) of a second sample against rows (R, N) of a first: -1 to 1.

    ``P(second > first) - P(second < first)`` for one value of each (Cliff 1993); 0 where they overlap fully.
    """
    delta: Floats = _placements(first, second)[1].mean(axis=1)
    return delta


def shifts(samples: Samples, *, draws: int = DRAWS, seed: int = 0) -> list[Mean]:
    """Return each run's Cliff's delta with its bootstrap over the images of both datasets.

    The bootstrap is that of the linear terms: delta is a mean over each sample of how its values are placed in the
    other (DeLong et al. 1988), and these placements are drawn. Both samples are whole.
    """
    low, high = _placements(samples.first, samples.second)
    one, units = bootstrap_means(low, groups=samples.first_units, draws=draws, seed=seed)
    two, others = bootstrap_means(high, groups=samples.second_units, draws=draws, seed=seed + 1)
    delta = high.mean(axis=1)
    count = low.shape[1] + high.shape[1]
    return [Mean(float(d), a + b - d, count, min(units, others)) for d, a, b in zip(delta, one, two, strict=True)]


def rank_sum_p(samples: Samples) -> float:
    """Return the two-sided p-value of both datasets having the same distribution, in these runs.

    The Mann-Whitney test (normal approximation, ties counted, no continuity correction) of each image's rank, the mean
    over runs: exchanging images between the datasets exchanges them in all runs at once. A user's groups of images are
    exchanged whole, each with its mean rank.
    """
    ranks = midranks(np.concatenate([samples.first, samples.second], axis=1)).mean(axis=0)
    cut = samples.first.shape[1]
    first = _by_unit(ranks[:cut], samples.first_units)
    second = _by_unit(ranks[cut:], samples.second_units)
    n, m = len(first), len(second)
    pooled = np.concatenate([first, second])
    spread = math.sqrt(float(pooled.var(ddof=1)) * (1 / n + 1 / m)) if n + m > 2 else 0.0
    if spread == 0:
        return 1.0
    return float(min(1.0, 2 * ndtr(-abs(float(second.mean() - first.mean())) / spread)))


def _placements(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Return for each value the share of the other sample it speaks for less that against: (R, N) and (R, M).

    Positive where the second is larger: of a first value those above it, of a second value those below it.
    """
    n, m = first.shape[1], second.shape[1]
    joint = midranks(np.concatenate([first, second], axis=1))
    against = 2 * (joint[:, :n] - midranks(first)) / m - 1
    speaking = 2 * (joint[:, n:] - midranks(second)) / n - 1
    return -against, speaking


def _by_unit(values: Floats, units: Sequence[str] | None) -> Floats:
    if units is None:
        return values
    number = np.unique(units, return_inverse=True)[1]
    found: Floats = np.bincount(number, values) / np.bincount(number)
    return found


def _kept(units: Sequence[str] | None, which: Numbers) -> list[str] | None:
    return None if units is None else [units[i] for i in which.tolist()]
