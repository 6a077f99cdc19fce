"""Concepts: clusters of segments that look alike, found on some of them and estimated on all.

The same bytes for the same points and seed at any number of threads: BLAS is held to one thread here, and what runs in
parallel are whole clusterings, each with random numbers of its own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh
from scipy.linalg.blas import ssyrk
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from threadpoolctl import ThreadpoolController

from salience.errors import SettingsError

CHOICES = (10, 15, 25, 40, 60)
"""Numbers of concepts that are tried."""
DIMENSIONS = 32
"""Principal components that are clustered."""
BOOTSTRAPS = 20
"""Clusterings of resampled images that stability is the mean over."""
STABLE = 0.75
ALIKE = 0.9
"""Cosine above which two centres are one concept."""
_POINTS = 256
"""Points for each centre that clusters are fitted to at most."""
_RESTARTS = 4
_STEPS = 100
_ROWS = 8192
"""Rows that are multiplied at once."""

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int32]


# ---------------------------------------------------------------------- principal components


@dataclass(frozen=True, eq=False)
class Projection:
    """Principal components of embeddings.

    Attributes
    ----------
    mean
        Mean of the embeddings, float32 (D,).
    axes
        Directions of largest variance, float32 (D, d), falling; the largest entry of each is positive.
    explained
        Share of the variance along each, (d,).
    """

    mean: Floats
    axes: Floats
    explained: npt.NDArray[np.float64]

    def transform(self, block: npt.NDArray[np.floating]) -> Floats:
        """Return the components of embeddings (S, D), of norm 1: float32 (S, d). One that is the mean itself is 0."""
        centred = block.astype(np.float32) - self.mean
        with _one_thread():
            return _unit(centred @ self.axes)


def project(blocks: Iterable[npt.NDArray[np.floating]], dims: int = DIMENSIONS) -> Projection:
    """Return the principal components of embeddings that come in blocks (S, D), gone through once.

    Memory holds the covariance (D, D) and a few thousand rows. There are fewer components than ``dims`` where the
    embeddings have no more directions.

    Raises
    ------
    SettingsError
        When there are no embeddings.
    """
    total, shift = 0, None
    with _one_thread():
        for rows in _gathered(blocks):
            if shift is None:
                shift = rows.mean(axis=0)
                first = np.zeros(len(shift))
                second = np.zeros((len(shift), len(shift)))
            rows = rows - shift  # near the mean: squares do not cancel afterwards
            total += len(rows)
            first += rows.sum(axis=0, dtype=np.float64)
            second += ssyrk(1.0, rows, trans=1)  # the upper triangle of the product of rows with themselves
        if shift is None:
            raise SettingsError("There are no segments to find concepts in: no image was partitioned.")
        mean = first / total
        covariance = second / total - np.triu(np.outer(mean, mean))
        kept = min(dims, len(mean))
        values, vectors = eigh(covariance, lower=False, subset_by_index=(len(mean) - kept, len(mean) - 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    spread = float(np.trace(covariance))
    real = max(1, int((values > 1e-7 * max(spread, 1e-12)).sum()))
    values, vectors = values[:real], vectors[:, :real]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.where(vectors[largest, np.arange(real)] < 0, -1.0, 1.0)
    share = values.clip(0) / spread if spread > 0 else np.zeros(real)
    return Projection((shift + mean).astype(np.float32), np.ascontiguousarray(vectors, dtype=np.float32), share)


def _gathered(blocks: Iterable[npt.NDArray[np.floating]]) -> Iterator[Floats]:
    """Yield the rows of many small blocks as few large ones, float32 and column by column as BLAS has them."""
    held: list[Floats] = []
    count = 0
    for block in blocks:
        if len(block):
            held.append(block.astype(np.float32))
            count += len(block)
        if count >= _ROWS:
            yield np.concatenate(held)
            held, count = [], 0
    if held:
        yield np.concatenate(held)


# ---------------------------------------------------------------------- clusters


@dataclass(frozen=True, eq=False)
class Concepts:
    """Centres of clusters.

    Attributes
    ----------
    centres
        Directions float32 (k, d) of norm 1, the one with most points first.
    stability
        Of each (k,): mean over bootstrap clusterings of its largest Jaccard index with one of theirs, 0 to 1.
    asked
        Number of centres before alike ones were merged.
    tried
        Mean stability by number of centres that was tried.
    """

    centres: Floats
    stability: npt.NDArray[np.float64]
    asked: int
    tried: Mapping[int, float]


@dataclass(frozen=True, eq=False)
class Assigned:
    """Which concept each of P points belongs to.

    Attributes
    ----------
    concept
        Number of the nearest centre, int32 (P,).
    similarity
        Cosine with it, float32 (P,).
    second
        Cosine with the nearest other centre, float32 (P,); NaN where there is one centre only.
    """

    concept: Numbers
    similarity: Floats
    second: Floats


def discover(
    points: Floats, *, count: int | None = None, images: npt.NDArray[np.integer] | None = None, seed: int = 0
) -> Concepts:
    """Return the concepts of points (P, d) of norm 1.

    Spherical k-means (Dhillon and Modha 2001) from k-means++ seeds
    """
    distinct = len(np.unique(points, axis=0))
    order = _generator(seed, "sample").permutation(len(points))
    owners = np.arange(len(points)) if images is None else np.unique(images, return_inverse=True)[1]
    tried = {}
    found = {}
    with _one_thread(), ThreadPoolExecutor(_workers()) as threads:
        for k in ([count] if count else [c for c in CHOICES if c <= distinct] or [distinct]):
            rows = order[: _POINTS * k]
            centres, stability = _tested(np.ascontiguousarray(points[rows]), owners[rows], k, seed, threads)
            tried[k], found[k] = float(stability.mean()), (centres, stability)
    return tried, found


def _tested(points, owners, k, seed, threads):
    ones = np.ones(len(points), np.float32)
    centres, concept = _fit(points, ones, k, _generator(seed, "fit", k))
    owners = np.unique(owners, return_inverse=True)[1]
    n = owners.max() + 1

    def again(b: int):
        g = _generator(seed, "bootstrap", k, b)
        times = np.bincount(g.integers(0, n, n), minlength=n)
        _, other = _fit(points, times[owners].astype(np.float32), k, g)
        return _jaccard(concept, other, len(centres))

    return centres, np.mean(list(threads.map(again, range(BOOTSTRAPS))), axis=0)


def _jaccard(concept, other, k):
    m = other.max() + 1
    both = np.bincount(concept * m + other, minlength=k * m).reshape(k, m)
    union = both.sum(1, keepdims=True) + both.sum(0, keepdims=True) - both
    return (both / np.maximum(union, 1)).max(1)


def _fit(points, weights, k, generator):
    best = None
    for _ in range(_RESTARTS):
        centres, score = _lloyd(points, weights, _seeds(points, weights, k, generator))
        if best is None or score > best[1]:
            best = centres, score
    centres = best[0]
    concept = (points @ centres.T).argmax(1)
    sums = csr_array((weights, concept, np.arange(len(points) + 1)), shape=(len(points), len(centres))).T @ points
    centres = _merged(sums)
    concept = (points @ centres.T).argmax(1)
    size = np.bincount(concept, minlength=len(centres))
    order = np.lexsort([*centres.T[::-1], -size])
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return centres[order], rank[concept]


def _merged(sums):
    sums = sums[np.linalg.norm(sums, axis=1) > 0]
    while len(sums) > 1:
        c = _unit(sums)
        cos = np.triu(c @ c.T, 1)
        i, j = np.unravel_index(cos.argmax(), cos.shape)
        if cos[i, j] <= ALIKE:
            break
        sums[i] += sums[j]
        sums = np.delete(sums, j, axis=0)
    return _unit(sums)


def _lloyd(points, weights, centres):
    before = None
    indptr = np.arange(len(points) + 1)
    for step in range(_STEPS):
        near = points @ centres.T
        concept = near.argmax(1)
        best = near[np.arange(len(points)), concept]
        if before is not None and np.array_equal(concept, before):
            break
        before = concept
        sums = csr_array((weights, concept, indptr), shape=(len(points), len(centres))).T @ points
        size = np.linalg.norm(sums, axis=1)
        empty = np.flatnonzero(size == 0)
        if len(empty):
            far = np.argsort(best * (weights > 0) + 2 * (weights == 0), kind="stable")[: len(empty)]
            sums[empty] = points[far]
        centres = _unit(sums)
    STEPS.append(step)
    return centres, float(best @ weights)

STEPS = []

def _seeds(points, weights, k, generator):
    trials = 2 + int(np.log(k))
    cdf = np.cumsum(weights, dtype=np.float64)
    first = np.searchsorted(cdf, generator.random() * cdf[-1], side="right")
    chosen = [first]
    away = np.maximum(1 - points @ points[first], 0)
    for _ in range(k - 1):
        cdf = np.cumsum(away * weights, dtype=np.float64)
        if cdf[-1] <= 0:
            break
        cand = np.searchsorted(cdf, generator.random(trials) * cdf[-1], side="right").clip(0, len(points) - 1)
        then = np.minimum(away, np.maximum(1 - points[cand] @ points.T, 0))
        pick = (then @ weights).argmin()
        chosen.append(cand[pick])
        away = then[pick]
    return points[chosen]


def assign(points: Floats, centres: Floats) -> Assigned:
    """Return the nearest centre."""
    concept = np.empty(len(points), np.int32)
    best = np.empty(len(points), np.float32)
    second = np.full(len(points), np.nan, np.float32)
    with _one_thread():
        for at in range(0, len(points), _ROWS):
            near = points[at : at + _ROWS] @ centres.T
            rows = np.arange(len(near))
            c = near.argmax(1)
            concept[at : at + _ROWS] = c
            best[at : at + _ROWS] = near[rows, c]
            if len(centres) > 1:
                near[rows, c] = -2
                second[at : at + _ROWS] = near.max(1)
    return Assigned(concept, best, second)


def _unit(rows: Floats) -> Floats:
    size = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, size, out=np.zeros_like(rows), where=size > 0)


def _generator(seed: int, *words: object) -> np.random.Generator:
    text = "\x1f".join(map(str, (seed, *words))).encode()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")))


def _workers() -> int:
    return len(os.sched_getaffinity(0))


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def _one_thread() -> AbstractContextManager[object]:
    return _libraries().limit(limits=1, user_api="blas")
