"""The frame that models share: every model's map laid over the whole image, and the way back to its input.

Models see different windows of an image, at different sizes. Their maps are compared in the frame of the partition: the
whole image, squashed to one size. A map is taken for so much attribution in each of its cells, spread evenly; a frame's
cell gets what overlaps it. So sums are kept, and what a model does not see gets nothing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from salience.data.geometry import source_box
from salience.data.preprocessing import Preprocessing

Size = tuple[int, int]

_SNAP = 1e-9  # cells: edges that are nearer to a whole number lie on it, but for rounding


def to_frame(
    values: npt.NDArray[Any], preprocessing: Preprocessing, size: Size, frame: Size = (224, 224)
) -> npt.NDArray[np.float64]:
    """Lay a map of a model's input over the whole image.

    Parameters
    ----------
    values
        A map (h, w) that covers the model's input, at any size: native grids as well.
    preprocessing
        The model's, which tells what window of the image it sees.
    size
        Height and width of the image in pixels.
    frame
        Rows and columns of the result.

    Returns
    -------
    values
        float64 (H, W), in the same units; the sum is the same but for rounding. Where the window is the whole image
        and the sizes are equal, the values are, too.
    """
    x0, y0, x1, y1 = source_box(size[1], size[0], preprocessing)
    down = _overlap(values.shape[0], frame[0], y0 / size[0] * frame[0], y1 / size[0] * frame[0])
    across = _overlap(values.shape[1], frame[1], x0 / size[1] * frame[1], x1 / size[1] * frame[1])
    found: npt.NDArray[np.float64] = (across @ (down @ np.asarray(values, dtype=np.float64)).T).T
    return found


def to_input(labels: npt.NDArray[np.int32], preprocessing: Preprocessing, size: Size) -> npt.NDArray[np.int32]:
    """Return a label map over the whole image as it lies in a model's input.

    Parameters
    ----------
    labels
        (H, W) over the frame.
    preprocessing, size
        As for :func:`to_frame`.

    Returns
    -------
    labels
        (h, w), the model's input size: each pixel takes the label that its centre lies in. Segments outside of the
        model's window do not occur.
    """
    x0, y0, x1, y1 = source_box(size[1], size[0], preprocessing)
    rows, columns = preprocessing.size
    down = _centres(rows, labels.shape[0], y0 / size[0], y1 / size[0])
    across = _centres(columns, labels.shape[1], x0 / size[1], x1 / size[1])
    return labels[down][:, across]


def _centres(cells: int, length: int, start: float, end: float) -> npt.NDArray[np.int64]:
    """Return in which of ``length`` equal parts of [0, 1] the centres of ``cells`` equal parts of a window lie."""
    where = (start + (np.arange(cells) + 0.5) * ((end - start) / cells)) * length
    found: npt.NDArray[np.int64] = np.floor(where + _SNAP).clip(0, length - 1).astype(np.int64)
    return found


@lru_cache(maxsize=256)
def _overlap(cells: int, length: int, start: float, end: float) -> Any:
    """Return which share of each of ``cells`` equal cells of a window [start, end] lies in each [i, i + 1].

    It is a sparse matrix (length, cells), as a cell lies in few others; its columns add up to 1.
    """
    from scipy.sparse import csr_array  # for those who lay maps; others read a comparison without it

    edges = start + np.arange(cells + 1) * ((end - start) / cells)
    whole = np.rint(edges)
    edges = np.where(np.abs(edges - whole) < _SNAP, whole, edges).clip(0, length)
    cuts = np.unique(np.concatenate([edges, np.arange(np.ceil(edges[0]), np.floor(edges[-1]) + 1)]))
    part, column = np.diff(cuts), np.searchsorted(edges, cuts[:-1], side="right") - 1
    share = part / np.bincount(column, part, minlength=cells)[column]
    return csr_array((share, (np.floor(cuts[:-1]).astype(np.int64), column)), shape=(length, cells))
