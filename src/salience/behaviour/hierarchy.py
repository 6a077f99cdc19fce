"""Statistics of groups of training runs: the run is the unit of replication, and images are crossed with runs.

Every run of every group sees the same images. A draw of the hierarchical bootstrap takes runs anew within each group,
and images (or the user's groups of images) anew once for all runs: differences are paired over images.

Few runs need care. A bootstrap of R runs has (R - 1) / R of the variance between them, and its percentiles end at the
lowest and the highest run; so runs are drawn with weights that have the full variance, and the interval is the estimate
+- t standard errors, t of Satterthwaite's degrees of freedom (ours; the parts are textbook). With fewer than
:data:`LEAST` runs nothing is known of the recipe: intervals are then over images alone, and hold for these runs.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from salience.behaviour.view import Floats
from salience.stats import bootstrap_means, bootstrap_p

LEAST = 3
"""Runs a group from which on something can be said of the recipe."""
LEVEL = 0.05
DRAWS = 2000
_SPLITS = 10_000
_ROWS = 64
_EQUAL = 1e-12

K = TypeVar("K", bound=Hashable)
Scope = Literal["recipe", "runs", "none"]
Test = Literal["permutation", "bootstrap", "images", "none"]


# ---------------------------------------------------------------------- one run over images


@dataclass(frozen=True, eq=False)
class Mean:
    """One run's mean over images.

    Attributes
    ----------
    drawn
        The mean when images are drawn anew, (D,): one draw is of the same images in all runs.
    images
        Images that have a value.
    units
        Independent units among them.
    """

    value: float
    drawn: Floats
    images: int
    units: int


class Means(Generic[K]):
    """Means of many runs and statistics over the same images, drawn in blocks so that little is held.

    Parameters
    ----------
    images
        How many there are.
    units
        The user's group of each image, ``None`` where images are independent.
    """

    def __init__(self, images: int, units: Sequence[str] | None = None, *, draws: int = DRAWS, seed: int = 0) -> None:
        self._units = units
        self._number = np.arange(images) if units is None else np.unique(units, return_inverse=True)[1]
        self._draws, self._seed = draws, seed
        self._waiting: list[tuple[K, Floats]] = []
        self._found: dict[K, Mean] = {}

    def add(self, key: K, values: Floats) -> None:
        """Add a run's values (N,), NaN where an image has none; without any value there is no mean."""
        if np.isfinite(values).any():
            self._waiting.append((key, values))
        if len(self._waiting) >= _ROWS:
            self._work()

    def found(self) -> dict[K, Mean]:
        """Return the mean of everything that was added, by its key."""
        self._work()
        return self._found

    def _work(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        values = np.stack([v for _, v in waiting])
        known = np.isfinite(values)
        gaps = np.flatnonzero(~known.all(axis=1))
        # The mean of known values is the mean of values, gaps 0, over the share that is known: of each draw, too.
        rows = np.concatenate([np.where(known, values, 0.0), known[gaps].astype(np.float64)])
        drawn, _ = bootstrap_means(rows, groups=self._units, draws=self._draws, seed=self._seed)
        means, shares = drawn[: len(values)], drawn[len(values) :]
        means[gaps] = np.divide(means[gaps], shares, out=np.full_like(shares, np.nan), where=shares > 0)
        for i, (key, row) in enumerate(waiting):
            own = known[i]
            units = len(np.unique(self._number[own]))
            self._found[key] = Mean(float(row[own].mean()), means[i].copy(), int(own.sum()), units)


def average(means: Sequence[Mean]) -> Mean:
    """Return the mean over conditions of one run's means: each condition weighs the same."""
    return Mean(
        float(np.mean([m.value for m in means])),
        np.mean([m.drawn for m in means], axis=0),
        max(m.images for m in means),
        min(m.units for m in means),
    )


def of_pairs(runs: Sequence[Mean]) -> list[Mean]:
    """Turn each run's mean similarity with the other runs of its group into a number of that run alone.

    ``(2 (R - 1) c_r - sum_s c_s) / (R - 2)``: the jackknife pseudo-value of the mean over pairs, whose mean over runs
    is the mean over pairs. The ``c_r`` share pairs and vary half as much as they should: as if they were independent,
    intervals would be half as wide. Published (Efron and Stein 1981; Arvesen 1969). Fewer than 3 runs stay as they are.
    """
    count = len(runs)
    if count < LEAST:
        return list(runs)
    total, drawn = sum(r.value for r in runs), np.sum([r.drawn for r in runs], axis=0)
    near, far = 2 * (count - 1) / (count - 2), 1 / (count - 2)
    return [Mean(near * r.value - far * total, near * r.drawn - far * drawn, r.images, r.units) for r in runs]


# ---------------------------------------------------------------------- groups


@dataclass(frozen=True)
class Estimate:
    """A group's mean, or its difference from the reference.

    Attributes
    ----------
    low, high
        Ends of the 95 % interval, NaN where none can be given.
    scope
        What the interval is of: the ``recipe`` (runs and images were drawn), these ``runs`` (images alone were), or
        ``none``.
    effect_size
        Hedges' g of a difference: over the pooled standard deviation of the runs, corrected for their number. NaN
        without one.
    p
        Two-sided, of a difference being zero; NaN where none can be given.
    test
        Where ``p`` is from: all ways (or 9,999 random ones) to deal the runs to the two groups, a ``permutation``;
        where runs are too few for that, the ``bootstrap``'s standard error and Student's t; of two single models, the
        ``images``.
    """

    value: float
    low: float
    high: float
    runs: int
    images: int
    scope: Scope
    effect_size: float = math.nan
    p: float = math.nan
    test: Test = "none"


def group_mean(runs: Sequence[Mean], *, stream: int = 0, seed: int = 0) -> Estimate:
    """Return a group's mean over its runs, each weighing the same, with its interval.

    Parameters
    ----------
    runs
        At least one.
    stream
        Number of the group: groups draw their runs apart.
    """
    value = float(np.mean([r.value for r in runs]))
    images = max(r.images for r in runs)
    if len(runs) < LEAST:
        low, high = _over_images(np.mean([r.drawn for r in runs], axis=0), runs)
        return Estimate(value, low, high, len(runs), images, "runs")
    error = _spread(_drawn(runs, stream, seed))
    freedom = _freedom([*_between(runs), _within([runs], np.mean([r.drawn for r in runs], axis=0))])
    half = _student(freedom) * error
    return Estimate(value, value - half, value + half, len(runs), images, "recipe")


def difference(
    runs: Sequence[Mean], reference: Sequence[Mean], *, streams: tuple[int, int] = (1, 0), seed: int = 0
) -> Estimate:
    """Return how a group's mean differs from the reference's.

    With at least 3 runs in both it is of the recipes. Two single models are compared over images: that holds for these
    models, not for their recipes. Otherwise the difference stands alone: no interval, no p-value.
    """
    first, second = (np.array([r.value for r in side]) for side in (runs, reference))
    value = float(first.mean() - second.mean())
    images = max(r.images for r in (*runs, *reference))
    if len(runs) == len(reference) == 1:
        drawn = runs[0].drawn - reference[0].drawn
        low, high = _over_images(drawn, (*runs, *reference))
        known = drawn[np.isfinite(drawn)]
        p = math.nan if math.isnan(low) else bootstrap_p(known)
        return Estimate(value, low, high, 1, images, "runs", p=p, test="none" if math.isnan(p) else "images")
    if min(len(runs), len(reference)) < LEAST:
        return Estimate(value, math.nan, math.nan, len(runs), images, "none")
    error = _spread(_drawn(runs, streams[0], seed) - _drawn(reference, streams[1], seed))
    over = np.mean([r.drawn for r in runs], axis=0) - np.mean([r.drawn for r in reference], axis=0)
    freedom = _freedom([*_between(runs), *_between(reference), _within([runs, reference], over)])
    half = _student(freedom) * error
    test: Test = "permutation" if smallest_p(len(runs), len(reference)) < LEVEL else "bootstrap"
    p = permutation_p(first, second, seed=seed) if test == "permutation" else _student_p(value, error, freedom)
    size = hedges_g(first, second)
    return Estimate(value, value - half, value + half, len(runs), images, "recipe", size, p, test)


def hedges_g(first: Floats, second: Floats) -> float:
    """Return the difference of means over the pooled standard deviation, corrected for few runs; NaN without a spread.

    ``(1 - 3 / (4 df - 1)) (mean_1 - mean_2) / s``, ``df = n_1 + n_2 - 2`` (Hedges 1981).
    """
    freedom = len(first) + len(second) - 2
    if min(len(first), len(second)) < 2:
        return math.nan
    pooled = math.sqrt((first.var(ddof=1) * (len(first) - 1) + second.var(ddof=1) * (len(second) - 1)) / freedom)
    gap = float(first.mean() - second.mean())
    if pooled <= _EQUAL * max(np.abs(first).max(), np.abs(second).max()):
        return math.nan
    return (1 - 3 / (4 * freedom - 1)) * gap / pooled


# ---------------------------------------------------------------------- dealing runs to groups


def smallest_p(runs: int, reference: int) -> float:
    """Return the smallest p-value that dealing runs to two groups of these sizes can give."""
    ways = math.comb(runs + reference, runs)
    return min(1.0, (2 if runs == reference else 1) / ways)


def runs_needed(level: float = LEVEL) -> int:
    """Return how many runs each of two groups needs so that dealing them can give a p-value below ``level``."""
    return next(n for n in range(1, 100) if smallest_p(n, n) < level)


def permutation_p(first: Floats, second: Floats, *, seed: int = 0) -> float:
    """Return the two-sided p-value of two groups of runs having the same mean, by dealing the runs to them anew.

    The share of deals whose difference of means is as large as the real one: of all of them where there are at most
    10,000, else of 9,999 random ones and itself.
    """
    pooled = np.concatenate([first, second])
    pooled = pooled - pooled.mean()
    here, there = len(first), len(second)
    chosen = _deals(here + there, here, seed) @ pooled
    gaps = np.abs(chosen / here + chosen / there)  # the others sum to minus the chosen
    own = abs(float(first.mean() - second.mean()))
    reached = int((gaps >= own - _EQUAL * max(own, float(np.abs(pooled).max()))).sum())
    every = math.comb(here + there, here) <= _SPLITS
    return reached / len(gaps) if every else (reached + 1) / (len(gaps) + 1)


@cache
def _deals(count: int, chosen: int, seed: int) -> npt.NDArray[np.float64]:
    """Return which runs go to the first group, (deals, count) of 0 and 1: all deals, or random ones."""
    if math.comb(count, chosen) <= _SPLITS:
        picks = np.array(list(combinations(range(count), chosen)))
    else:
        generator = np.random.Generator(np.random.Philox(key=(seed, 3)))
        picks = generator.random((_SPLITS - 1, count)).argsort(axis=1)[:, :chosen]
    deals = np.zeros((len(picks), count))
    np.put_along_axis(deals, picks, 1.0, axis=1)
    return deals


# ---------------------------------------------------------------------- parts


def _drawn(runs: Sequence[Mean], stream: int, seed: int) -> Floats:
    """Return a group's mean (D,) when runs and images are drawn anew."""
    count, draws = len(runs), len(runs[0].drawn)
    generator = np.random.Generator(np.random.Philox(key=(seed, 16 + stream)))
    times = generator.multinomial(count, np.full(count, 1 / count), size=draws)
    weights = 1 + math.sqrt(count / (count - 1)) * (times - 1)
    found: Floats = (weights * np.stack([r.drawn for r in runs], axis=1)).mean(axis=1)
    return found


def _between(runs: Sequence[Mean]) -> list[tuple[float, float]]:
    """Return the variance of a group's mean that is due to its runs, with its degrees of freedom."""
    values = np.array([r.value for r in runs])
    return [(float(values.var(ddof=1)) / len(runs), len(runs) - 1.0)]


def _within(sides: Iterable[Sequence[Mean]], drawn: Floats) -> tuple[float, float]:
    """Return the variance that is due to images, with its degrees of freedom."""
    units = min(r.units for side in sides for r in side)
    return _spread(drawn) ** 2, max(1.0, units - 1.0)


def _freedom(parts: Sequence[tuple[float, float]]) -> float:
    """Return Satterthwaite's degrees of freedom of a sum of variances."""
    total = sum(v for v, _ in parts)
    return total**2 / sum(v**2 / f for v, f in parts) if total > 0 else math.inf


def _spread(drawn: Floats) -> float:
    known = drawn[np.isfinite(drawn)]
    return float(known.std(ddof=1)) if len(known) > 1 else math.nan


def _student(freedom: float) -> float:
    return float(stdtrit(min(freedom, 1e9), 1 - LEVEL / 2))


def _student_p(value: float, error: float, freedom: float) -> float:
    if not error > 0:
        return 1.0 if value == 0 else math.nan
    return float(2 * stdtr(min(freedom, 1e9), -abs(value) / error))


def _over_images(drawn: Floats, runs: Sequence[Mean]) -> tuple[float, float]:
    """Return the percentile interval of draws of images; NaN where there is one unit only."""
    known = drawn[np.isfinite(drawn)]
    if min(r.units for r in runs) < 2 or not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)
