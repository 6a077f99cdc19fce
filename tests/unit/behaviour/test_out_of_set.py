"""Out-of-set: disturbed images against clean ones, and a second dataset against the first."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from toy_views import ToyView, by_name

from salience.behaviour.datasets import CONFIDENCE, HISTOGRAM_ENTROPY, SHIFTS, SPATIAL_ENTROPY, dataset_columns
from salience.behaviour.out_of_set import out_of_set_columns
from salience.behaviour.shift import Samples, cliffs_delta, rank_sum_p, shifts
from salience.behaviour.similarity import pearson, ssim_8bit
from salience.behaviour.view import CLEAN, OUT_OF_SET, ConditionTraits

NOISE = ConditionTraits("noise", "noise", 0.1, published=True)
BLUR = ConditionTraits("blur", "corruption", 1, published=False)
TRAITS = {"out-of-set": (NOISE, BLUR)}


@pytest.fixture
def maps() -> np.ndarray:
    return np.random.default_rng(0).random((40, 7, 7))


def test_maps_that_do_not_move_have_one(maps: np.ndarray) -> None:
    columns = list(out_of_set_columns(ToyView({"m": maps}, traits=TRAITS), "m"))
    for condition in ("noise", "blur"):
        found = by_name(columns, "corrected", condition)
        for name in ("pearson", "spearman", "ssim-fixed", "chance-corrected", "pearson-unchanged", "prediction-kept"):
            assert found[name] == pytest.approx(1), name
        assert not found["zero"].any()
        assert abs(found["chance"].mean()) < 0.05  # independent maps
    assert by_name(columns, "published", "noise")["ssim"] == pytest.approx(1)
    assert by_name(columns, "published", "blur") == {}  # the published form has noise only


def test_maps_of_other_images_are_chance() -> None:
    """Where noise deals the maps anew, the similarity is what other images have, however alike all maps are."""
    rng = np.random.default_rng(1)
    alike = rng.random((400, 7, 7)) + 3 * rng.random((7, 7))
    view = ToyView({"m": alike}, changed={("m", "blur"): np.roll(alike, 1, axis=0)}, traits=TRAITS)
    found = by_name(list(out_of_set_columns(view, "m")), "corrected", "blur")
    assert found["pearson"].mean() > 0.8
    assert abs(found["chance-corrected"].mean()) < 0.02


def test_chance_is_of_the_same_predicted_class(maps: np.ndarray) -> None:
    """Two classes with a place each: against its own class an image's map says little more than chance."""
    place = np.zeros((2, 7, 7))
    place[0, :3], place[1, 4:] = 5, 5
    classes = np.arange(40) % 2
    view = ToyView({"m": maps + place[classes]}, answers={("m", CLEAN): classes}, traits=TRAITS)
    found = by_name(list(out_of_set_columns(view, "m")), "corrected", "noise")
    clean = view.clean["m"]
    for i in (0, 7):
        others = [j for j in range(40) if j != i and classes[j] == classes[i]]
        expected = np.mean([pearson(clean[i], clean[j]) for j in others])
        assert found["chance"][i] == pytest.approx(expected, abs=1e-6)
    assert found["chance"].min() > 0.8


def test_an_image_alone_in_its_class_has_no_chance_level(maps: np.ndarray) -> None:
    classes = np.where(np.arange(40) == 3, 1, 0)
    view = ToyView({"m": maps}, answers={("m", CLEAN): classes}, traits=TRAITS)
    found = by_name(list(out_of_set_columns(view, "m")), "corrected", "noise")
    assert np.flatnonzero(np.isnan(found["chance-corrected"])).tolist() == [3]
    assert np.isfinite(found["pearson"]).all()


def test_maps_that_are_the_same_for_all_images_have_nothing_above_chance() -> None:
    maps = np.repeat(np.random.default_rng(0).random((1, 7, 7)), 6, axis=0)
    found = by_name(list(out_of_set_columns(ToyView({"m": maps}, traits=TRAITS), "m")), "corrected", "noise")
    assert found["pearson"] == pytest.approx(1)
    assert np.isnan(found["chance-corrected"]).all()


def test_published_explains_the_new_prediction_corrected_the_old(maps: np.ndarray) -> None:
    fixed, own = (np.random.default_rng(k).random((40, 7, 7)) for k in (1, 2))
    after = np.arange(40) % 2
    view = ToyView(
        {"m": maps},
        changed={("m", "noise"): fixed},
        own={("m", "noise"): own},
        answers={("m", "noise"): after},
        traits=TRAITS,
    )
    columns = list(out_of_set_columns(view, "m"))
    published, corrected = by_name(columns, "published", "noise"), by_name(columns, "corrected", "noise")
    assert published["ssim"] == pytest.approx(ssim_8bit(maps.astype(np.float32), own.astype(np.float32)))
    assert corrected["ssim-fixed"] == pytest.approx(ssim_8bit(maps.astype(np.float32), fixed.astype(np.float32)))
    assert corrected["pearson"] == pytest.approx(pearson(maps, fixed), abs=1e-6)
    assert corrected["prediction-kept"].tolist() == (after == 0).tolist()
    assert np.isnan(corrected["pearson-unchanged"]).tolist() == (after != 0).tolist()


