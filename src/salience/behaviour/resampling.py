"""Maps on other grids: enlarged to the input, and moved back to where things were. Nothing here imports torch."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import sparse

from salience.behaviour.view import Array

_CUBIC = -0.75
"""The kernel's slope at its first zero: that of torch and OpenCV."""
_EDGE = 1e-6
"""Places that rounding puts so far outside are at the border."""

Matrix = npt.NDArray[np.float64]
Truths = npt.NDArray[np.bool_]


def enlarge(maps: Array, size: tuple[int, int]) -> Array:
    """Resize maps (..., h, w) to (..., H, W), bicubic (Keys 1981, a = -0.75), half-pixel centres, clamped borders.

    The same numbers as ``torch.nn.functional.interpolate(mode="bicubic", align_corners=False)``. Values may overshoot
    the range of the map.
    """
    if maps.shape[-2:] == tuple(size):
        return maps
    down, across = _cubic(maps.shape[-2], size[0]), _cubic(maps.shape[-1], size[1])
    return np.ascontiguousarray(down @ maps @ across.T, dtype=np.float32)


@lru_cache(maxsize=16)
def _cubic(source: int, target: int) -> Matrix:
    """Return the weights (target, source) of the cells of one side."""
    place = (np.arange(target) + 0.5) * source / target - 0.5
    first = np.floor(place).astype(np.int64) - 1
    matrix = np.zeros((target, source))
    for k in range(4):
        x = np.abs(place - (first + k))
        near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
        far = ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC
        np.add.at(matrix, (np.arange(target), np.clip(first + k, 0, source - 1)), np.where(x <= 1, near, far))
    return matrix


def sample(maps: Array, rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]) -> tuple[Array, Truths]:
    """Read maps (..., h, w) at places between their cells, bilinear.

    Parameters
    ----------
    rows, columns
        Places (H, W) in cells: 0 is the middle of the first one.

    Returns
    -------
    maps
        float32 (..., H, W), 0 outside.
    valid
        bool (H, W): whether the place lies between the middles of cells.
    """
    h, w = maps.shape[-2:]
    valid = (rows >= -_EDGE) & (rows <= h - 1 + _EDGE) & (columns >= -_EDGE) & (columns <= w - 1 + _EDGE)
    matrix = _bilinear(rows.clip(0, h - 1), columns.clip(0, w - 1), (h, w))
    flat = np.ascontiguousarray(maps.reshape(-1, h * w).T, dtype=np.float64)
    found = (matrix @ flat).T.reshape(*maps.shape[:-2], *rows.shape)
    return np.where(valid, found, 0).astype(np.float32), valid


def _bilinear(
    rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64], grid: tuple[int, int]
) -> sparse.csr_array:
    """Return the weights (H * W, h * w) of the four cells around each place."""
    top, left = (
        np.minimum(np.floor(p), max(0, n - 2)).astype(np.int64) for p, n in zip((rows, columns), grid, strict=True)
    )
    down, right = rows - top, columns - left
    places, cells, weights = [], [], []
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = (down if dy else 1 - down) * (right if dx else 1 - right)
        cell = np.minimum(top + dy, grid[0] - 1) * grid[1] + np.minimum(left + dx, grid[1] - 1)
        places.append(np.arange(rows.size))
        cells.append(cell.ravel())
        weights.append(share.ravel())
    shape = (rows.size, grid[0] * grid[1])
    return sparse.csr_array((np.concatenate(weights), (np.concatenate(places), np.concatenate(cells))), shape=shape)
