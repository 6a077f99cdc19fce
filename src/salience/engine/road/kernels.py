"""Imputation in compiled loops: one image after another, each channel within the processor's cache.

A *plane* is a grid (h, w) with a border of zeros, flat: the neighbours of point ``i`` are at ``i - p - 1`` to
``i + p + 1`` with ``p = w + 2``, and couplings across the border are zero. So one loop goes over a whole grid, without
a question inside, and is the same for all sizes. Loops read slices from their starts, as the compiler vectorises
indices that it knows not to be negative; and there are several of them, as it compares the places of few arrays only.

The module imports numba, which takes a moment: import it where images are imputed, not before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from salience.engine.compiled import compiled
from salience.engine.road.multigrid import ACTIVE, CHAIN, CORNER, EDGE, WEIGHTS

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]

_PLANES = 9
_SOLUTION, _RIGHT, _SCRATCH, _INVERSE, _DIAGONAL, _EAST, _SOUTH, _FALLING, _RISING = range(_PLANES)
"""The planes of a grid. Couplings of a point to the next one in its row, to the one below, to the one below that; and,
rising, of the next one to the one below. The finest grid has no right-hand side: there stands the mask, 1 where a
pixel was removed, and the solution has the values of kept pixels."""
_CHUNK = 1024  # points that several loops go over in turn, what they hand on staying in the nearest cache
_ZERO, _QUARTER, _HALF, _ONE, _TWO, _FOUR = (np.float32(n) for n in (0, 1 / 4, 1 / 2, 1, 2, 4))
_EDGE, _CORNER = np.float32(EDGE), np.float32(CORNER)
_ACTIVE = np.float32(ACTIVE)
_CHAIN = np.float32(CHAIN)
_FIRST, _SECOND = (np.float32(weight) for weight in WEIGHTS)


def layout(sizes: Sequence[tuple[int, int]]) -> tuple[Numbers, Numbers]:
    """Return the sizes of grids (L, 2), and where the planes of each begin and the last ones end, (L + 1,)."""
    found = np.array(sizes, np.int64)
    return found, np.concatenate([[0], np.cumsum((found + 2).prod(1) * _PLANES)])


@compiled
def fill_rows(
    first: int,
    last: int,
    images: Floats,
    noise: Floats,
    owner: Numbers,
    keep: Mask,
    sizes: Numbers,
    starts: Numbers,
    turns: Numbers,
    out: Floats,
    strides: Numbers,
) -> None:
    """Write images (N, C, H, W) into rows ``first`` to ``last`` of ``out``, what they lose filled in.

    ``keep`` is (R, H, W) and ``owner`` (R,); ``noise`` (N, C, H, W), or of length 0 for none, is added to what is
    filled; ``sizes`` and ``starts`` are those of :func:`layout`, ``turns`` (L,) of
    :mod:`~salience.engine.road.multigrid`. ``out`` is the flat memory of (R, C, H, W) with ``strides`` in any order:
    one machine code serves all memory formats.
    """
    height, width = keep.shape[1], keep.shape[2]
    work = np.zeros(starts[-1], np.float32)
    rows = np.zeros((5, width + 4), np.float32)
    chunk = np.zeros(_CHUNK + 2, np.float32)
    for row in range(first, last):
        kept = _build(keep[row], sizes, starts, work, rows)
        solution = _grid(work, starts, 0)[_SOLUTION]
        for channel in range(images.shape[1]):
            image = images[owner[row], channel]
            mean = _load(image, keep[row], kept, solution)
            if 0 < kept < height * width:
                _solve(sizes, starts, turns, work, rows, chunk)
            to = out[row * strides[0] + channel * strides[1] :]
            _store(image, keep[row], solution, mean, to, strides[2], strides[3])
            if len(noise):
                _add(noise[owner[row], channel], keep[row], to, strides[2], strides[3])


@compiled
def _grid(work: Floats, starts: Numbers, level: int) -> Floats:
    """Return the planes of a level (9, points)."""
    own = work[starts[level] : starts[level + 1]]
    return own.reshape((_PLANES, own.size // _PLANES))


@compiled
def _row(plane: Floats, y: int, p: int) -> Floats:
    """Return row ``y``, from 1 within the border."""
    return plane[y * p : (y + 1) * p]


# ---------------------------------------------------------------------- pixels


@compiled
def _load(image: Floats, keep: Mask, kept: int, out: Floats) -> np.float32:
    """Write kept pixels less their mean, and zeros; return the mean: of the whole image where nothing is kept.

    The difference is solved for, as nothing in it is far from zero.
    """
    height, width = keep.shape
    sums = np.zeros(width)
    for y in range(height):
        pixels, there = image[y], keep[y]
        for x in range(width):
            sums[x] += pixels[x] if there[x] or kept == 0 else _ZERO
    total = 0.0
    for x in range(width):
        total += sums[x]
    mean = np.float32(total / (kept if kept > 0 else height * width))
    for y in range(height):
        pixels, there, own = image[y], keep[y], _row(out, y + 1, width + 2)[1:]
        for x in range(width):
            own[x] = pixels[x] - mean if there[x] else _ZERO
    return mean


@compiled
def _store(image: Floats, keep: Mask, found: Floats, mean: np.float32, out: Floats, down: int, across: int) -> None:
    height, width = keep.shape
    for y in range(height):
        pixels, there, own, to = image[y], keep[y], _row(found, y + 1, width + 2)[1:], out[y * down :]
        for x in range(width):
            to[x * across] = pixels[x] if there[x] else own[x] + mean


@compiled
def _add(noise: Floats, keep: Mask, out: Floats, down: int, across: int) -> None:
    height, width = keep.shape
    for y in range(height):
        more, there, to = noise[y], keep[y], out[y * down :]
        for x in range(width):
            to[x * across] += _ZERO if there[x] else more[x]


# ---------------------------------------------------------------------- systems


@compiled
def _build(keep: Mask, sizes: Numbers, starts: Numbers, work: Floats, rows: Floats) -> int:
    """Make the systems of all levels, and the divisors of smoothing; return how many pixels are kept."""
    height, width = keep.shape
    kept = 0
    mask = _grid(work, starts, 0)[_RIGHT]
    for y in range(height):
        there, own = keep[y], _row(mask, y + 1, width + 2)[1:]
        for x in range(width):
            own[x] = _ZERO if there[x] else _ONE
        for x in range(width):
            kept += there[x]
    if 0 < kept < height * width:
        _finest(height, width, _grid(work, starts, 0))
        for level in range(1, len(sizes)):
            finer, coarser = _grid(work, starts, level - 1), _grid(work, starts, level)
            _coarsen(sizes[level - 1, 0], sizes[level - 1, 1], finer, coarser, rows)
            _invert(sizes[level, 0], sizes[level, 1], coarser)
    return kept


@compiled
def _finest(height: int, width: int, grid: Floats) -> None:
    """Write the weights between removed pixels, and the sum of a pixel's weights to all its neighbours.

    (1, 2, 1) down and across, less the middle, are the weights of the neighbours.
    """
    p, more = width + 2, _CHAIN if (height == 1) != (width == 1) else _ONE
    for y in range(1, height + 1):
        down = np.float32(4 - (y == 1) - (y == height))  # less what is outside of the image
        here, below = _row(grid[_RIGHT], y, p)[1:], _row(grid[_RIGHT], y + 1, p)[1:]
        d, own = _row(grid[_DIAGONAL], y, p)[1:], _row(grid[_INVERSE], y, p)[1:]
        for x in range(width):
            d[x] = here[x] * (_FOUR * down - _FOUR)
        d[0] -= here[0] * down
        d[width - 1] -= here[width - 1] * down
        for x in range(width):
            own[x] = here[x] / (more * d[x] + (_ONE - here[x]))
        e, s = _row(grid[_EAST], y, p)[1:], _row(grid[_SOUTH], y, p)[1:]
        for x in range(width):
            e[x] = _EDGE * here[x] * here[x + 1]
            s[x] = _EDGE * here[x] * below[x]
        f, r = _row(grid[_FALLING], y, p)[1:], _row(grid[_RISING], y, p)[1:]
        for x in range(width):
            f[x] = _CORNER * here[x] * below[x + 1]
            r[x] = _CORNER * here[x + 1] * below[x]


@compiled
def _coarsen(height: int, width: int, finer: Floats, coarser: Floats, rows: Floats) -> None:
    """Write the Galerkin product: every second row first, then every second column, by the same sums."""
    p, half = width + 2, (width + 1) // 2
    for part in rows:
        part[0] = part[width + 1] = _ZERO
    for y in range(1, height + 1, 2):
        beyond = y + 1 == height  # the row below is the last one: a copy of this one, not half of two
        share, link = (_ONE, _ZERO) if beyond else (_HALF, _HALF)
        _coarsen_rows(y, p, share, link, finer, rows)
        d, e, s, f, r = rows[0], rows[1], rows[2], rows[3], rows[4]
        at = (y + 1) // 2
        cd, ce = _row(coarser[_DIAGONAL], at, half + 2)[1:], _row(coarser[_EAST], at, half + 2)[1:]
        cs, cf = _row(coarser[_SOUTH], at, half + 2)[1:], _row(coarser[_FALLING], at, half + 2)[1:]
        cr = _row(coarser[_RISING], at, half + 2)[1:]
        for x in range(half):
            i = 2 * x
            cd[x] = d[i + 1] + _QUARTER * (d[i] + d[i + 2]) - e[i] - e[i + 1]
            ce[x] = _HALF * (e[i + 1] + e[i + 2] - _HALF * d[i + 2])
        for x in range(half):
            i = 2 * x
            cs[x] = s[i + 1] + _QUARTER * (s[i] + s[i + 2]) + _HALF * (f[i] + r[i] + f[i + 1] + r[i + 1])
        for x in range(half):
            i = 2 * x
            cf[x] = _HALF * (f[i + 1] + f[i + 2] + _HALF * s[i + 2])
            cr[x] = _HALF * (r[i + 1] + r[i + 2] + _HALF * s[i + 2])
        if width % 2 == 0:
            i, x = width - 2, half - 1
            cd[x] = d[i + 1] + _QUARTER * d[i] + d[i + 2] - e[i] - _TWO * e[i + 1]
            cs[x] = s[i + 1] + _QUARTER * s[i] + s[i + 2] + _HALF * (f[i] + r[i]) + f[i + 1] + r[i + 1]
            ce[x] = cf[x] = cr[x] = _ZERO


@compiled
def _coarsen_rows(y: int, p: int, share: np.float32, link: np.float32, finer: Floats, rows: Floats) -> None:
    """Write the system of row ``y``, half of the row above and ``share`` of the row below; ``link`` to the next."""
    square = share * share
    d0, d1, d2 = _row(finer[_DIAGONAL], y - 1, p), _row(finer[_DIAGONAL], y, p), _row(finer[_DIAGONAL], y + 1, p)
    e0, e1, e2 = _row(finer[_EAST], y - 1, p), _row(finer[_EAST], y, p), _row(finer[_EAST], y + 1, p)
    s0, s1, s2 = _row(finer[_SOUTH], y - 1, p), _row(finer[_SOUTH], y, p), _row(finer[_SOUTH], y + 1, p)
    f0, f1, f2 = _row(finer[_FALLING], y - 1, p), _row(finer[_FALLING], y, p), _row(finer[_FALLING], y + 1, p)
    r0, r1, r2 = _row(finer[_RISING], y - 1, p), _row(finer[_RISING], y, p), _row(finer[_RISING], y + 1, p)
    d, e, s, f, r = rows[0], rows[1], rows[2], rows[3], rows[4]
    for x in range(1, p - 1):
        d[x] = d1[x] + _QUARTER * d0[x] + square * d2[x] - s0[x] - _TWO * share * s1[x]
    for x in range(1, p - 1):
        e[x] = e1[x] + _QUARTER * e0[x] + square * e2[x] + _HALF * (f0[x] + r0[x])
    for x in range(1, p - 1):
        e[x] += share * (f1[x] + r1[x])
    for x in range(1, p - 1):
        s[x] = link * (s1[x] + s2[x] - _HALF * d2[x])
    for x in range(1, p - 1):
        f[x] = link * (f1[x] + f2[x] + _HALF * e2[x])
    for x in range(1, p - 1):
        r[x] = link * (r1[x] + r2[x] + _HALF * e2[x])


@compiled
def _invert(height: int, width: int, grid: Floats) -> None:
    """Write one over the diagonal, raised to half of the row's absolute values; zero for points without unknowns."""
    p, more = width + 2, _CHAIN if (height == 1) != (width == 1) else _ONE
    at, count = p + 1, height * p - 2
    out, d, e = grid[_INVERSE][at:], grid[_DIAGONAL][at:], grid[_EAST][at - 1 :]
    s0, s1 = grid[_SOUTH][at - p :], grid[_SOUTH][at:]
    for i in range(count):
        out[i] = abs(e[i]) + abs(e[i + 1]) + abs(s0[i]) + abs(s1[i])
    f0, f1 = grid[_FALLING][at - p - 1 :], grid[_FALLING][at:]
    r0, r1 = grid[_RISING][at - p :], grid[_RISING][at - 1 :]
    for i in range(count):
        out[i] += abs(f0[i]) + abs(f1[i]) + abs(r0[i]) + abs(r1[i])
    for i in range(count):
        raised = more * max(d[i], _HALF * (d[i] + out[i]))
        out[i] = _ONE / max(raised, _ACTIVE) if d[i] > _ACTIVE else _ZERO


