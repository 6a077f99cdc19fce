"""Tests of means against zero, of paired differences above all, and of paired proportions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, stdtrit

from salience.stats.ranks import signed_ranks
from salience.stats.tails import EXACT, exact_tail, saddlepoint_tail, sign_patterns
from salience.stats.units import Floats, Units, units_of

_TIE = 1e-9
"""Standardised sums nearer than this are equal: the same flips, added up in another order."""
_RESOLVED = 10
"""Random flips that must reach a sum before their share is its p-value."""
_BLOCK = 32_000_000
"""Flips held at once, one byte each."""


@dataclass(frozen=True, eq=False)
class FlipTest:
    """Two-sided p-values (M,) of M rows: ``p`` of each alone, ``p_max`` adjusted for the whole family."""

    p: npt.NDArray[np.float64]
    p_max: npt.NDArray[np.float64]


def flip_tests(family: Sequence[Units], *, flips: int = 4999, seed: int = 0) -> list[FlipTest]:
    """Test every row of a family against zero by flipping the signs of whole units.

    Under the null hypothesis each unit's sums may as well have the other sign (the two models of a pair may as well
    have been swapped on it). The statistic is a row's sum over units, divided by the root of its sum of squares, which
    no flip changes; a unit (by its number) is flipped alike in all rows of all blocks.

    Parameters
    ----------
    family
        Blocks of rows; rows of one block have the same units.
    flips
        Random flips, drawn where the family has more than 12 units; otherwise all flips are gone through.
    seed
        Of the random flips.

    Returns
    -------
    list of FlipTest
        One for each block. ``p`` is exact where at most 12 of a row's units are not zero; else the share of random
        flips that reach the row's statistic, itself among them; and where fewer than 10 do, so that the share says
        little but that it is small, the saddlepoint approximation of the same probability (Robinson 1982), at most
        that share. Exact in both directions: no ``p`` is 0, and rows that are all zero have 1. ``p_max`` is the share
        of flips whose largest statistic in the family reaches the row's (Westfall and Young 1993, single step): it
        controls the family-wise error whatever depends on what, and is at least ``1 / (flips + 1)``.
    """
    if not family:
        return []
    members = np.unique(np.concatenate([units.members for units in family]))
    places = [np.searchsorted(members, units.members) for units in family]
    rows = [_standardised(units.sums) for units in family]
    observed = [np.abs(x.sum(axis=1)) for x in rows]
    reached = [np.zeros(len(x)) for x in rows]
    beaten = [np.zeros(len(x)) for x in rows]
    for signs in _signs(len(members), flips, seed):
        largest = np.zeros(len(signs))
        for x, place, own, count in zip(rows, places, observed, reached, strict=True):
            drawn = np.abs(x @ signs[:, place].T.astype(np.float64))
            count += (drawn >= own[:, None] - _TIE).sum(axis=1)
            np.maximum(largest, drawn.max(axis=0, initial=0), out=largest)
        largest.sort()
        for own, count in zip(observed, beaten, strict=True):
            count += len(largest) - np.searchsorted(largest, own - _TIE)
    if len(members) <= EXACT:
        every = 2 ** (len(members) - 1)
        return [FlipTest(r / every, b / every) for r, b in zip(reached, beaten, strict=True)]
    found = []
    for x, r, b in zip(rows, reached, beaten, strict=True):
        p = _refined(x, r, (r + 1) / (flips + 1))
        found.append(FlipTest(p, np.maximum(p, (b + 1) / (flips + 1))))
    return found


def sign_flip_p(
    values: npt.ArrayLike, *, groups: Sequence[object] | None = None, flips: int = 4999, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Return two-sided p-values (M,) of the means of M rows of ``values`` (M, N), or of one (N,), being zero.

    By flipping signs of units; see :func:`flip_tests`.

    Raises
    ------
    ValueError
        When values are missing or not finite, or groups are not as many as columns.
    """
    return flip_tests([units_of(values, groups)], flips=flips, seed=seed)[0].p


def wilcoxon_p(
    values: npt.ArrayLike, *, groups: Sequence[object] | None = None, flips: int = 4999, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Return two-sided p-values (M,) of Wilcoxon's signed-rank test of M rows of ``values`` (M, N), or of one (N,).

    The test is the sign-flip test of the signed ranks: exact where 12 units or fewer are not zero, ties or none.

    Raises
    ------
    ValueError
        When values are missing or not finite, or groups are not as many as columns.
    """
    return flip_tests([signed_ranks(units_of(values, groups))], flips=flips, seed=seed)[0].p


def bootstrap_p(drawn: npt.NDArray[np.float64]) -> float:
    """Return the two-sided p-value of a difference being zero, from its bootstrap draws (D,).

    Twice the smaller tail beyond zero, with one draw added to each (so never 0), at most 1.
    """
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(drawn) + 1))


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of two models being right equally often on the same images.

    Parameters
    ----------
    only_first, only_second
        Images that only the one, and only the other, gets right. Images on which both agree say nothing.
    """
    if min(only_first, only_second) < 0:
        raise ValueError("counts of images cannot be negative")
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


def d_z(units: Units) -> npt.NDArray[np.float64]:
    """Return the mean over the standard deviation between units (M,), Cohen's d of paired differences.

    0 where all values are 0; NaN where there is one unit, or all are equal and not 0.
    """
    none = np.where(units.mean == 0, units.spread, np.nan)  # 0, or NaN for one unit
    found: Floats = np.divide(units.mean, units.spread, out=none, where=units.spread > 0)
    return found


def detectable_effect(units: Units, *, power: float = 0.8, level: float = 0.05) -> npt.NDArray[np.float64]:
    """Return the smallest mean (M,) that a two-sided paired test at ``level`` finds with ``power`` at this spread.

    ``(t(1 - level / 2) + t(power)) * spread / sqrt(n)`` with quantiles of Student's t of n - 1 degrees; within 1 % of
    the value by the non-central t distribution from 10 units on. NaN for one unit.
    """
    if units.n < 2:
        return np.full(len(units.sums), np.nan)
    reach = float(stdtrit(units.n - 1, 1 - level / 2) + stdtrit(units.n - 1, power))
    found: Floats = reach * units.spread / np.sqrt(units.n)
    return found


def _standardised(sums: Floats) -> Floats:
    size = np.sqrt((sums**2).sum(axis=1, keepdims=True))
    found: Floats = np.divide(sums, size, out=np.zeros_like(sums), where=size > 0)
    return found


def _signs(units: int, flips: int, seed: int) -> Iterator[npt.NDArray[np.int8]]:
    """Yield flips (some, units) of +1 and -1: all of them up to the sign where units are few, else at random."""
    if units <= EXACT:
        yield sign_patterns(units)
        return
    generator = np.random.Generator(np.random.Philox(key=(seed, 1)))
    step = max(1, _BLOCK // units)
    for at in range(0, flips, step):
        yield 2 * generator.integers(0, 2, (min(step, flips - at), units), dtype=np.int8) - 1


def _refined(rows: Floats, reached: Floats, share: Floats) -> Floats:
    """Replace the share of random flips by the exact p-value where units are few, by the tail's where few reach."""
    p = share.copy()
    few = (rows != 0).sum(axis=1) <= EXACT
    p[few] = exact_tail(rows[few], _TIE)
    rare = ~few & (reached < _RESOLVED)
    p[rare] = np.minimum(saddlepoint_tail(rows[rare]), share[rare])
    return p
