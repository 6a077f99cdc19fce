"""Descriptors of colour and texture: the embedding of segments where no encoder is given.

Ours, of published parts: a joint CIELab histogram under the square root (Arandjelovic and Zisserman, CVPR 2012),
histograms of gradient orientation (Dalal and Triggs, CVPR 2005) at two scales, and rotation-invariant uniform local
binary patterns (Ojala et al., TPAMI 2002). Where a segment lies is not described: captions and patches planted in a
corner make no purer concepts with it, and position is what concepts are asked about afterwards.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from salience.comparison.spherical import unit
from salience.errors import ImagesError

Floats = npt.NDArray[np.float32]


def _tables() -> Floats:
    """Return what each level of R, G and B adds to CIE X, Y and Z over white's (IEC 61966-2-1, D65): (3, 3, 256)."""
    matrix = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    level = np.arange(256) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    tables: Floats = ((matrix / matrix.sum(axis=1, keepdims=True))[:, :, None] * linear).astype(np.float32)
    return tables


_XYZ = _tables()

_LIGHT = 5
"""Nodes of the histogram from black to white."""
_TINT = 7
"""Nodes of the histogram on each of the axes a and b: at 0, +-11, +-31 and +-80."""
_NEUTRAL = 10.0
"""Units of a and b below which the histogram's nodes lie about evenly, and beyond which they grow apart."""
_REACH = 2.8
_ORIENTATIONS = 8
_SCALES = (1.0, 2.5)
"""Standard deviations, in pixels, of the Gaussians whose slopes are taken."""
_FLAT = 1.0
"""Slope, in units of L per pixel, that weighs as much as all orientations together: below it a segment is smooth."""
_STEP = 2.0
"""Difference of L from which a neighbour counts as brighter in a binary pattern: noise is below it."""
_AROUND = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))


def _patterns() -> npt.NDArray[np.int64]:
    """Return the kind of each of the 256 patterns: ones in a row (0 to 8), or 9 where they are scattered."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    turns = (bits != np.roll(bits, 1, axis=1)).sum(axis=1)
    return np.where(turns <= 2, bits.sum(axis=1), 9)


_KIND = _patterns()
DIMENSIONS = 7 + _LIGHT * _TINT**2 + len(_SCALES) * (_ORIENTATIONS + 1) + 10


def describe(pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.integer]) -> Floats:
    """Return the descriptors float32 (S, D) of an image's segments.

    Five blocks, each of norm 1: mean and spread of the colour; its histogram; orientations of edges at two scales, with
    the lack of edges; patterns of neighbouring pixels. Edges and patterns are taken inside of the segments, a pixel
    away from their borders, where that leaves any pixel.

    Parameters
    ----------
    pixels
        uint8 (H, W, 3), sRGB.
    labels
        Segment of each pixel (H, W), 0 to S - 1.

    Raises
    ------
    ImagesError
        When the two do not fit each other.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.shape[:2] != labels.shape:
        raise ImagesError(
            f"Pixels are {pixels.dtype} {pixels.shape} and labels {labels.shape}; pixels uint8 (H, W, 3) and labels "
            "(H, W) of the same image are needed."
        )
    lab = cielab(pixels)
    flat = labels.ravel().astype(np.int64)
    segments = int(flat.max()) + 1
    inside = _inside(labels, segments)
    within, light = flat[inside], lab[0]
    blocks = [_moments(lab, flat, segments), _colours(lab, flat, segments)]
    blocks += [_edges(light, within, inside, segments, scale) for scale in _SCALES]
    blocks.append(_patterns_of(light, within, inside, segments))
    return np.concatenate(blocks, axis=1, dtype=np.float32)


def cielab(pixels: npt.NDArray[np.uint8]) -> Floats:
    """Return L (0 to 100), a and b (about -128 to 127) of sRGB pixels (H, W, 3), as float32 (3, H, W), under D65."""
    red, green, blue = np.moveaxis(pixels, 2, 0)
    ratio = np.stack([table[0][red] + table[1][green] + table[2][blue] for table in _XYZ])
    small = ratio * np.float32(841 / 108) + np.float32(4 / 29)
    x, y, z = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), small)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def _inside(labels: npt.NDArray[np.integer], segments: int) -> npt.NDArray[np.bool_]:
    """Tell which pixels (H * W,) have no other segment beside them; all of a segment without any such pixel."""
    inner = np.ones(labels.shape, dtype=bool)
    across, down = labels[:, 1:] == labels[:, :-1], labels[1:] == labels[:-1]
    inner[:, 1:] &= across
    inner[:, :-1] &= across
    inner[1:] &= down
    inner[:-1] &= down
    flat, kept = labels.ravel(), inner.ravel()
    none = np.bincount(flat[kept], minlength=segments) == 0
    found: npt.NDArray[np.bool_] = kept | none[flat]
    return found


