"""Spherical k-means: clusters of directions, by cosine.

Published: the objective and its ascent (Dhillon and Modha, Machine Learning 2001), seeds by squared distance, the best
of a few draws at a time (Arthur and Vassilvitskii, SODA 2007; on the sphere the squared distance is twice one less the
cosine). Ours: centres above a cosine are merged at the end, and points have weights, so that a bootstrap sample is the
same points weighed by how often they were drawn.

Nothing here starts threads or asks for random numbers by itself, so results depend on the arguments alone, as far as
BLAS runs in one thread: see :func:`one_thread`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from threadpoolctl import ThreadpoolController

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]
_Kind = TypeVar("_Kind", bound=np.floating[Any])

RESTARTS = 4
"""Ascents from different seeds; the best is kept."""
_STEPS = 100


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()  # finding the loaded libraries takes milliseconds, limiting them microseconds


def one_thread() -> AbstractContextManager[object]:
    """Hold BLAS to one thread: several cut products up by their number, and add in another order."""
    limited: AbstractContextManager[object] = _libraries().limit(limits=1, user_api="blas")
    return limited


def unit(rows: npt.NDArray[_Kind]) -> npt.NDArray[_Kind]:
    """Return rows (N, D) divided by their norms; rows of zeros stay."""
    size = np.linalg.norm(rows, axis=1, keepdims=True)
    found: npt.NDArray[_Kind] = np.divide(rows, size, out=np.zeros_like(rows), where=size > 0)
    return found


def cluster(
    points: Floats, weights: Floats, count: int, alike: float, generator: np.random.Generator
) -> tuple[Floats, Numbers]:
    """Return centres (k, d) of norm 1, the one nearest to most points first, and the nearest one of each point (P,).

    Parameters
    ----------
    points
        Directions (P, d) of norm 1. Such of zeros belong anywhere.
    weights
        How often each point counts (P,), 0 or more.
    count
        Centres before merging; there are fewer where there are fewer different points.
    alike
        Cosine above which two centres are merged, the most alike first.
    generator
        Of the seeds.
    """
    ascents = (_ascend(points, weights, _seeds(points, weights, count, generator)) for _ in range(RESTARTS))
    concept, reached, _ = max(ascents, key=lambda a: a[2])
    centres = _merged(_sums(points, weights, concept, reached), alike)
    concept = (points @ centres.T).argmax(axis=1)
    size = np.bincount(concept, minlength=len(centres))
    order = np.lexsort([*centres.T[::-1], -size])
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    return centres[order], number[concept]


def _seeds(points: Floats, weights: Floats, count: int, generator: np.random.Generator) -> Floats:
    """Draw centres among the points: each time the best of a few, that are the likelier the farther they are."""
    draws = 2 + int(np.log(count))
    chosen = [_draw(weights, generator, 1)[0]]
    away = (1 - points @ points[chosen[0]]).clip(0)
    while len(chosen) < count and (weighed := away * weights).any():
        tried = _draw(weighed, generator, draws)
        then = np.minimum(away, (1 - points[tried] @ points.T).clip(0))
        best = int((then @ weights).argmin())
        chosen.append(tried[best])
        away = then[best]
    return points[chosen]


def _draw(weights: Floats, generator: np.random.Generator, count: int) -> Numbers:
    reach = np.cumsum(weights, dtype=np.float64)
    last = int(np.flatnonzero(weights)[-1])
    places: Numbers = np.searchsorted(reach, generator.random(count) * reach[-1], side="right")
    return places.clip(0, last)


def _ascend(points: Floats, weights: Floats, centres: Floats) -> tuple[Numbers, int, float]:
    """Move centres to the mean directions of their points until none changes its centre.

    Returns the centre of each point, the number of centres, and the weighed sum of cosines.
    """
    places = np.arange(len(points))
    before = np.full(len(points), -1)
    for _ in range(_STEPS):
        cosines = points @ centres.T
        concept = cosines.argmax(axis=1)
        cosine = cosines[places, concept]
        if np.array_equal(concept, before):
            break
        before = concept
        sums = _sums(points, weights, concept, len(centres))
        left = np.flatnonzero(~sums.any(axis=1))
        if len(left):  # a centre that lost all of its points goes where points are farthest from theirs
            sums[left] = points[np.argsort(np.where(weights > 0, cosine, 2), kind="stable")[: len(left)]]
        centres = unit(sums)
    return concept, len(centres), float(cosine.astype(np.float64) @ weights)


def _sums(points: Floats, weights: Floats, concept: Numbers, count: int) -> Floats:
    """Return the weighed sum of each centre's points (count, d)."""
    member = csr_array((weights, concept, np.arange(len(points) + 1)), shape=(len(points), count))
    found: Floats = member.T @ points
    return found


def _merged(sums: Floats, alike: float) -> Floats:
    """Return the directions of sums of points, after merging those that are alike, the most alike first."""
    there = sums.any(axis=1)
    sums = sums[there] if there.any() else sums[:1]
    while len(sums) > 1:
        centres = unit(sums)
        cosines = np.triu(centres @ centres.T, 1)
        one, other = np.unravel_index(int(cosines.argmax()), cosines.shape)
        if cosines[one, other] <= alike:
            break
        sums[one] += sums[other]
        sums = np.delete(sums, other, axis=0)
    return unit(sums)
