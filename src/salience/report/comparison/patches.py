"""Patches: a square piece of a photograph around one segment, with what is outside of it dimmed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 112
"""Pixels of a patch."""

LEAST = 0.28
"""Of the photograph's longer side: what a patch shows at least, so that one sees where a small segment lies."""

MARGIN = 1.3
"""Of the segment's longer side: what a patch shows of a larger one."""

DIMMED = (0.5, 22.0)
"""What becomes of the grey outside of the segment, which has lost its colour: a share of it, and a little light."""

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]


def window(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int]:
    """Return (top, left, side) of the square that is shown of a segment, in pixels of its mask (h, w).

    It lies within the mask where that is large enough; of a mask that is not square it may reach beyond.
    """
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, max(height, width)
    ends = (int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
    wanted = max(MARGIN * max(ends[1] - ends[0], ends[3] - ends[2]), LEAST * max(height, width))
    side = max(1, min(round(wanted), max(height, width)))
    return _start(ends[0], ends[1], side, height), _start(ends[2], ends[3], side, width), side


def _start(low: int, high: int, side: int, length: int) -> int:
    """Return where a stretch of ``side`` around [low, high) begins, inside of [0, length) if it fits."""
    start = round((low + high - side) / 2)
    return (length - side) // 2 if side > length else min(max(0, start), length - side)


def draw_patch(pixels: Pixels, labels: Labels, segment: int, *, tiny: bool = False) -> Pixels:
    """Return the patch of a segment.

    Parameters
    ----------
    pixels
        The photograph, (H, W, 3).
    labels
        Its label map (h, w), which may be coarser.
    segment
        Number of the segment.
    tiny
        Keep the pixels of the photograph visible: nothing is smoothed.

    Returns
    -------
    Pixels
        uint8 (SIDE, SIDE, 3).
    """
    mask = labels == segment
    top, left, side = window(mask)
    down, across = pixels.shape[0] / labels.shape[0], pixels.shape[1] / labels.shape[1]
    box = (
        round(left * across),
        round(top * down),
        round((left + side) * across),
        round((top + side) * down),
    )
    how = Image.Resampling.NEAREST if tiny else Image.Resampling.LANCZOS
    piece = Image.fromarray(pixels).crop(box).resize((SIDE, SIDE), how)
    shape = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).crop((left, top, left + side, top + side))
    soft = shape.resize((SIDE, SIDE), Image.Resampling.NEAREST if tiny else Image.Resampling.BILINEAR)
    inside = np.asarray(soft) > 127
    bright = np.asarray(piece)
    grey = np.asarray(piece.convert("L")).astype(np.float32)[..., None]
    share, light = DIMMED
    out = np.where(inside[..., None], bright, share * grey + light).astype(np.uint8)
    out[edge(inside)] = 255
    return out


def edge(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the pixels just outside of a region (h, w) that touch it: the region itself stays whole."""
    wide = np.pad(inside, 1)
    near = wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
    found: npt.NDArray[np.bool_] = near & ~inside
    return found
