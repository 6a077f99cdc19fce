"""Similarities of maps against scikit-image and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from skimage.metrics import structural_similarity

from salience.behaviour.shift import cliffs_delta
from salience.behaviour.similarity import pearson, spearman, ssim, ssim_pairs

GRIDS = [(7, 7), (7, 20), (14, 14), (13, 8), (32, 32), (224, 224)]


def kinds(grid: tuple[int, int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs of maps as they occur: noise, alike, smooth, sparse, constant, empty."""
    rng = np.random.default_rng(0)
    noise, other = rng.integers(0, 256, (2, *grid))
    y, x = np.mgrid[: grid[0], : grid[1]] / max(grid)
    smooth = (255 * np.exp(-((y - 0.4) ** 2 + (x - 0.5) ** 2) * 8)).astype(np.int64)
    sparse = np.where(rng.random(grid) < 0.05, 255, 0)
    return {
        "noise": (noise, other),
        "alike": (noise, np.clip(noise + rng.integers(-9, 10, grid), 0, 255)),
        "inverse": (noise, 255 - noise),
        "smooth": (smooth, np.roll(smooth, 2, 1)),
        "sparse": (sparse, smooth),
        "constant": (np.full(grid, 200), smooth),
        "empty": (np.zeros(grid, dtype=np.int64), noise),
    }


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_ssim_is_that_of_scikit_image(grid: tuple[int, int], dtype: type) -> None:
    for name, (a, b) in kinds(grid).items():
        first, second = a.astype(dtype), b.astype(dtype)
        # scikit-image works in float32 on float32 maps; the reference is its float64
        expected = structural_similarity(first.astype(np.float64), second.astype(np.float64), data_range=255)
        assert ssim(first, second) == pytest.approx(expected, abs=1e-6), name
        if dtype is np.uint8:
            assert ssim(first, second) == pytest.approx(structural_similarity(first, second), abs=1e-6), name


@pytest.mark.parametrize("data_range", [1.0, 2.0])
def test_ssim_of_other_ranges(data_range: float) -> None:
    a, b = np.random.default_rng(1).normal(size=(2, 15, 11))
    expected = structural_similarity(a, b, data_range=data_range)
    assert ssim(a, b, data_range=data_range) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_all_pairs_is_that_of_scikit_image() -> None:
    maps = np.random.default_rng(2).integers(0, 256, (3, 4, 7, 7)).astype(np.uint8)
    found = ssim_pairs(maps)
    for i in range(3):
        for a in range(4):
            for b in range(4):
                expected = structural_similarity(maps[i, a], maps[i, b])
                assert found[i, a, b] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_correlations_are_those_of_scipy(levels: int) -> None:
    """With many ties, few, and none to speak of."""
    rng = np.random.default_rng(3)
    first, second = rng.integers(0, levels, (2, 50, 7, 7)).astype(np.float64)
    for a, b, r, rho in zip(first, second, pearson(first, second), spearman(first, second), strict=True):
        assert r == pytest.approx(stats.pearsonr(a.ravel(), b.ravel()).statistic, abs=1e-9)
        assert rho == pytest.approx(stats.spearmanr(a.ravel(), b.ravel()).statistic, abs=1e-9)


def test_cliffs_delta_is_somers_d_of_the_sample() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.integers(0, 6, 40).astype(float), rng.integers(1, 8, 25).astype(float)
    which = np.r_[np.zeros(40), np.ones(25)]
    expected = stats.somersd(which, np.r_[first, second]).statistic
    assert cliffs_delta(first[None], second[None])[0] == pytest.approx(expected)
