"""How alike maps are: SSIM as published, correlations, and what of a similarity is beyond chance."""

from __future__ import annotations

from collections.abc import Callable
from tempfile import TemporaryFile

import numpy as np
import numpy.typing as npt

from salience.behaviour.view import Array, Floats, Numbers
from salience.stats import midranks

WINDOW = 7
"""Side of the SSIM window, scikit-image's default."""
_K1, _K2 = 0.01, 0.03
_FLAT = 1e-12
"""A map whose spread is below this share of its size is constant."""
_STATIC = 1e-9
"""Chance this near to 1 leaves nothing above it."""
_HELD = 256 * 2**20
"""Bytes of sums that are held in memory; more lie in a file."""

Bytes = npt.NDArray[np.uint8]
Truths = npt.NDArray[np.bool_]


# ---------------------------------------------------------------------- the published map


def published_8bit(maps: Array | Floats) -> tuple[Bytes, Truths]:
    """Return 8-bit maps (N, h, w) of raw ones, and which (N,) have no contrast.

    Published: ``L = max(m, 0)``, minimum to 0 and maximum to 1 within each map, ``floor(255 L)``. Ours: a map that has
    one value everywhere, zeros above all, becomes zeros and is flagged.
    """
    positive = np.maximum(maps.astype(np.float64), 0)
    low = positive.min(axis=(1, 2), keepdims=True)
    span = positive.max(axis=(1, 2), keepdims=True) - low
    flat = span == 0
    scaled = (positive - low) / np.where(flat, 1.0, span)
    return np.floor(255 * scaled).astype(np.uint8), flat[:, 0, 0]


# ---------------------------------------------------------------------- SSIM


def ssim_possible(grid: tuple[int, int]) -> bool:
    """Tell whether maps of a grid can be compared by SSIM: its window of 7x7 must fit."""
    return min(grid) >= WINDOW


def ssim(
    first: npt.NDArray[np.generic],
    second: npt.NDArray[np.generic],
    *,
    data_range: float = 255,
    valid: Truths | None = None,
) -> Floats:
    """Return the mean structural similarity (...) of maps (..., h, w), as scikit-image computes it by default.

    Published (Wang et al. 2004) with a uniform window of 7x7, K1 = 0.01, K2 = 0.03, and variances of n - 1; the mean is
    over windows that lie inside the map. NaN on grids below 7x7: see :func:`ssim_possible`.

    Parameters
    ----------
    first, second
        Maps whose leading axes broadcast.
    data_range
        Of the values: 255 for 8-bit maps.
    valid
        Cells that may be looked at (h, w): the mean is then over windows that lie within them; NaN where none does.

    Returns
    -------
    ndarray
        -1 to 1; 1 where both are equal, two empty maps too.
    """
    a, b = first.astype(np.float64), second.astype(np.float64)
    inside = None if valid is None or valid.all() else _sums(valid.astype(np.float64)) == WINDOW**2
    if not ssim_possible((a.shape[-2], a.shape[-1])) or (inside is not None and not inside.any()):
        return np.full(np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), np.nan)
    found = _similarity(a * b, _moments(a), _moments(b), data_range)
    return np.asarray(found.mean(axis=(-2, -1)) if inside is None else found[..., inside].mean(axis=-1))


def ssim_pairs(maps: npt.NDArray[np.generic], *, data_range: float = 255) -> Floats:
    """Return the SSIM (N, R, R) of all pairs of R runs' maps (N, R, h, w), 1 with themselves; see :func:`ssim`."""
    n, runs, *grid = maps.shape
    out = np.full((n, runs, runs), np.nan)
    if ssim_possible((grid[0], grid[1])):
        x = maps.astype(np.float64)
        mean, spread = _moments(x)
        out[:, range(runs), range(runs)] = 1.0
        for r in range(runs - 1):
            one, later = slice(r, r + 1), slice(r + 1, runs)
            found = _similarity(
                x[:, one] * x[:, later], (mean[:, one], spread[:, one]), (mean[:, later], spread[:, later]), data_range
            )
            out[:, r, later] = out[:, later, r] = found.mean(axis=(-2, -1))
    return out


def _moments(x: Floats) -> tuple[Floats, Floats]:
    """Return mean and variance (..., h - 6, w - 6) within each window of maps (..., h, w)."""
    n = float(WINDOW**2)
    mean = _sums(x) / n
    return mean, (_sums(x * x) / n - mean * mean) * (n / (n - 1))


def _similarity(
    product: Floats, first: tuple[Floats, Floats], second: tuple[Floats, Floats], data_range: float
) -> Floats:
    """Return the structural similarity in each window, of the maps' product and their moments."""
    n = float(WINDOW**2)
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    (mean_a, spread_a), (mean_b, spread_b) = first, second
    means = mean_a * mean_b
    shared = (_sums(product) / n - means) * (n / (n - 1))
    found: Floats = (2 * means + c1) * (2 * shared + c2)
    found /= (mean_a * mean_a + mean_b * mean_b + c1) * (spread_a + spread_b + c2)
    return found


def _sums(x: Floats) -> Floats:
    """Return sums over every window (..., h - 6, w - 6) of (..., h, w): one axis, then the other."""
    rows = x.shape[-2] - WINDOW + 1
    tall = x[..., :rows, :].copy()
    for at in range(1, WINDOW):
        tall += x[..., at : at + rows, :]
    columns = x.shape[-1] - WINDOW + 1
    wide = tall[..., :columns].copy()
    for at in range(1, WINDOW):
        wide += tall[..., at : at + columns]
    return wide