# ---------------------------------------------------------------------- turns


@compiled
def _solve(sizes: Numbers, starts: Numbers, turns: Numbers, work: Floats, rows: Floats, chunk: Floats) -> None:
    """Make all turns of the finest level, and of those below for each."""
    made = np.zeros(len(sizes), np.int64)
    bottom = len(sizes) - 1
    level = 0
    while made[0] < turns[0]:
        while level < bottom:
            height, width, grid = sizes[level, 0], sizes[level, 1], _grid(work, starts, level)
            residual = grid[_RIGHT]  # of a level that has no solution yet
            if level == 0 or made[level] > 0:
                residual = grid[_SCRATCH]
                _relax(height, width, level == 0, _ZERO, grid, _SOLUTION, _SCRATCH, chunk)
            level += 1
            coarser = _grid(work, starts, level)
            _restrict(height, width, residual, coarser[_RIGHT], rows[0])
            coarser[_SOLUTION][:] = _ZERO
            made[level] = 0
        grid = _grid(work, starts, bottom)
        grid[_SOLUTION, 4] = grid[_RIGHT, 4] * grid[_INVERSE, 4]  # the middle of 3 x 3
        while True:
            correction = _grid(work, starts, level)[_SOLUTION]
            level -= 1
            height, width, grid = sizes[level, 0], sizes[level, 1], _grid(work, starts, level)
            _correct(height, width, correction, grid[_INVERSE], grid[_SOLUTION], rows)
            _relax(height, width, level == 0, _FIRST, grid, _SOLUTION, _SCRATCH, chunk)
            _relax(height, width, level == 0, _SECOND, grid, _SCRATCH, _SOLUTION, chunk)
            made[level] += 1
            if level == 0 or made[level] < turns[level]:
                break


