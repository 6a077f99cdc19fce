"""Which segments concepts are found from, and how well each concept holds together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from salience.comparison.clusters import Assigned

TOP = 5
"""Segments of an image with the largest absolute attribution of a model, that concepts are found from."""
GRID = 4
"""Rows and columns of the places that position entropy tells apart."""
_SPARE = np.log(1.5)
"""Difference of the logarithm of areas that a control is drawn within."""

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer[Any]]


# ---------------------------------------------------------------------- what concepts are found from


def discovery_rows(
    totals: Mapping[str, Floats],
    area: Floats,
    starts: Integers,
    images: Sequence[str],
    *,
    seed: int,
    top: int = TOP,
) -> npt.NDArray[np.bool_]:
    """Return which of P segments (P,) concepts are found from: what any model ranks high, and a control.

    Of each image the union of the models' ``top`` segments by absolute attribution, and as many others, as far as there
    are: each of the union has a partner of about its area, drawn at random. Without the control, concepts would be
    those that models look at already. They are estimated and tested on all segments in any case.

    Parameters
    ----------
    totals
        By model, the sum of its map over each segment (P,).
    area
        Share of the image that each segment covers (P,), above 0.
    starts
        The first segment of each image, and the end of the last one (I + 1,).
    images
        Image ids (I,): the draw of an image depends on its id and the seed alone.
    """
    found = np.zeros(len(area), dtype=np.bool_)
    for image_id, begin, end in zip(images, starts[:-1], starts[1:], strict=True):
        part = slice(int(begin), int(end))
        for values in totals.values():
            highest = np.argsort(-np.abs(values[part]), kind="stable")[:top]
            found[part][highest] = True
        found[part][_partners(area[part], found[part], seed, image_id)] = True
    return found


def _partners(area: Floats, chosen: npt.NDArray[np.bool_], seed: int, image_id: str) -> Integers:
    """Return another segment for each chosen one: of those within half as much area again, one at random."""
    text = f"{seed}\x1fdiscovery\x1f{image_id}".encode()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    others = np.flatnonzero(~chosen)
    # raw words: NumPy never changes them
    moved = np.random.Philox(key=key).random_raw(len(others)) / 2.0**63 - 1  # -1 to 1
    size = np.log(area)
    apart = np.abs(size[chosen][:, None] - (size[others] + moved * _SPARE))
    drawn: Integers = others[linear_sum_assignment(apart)[1]]
    return drawn


# ---------------------------------------------------------------------- how good concepts are


def quality(
    assigned: Assigned,
    stability: Floats,
    *,
    image: Integers,
    classes: Integers,
    area: Floats,
    row: Floats,
    column: Floats,
) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of the table ``concepts`` for k concepts of P segments, but for their names.

    What does not exist is NaN: everything of a concept without segments, the separation of a single concept, the
    entropy where only one class, or one segment, is there to be told.

    Parameters
    ----------
    assigned
        The concept of each segment.
    stability
        Of each concept (k,).
    image
        Place of each segment's image (P,), 0 to I - 1.
    classes
        Class of each image (I,), below 0 where unknown.
    area, row, column
        Share of the image that a segment covers and its centre, 0 to 1, (P,).

    Returns
    -------
    dict
        ``concept``, ``segments``, ``images``, ``cohesion`` (mean cosine with the centre), ``separation`` (cohesion less
        the mean cosine of each segment with its nearest other centre), ``stability``, ``class_entropy`` (of the
        concept's images), ``position_entropy`` (of its segments' centres on a grid of 4 x 4), both over the largest
        that so many images and segments can have: the logarithm of the number of classes or places, or of images or
        segments where these are fewer; ``median_area``, ``row`` and ``column`` (means).
    """
    k, concept = len(stability), assigned.concept.astype(np.int64)
    segments = np.bincount(concept, minlength=k)

    def mean(values: npt.NDArray[Any]) -> Floats:
        return _over(np.bincount(concept, values, minlength=k), segments)

    owner, of = np.divmod(np.unique(np.asarray(image, dtype=np.int64) * k + concept), k)
    label = np.asarray(classes)[owner]
    known = label >= 0
    names, number = np.unique(label[known], return_inverse=True)
    cells = (_cell(row) * GRID + _cell(column)).astype(np.int64)
    cohesion = mean(assigned.similarity)
    return {
        "concept": np.arange(k, dtype=np.int32),
        "segments": segments,
        "images": np.bincount(of, minlength=k),
        "cohesion": cohesion,
        "separation": cohesion - mean(assigned.second),
        "stability": np.where(segments > 0, stability, np.nan),
        "class_entropy": _entropy(of[known], number, k, len(names)),
        "position_entropy": _entropy(concept, cells, k, GRID**2),
        "median_area": _medians(concept, area, segments),
        "row": mean(row),
        "column": mean(column),
    }


def _cell(place: Floats) -> Integers:
    return (np.asarray(place) * GRID).astype(np.int64).clip(0, GRID - 1)


def _over(values: npt.NDArray[Any], count: npt.NDArray[Any]) -> Floats:
    """Return values over counts, NaN where nothing was counted."""
    found: Floats = np.divide(values, count, out=np.full(len(values), np.nan), where=count > 0)
    return found


def _entropy(concept: Integers, kind: Integers, k: int, kinds: int) -> Floats:
    """Return the entropy (k,) of each concept's kinds over the largest that it can have, 0 to 1."""
    counts = np.bincount(concept * kinds + kind, minlength=k * kinds).reshape(k, kinds).astype(np.float64)
    total = counts.sum(axis=1)
    share = counts / np.maximum(total, 1)[:, None]
    nats = -(share * np.log(np.where(share > 0, share, 1))).sum(axis=1)
    found: Floats = _over(nats, np.log(np.maximum(np.minimum(total, kinds), 1))).clip(0, 1)
    return found


def _medians(concept: Integers, values: Floats, count: Integers) -> Floats:
    """Return the median (k,) of each concept's values."""
    rising = np.asarray(values, dtype=np.float64)[np.lexsort([values, concept])]
    begin = np.cumsum(count) - count
    middle = np.stack([begin + (count - 1) // 2, begin + count // 2]).clip(0, max(0, len(rising) - 1))
    found = rising[middle].mean(axis=0) if len(rising) else np.zeros(len(count))
    medians: Floats = np.where(count > 0, found, np.nan)
    return medians
