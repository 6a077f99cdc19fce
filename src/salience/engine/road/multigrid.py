"""The multigrid method that imputes: what its two forms, compiled loops and tensors, have in common.

Unknowns are the removed pixels; a kept pixel is a boundary value. A coarse grid has every second row and column, from
the first. What is between is interpolated linearly; beyond the last one it is constant, and on the finest grid kept
pixels are left out. Coarse systems are products of that interpolation and the finer system (Galerkin), so that any
mask is seen on all grids: thin structures, single pixels, channels. They couple eight neighbours, as the finest one.

A *turn* of a grid takes the residual to the next coarser one, solves there by one or two turns, adds the interpolated
correction and smooths twice. The coarsest grid has one point and is solved by a division. Smoothing is Jacobi's with
Chebyshev weights: over high frequencies the eigenvalues of ``A / diagonal`` are in [2/3, 4/3] for the published
stencil, more at borders, and in [3/4, 3/2] for what Galerkin products of it tend to. Coarse diagonals are raised to
half of the row's sum of absolute values where they are lower: no eigenvalue is above 2 then, and no mode is made
larger. On grids of one row or column, where they are in [1, 2], all diagonals are raised by a third.

All cycles are made, whatever the residual is: an image's answer never depends on what it is computed beside.
"""

from __future__ import annotations

import math

CYCLES = 3
"""Turns of the finest grid, each of which leaves about a tenth of the error."""
DOUBLED = 3
"""Grids below the finest that make two turns each time; coarser ones make one."""
EDGE, CORNER = 2, 1
"""Weights of neighbours: the published ones times twelve, so that no sum of them is rounded."""
ACTIVE = 1e-5
"""Coarse diagonals that are lower belong to points with next to nothing around them to correct."""


def chebyshev(low: float, high: float) -> tuple[float, float]:
    """Return the weights of two Jacobi sweeps that damp eigenvalues within (low, high) best."""
    middle, half = (low + high) / 2, (high - low) / 2
    return 1 / (middle + half * math.cos(math.pi / 4)), 1 / (middle - half * math.cos(math.pi / 4))


CHAIN = 4 / 3
"""What the diagonals of grids of one row or column are multiplied by for smoothing."""
WEIGHTS = chebyshev(3 / 4, 3 / 2)
"""Of the two sweeps on every grid."""


def grids(height: int, width: int) -> list[tuple[int, int]]:
    """Return heights and widths from the finest grid to a single point."""
    found = [(height, width)]
    while max(found[-1]) > 1:
        found.append(((found[-1][0] + 1) // 2, (found[-1][1] + 1) // 2))
    return found


def turns(levels: int, cycles: int) -> list[int]:
    """Return how many turns each grid makes for one of the finer grid; for the finest, the cycles."""
    return [cycles, *(2 if level <= DOUBLED else 1 for level in range(1, levels))]
