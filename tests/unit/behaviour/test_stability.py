"""Stability: runs that are identical, unrelated, or odd."""

from __future__ import annotations

import numpy as np
import pytest
from toy_views import ToyView

from salience.behaviour.similarity import pearson, spearman, ssim_8bit
from salience.behaviour.stability import (
    AGREED,
    AGREEMENT,
    CHANCE,
    CHANCE_CORRECTED,
    PEARSON,
    SPEARMAN,
    SSIM,
    SSIM_SPREAD,
    Stability,
    stability,
)
from salience.behaviour.view import CLEAN
from salience.errors import SettingsError


def of(found: Stability, statistic: object) -> dict[str | None, np.ndarray]:
    return {c.model: c.values for c in found.columns if c.statistic is statistic}


def runs(*maps: np.ndarray) -> ToyView:
    return ToyView({f"run{i}": m.astype(np.float32) for i, m in enumerate(maps)})


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_identical_runs_have_one(rng: np.random.Generator) -> None:
    maps = rng.random((30, 7, 7))
    found = stability(runs(maps, maps, maps), "plain")
    for statistic in (SSIM, PEARSON, SPEARMAN, CHANCE_CORRECTED, AGREED, AGREEMENT):
        values = of(found, statistic)
        assert list(values) == ["run0", "run1", "run2"]
        for row in values.values():
            assert row == pytest.approx(1)
        mean, count = found.pairs[statistic]
        assert mean[np.triu_indices(3, 1)] == pytest.approx(1)
        assert (count[np.triu_indices(3, 1)] == 30).all()
        assert (np.diag(count) == 0).all()
    assert of(found, SSIM_SPREAD)[None] == pytest.approx(0, abs=1e-9)


def test_unrelated_runs_have_chance(rng: np.random.Generator) -> None:
    """Also where all maps look alike, and correlations are high for that reason alone."""
    common = 3 * rng.random((7, 7))
    maps = [rng.random((300, 7, 7)) + common for _ in range(4)]
    found = stability(runs(*maps), "plain")
    assert np.mean([v.mean() for v in of(found, PEARSON).values()]) > 0.8
    for row in of(found, CHANCE_CORRECTED).values():
        assert abs(row.mean()) < 0.03


def test_numbers_of_a_run_are_means_over_its_pairs(rng: np.random.Generator) -> None:
    maps = [rng.random((12, 8, 8)) for _ in range(4)]
    found = stability(runs(*maps), "plain")
    for statistic, formula in ((PEARSON, pearson), (SPEARMAN, spearman), (SSIM, ssim_8bit)):
        x = [m.astype(np.float32) for m in maps]
        by_pair = np.array([[formula(a, b) for b in x] for a in x])
        for r in range(4):
            expected = np.delete(by_pair[r], r, axis=0).mean(axis=0)
            assert of(found, statistic)[f"run{r}"] == pytest.approx(expected, abs=1e-6)
        assert found.pairs[statistic][0][0, 2] == pytest.approx(by_pair[0, 2].mean(), abs=1e-6)
        upper = np.stack([by_pair[a, b] for a in range(4) for b in range(a + 1, 4)])
        if statistic is SSIM:
            assert of(found, SSIM_SPREAD)[None] == pytest.approx(upper.std(axis=0, ddof=1), abs=1e-6)


def test_chance_replaces_the_image_in_either_run(rng: np.random.Generator) -> None:
    maps = [rng.random((9, 7, 7)).astype(np.float32) for _ in range(2)]
    classes = [np.array([0, 0, 0, 1, 1, 1, 2, 2, 5]), np.array([0, 0, 1, 1, 1, 1, 2, 5, 5])]
    toy = runs(*maps)
    toy.answers = {(f"run{r}", CLEAN): c for r, c in enumerate(classes)}
    found = of(stability(toy, "plain"), CHANCE)["run0"]
    for i in range(9):
        sides = []
        for r in (0, 1):
            partners = [j for j in range(9) if j != i and classes[r][j] == classes[r][i]]
            if partners:
                sides.append(np.mean([pearson(maps[1 - r][i], maps[r][j]) for j in partners]))
        assert found[i] == pytest.approx(np.mean(sides), abs=1e-6), i


