"""Entropy, as published and corrected, of maps whose values are known."""

from __future__ import annotations

import numpy as np
import pytest
from toy_views import ToyView, by_name

from salience.behaviour.entropy import entropy_columns, histogram_entropy
from salience.behaviour.similarity import published_8bit


def test_the_largest_entropy_of_49_cells_is_one() -> None:
    """The published divisor is 5.6147 = log2 49: 49 different grey values reach it."""
    maps = np.arange(49, dtype=np.uint8).reshape(1, 7, 7)
    assert histogram_entropy(maps) == pytest.approx(1)
    assert np.log2(49) == pytest.approx(5.6147, abs=5e-5)


def test_above_256_cells_the_divisor_is_8_bits() -> None:
    maps = np.repeat(np.arange(256, dtype=np.uint8), 4).reshape(1, 32, 32)
    assert histogram_entropy(maps) == pytest.approx(1)
    assert histogram_entropy(maps // 2) == pytest.approx(7 / 8)


def test_known_histograms() -> None:
    maps = np.zeros((3, 4, 4), dtype=np.uint8)
    maps[1, :2] = 255
    maps[2, 0, 0] = 9
    p = np.array([1 / 16, 15 / 16])
    assert histogram_entropy(maps) == pytest.approx([0, 1 / 4, -(p * np.log2(p)).sum() / 4])
    assert histogram_entropy(np.zeros((1, 1, 1), dtype=np.uint8)).tolist() == [0]


def test_faults_of_the_published_form() -> None:
    """A constant map is 'perfectly focused'; a peak over different tiny values is 'spread'; places do not count."""
    constant = np.ones((1, 7, 7))
    peak = np.linspace(0, 0.19, 49)
    peak[-1] = 1
    peak = peak.reshape(1, 7, 7)
    shuffled = np.random.default_rng(0).permutation(peak.ravel()).reshape(1, 7, 7)
    found = [histogram_entropy(published_8bit(m)[0])[0] for m in (constant, peak, shuffled)]
    assert found == pytest.approx([0, 1, 1], abs=1e-9)


def test_columns_of_constant_single_empty_and_missing_maps() -> None:
    single = np.zeros((7, 7))
    single[3, 3] = 1
    maps = np.stack([np.ones((7, 7)), single, np.zeros((7, 7)), np.full((7, 7), np.nan), -single])
    columns = list(entropy_columns(ToyView({"m": maps}), "m"))
    published, corrected = by_name(columns, "published"), by_name(columns, "corrected")
    two = histogram_entropy(published_8bit(single[None])[0])[0]
    nan = np.nan
    expect = {"histogram-entropy": [0, two, 0, nan, 0], "zero": [1, 0, 1, nan, 1]}
    assert {k: v.tolist() for k, v in published.items()} == {
        k: pytest.approx(v, nan_ok=True) for k, v in expect.items()
    }
    expect = {
        "spatial-entropy": [1, 0, 1, nan, 0],
        "gini": [0, 48 / 49, 0, nan, 48 / 49],
        "half-mass-area": [0.5, 0.5 / 49, 0.5, nan, 0.5 / 49],
        "zero": [0, 0, 1, nan, 0],
    }
    assert {k: v.tolist() for k, v in corrected.items()} == {
        k: pytest.approx(v, abs=1e-12, nan_ok=True) for k, v in expect.items()
    }


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = np.random.default_rng(0).normal(size=(30, 7, 7))
    whole = {c.statistic: c.values for c in entropy_columns(ToyView({"m": maps}), "m")}
    monkeypatch.setattr("salience.behaviour.view._BLOCK", 256 * 4)
    for column in entropy_columns(ToyView({"m": maps}), "m"):
        assert (column.values == whole[column.statistic]).all()
