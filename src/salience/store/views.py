"""How raw maps are looked at: named, pure functions. What is stored never passes through them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def upsample(maps: Array, size: tuple[int, int]) -> Array:
    """Resize maps (..., h, w) to (..., H, W), bilinear with half-pixel centres and clamped borders.

    The same numbers as ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``.
    """
    if maps.shape[-2:] == tuple(size):
        return maps
    down, across = _weights(maps.shape[-2], size[0]), _weights(maps.shape[-1], size[1])
    out: Array = np.ascontiguousarray(down @ maps @ across.T, dtype=np.float32)
    return out


def _weights(source: int, target: int) -> Array:
    centre = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.floor(centre).astype(int)
    high = np.minimum(low + 1, source - 1)
    share = centre - low
    matrix = np.zeros((target, source), dtype=np.float32)
    rows = np.arange(target)
    np.add.at(matrix, (rows, low), 1 - share)
    np.add.at(matrix, (rows, high), share)
    return matrix


def min_max(maps: Array) -> Array:
    """Scale each map (..., h, w) to [0, 1]; a constant map becomes 0."""
    low = maps.min(axis=(-2, -1), keepdims=True)
    span = maps.max(axis=(-2, -1), keepdims=True) - low
    out: Array = np.divide(maps - low, span, out=np.zeros_like(maps), where=span > 0)
    return out


def clip_scale(maps: Array, percentile: float = 99.5) -> Array:
    """Scale each map by the given percentile of its absolute values and clip: signed to [-1, 1], else to [0, 1].

    Zero stays zero, which a diverging colour scale needs. A map of zeros stays one.
    """
    flat = np.abs(maps).reshape(*maps.shape[:-2], -1)
    top = np.percentile(flat, percentile, axis=-1)
    top = np.where(top > 0, top, flat.max(axis=-1))[..., None, None].astype(np.float32)
    out: Array = np.clip(np.divide(maps, top, out=np.zeros_like(maps), where=top > 0), -1, 1)
    return out
