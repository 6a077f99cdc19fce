"""P-values adjusted for how many there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's step-down method: they control the family-wise error."""
    count = len(p_values)
    adjusted, largest = [0.0] * count, 0.0
    for rank, i in enumerate(sorted(range(count), key=lambda k: p_values[k])):
        largest = max(largest, min(1.0, (count - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def benjamini_hochberg(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return q-values (M,) of p-values (M,): calling all with q <= x a finding makes at most a share x of them false.

    Published: Benjamini and Hochberg 1995, valid for independent and for positively dependent p-values. Where ``p`` is
    NaN nothing was tested: ``q`` is NaN, and it does not count.

    Raises
    ------
    ValueError
        When a p-value is outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    if p.ndim != 1 or (p[tested] < 0).any() or (p[tested] > 1).any():
        raise ValueError("a vector of p-values in [0, 1] is needed")
    q = np.full(len(p), np.nan)
    order = tested[np.argsort(p[tested], kind="stable")]
    scaled = p[order] * len(order) / np.arange(1, len(order) + 1)
    q[order] = np.minimum.accumulate(scaled[::-1])[::-1].clip(max=1)
    return q


def benjamini_bogomolov(families: Sequence[npt.ArrayLike]) -> list[npt.NDArray[np.float64]]:
    """Return q-values of families of p-values (M,) each, when one looks for the families that hold a finding first.

    Published: Benjamini and Bogomolov 2014, with Benjamini-Hochberg at both levels. At the level x, those R of F
    families are selected whose smallest q-value passes Benjamini-Hochberg over families, and within each what has a
    q-value of at most x R / F is a finding; the q-values returned are the smallest such x. They are those of
    :func:`benjamini_hochberg` where all families hold findings, and up to F times them where few do. Calling all with
    q <= x findings keeps the mean share of false ones over the selected families below x; where nothing differs at
    all, any finding in any family has at most the probability x. Families without tests do not count.

    Raises
    ------
    ValueError
        When a p-value is outside [0, 1].
    """
    within = [benjamini_hochberg(p) for p in families]
    smallest = np.sort([np.nanmin(q) for q in within if not np.isnan(q).all()])
    count = len(smallest)
    if not count:
        return within
    ranks = np.arange(1, count + 1)
    # The level from which on so many families are selected; then each finding takes the cheapest number of families.
    selected = np.minimum.accumulate((smallest * count / ranks)[::-1])[::-1]
    return [np.maximum(q[:, None] * count / ranks, selected).min(axis=1).clip(max=1) for q in within]