# ---------------------------------------------------------------------- correlations


def standardised(maps: npt.NDArray[np.generic]) -> Floats:
    """Return values (..., n) less their mean, over their length: products of two rows sum to Pearson's correlation.

    A constant row becomes zeros, so its correlation with anything is 0: it says nothing about where (ours).
    """
    x = maps.astype(np.float64)
    size = np.abs(x).max(axis=-1, keepdims=True, initial=0)
    x = x / np.where(size > 0, size, 1.0)  # squares of tiny values would be 0
    x = x - x.mean(axis=-1, keepdims=True)
    length = np.sqrt((x * x).sum(axis=-1, keepdims=True))
    flat = length <= _FLAT * np.sqrt(x.shape[-1])
    found: Floats = np.where(flat, 0.0, x / np.where(flat, 1.0, length))
    return found


def ranked(maps: npt.NDArray[np.generic]) -> Floats:
    """Return the ranks of values (..., n) within their row, standardised: sums of products are Spearman's correlation.

    Equal values have the mean of their ranks.
    """
    flat = maps.reshape(-1, maps.shape[-1]).astype(np.float64)
    return standardised(midranks(flat).reshape(maps.shape))


def pearson(first: npt.NDArray[np.generic], second: npt.NDArray[np.generic], valid: Truths | None = None) -> Floats:
    """Return Pearson's correlation (...) of maps (..., h, w), over the ``valid`` cells (h, w): -1 to 1.

    0 where one of the maps is constant.
    """
    return _product(standardised(cells(first, valid)), standardised(cells(second, valid)))


def spearman(first: npt.NDArray[np.generic], second: npt.NDArray[np.generic], valid: Truths | None = None) -> Floats:
    """Return Spearman's rank correlation (...) of maps (..., h, w), over the ``valid`` cells (h, w): -1 to 1.

    Ties have mean ranks; 0 where one of the maps is constant.
    """
    return _product(ranked(cells(first, valid)), ranked(cells(second, valid)))


def cells(maps: npt.NDArray[np.generic], valid: Truths | None = None) -> npt.NDArray[np.generic]:
    """Return the values (..., n) of maps (..., h, w), of ``valid`` cells only."""
    return maps.reshape(*maps.shape[:-2], -1) if valid is None else maps[..., valid]


def _product(a: Floats, b: Floats) -> Floats:
    return np.asarray(np.clip(np.einsum("...n,...n->...", a, b), -1, 1))


# ---------------------------------------------------------------------- chance


def chance_corrected(matched: Floats, chance: Floats) -> Floats:
    """Return ``(S - S_chance) / (1 - S_chance)``: 1 is perfect, 0 is what other images' maps reach.

    NaN where there is no chance level, or it is 1: maps that are the same for every image leave nothing above it.
    """
    room = 1 - chance
    known = room > _STATIC
    found: Floats = np.divide(matched - chance, room, out=np.full(np.shape(room), np.nan), where=known)
    return found


class OtherImages:
    """The mean standardised map of the other images that a model puts into the same class.

    A sum of products with it is the mean correlation with all of them: what pairing with one other image of the class,
    drawn at random, has on average. Nothing is drawn.

    Parameters
    ----------
    classes
        Predicted class of each image (N,), -1 where there is no map.
    width
        Cells of a map.
    """

    def __init__(self, classes: Numbers, width: int) -> None:
        names, self._number = np.unique(classes, return_inverse=True)
        self._number = np.where(classes < 0, -1, self._number)
        self._sums = _zeros(len(names), width)
        self._counts = np.zeros(len(names))

    def add(self, images: Numbers, rows: Floats) -> None:
        """Add the standardised maps (n, width) of images (n,); rows with NaN do not count."""
        number = self._number[images]
        kept = (number >= 0) & np.isfinite(rows).all(axis=1)
        np.add.at(self._sums, number[kept], rows[kept])
        np.add.at(self._counts, number[kept], 1)

    def mean(self, images: Numbers, rows: Floats) -> Floats:
        """Return (n, width) of images (n,) whose own standardised maps are ``rows``: NaN where there is no other."""
        number = self._number[images]
        others = self._counts[number] - 1
        alone = (number < 0) | (others < 1)
        found: Floats = (self._sums[number] - rows) / np.where(alone, np.nan, others)[:, None]
        return found


def _zeros(rows: int, width: int) -> Floats:
    """Return zeros (rows, width), in a file without a name where they are large: a thousand classes of large maps."""
    if rows * width * 8 <= _HELD:
        return np.zeros((rows, width))
    with TemporaryFile() as file:
        return np.memmap(file, dtype=np.float64, mode="w+", shape=(rows, width))


# ---------------------------------------------------------------------- missing maps


def whole(*maps: Array) -> Truths:
    """Tell which maps of one or more arrays (..., h, w) are there: finite in all of them, (...)."""
    found: Truths = np.logical_and.reduce([np.isfinite(m).all(axis=(-2, -1)) for m in maps])
    return found


def measured(formula: Callable[..., Floats], *maps: Array) -> Floats:
    """Return what a formula makes of one or more arrays of maps (n, h, w), (n,): NaN where a map is missing."""
    there = whole(*maps)
    out = np.full(len(there), np.nan)
    if there.any():
        out[there] = formula(*(m[there] for m in maps))
    return out


def ssim_8bit(first: Array, second: Array) -> Floats:
    """Return the SSIM (n,) of the published 8-bit forms of raw maps (n, h, w)."""
    return ssim(published_8bit(first)[0], published_8bit(second)[0])
