"""Principal components in one pass, concepts by stability, and the same bytes every time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from salience.comparison.clusters import CHOICES, Projection, assign, discover, largest_jaccard, project
from salience.comparison.spherical import unit
from salience.errors import SettingsError

Floats = npt.NDArray[np.float32]


def _embeddings(count: int, dimensions: int = 40, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((count, dimensions)) * np.linspace(3, 0.1, dimensions) + rng.standard_normal(
        dimensions
    )
    return unit(values.astype(np.float32))


def _blobs(clusters: int, each: int, spread: float = 0.05, dimensions: int = 32, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    centres = unit(rng.standard_normal((clusters, dimensions)))
    points = np.repeat(centres, each, axis=0) + spread * rng.standard_normal((clusters * each, dimensions))
    return unit(points.astype(np.float32))


# ---------------------------------------------------------------------- principal components


def test_components_are_those_of_the_covariance() -> None:
    values = _embeddings(3000)
    found = project(np.array_split(values, 70), dims=6)
    centred = values.astype(np.float64) - values.mean(axis=0, dtype=np.float64)
    _, size, rows = np.linalg.svd(centred, full_matrices=False)
    variance = size**2 / len(values)
    directions = rows[:6] * np.sign(rows[np.arange(6), np.abs(rows[:6]).argmax(axis=1)])[:, None]
    np.testing.assert_allclose(found.mean, values.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.explained, (variance / variance.sum())[:6], rtol=1e-4)
    np.testing.assert_allclose(found.axes.T * variance[:6, None] ** 0.25, directions, atol=1e-3)
    expected = centred @ directions.T / variance[:6] ** 0.25
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found.transform(values), expected, atol=5e-3)


def test_components_do_not_depend_on_how_rows_are_cut() -> None:
    values = _embeddings(20_000)
    one, other = project([values]), project(np.array_split(values, 317))
    np.testing.assert_allclose(one.axes, other.axes, atol=1e-3)
    same = project(np.array_split(values, 317))
    assert same.axes.tobytes() == other.axes.tobytes()


def test_memory_does_not_grow_with_the_number_of_blocks() -> None:
    def peak(count: int) -> int:
        blocks: Iterator[Floats] = (_embeddings(50, 200, seed).astype(np.float16) for seed in range(count))
        tracemalloc.start()
        try:
            project(blocks)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(1600) < 1.1 * peak(400)  # 80,000 and 20,000 rows


def test_there_are_no_more_components_than_directions() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((200, 3)) @ rng.standard_normal((3, 50))
    found = project([values.astype(np.float32)])
    assert found.axes.shape == (50, 3)
    assert found.explained.sum() == pytest.approx(1, abs=1e-5)
    assert project([values[:2].astype(np.float32)]).axes.shape == (50, 1)


def test_embeddings_that_are_all_the_same_become_zeros() -> None:
    values = np.full((5, 4), 0.5, dtype=np.float16)
    found = project([values])
    np.testing.assert_array_equal(found.transform(values), np.zeros((5, 1), dtype=np.float32))


@pytest.mark.parametrize("blocks", [[], [np.zeros((0, 4), dtype=np.float32)]])
def test_no_embeddings(blocks: list[Floats]) -> None:
    with pytest.raises(SettingsError, match="no segments"):
        project(blocks)


# ---------------------------------------------------------------------- concepts


@pytest.mark.parametrize("clusters", [10, 25])
def test_the_number_of_concepts_is_that_of_the_clusters(clusters: int) -> None:
    points = _blobs(clusters, 60)
    found = discover(points, seed=3)
    assert len(found.centres) == clusters
    assert found.asked == clusters  # 40 and 60 centres come together again: the smaller number wins
    assert tuple(found.tried) == CHOICES
    assert found.stability.min() > 0.95
    concept = assign(points, found.centres).concept
    truth = np.repeat(np.arange(clusters), 60)
    assert len(set(zip(truth.tolist(), concept.tolist(), strict=True))) == clusters


def test_concepts_of_what_has_no_clusters_are_not_stable() -> None:
    rng = np.random.default_rng(0)
    found = discover(unit(rng.standard_normal((1500, 8)).astype(np.float32)))
    assert np.median(found.stability) < 0.5


def test_a_small_tight_cluster_is_stable_amid_others() -> None:
    rng = np.random.default_rng(1)
    cloud = unit(rng.standard_normal((1500, 12)).astype(np.float32))
    tight = unit(np.eye(12, dtype=np.float32)[:1] * 4 + 0.2 * rng.standard_normal((60, 12)).astype(np.float32))
    points = np.concatenate([cloud, tight])
    found = discover(points, count=25)
    concept = assign(points, found.centres).concept[1500:]
    own = np.bincount(concept).argmax()
    assert (concept == own).mean() > 0.95
    assert found.stability[own] > found.stability.mean() + 0.2


def test_images_are_resampled_whole() -> None:
    # Ten clusters of which each lies in one image only: a bootstrap without that image loses it.
    points, images = _blobs(10, 40), np.repeat(np.arange(10), 40)
    by_segment = discover(points, count=10).stability
    by_image = discover(points, count=10, images=images).stability
    assert by_segment.min() > 0.95
    # 1 - 1/e of the bootstraps have the image; without it the cluster shares its centre with others
    assert 0.4 < by_image.mean() < 0.9


def test_images_are_told_apart_by_number_alone() -> None:
    points, images = _blobs(10, 20), np.tile(np.arange(20), 10)
    one, other = (discover(points, count=10, images=i) for i in (images, images * 7 + 100))
    assert one.stability.tobytes() == other.stability.tobytes()


def test_a_fixed_number_is_tried_alone() -> None:
    found = discover(_blobs(12, 30), count=5)
    assert (found.asked, len(found.centres), list(found.tried)) == (5, 5, [5])
    assert discover(_blobs(12, 30), count=1).stability.tolist() == [1.0]


def test_at_most_256_points_for_each_centre_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from salience.comparison import clusters

    sizes: list[tuple[int, int]] = []
    real = clusters.cluster

    def spied(points: Floats, weights: Floats, count: int, *rest: Any) -> tuple[Floats, npt.NDArray[np.int64]]:
        sizes.append((len(points), count))
        return real(points, weights, count, *rest)

    monkeypatch.setattr(clusters, "cluster", spied)
    monkeypatch.setattr(clusters, "CHOICES", (2, 3))
    monkeypatch.setattr(clusters, "BOOTSTRAPS", 2)
    discover(_blobs(3, 400))
    assert set(sizes) == {(512, 2), (768, 3)}


@pytest.mark.parametrize("segments", [1, 2, 3, 9, 30])
def test_few_segments_of_one_image(segments: int) -> None:
    values = _embeddings(segments)
    points = project([values]).transform(values)
    found = discover(points, images=np.zeros(segments, dtype=np.int64))
    assert 1 <= len(found.centres) <= max(1, segments // 4)
    assert np.isfinite(found.stability).all()
    assert assign(points, found.centres).concept.max() < len(found.centres)


def test_what_cannot_be_discovered() -> None:
    points = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    with pytest.raises(SettingsError, match="4 concepts are asked for, but there are 3 different segments"):
        discover(points, count=4)
    assert len(discover(points, count=3).centres) == 3
    with pytest.raises(SettingsError, match="no segment was chosen"):
        discover(points[:0])


# ---------------------------------------------------------------------- the same every time

_PROGRAM = """
import hashlib
import numpy as np
from salience.comparison.clusters import assign, discover, project
rng = np.random.default_rng(0)
values = 4 * np.eye(300, dtype=np.float32)[rng.integers(0, 30, 6000)] + rng.standard_normal((6000, 300))
found = project(np.array_split(values.astype(np.float16), 100))
points = np.concatenate([found.transform(b) for b in np.array_split(values, 7)])
concepts = discover(points[:2000], count=20, images=np.arange(2000) // 30, seed=5)
assigned = assign(points, concepts.centres)
parts = (found.axes, points, concepts.centres, concepts.stability, assigned.concept, assigned.similarity)
print(hashlib.sha256(b"".join(p.tobytes() for p in parts)).hexdigest())
"""


def test_the_same_bytes_at_any_number_of_threads() -> None:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    digests = set()
    for threads in ("1", "2", "3"):
        environment = os.environ | dict.fromkeys(names, threads)
        program = _PROGRAM if threads != "3" else f"import os\nos.sched_setaffinity(0, [0])\n{_PROGRAM}"
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout.strip())
    assert len(digests) == 1


def test_the_seed_decides() -> None:
    points = _blobs(30, 20, spread=0.2)
    one, same, other = (discover(points, count=10, seed=s) for s in (1, 1, 2))
    assert one.centres.tobytes() == same.centres.tobytes()
    assert one.centres.tobytes() != other.centres.tobytes()


def test_global_generators_are_left_alone() -> None:
    before = hashlib.sha256(np.random.get_state()[1].tobytes()).hexdigest()  # type: ignore[union-attr,index] # noqa: NPY002
    discover(_blobs(4, 20), count=3)
    assert hashlib.sha256(np.random.get_state()[1].tobytes()).hexdigest() == before  # type: ignore[union-attr,index] # noqa: NPY002


def test_threads_of_blas_are_left_as_found() -> None:
    from threadpoolctl import threadpool_info, threadpool_limits

    with threadpool_limits(2, user_api="blas"):
        discover(_blobs(4, 20), count=3)
        assert {i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"} == {2}


# ---------------------------------------------------------------------- parts


def test_largest_jaccard() -> None:
    one, other = np.array([0, 0, 0, 1, 1, 2]), np.array([1, 1, 0, 0, 0, 2])
    np.testing.assert_allclose(largest_jaccard(one, other), [2 / 3, 2 / 3, 1])
    np.testing.assert_allclose(largest_jaccard(one, np.zeros(6, dtype=int)), [3 / 6, 2 / 6, 1 / 6])


def test_points_go_to_the_nearest_centre() -> None:
    centres = np.eye(3, dtype=np.float32)
    points = unit(np.random.default_rng(0).standard_normal((20_000, 3)).astype(np.float32))
    found = assign(points, centres)
    rising = np.sort(points, axis=1)
    np.testing.assert_array_equal(found.concept, points.argmax(axis=1))
    np.testing.assert_allclose(found.similarity, rising[:, 2], atol=1e-6)
    np.testing.assert_allclose(found.second, rising[:, 1], atol=1e-6)
    assert found.concept.dtype == np.int32
    assert np.isnan(assign(points, centres[:1]).second).all()


def test_a_projection_is_applied_block_by_block() -> None:
    projection = Projection(np.zeros(3, dtype=np.float32), np.eye(3, 2, dtype=np.float32), np.ones(2))
    found = projection.transform(np.array([[3, 4, 100], [0, 0, 5]], dtype=np.float16))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0]], atol=1e-6)