def test_an_image_alone_in_its_class_in_both_runs_has_no_chance_level(rng: np.random.Generator) -> None:
    toy = runs(*rng.random((2, 5, 7, 7)))
    toy.answers = {(f"run{r}", CLEAN): np.array([0, 0, 0, 0, 1]) for r in (0, 1)}
    found = stability(toy, "plain")
    assert np.flatnonzero(np.isnan(of(found, CHANCE_CORRECTED)["run0"])).tolist() == [4]
    assert np.isfinite(of(found, PEARSON)["run0"]).all()


def test_only_where_both_runs_agree(rng: np.random.Generator) -> None:
    toy = runs(*rng.random((3, 4, 7, 7)))
    answers = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 1, 1]])
    toy.answers = {(f"run{r}", CLEAN): answers[:, r] for r in range(3)}
    found = stability(toy, "plain")
    agreed, every = of(found, AGREED), of(found, PEARSON)
    assert agreed["run0"][[0, 3]] == pytest.approx(every["run0"][[0, 3]])
    assert agreed["run0"][1] == pytest.approx(pearson(toy.clean["run0"][1], toy.clean["run1"][1]))
    assert np.isnan(agreed["run2"][1])
    assert np.isnan([agreed[m][2] for m in agreed]).all()
    assert of(found, AGREEMENT)["run0"].tolist() == [1, 0.5, 0, 1]
    assert found.pairs[AGREED][1][0, 1] == 3


def test_missing_and_empty_maps(rng: np.random.Generator) -> None:
    maps = rng.random((3, 6, 7, 7))
    maps[0, 2], maps[1, 3], maps[2, 3] = np.nan, 0, 0
    found = stability(runs(*maps), "plain")
    assert np.isnan(of(found, PEARSON)["run0"][2])
    assert np.isfinite(of(found, PEARSON)["run1"]).all()  # run 2 is there
    assert found.pairs[PEARSON][1][0, 1] == 5
    assert found.pairs[PEARSON][1][1, 2] == 6
    both = stability(runs(maps[1], maps[2]), "plain")
    assert of(both, PEARSON)["run0"][3] == 0  # two empty maps say nothing about where
    assert of(both, SSIM)["run0"][3] == 1  # as published, they are equal


def test_small_grids_have_no_ssim_and_everything_else(rng: np.random.Generator) -> None:
    found = stability(runs(*rng.random((3, 8, 4, 4))), "plain")
    assert np.isnan(of(found, SSIM)["run0"]).all()
    assert (found.pairs[SSIM][1] == 0).all()
    assert np.isnan(of(found, SSIM_SPREAD)[None]).all()
    assert np.isfinite(of(found, CHANCE_CORRECTED)["run0"]).all()


def test_one_run_has_no_pairs(rng: np.random.Generator) -> None:
    assert stability(runs(rng.random((3, 7, 7))), "plain").columns == ()


def test_runs_of_different_architectures_are_refused(rng: np.random.Generator) -> None:
    toy = runs(rng.random((3, 7, 7)), rng.random((3, 14, 14)))
    with pytest.raises(SettingsError, match="run0 7x7, run1 14x14"):
        stability(toy, "plain")


def test_blocks_do_not_matter(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = runs(*rng.random((3, 25, 7, 7)))
    whole = stability(toy, "plain")
    monkeypatch.setattr("salience.behaviour.view._BLOCK", 49 * 3 * 4)
    again = stability(toy, "plain")
    for a, b in zip(whole.columns, again.columns, strict=True):
        assert a.values == pytest.approx(b.values, abs=1e-12, nan_ok=True)
    for statistic in whole.pairs:
        assert whole.pairs[statistic][0] == pytest.approx(again.pairs[statistic][0], abs=1e-12, nan_ok=True)
