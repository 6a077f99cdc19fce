"""How alike maps are: closed forms and edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salience.behaviour import similarity
from salience.behaviour.similarity import (
    OtherImages,
    chance_corrected,
    measured,
    pearson,
    published_8bit,
    ranked,
    spearman,
    ssim,
    ssim_pairs,
    ssim_possible,
    standardised,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# ---------------------------------------------------------------------- the published map


def test_negative_values_are_cut_and_the_rest_spans_8_bits() -> None:
    found, flat = published_8bit(np.array([[[-3.0, 0.0], [1.0, 2.0]]]))
    assert found.tolist() == [[[0, 0], [127, 255]]]  # floor(127.5)
    assert found.dtype == np.uint8
    assert flat.tolist() == [False]


def test_the_lowest_positive_value_becomes_zero() -> None:
    found, _ = published_8bit(np.array([[[2.0, 4.0], [6.0, 10.0]]]))
    assert found.tolist() == [[[0, 63], [127, 255]]]


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_a_map_without_contrast_is_zero_and_flagged(value: float) -> None:
    found, flat = published_8bit(np.full((1, 7, 7), value))
    assert not found.any()
    assert flat.tolist() == [True]


def test_maps_are_scaled_one_by_one(rng: np.random.Generator) -> None:
    maps = rng.normal(size=(5, 7, 7))
    alone = np.concatenate([published_8bit(m[None] * 10.0**k)[0] for k, m in enumerate(maps)])
    assert (published_8bit(maps)[0] == alone).all()


# ---------------------------------------------------------------------- SSIM


def test_grids_below_the_window_cannot_be_compared() -> None:
    assert ssim_possible((7, 7))
    assert not ssim_possible((6, 14))
    assert np.isnan(ssim(np.ones((3, 6, 6)), np.ones((3, 6, 6)))).all()
    assert np.isnan(ssim_pairs(np.ones((2, 3, 4, 4)))).all()


def test_equal_maps_and_empty_maps_have_one(rng: np.random.Generator) -> None:
    maps = rng.integers(0, 256, (4, 9, 8)).astype(np.uint8)
    assert ssim(maps, maps) == pytest.approx(np.ones(4), abs=1e-12)
    empty = np.zeros((1, 7, 7), dtype=np.uint8)
    assert ssim(empty, empty).tolist() == [1.0]


def test_one_window_is_the_formula() -> None:
    """On 7x7 there is one window; a map of 255 against one of 0 has only the constants left."""
    found = ssim(np.full((7, 7), 255.0), np.zeros((7, 7)))
    c1 = (0.01 * 255) ** 2
    assert found == pytest.approx(c1 / (255**2 + c1))


def test_the_valid_area_of_a_shift_is_a_crop(rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 256, (2, 3, 20, 24)).astype(np.float32)
    valid = np.zeros((20, 24), dtype=bool)
    valid[3:17, 5:] = True
    assert ssim(a, b, valid=valid) == pytest.approx(ssim(a[:, 3:17, 5:], b[:, 3:17, 5:]), abs=1e-12)
    assert ssim(a, b, valid=np.ones((20, 24), dtype=bool)) == pytest.approx(ssim(a, b), abs=1e-15)
    narrow = np.zeros((20, 24), dtype=bool)
    narrow[:6] = True
    assert np.isnan(ssim(a, b, valid=narrow)).all()


@pytest.mark.parametrize("grid", [(7, 7), (14, 14), (8, 11)])
def test_all_pairs_are_the_pairs(grid: tuple[int, int], rng: np.random.Generator) -> None:
    maps = rng.integers(0, 256, (4, 5, *grid)).astype(np.uint8)
    found = ssim_pairs(maps)
    assert found.shape == (4, 5, 5)
    for a in range(5):
        for b in range(5):
            assert found[:, a, b] == pytest.approx(ssim(maps[:, a], maps[:, b]), abs=1e-12)


def test_leading_axes_broadcast(rng: np.random.Generator) -> None:
    one, many = rng.random((7, 7)), rng.random((2, 3, 7, 7))
    found = ssim(one, many, data_range=1)
    assert found.shape == (2, 3)
    assert found[1, 2] == pytest.approx(float(ssim(one, many[1, 2], data_range=1)))


# ---------------------------------------------------------------------- correlations


def test_correlation_of_a_linear_change_is_one(rng: np.random.Generator) -> None:
    maps = rng.normal(size=(6, 5, 5))
    assert pearson(maps, 3 * maps + 2) == pytest.approx(np.ones(6))
    assert pearson(maps, -maps) == pytest.approx(-np.ones(6))
    assert spearman(maps, np.exp(maps)) == pytest.approx(np.ones(6))


def test_a_constant_map_correlates_with_nothing(rng: np.random.Generator) -> None:
    maps = rng.normal(size=(2, 5, 5))
    flat = np.full((2, 5, 5), 0.1)  # its mean is off by rounding
    for measure in (pearson, spearman):
        assert measure(maps, flat).tolist() == [0, 0]
        assert measure(flat, flat).tolist() == [0, 0]


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12, 1e30])
def test_the_size_of_a_map_does_not_count(size: float, rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(2, 4, 5, 5)).astype(np.float32)
    assert pearson(a * np.float32(size), b) == pytest.approx(pearson(a, b), abs=1e-6)


def test_only_valid_cells_count(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(2, 3, 6, 6))
    valid = rng.random((6, 6)) < 0.6
    changed = b.copy()
    changed[:, ~valid] = 100
    for measure in (pearson, spearman):
        assert measure(a, changed, valid) == pytest.approx(measure(a, b, valid))
    expected = [np.corrcoef(x[valid], y[valid])[0, 1] for x, y in zip(a, b, strict=True)]
    assert pearson(a, b, valid) == pytest.approx(np.array(expected))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=9, max_size=9), st.lists(st.integers(0, 3), min_size=9, max_size=9))
def test_correlations_are_symmetric_and_bounded(first: list[int], second: list[int]) -> None:
    a, b = (np.array(x, dtype=np.float64).reshape(1, 3, 3) for x in (first, second))
    for measure in (pearson, spearman):
        found = measure(a, b)
        assert found == pytest.approx(measure(b, a))
        assert -1 <= found[0] <= 1


def test_missing_maps_stay_missing(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(2, 4, 7, 7)).astype(np.float32)
    a[1], b[2, 3, 3] = np.nan, np.nan
    found = measured(spearman, a, b)
    assert np.isnan(found).tolist() == [False, True, True, False]
    assert found[0] == spearman(a[:1], b[:1])[0]
    assert np.isnan(measured(spearman, a[1:2], b[1:2])).all()
    assert np.isnan(standardised(a.reshape(4, -1))).all(axis=1).tolist() == [False, True, False, False]


def test_ranks_of_equal_values_are_shared() -> None:
    found = ranked(np.array([[5.0, 1.0, 1.0, 9.0]]))
    expected = np.array([3, 1.5, 1.5, 4]) - 2.5
    assert found[0] == pytest.approx(expected / np.sqrt((expected**2).sum()))


# ---------------------------------------------------------------------- chance


def test_what_is_above_chance() -> None:
    found = chance_corrected(np.array([1.0, 0.6, 0.2, 0.9, 0.5]), np.array([0.5, 0.2, 0.2, 1.0, np.nan]))
    assert found[:3] == pytest.approx([1.0, 0.5, 0.0])
    assert np.isnan(found[3:]).all()  # no room above chance; no chance level


def _by_pairs(rows: np.ndarray, other: np.ndarray, classes: np.ndarray) -> np.ndarray:
    out = np.full(len(rows), np.nan)
    for i in range(len(rows)):
        partners = [j for j in range(len(rows)) if j != i and classes[j] == classes[i] and np.isfinite(rows[j]).all()]
        if partners and np.isfinite(rows[i]).all():
            out[i] = np.mean([other[i] @ rows[j] for j in partners])
    return out


@pytest.mark.parametrize("held", [2**28, 0])
def test_chance_is_the_mean_over_all_other_images_of_the_class(
    held: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the sums lie in a file, and in whatever order images come."""
    monkeypatch.setattr(similarity, "_HELD", held)
    clean, other = (standardised(x) for x in rng.normal(size=(2, 30, 12)))
    clean[4] = np.nan
    classes = rng.integers(0, 4, 30)
    classes[7], classes[9] = 99, -1  # alone in its class; no answer
    others = OtherImages(classes, 12)
    for images in (np.arange(20, 30), np.arange(20)):
        others.add(images, clean[images])
    found = (others.mean(np.arange(30), clean) * other).sum(axis=1)
    expected = _by_pairs(clean, other, np.where(classes < 0, 1000 + np.arange(30), classes))
    assert np.isnan(found[[4, 7, 9]]).all()
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)
