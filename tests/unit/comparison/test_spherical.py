"""Spherical k-means."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from salience.comparison.spherical import cluster, unit

Floats = npt.NDArray[np.float32]


def _around(centres: npt.NDArray[np.float64], counts: list[int], spread: float, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    points = np.repeat(centres, counts, axis=0)
    return unit((points + spread * rng.standard_normal(points.shape)).astype(np.float32))


def _fit(points: Floats, count: int, alike: float = 2.0, weights: Floats | None = None, seed: int = 0):  # type: ignore[no-untyped-def]
    even = np.ones(len(points), dtype=np.float32)
    return cluster(points, even if weights is None else weights, count, alike, np.random.default_rng(seed))


def test_unit() -> None:
    found = unit(np.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.0, 0.0]])


def test_separate_clusters_are_found_the_largest_first() -> None:
    counts = [10, 40, 20, 30]
    points = _around(np.eye(6)[:4], counts, 0.05)
    centres, concept = _fit(points, 4)
    np.testing.assert_array_equal(concept, np.repeat([3, 0, 2, 1], counts))
    np.testing.assert_allclose(centres @ np.eye(6)[[1, 3, 2, 0]].T, np.eye(4), atol=0.1)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-6)


def test_centres_are_the_mean_directions_of_their_points() -> None:
    points = unit(np.random.default_rng(0).standard_normal((500, 5)).astype(np.float32))
    centres, concept = _fit(points, 7)
    for k in range(7):
        mean = points[concept == k].astype(np.float64).sum(axis=0)
        np.testing.assert_allclose(centres[k], mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_array_equal(concept, (points @ centres.T).argmax(axis=1))


def test_the_objective_is_that_of_k_means_or_better() -> None:
    sklearn = pytest.importorskip("sklearn.cluster")
    points = unit(np.random.default_rng(1).standard_normal((2000, 16)).astype(np.float32))
    centres, _ = _fit(points, 20)
    theirs = unit(sklearn.KMeans(20, n_init=4, random_state=0).fit(points).cluster_centers_)
    assert (points @ centres.T).max(axis=1).sum() > 0.995 * (points @ theirs.T).max(axis=1).sum()


def test_weights_are_repetitions() -> None:
    counts = [6, 6, 6]
    points = _around(np.eye(3), counts, 0.1)
    times = np.random.default_rng(2).integers(0, 4, len(points))
    weighed, _ = _fit(points, 3, weights=times.astype(np.float32))
    repeated, _ = _fit(np.repeat(points, times, axis=0), 3)
    order = (weighed @ repeated.T).argmax(axis=1)
    np.testing.assert_allclose(weighed, repeated[order], atol=1e-5)


def test_points_without_weight_do_not_move_centres() -> None:
    points = _around(np.eye(3), [5, 5, 5], 0.05)
    weights = np.repeat(np.float32([1, 1, 0]), 5)
    centres, concept = _fit(points, 2, weights=weights)
    assert abs(centres[:, 2]).max() < 0.1
    assert len(concept) == 15


def test_alike_centres_are_merged() -> None:
    near = np.array([[1.0, 0.0, 0.0], [0.97, 0.243, 0.0], [0.0, 0.0, 1.0]])  # cosines 0.97, 0, 0
    points = _around(near, [50, 50, 30], 0.01)
    centres, concept = _fit(points, 3, alike=0.9)
    np.testing.assert_array_equal(concept, np.repeat([0, 1], [100, 30]))
    mean = points[:100].sum(axis=0)
    np.testing.assert_allclose(centres[0], mean / np.linalg.norm(mean), atol=1e-5)
    assert len(_fit(points, 3, alike=0.99)[0]) == 3


def test_more_centres_than_clusters_come_together_again() -> None:
    points = _around(np.eye(8), [40] * 8, 0.05)
    assert len(_fit(points, 20, alike=0.9)[0]) == 8


def test_fewer_points_than_centres() -> None:
    points = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    centres, concept = _fit(points, 10, alike=0.9)
    assert len(centres) == 3
    assert len(set(zip(np.repeat(range(3), 4), concept, strict=True))) == 3


@pytest.mark.parametrize("points", [np.zeros((4, 3), dtype=np.float32), np.float32([[0, 1, 0]])])
def test_points_that_have_one_direction_or_none(points: Floats) -> None:
    centres, concept = _fit(points, 3, alike=0.9)
    assert centres.shape == (1, 3)
    np.testing.assert_array_equal(concept, np.zeros(len(points)))
