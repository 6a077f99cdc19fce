"""Embeddings of segments: pooled from the grid of features of the whole image, or of crops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.sparse import csr_array

from salience.comparison.spherical import unit

if TYPE_CHECKING:
    from salience.comparison.encoders import Encoder

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.integer]

_CROPS = 64
_GREY = 124
"""What surrounds a segment in its crop: the mean level of photographs."""


def embed(encoder: Encoder, pixels: npt.NDArray[np.uint8], labels: Sequence[Labels]) -> list[Floats]:
    """Return the embeddings float32 (S_i, D), of norm 1, of the segments of N images, as the encoder wants them made.

    Parameters
    ----------
    pixels
        uint8 (N, H, W, 3), the whole images at the encoder's size.
    labels
        Segment of each pixel (h, w) of each image, 0 to S_i - 1; of any size, over the same whole image.
    """
    if encoder.crops:
        return embed_crops(encoder, pixels, labels)
    return pool(encoder.features(pixels), labels)


def pool(features: Floats, labels: Sequence[Labels]) -> list[Floats]:
    """Return the mean feature of each segment, of norm 1: a list of float32 (S_i, D).

    Each cell of the grid weighs by the area that it has in common with the segment, exactly: features and labels are
    two grids over the same image, whatever their sizes. A segment with features of zeros has an embedding of zeros.

    Parameters
    ----------
    features
        float32 (N, D, h, w).
    labels
        N label maps (H, W), segments 0 to S_i - 1.
    """
    rows, columns = features.shape[2:]
    cells = np.ascontiguousarray(features.reshape(*features.shape[:2], -1).transpose(0, 2, 1))  # (N, h * w, D)
    return [unit(overlaps(one, (rows, columns)) @ cell) for one, cell in zip(labels, cells, strict=True)]


def overlaps(labels: Labels, grid: tuple[int, int]) -> csr_array:
    """Return the share of each segment that lies in each cell of a grid: float32 (S, h * w), rows sum to 1."""
    segments = int(labels.max()) + 1
    (y, row, high), (x, column, wide) = (_overlaps(n, m) for n, m in zip(labels.shape, grid, strict=True))
    cell = row[:, None] * grid[1] + column
    place = labels[y[:, None], x].astype(np.int64) * (grid[0] * grid[1]) + cell
    area = np.bincount(place.ravel(), (high[:, None] * wide).ravel(), segments * grid[0] * grid[1])
    area = area.reshape(segments, -1)
    return csr_array((area / area.sum(axis=1, keepdims=True)).astype(np.float32))


def _overlaps(fine: int, coarse: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return which of ``fine`` and of ``coarse`` equal parts of a line overlap, and by how much.

    Between neighbouring borders of either kind lies one piece. In units of the line over fine x coarse, borders are
    whole numbers, so nothing is lost to rounding.
    """
    borders = np.union1d(np.arange(fine + 1) * coarse, np.arange(coarse + 1) * fine)
    return borders[:-1] // coarse, borders[:-1] // fine, np.diff(borders).astype(np.float64)


def embed_crops(encoder: Encoder, pixels: npt.NDArray[np.uint8], labels: Sequence[Labels]) -> list[Floats]:
    """Return embeddings float32 (S_i, D), of norm 1, of crops: a forward pass for each segment, not for each image.

    As in ACE (Ghorbani et al., NeurIPS 2019), a segment is cut out with its bounding box, the rest of the box is grey,
    and the box is resized to the encoder's input; its features are averaged over the grid.

    Parameters
    ----------
    pixels, labels
        As for :func:`embed`.
    """
    crops = (
        crop
        for image, one in zip(pixels, labels, strict=True)
        for crop in _cut(image, _resized(one, image.shape[:2]), int(one.max()) + 1)
    )
    rows = np.concatenate([*_pooled(encoder, crops)])
    ends = np.cumsum([int(one.max()) + 1 for one in labels])
    return np.split(unit(rows), ends[:-1])


def _pooled(encoder: Encoder, crops: Iterator[npt.NDArray[np.uint8]]) -> Iterator[Floats]:
    while some := list(islice(crops, _CROPS)):
        sized = [np.asarray(Image.fromarray(c).resize(encoder.size[::-1], Image.Resampling.BICUBIC)) for c in some]
        yield encoder.features(np.stack(sized)).mean(axis=(2, 3))


def _resized(labels: Labels, size: tuple[int, ...]) -> Labels:
    """Return labels at another size, by the nearest."""
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, labels.shape, strict=True))
    found: Labels = labels[rows[:, None], columns]
    return found


def _cut(image: npt.NDArray[np.uint8], labels: Labels, segments: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield each segment in its box; one that is smaller than a pixel is all grey."""
    for segment in range(segments):
        mask = labels == segment
        y, x = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(y):
            yield np.full((1, 1, 3), _GREY, dtype=np.uint8)
            continue
        box = slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)
        yield np.where(mask[box][:, :, None], image[box], np.uint8(_GREY))
