"""Which pixels a metric left in place, made again from stored maps without the engine.

The order of pixels is that of the masked sweep: falling values of the map at the size of the input, ties broken by
the image's own drawn order. Maps stored at that size give exactly the engine's masks; in enlarged or blurred ones,
pixels whose values differ by a rounding may change places. ``tests/unit/report/test_evaluate_figures.py`` holds it
against the engine.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from salience.store.views import upsample

MOST_LEVELS = 256

CONSTANTS = {"black": 0.0, "grey": 0.5, "white": 1.0}

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


def ranks(
    values: Floats, size: tuple[int, int], image_id: str, seed: int, smooth: float = 0.0
) -> npt.NDArray[np.int64]:
    """Return each pixel's place when a raw map (h, w) falls, from 0: int64 (H, W), H and W being the input's size."""
    whole = upsample(values.astype(np.float32), size)
    if smooth:
        whole = blurred(whole, smooth)
    order = np.lexsort((tie_places(image_id, whole.size, seed), -whole.ravel()))
    found = np.empty(whole.size, dtype=np.int64)
    found[order] = np.arange(whole.size)
    return found.reshape(size)


def tie_places(image_id: str, pixels: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the place of each pixel in the order in which pixels of equal value stand, as the engine draws it."""
    text = f"{seed}\x1fties\x1f{image_id}\x1f0".encode()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    with np.errstate(over="ignore"):
        h = np.arange(pixels, dtype=np.uint32) * np.uint32(0x9E3779B9) + np.uint32(key & 0xFFFFFFFF)
        h = _mix(_mix(h) ^ np.uint32(key >> 32)) >> np.uint32(8)
    places = np.empty(pixels, dtype=np.int64)
    places[np.argsort(h, kind="stable")] = np.arange(pixels)
    return places


def _mix(h: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Scramble words: MurmurHash3's finaliser, as in :mod:`salience.engine.random`."""
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    mixed: npt.NDArray[np.uint32] = h ^ (h >> np.uint32(16))
    return mixed


def levels(rank: npt.NDArray[np.int64], counts: Sequence[int]) -> Bytes:
    """Return at which of the ascending ``counts`` of kept pixels each pixel comes in: uint8 (H, W).

    A pixel of level j stays where at least ``counts[j]`` pixels stay, so one picture holds the masks of all points.
    """
    return np.searchsorted(np.asarray(counts), rank, side="right").astype(np.uint8)


def all_counts(shares: Sequence[Sequence[float]], pixels: int) -> list[int]:
    """Return the numbers of pixels at all points of some curves, ascending from 0; of very many, some."""
    found = sorted({round(s * pixels) for curve in shares for s in curve} | {0, pixels})
    if len(found) > MOST_LEVELS:
        found = [found[round(i * (len(found) - 1) / (MOST_LEVELS - 1))] for i in range(MOST_LEVELS)]
    return found


def background(name: str, pixels: Floats, mean: Sequence[float]) -> Floats | None:
    """Return what stands in for the removed pixels of an image (H, W, 3) in [0, 1]: (3,), or (H, W, 3).

    None for backgrounds that are drawn while scoring, or that depend on the mask.
    """
    if name in CONSTANTS:
        return np.full(3, CONSTANTS[name], dtype=np.float32)
    if name == "dataset-mean":
        return np.asarray(mean, dtype=np.float32)
    if name == "mean":
        colour: Floats = pixels.mean((0, 1), dtype=np.float64).astype(np.float32)
        return colour
    if name == "blur":
        sigma = min(pixels.shape[:2]) / 8
        return np.stack([blurred(pixels[:, :, c], sigma) for c in range(3)], axis=2)
    return None


def blurred(values: Floats, sigma: float) -> Floats:
    """Blur (H, W) with a Gaussian of ``sigma`` pixels, cut off at three sigma, borders replicated."""
    down, across = (_blur_matrix(n, sigma) for n in values.shape)
    out: Floats = (down @ values @ across.T).astype(np.float32)
    return out


def _blur_matrix(length: int, sigma: float) -> npt.NDArray[np.float32]:
    radius = max(1, round(3 * sigma))
    x = np.arange(-radius, radius + 1, dtype=np.float32)
    kernel = np.exp(-(x**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    matrix = np.zeros((length, length), dtype=np.float32)
    rows = np.arange(length)[:, None]
    np.add.at(matrix, (np.broadcast_to(rows, (length, len(x))), (rows + x.astype(int)).clip(0, length - 1)), kernel)
    return matrix


def swatch(colour: Floats) -> list[int]:
    """Return a colour (3,) in [0, 1] as 8-bit numbers."""
    return [math.floor(255 * float(v) + 0.5) for v in colour]


def as_picture(found: Any) -> Bytes:
    """Return floats (H, W, 3) in [0, 1] as 8-bit pixels."""
    pixels: Bytes = np.rint(np.asarray(found).clip(0, 1) * 255).astype(np.uint8)
    return pixels