@compiled
def _relax(
    height: int, width: int, finest: bool, weight: np.float32, grid: Floats, source: int, target: int, chunk: Floats
) -> None:
    """Write a plane after a sweep of Jacobi's method, or its residual where the weight is zero."""
    p = width + 2
    end = (height + 1) * p - 1
    x, right, out, inverse = grid[source], grid[_RIGHT], grid[target], grid[_INVERSE]
    diagonal, east = grid[_DIAGONAL], grid[_EAST]
    for at in range(p + 1, end, _CHUNK):
        count = min(_CHUNK, end - at)
        to, own, d = out[at:], x[at - 1 :], diagonal[at:]
        if finest:
            mask = right[at:]
            _spread(at, count, p, x, chunk)
            for i in range(count):
                chunk[i] = mask[i] * (chunk[i] + _TWO * chunk[i + 1] + chunk[i + 2] - _FOUR * own[i + 1])
        else:
            e = east[at - 1 :]
            _gather(at, count, p, grid, x, chunk)
            for i in range(count):
                chunk[i] += e[i] * own[i] + e[i + 1] * own[i + 2]
        if weight == _ZERO:
            for i in range(count):
                to[i] = chunk[i] - d[i] * own[i + 1]
        else:
            divide = inverse[at:]
            for i in range(count):
                to[i] = own[i + 1] + weight * divide[i] * (chunk[i] - d[i] * own[i + 1])


