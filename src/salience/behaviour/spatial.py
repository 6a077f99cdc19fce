"""How much of the image a map takes: entropy, Gini index and half-mass area of where its values are.

The formulas of the metrics ``entropy`` and ``gini``, for stacks of small maps and without torch: those look at one map
at the size of the input, these at native grids. A test holds them against each other.
"""

from __future__ import annotations

import numpy as np

from salience.behaviour.view import Array, Floats


def shares(maps: Array | Floats) -> Floats:
    """Return what each cell holds of a map's absolute values, (N, cells), of maps (N, h, w).

    A map of zeros points nowhere: it counts as evenly spread (ours), as the limit of ever smaller constant maps is.
    """
    mass = np.abs(maps.reshape(len(maps), -1).astype(np.float64))
    largest = mass.max(axis=1, keepdims=True)
    empty = largest == 0
    # The largest comes first: the sum of tiny values may be too small to divide by.
    mass = np.where(empty, 1.0, mass / np.where(empty, 1.0, largest))
    found: Floats = mass / mass.sum(axis=1, keepdims=True)
    return found


def spatial_entropy(maps: Array | Floats) -> Floats:
    """Return the entropy (N,) of where the mass of maps (N, h, w) is: 0 is one cell, 1 is evenly spread.

    ``-sum_i p_i log p_i / log n`` with ``p = |m| / sum |m|`` over n cells. Published (Bhatt et al. 2020) but for the
    division, which is ours. A map of one cell is focused on it: 0.
    """
    p = shares(maps)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    found: Floats = np.clip(-(p * logs).sum(axis=1) / np.log(max(2, p.shape[1])), 0, 1)
    return found


def gini(maps: Array | Floats) -> Floats:
    """Return the Gini index (N,) of the absolute values of maps (N, h, w): 0 is evenly spread, 1 - 1/n is one cell.

    ``sum_i (2 i - n - 1) a_(i) / (n sum a)`` over values that rise (Chalasani et al. 2020).
    """
    rising = np.sort(shares(maps), axis=1)
    n = rising.shape[1]
    found: Floats = (rising @ (2.0 * np.arange(1, n + 1) - n - 1) / n).clip(min=0)
    return found


def half_mass_area(maps: Array | Floats) -> Floats:
    """Return the smallest share of the cells (N,) that hold half the mass of maps (N, h, w): (0, 0.5].

    Ours: the last cell counts by the part of it that is needed, so a constant map has exactly 0.5 on any grid.
    """
    falling = -np.sort(-shares(maps), axis=1)
    held = np.cumsum(falling, axis=1)
    n = falling.shape[1]
    last = np.minimum((held < 0.5).sum(axis=1), n - 1)
    row = np.arange(len(falling))
    before = held[row, last] - falling[row, last]
    found: Floats = np.clip((last + (0.5 - before) / falling[row, last]) / n, 0, 0.5)
    return found
