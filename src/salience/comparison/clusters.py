"""Concepts: clusters of segments that look alike, found on some of them and given to all.

The same bytes for the same points and seed at any number of threads: what runs in parallel are whole clusterings, each
with random numbers of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh
from scipy.linalg.blas import ssyrk

from salience.comparison.spherical import Floats, Numbers, cluster, one_thread, unit
from salience.cores import cores
from salience.errors import SettingsError

CHOICES = (10, 15, 25, 40, 60)
"""Numbers of concepts that are tried."""
DIMENSIONS = 32
"""Principal components that are clustered."""
BOOTSTRAPS = 20
"""Clusterings of resampled images that stability is the mean over."""
LASTING = 0.5
"""Stability above which a concept is found again: Hennig (2007) calls a cluster dissolved that does not reach it."""
ALIKE = 0.9
"""Cosine above which two centres are one concept."""
_POINTS = 256
"""Points for each centre that clusters are fitted to at most."""
_FEWEST = 4
"""Different points for each centre at least, where the number of centres is chosen."""
_ROWS = 8192
_NOTHING = 1e-7
"""Share of the variance that is rounding."""

Embeddings = npt.NDArray[np.floating[Any]]


# ---------------------------------------------------------------------- principal components


@dataclass(frozen=True, eq=False)
class Projection:
    """Principal components of embeddings.

    Attributes
    ----------
    mean
        Mean of the embeddings, float32 (D,).
    axes
        Directions of largest variance, falling, over the fourth root of their variance: float32 (D, d). The largest
        entry of each is positive.
    explained
        Share of the variance along each, (d,).
    """

    mean: Floats
    axes: Floats
    explained: npt.NDArray[np.float64]

    def transform(self, block: Embeddings) -> Floats:
        """Return the components of embeddings (S, D), of norm 1: float32 (S, d). One that is the mean itself is 0."""
        centred: Floats = block.astype(np.float32) - self.mean
        with one_thread():
            return unit((centred @ self.axes).astype(np.float32, copy=False))


def project(blocks: Iterable[Embeddings], dims: int = DIMENSIONS) -> Projection:
    """Return the principal components of embeddings that come in blocks (S, D), gone through once.

    Memory holds the covariance (D, D) and a few thousand rows. There are fewer components than ``dims`` where the
    embeddings have no more directions.

    Published: PCA of L2-normalised descriptors, whitened and normalised again (Jegou and Chum, ECCV 2012). Ours: half
    of the whitening, components over the root of their standard deviation. On photographs with planted captions and
    patches it makes concepts purer and more stable than none and than all of it.

    Raises
    ------
    SettingsError
        When there are no embeddings.
    """
    count, shift = 0, np.zeros(0, dtype=np.float32)
    first, second = np.zeros(0), np.zeros((0, 0))
    with one_thread():
        for rows in _gathered(blocks):
            if not count:
                shift = rows.mean(axis=0)
                first, second = np.zeros(len(shift)), np.zeros((len(shift), len(shift)))
            rows -= shift  # squares of what is near 0 do not cancel afterwards
            count += len(rows)
            first += rows.sum(axis=0, dtype=np.float64)
            second += ssyrk(1.0, rows.T)  # the upper triangle of the sum of outer products
        if not count:
            raise SettingsError("There are no segments to find concepts in: no image has a partition and an embedding.")
        mean = first / count
        covariance = second / count - np.triu(np.outer(mean, mean))
        wanted = (max(0, len(mean) - dims), len(mean) - 1)
        values, vectors = eigh(covariance, lower=False, subset_by_index=wanted)
    values, vectors = values[::-1], vectors[:, ::-1]
    spread = float(np.trace(covariance))
    kept = max(1, int((values > _NOTHING * max(spread, _NOTHING)).sum()))
    values, vectors = values[:kept], vectors[:, :kept]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(kept)]
    scale = np.where(largest < 0, -1.0, 1.0) / np.maximum(values, _NOTHING**2) ** 0.25
    share = values / spread if spread > 0 else np.zeros(kept)
    axes = np.ascontiguousarray(vectors * scale, dtype=np.float32)
    return Projection((shift + mean).astype(np.float32), axes, share)


def _gathered(blocks: Iterable[Embeddings]) -> Iterator[Floats]:
    """Yield the rows of many small blocks as few large ones."""
    held: list[Floats] = []
    count = 0
    for block in blocks:
        held.append(block.astype(np.float32))
        count += len(block)
        if count >= _ROWS:
            rows, held, count = np.concatenate(held), [], 0
            yield rows
    if count:
        yield np.concatenate(held)


# ---------------------------------------------------------------------- concepts


@dataclass(frozen=True, eq=False)
class Concepts:
    """Centres of clusters.

    Attributes
    ----------
    centres
        Directions float32 (k, d) of norm 1, the one with most points first.
    stability
        Of each (k,), 0 to 1: its largest Jaccard index with a cluster of a bootstrap clustering, mean over those.
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

    concept: npt.NDArray[np.int32]
    similarity: Floats
    second: Floats


