"""Efficient graph-based segmentation (Felzenszwalb & Huttenlocher 2004), several scales from one sort.

Labels are those of ``skimage.segmentation.felzenszwalb``: the same pixels together, the same numbers. What it does is
published: blur, edges to eight neighbours, a greedy pass in the order of their costs, a pass that takes small segments
up. Ours: blur, costs and sort are done once for all scales, and the second pass looks only at edges that the first one
refused, as all others lie within a segment.

Equal costs keep the order in which edges are listed (right, down, down-right, down-left; row by row), so that labels
are the same on every machine. scikit-image leaves their order to NumPy, which sorts as the processor can. This matters
for the second pass alone, and only where different edges cost exactly the same: for drawings, for pixels of 8 bits that
are not blurred, once in a while for a scanned page.

The module imports numba, which takes a moment: import it where an image is partitioned, not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from salience.engine.compiled import compiled
from salience.errors import ImagesError

Labels = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

_DIGIT = 11  # bits that one pass of the sort looks at: six passes for 64 bits, and the counts fit into the cache


def felzenszwalb(pixels: npt.NDArray[Any], scales: Sequence[float], sigma: float, min_size: int) -> list[Labels]:
    """Return a label map (H, W) for each scale: segments are numbered from 0 in the order of their first pixels.

    Parameters
    ----------
    pixels
        (H, W) or (H, W, C): uint8, or floats that are taken as they are, usually in [0, 1].
    scales
        The published parameter ``k``, for values in [0, 255]: higher ones make larger segments.
    sigma
        Standard deviation of the Gaussian that blurs the pixels first, in pixels.
    min_size
        Segments of fewer pixels are joined to the neighbour with the cheapest edge.

    Raises
    ------
    ImagesError
        When the pixels are of another type or shape, or not finite.

    References
    ----------
    Felzenszwalb, Huttenlocher: Efficient Graph-Based Image Segmentation. IJCV 59, 2004.
    """
    blurred = gaussian_filter(_as_float(pixels), (sigma, sigma, 0))
    costs, first, second = _sorted_edges(blurred)
    height, width = blurred.shape[:2]
    maps = [_merge(costs, first, second, height * width, scale / 255, min_size) for scale in scales]
    return [labels.reshape(height, width) for labels in maps]


def _as_float(pixels: npt.NDArray[Any]) -> Floats:
    """Return pixels as float64 (H, W, C), 8 bits scaled to [0, 1]."""
    if pixels.ndim not in (2, 3) or pixels.size == 0:
        raise ImagesError(f"Pixels of shape {pixels.shape} cannot be segmented: (H, W) or (H, W, C) is needed.")
    if pixels.dtype != np.uint8 and not np.issubdtype(pixels.dtype, np.floating):
        raise ImagesError(f"Pixels of type {pixels.dtype} cannot be segmented: uint8 or floats are needed.")
    values = np.atleast_3d(pixels).astype(np.float64)
    if pixels.dtype == np.uint8:
        return values * (1 / 255)  # as scikit-image does: dividing rounds otherwise, and unties equal costs
    if not np.isfinite(values).all():
        raise ImagesError("Pixels that are NaN or infinite cannot be segmented.")
    return values


@compiled
def _sorted_edges(image: Floats) -> tuple[Floats, Labels, Labels]:
    """Return the costs of edges between neighbours in rising order, and the numbers of the pixels at their ends."""
    height, width, channels = image.shape
    count = height * (width - 1) + (height - 1) * width + 2 * (height - 1) * (width - 1)
    costs = np.empty(count, np.float64)
    first = np.empty(count, np.int32)
    second = np.empty(count, np.int32)
    edge = 0
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        for row in range(height - down):
            for column in range(max(0, -right), width - max(0, right)):
                square = 0.0
                for channel in range(channels):
                    step = image[row + down, column + right, channel] - image[row, column, channel]
                    square += step * step
                costs[edge] = np.sqrt(square)
                first[edge] = row * width + column
                second[edge] = (row + down) * width + column + right
                edge += 1
    order = _rising(costs)
    return costs[order], first[order], second[order]


@compiled
def _rising(costs: Floats) -> Labels:
    """Return the stable order that sorts numbers of no sign: a radix sort, as their bits rise with them."""
    count = costs.size
    keys, other_keys = costs.view(np.uint64).copy(), np.empty(count, np.uint64)
    order, other_order = np.arange(count).astype(np.int32), np.empty(count, np.int32)
    passes = (64 + _DIGIT - 1) // _DIGIT
    mask = np.uint64((1 << _DIGIT) - 1)
    places = np.zeros((passes, 1 << _DIGIT), np.int64)
    for i in range(count):
        for digit in range(passes):
            places[digit, (keys[i] >> np.uint64(_DIGIT * digit)) & mask] += 1
    for digit in range(passes):
        if places[digit].max() == count:  # all alike
            continue
        start = 0
        for value in range(1 << _DIGIT):
            start, places[digit, value] = start + places[digit, value], start
        for i in range(count):
            value = (keys[i] >> np.uint64(_DIGIT * digit)) & mask
            place = places[digit, value]
            places[digit, value] = place + 1
            other_keys[place], other_order[place] = keys[i], order[i]
        keys, other_keys = other_keys, keys
        order, other_order = other_order, order
    return order


@compiled
def _root(parent: Labels, pixel: int) -> int:
    """Return the smallest pixel of a segment, and shorten the way to it."""
    while parent[pixel] != pixel:
        parent[pixel] = parent[parent[pixel]]
        pixel = parent[pixel]
    return pixel


@compiled
def _merge(costs: Floats, first: Labels, second: Labels, pixels: int, scale: float, min_size: int) -> Labels:
    """Return the segment of every pixel.

    Two segments are joined where an edge between them costs less than either's limit, ``Int(C) + scale / |C|``: the
    costliest edge within it, and more the smaller it is (the paper's equation 4, with ``<`` for its ``<=``). Limits are
    of single precision, as scikit-image's are: where many edges cost the same, it tells.
    """
    parent = np.arange(pixels).astype(np.int32)
    sizes = np.ones(pixels, np.int32)
    limits = np.full(pixels, scale).astype(np.float32)
    refused = np.empty(costs.size, np.int32)
    left = 0
    for edge in range(costs.size):
        one, other = _root(parent, first[edge]), _root(parent, second[edge])
        if one == other:
            continue
        if costs[edge] < min(limits[one], limits[other]):
            one, other = min(one, other), max(one, other)
            parent[other] = one
            sizes[one] += sizes[other]
            limits[one] = costs[edge] + scale / sizes[one]
        else:
            refused[left] = edge
            left += 1
    for edge in refused[:left]:
        one, other = _root(parent, first[edge]), _root(parent, second[edge])
        if one != other and min(sizes[one], sizes[other]) < min_size:
            one, other = min(one, other), max(one, other)
            parent[other] = one
            sizes[one] += sizes[other]
    labels = np.empty(pixels, np.int32)
    found = 0
    for pixel in range(pixels):
        root = _root(parent, pixel)
        if root == pixel:
            labels[pixel] = found
            found += 1
        else:
            labels[pixel] = labels[root]
    return labels