def _moments(lab: Floats, flat: npt.NDArray[np.int64], segments: int) -> npt.NDArray[np.float64]:
    """Return mean and standard deviation of L, a and b, in units of 25 and 12.5, and 1; then of norm 1."""
    count = np.bincount(flat, minlength=segments)
    values = lab.reshape(3, -1).astype(np.float64)
    mean = np.stack([np.bincount(flat, v, segments) for v in values]) / count
    spread = np.stack([np.bincount(flat, v * v, segments) for v in values]) / count - mean**2
    mean[0] -= 50
    return unit(np.concatenate([mean / 25, np.sqrt(spread.clip(0)) / 12.5, np.ones((1, segments))]).T)


def _colours(lab: Floats, flat: npt.NDArray[np.int64], segments: int) -> npt.NDArray[np.float64]:
    """Return the root of the joint histogram of L, a and b: each pixel is shared by the eight nodes around it."""
    scale = (_TINT - 1) / (2 * _REACH)
    at = [lab[0].ravel() * np.float32((_LIGHT - 1) / 100)]
    at += [(np.arcsinh(c.ravel() / np.float32(_NEUTRAL)) + np.float32(_REACH)) * np.float32(scale) for c in lab[1:]]
    below, rest = [], []
    for place, nodes in zip(at, (_LIGHT, _TINT, _TINT), strict=True):
        place = place.clip(0, nodes - 1)
        floor = np.minimum(place.astype(np.int64), nodes - 2)
        below.append(floor)
        rest.append(place - floor)
    first = ((flat * _LIGHT + below[0]) * _TINT + below[1]) * _TINT + below[2]
    bins = _LIGHT * _TINT**2
    found = np.zeros(segments * bins)
    (l0, l1), (a0, a1), (b0, b1) = ((1 - r, r) for r in rest)
    for i, plane in enumerate((l0, l1)):
        for j, line in enumerate((plane * a0, plane * a1)):
            for k, weight in enumerate((line * b0, line * b1)):
                found += np.bincount(first + (i * _TINT + j) * _TINT + k, weight, segments * bins)
    return unit(np.sqrt(found.reshape(segments, bins)))


def _edges(
    light: Floats, within: npt.NDArray[np.int64], inside: npt.NDArray[np.bool_], segments: int, scale: float
) -> npt.NDArray[np.float64]:
    """Return the root of the mean slope by orientation, and of the slope under which all is smooth; of norm 1."""
    down, across = (gaussian_filter(light, scale, order=o).ravel()[inside] for o in ((1, 0), (0, 1)))
    slope = np.hypot(down, across)
    place = np.arctan2(down, across) * np.float32(_ORIENTATIONS / np.pi)  # -8 to 8: a turn by pi is the same edge
    floor = np.floor(place)
    upper = slope * (place - floor)
    lower = floor.astype(np.int64)
    found = np.zeros(segments * _ORIENTATIONS)
    for orientation, weight in ((lower, slope - upper), (lower + 1, upper)):
        found += np.bincount(within * _ORIENTATIONS + orientation % _ORIENTATIONS, weight, len(found))
    mean = found.reshape(segments, -1) / np.bincount(within, minlength=segments)[:, None]
    return unit(np.sqrt(np.concatenate([mean, np.full((segments, 1), _FLAT)], axis=1)))


def _patterns_of(
    light: Floats, within: npt.NDArray[np.int64], inside: npt.NDArray[np.bool_], segments: int
) -> npt.NDArray[np.float64]:
    """Return the root of the histogram of uniform binary patterns of the eight neighbours."""
    height, width = light.shape
    padded = np.pad(light, 1, mode="edge")
    code = np.zeros((height, width), dtype=np.uint8)
    for bit, (row, column) in enumerate(_AROUND):
        neighbour = padded[1 + row : 1 + row + height, 1 + column : 1 + column + width]
        code |= (neighbour > light + np.float32(_STEP)).view(np.uint8) << np.uint8(bit)
    found = np.bincount(within * 10 + _KIND[code.ravel()[inside]], minlength=segments * 10)
    return unit(np.sqrt(found.reshape(segments, 10).astype(np.float64)))