def discover(
    points: Floats,
    *,
    count: int | None = None,
    images: npt.NDArray[np.integer[Any]] | None = None,
    seed: int = 0,
) -> Concepts:
    """Return the concepts of points: spherical k-means, the number of centres by bootstrap stability.

    Published: stability as the mean over 20 bootstrap clusterings of a cluster's largest Jaccard index (Hennig 2007).
    Ours: images are resampled, not segments, for segments of one image are no independent draws; the Jaccard index is
    that of all points, drawn or not; and the number of centres is the one under which most is found again: the sum of
    stabilities above 0.5, to a tenth, and among equals the larger mean, then the smaller number. The mean alone is no
    criterion: it falls with every further centre where looks are a continuum, as in photographs.

    Parameters
    ----------
    points
        Directions (P, d) of norm 1, as :meth:`Projection.transform` gives them. At most 256 for each centre are used,
        drawn at random.
    count
        Number of centres; tried are 10, 15, 25, 40 and 60 by default, as far as there are four different points for
        each. Centres with a cosine above 0.9 are merged.
    images
        Number of the image that each point is of (P,), all of images of their own by default. Points are resampled
        where there is one image only.
    seed
        Of all random draws.

    Raises
    ------
    SettingsError
        When there are no points, or more centres are asked for than there are different ones.
    """
    most = count or max(CHOICES)
    rows = _generator(seed, "points").permutation(len(points))[: _POINTS * most]
    sample = np.ascontiguousarray(points[rows])
    different = len(np.unique(sample, axis=0))
    if not different:
        raise SettingsError("There are no segments to find concepts in: no segment was chosen.")
    if count is not None and not 1 <= count <= different:
        raise SettingsError(
            f"{count} concepts are asked for, but there are {different} different segments to find them in. Ask for "
            "fewer, or give more images."
        )
    owners = rows if images is None else np.asarray(images)[rows]
    choices = [count] if count else [k for k in CHOICES if _FEWEST * k <= different]
    tried = {}
    with one_thread(), ThreadPoolExecutor(cores(), thread_name_prefix="clusters") as threads:
        for k in choices or [max(1, different // _FEWEST)]:
            tried[k] = _tested(sample[: _POINTS * k], owners[: _POINTS * k], k, seed, threads)
    mean = {k: float(stability.mean()) for k, (_, stability) in tried.items()}
    lasting = {k: round(float(stability[stability > LASTING].sum()), 1) for k, (_, stability) in tried.items()}
    best = max(tried, key=lambda k: (lasting[k], round(mean[k], 2), -k))
    return Concepts(*tried[best], best, mean)


def _tested(
    points: Floats, owners: npt.NDArray[np.integer[Any]], count: int, seed: int, threads: ThreadPoolExecutor
) -> tuple[Floats, npt.NDArray[np.float64]]:
    """Return the centres (k, d) of points and how stable each is (k,)."""
    even = np.ones(len(points), dtype=np.float32)
    whole = threads.submit(cluster, points, even, count, ALIKE, _generator(seed, "clusters", count))
    units = np.unique(owners, return_inverse=True)[1]
    if not units.any():
        units = np.arange(len(points))
    again = threads.map(partial(_resampled, points, units, count, seed), range(BOOTSTRAPS))
    centres, concept = whole.result()
    stability = np.mean([largest_jaccard(concept, other) for other in again], axis=0)
    return centres, stability


def _resampled(points: Floats, units: Numbers, count: int, seed: int, draw: int) -> Numbers:
    """Return the cluster of each point (P,), of clusters that were fitted to resampled units."""
    generator = _generator(seed, "bootstrap", count, draw)
    among = int(units.max()) + 1
    times = np.bincount(generator.integers(0, among, among), minlength=among).astype(np.float32)
    return cluster(points, times[units], count, ALIKE, generator)[1]


def largest_jaccard(one: Numbers, other: Numbers) -> npt.NDArray[np.float64]:
    """Return the largest Jaccard index (k,) of each cluster with one of another clustering of the same points (P,)."""
    k, m = int(one.max()) + 1, int(other.max()) + 1
    both = np.bincount(one * m + other, minlength=k * m).reshape(k, m)
    either = both.sum(axis=1, keepdims=True) + both.sum(axis=0) - both
    found: npt.NDArray[np.float64] = (both / np.maximum(either, 1)).max(axis=1)
    return found


def assign(points: Floats, centres: Floats) -> Assigned:
    """Return which of the centres (k, d) each point (P, d) is nearest to, all of norm 1."""
    concept = np.zeros(len(points), dtype=np.int32)
    similarity, second = np.zeros((2, len(points)), dtype=np.float32)
    with one_thread():
        for at in range(0, len(points), _ROWS):
            cosines = points[at : at + _ROWS] @ centres.T
            row, nearest, part = np.arange(len(cosines)), cosines.argmax(axis=1), slice(at, at + _ROWS)
            concept[part] = nearest
            similarity[part] = cosines[row, nearest]
            cosines[row, nearest] = -np.inf
            second[part] = cosines.max(axis=1) if len(centres) > 1 else np.nan
    return Assigned(concept, similarity, second)


def _generator(seed: int, *words: object) -> np.random.Generator:
    text = "\x1f".join(map(str, (seed, *words))).encode()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))