@compiled
def _spread(at: int, count: int, p: int, x: Floats, out: Floats) -> None:
    """Write (1, 2, 1) down the columns, from one point before to one after."""
    above, own, below = x[at - p - 1 :], x[at - 1 :], x[at + p - 1 :]
    for i in range(count + 2):
        out[i] = above[i] + _TWO * own[i] + below[i]


@compiled
def _gather(at: int, count: int, p: int, grid: Floats, x: Floats, out: Floats) -> None:
    """Write the right-hand side and what the rows above and below add."""
    own, above, s = grid[_RIGHT][at:], x[at - p - 1 :], grid[_SOUTH][at - p :]
    f, r = grid[_FALLING][at - p - 1 :], grid[_RISING][at - p :]
    for i in range(count):
        out[i] = own[i] + f[i] * above[i] + s[i] * above[i + 1] + r[i] * above[i + 2]
    below, s, f, r = x[at + p - 1 :], grid[_SOUTH][at:], grid[_FALLING][at:], grid[_RISING][at - 1 :]
    for i in range(count):
        out[i] += r[i] * below[i] + s[i] * below[i + 1] + f[i] * below[i + 2]


# ---------------------------------------------------------------------- between levels


@compiled
def _restrict(height: int, width: int, residual: Floats, out: Floats, row: Floats) -> None:
    """Sum residuals with the weights that interpolation has."""
    p, half = width + 2, (width + 1) // 2
    for y in range(1, height + 1, 2):
        share = _ONE if y + 1 == height else _HALF
        above, own, below = _row(residual, y - 1, p), _row(residual, y, p), _row(residual, y + 1, p)
        for x in range(p):
            row[x] = own[x] + _HALF * above[x] + share * below[x]
        to = _row(out, (y + 1) // 2, half + 2)[1:]
        for x in range(half):
            i = 2 * x
            to[x] = row[i + 1] + _HALF * (row[i] + row[i + 2])
        if width % 2 == 0:
            to[half - 1] += _HALF * row[width]


@compiled
def _correct(height: int, width: int, correction: Floats, inverse: Floats, out: Floats, rows: Floats) -> None:
    """Add the interpolated correction to points that have unknowns."""
    p, half = width + 2, (width + 1) // 2
    short, wide = rows[0], rows[1]
    for y in range(1, height + 1):
        one = _row(correction, (y + 1) // 2, half + 2)
        other = _row(correction, y // 2 + 1, half + 2) if y < height else one
        for i in range(half + 2):
            short[i] = _HALF * (one[i] + other[i])
        short[half + 1] = short[half]
        for i in range(half):
            wide[2 * i] = short[i + 1]
            wide[2 * i + 1] = _HALF * (short[i + 1] + short[i + 2])
        own, there = _row(out, y, p)[1:], _row(inverse, y, p)[1:]
        for i in range(width):
            own[i] += wide[i] if there[i] > _ZERO else _ZERO