def test_empty_missing_and_small_maps() -> None:
    maps = np.random.default_rng(0).random((6, 4, 4))
    changed = maps.copy()
    changed[1], changed[2] = 0, np.nan
    view = ToyView(
        {"m": maps},
        changed={("m", "noise"): changed},
        answers={("m", "noise"): np.array([0, 0, -1, 0, 0, 0])},
        traits=TRAITS,
    )
    columns = list(out_of_set_columns(view, "m"))
    published, corrected = by_name(columns, "published", "noise"), by_name(columns, "corrected", "noise")
    assert np.isnan(published["ssim"]).all()  # 4x4 is below the window
    assert np.isnan(corrected["ssim-fixed"]).all()
    assert corrected["zero"].tolist() == pytest.approx([0, 1, np.nan, 0, 0, 0], nan_ok=True)
    assert corrected["pearson"].tolist() == pytest.approx([1, 0, np.nan, 1, 1, 1], nan_ok=True)
    assert np.flatnonzero(np.isnan(corrected["prediction-kept"])).tolist() == [2]


def test_blocks_do_not_matter(maps: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    view = ToyView({"m": maps}, changed={("m", "blur"): maps[::-1]}, traits=TRAITS)
    whole = {(c.statistic, c.condition): c.values for c in out_of_set_columns(view, "m")}
    monkeypatch.setattr("salience.behaviour.view._BLOCK", 49 * 6)
    for column in out_of_set_columns(view, "m"):
        assert column.values == pytest.approx(whole[column.statistic, column.condition], abs=1e-12, nan_ok=True)


# ---------------------------------------------------------------------- the second dataset


def test_columns_of_a_dataset() -> None:
    maps = np.zeros((2, 7, 7))
    maps[0, 0, 0], maps[1] = 1, 1
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]))
    view = ToyView({"m": maps}, outputs={("m", CLEAN): logits})
    found = {c.statistic: c.values for c in dataset_columns(view, "m", OUT_OF_SET)}
    assert set(found) == {HISTOGRAM_ENTROPY, SPATIAL_ENTROPY, CONFIDENCE}
    assert found[CONFIDENCE] == pytest.approx([0.7, 0.5])
    assert found[SPATIAL_ENTROPY] == pytest.approx([0, 1])
    assert {s.key for s in found} == set(SHIFTS)


def test_cliffs_delta_by_hand() -> None:
    first, second = np.array([[1.0, 2, 3], [0, 0, 0]]), np.array([[2.0, 4], [0, 0]])
    # pairs of the first row: 2 > 1, 2 = 2, 2 < 3, 4 > all three
    assert cliffs_delta(first, second) == pytest.approx([(4 - 1) / 6, 0])
    assert cliffs_delta(second, first) == pytest.approx([-(4 - 1) / 6, 0])
    assert cliffs_delta(np.array([[0.0, 1]]), np.array([[2.0, 3]])) == [1]


def test_rank_sum_test_of_one_run_is_mann_whitney() -> None:
    rng = np.random.default_rng(0)
    for gap in (0.0, 0.3, 1.0):
        first, second = rng.normal(size=80).round(1), (rng.normal(size=50) + gap).round(1)  # with ties
        expected = stats.mannwhitneyu(first, second, method="asymptotic", use_continuity=False).pvalue
        assert rank_sum_p(Samples(first[None], second[None])) == pytest.approx(expected, rel=1e-9)


def test_copies_of_runs_and_of_images_in_a_group_are_no_evidence() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(1, 12)), rng.normal(0.5, 1, (1, 9))
    alone = rank_sum_p(Samples(first, second))
    assert rank_sum_p(Samples(first.repeat(5, 0), second.repeat(5, 0))) == pytest.approx(alone)
    units = tuple([f"u{i // 4}" for i in range(n * 4)] for n in (12, 9))
    copies = Samples(first.repeat(4, 1), second.repeat(4, 1), *units)
    assert rank_sum_p(copies) == pytest.approx(alone)
    wide, narrow = shifts(copies)[0], shifts(Samples(first.repeat(4, 1), second.repeat(4, 1)))[0]
    assert wide.units == 9
    assert wide.drawn.std() > 1.5 * narrow.drawn.std()


def test_shift_has_the_spread_of_delong() -> None:
    """The bootstrap of the linear terms has the variance of the two samples' placements."""
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(1, 200)), rng.normal(0.4, 1, (1, 150))
    found = shifts(Samples(first, second), draws=4000)[0]
    assert found.value == pytest.approx(cliffs_delta(first, second)[0])
    signs = np.sign(second[0][:, None] - first[0][None])
    expected = signs.mean(0).var() / 200 + signs.mean(1).var() / 150
    assert found.drawn.var() == pytest.approx(expected, rel=0.1)
    assert found.drawn.mean() == pytest.approx(found.value, abs=0.01)


def test_images_that_a_run_lacks_do_not_count() -> None:
    first, second = np.array([[1.0, np.nan, 3], [1, 2, 3]]), np.array([[2.0, 4], [2, 4]])
    whole = Samples(first, second, ["a", "b", "c"], None).whole()
    assert whole is not None
    assert whole.first.tolist() == [[1, 3], [1, 3]]
    assert whole.first_units == ["a", "c"]
    assert Samples(first * np.nan, second).whole() is None
