"""Geometry: toys that follow perfectly, and toys that do not move."""

from __future__ import annotations

import numpy as np
import pytest
from toy_views import ToyView, by_name

from salience.behaviour.geometry import cosine, geometry_columns
from salience.behaviour.similarity import pearson, ssim_8bit
from salience.behaviour.view import CLEAN, ConditionTraits

FLIP = ConditionTraits("flip-lr", "geometry", 0, published=True)
TURN = ConditionTraits("turn", "geometry", 0, published=True)
SHIFT = ConditionTraits("shift", "geometry", 1, published=False)
TRAITS = {"geometry": (FLIP, TURN, SHIFT)}

CHANGES = {
    "flip-lr": lambda m: np.flip(m, -1),
    "turn": lambda m: np.rot90(m, 1, (-2, -1)),
    "shift": lambda m: np.roll(m, 1, -1),
}
UNDO = {
    "flip-lr": lambda m: np.flip(m, -1),
    "turn": lambda m: np.rot90(m, -1, (-2, -1)),
    "shift": lambda m: np.roll(m, -1, -1),
}
VALID = {"shift": np.arange(7)[None, :].repeat(7, 0) < 6}


def view(maps: np.ndarray, *, follows: bool) -> ToyView:
    changed = {("m", name): change(maps) if follows else maps for name, change in CHANGES.items()}
    return ToyView({"m": maps}, changed=changed, undo=UNDO, valid=VALID, traits=TRAITS)


@pytest.fixture
def maps() -> np.ndarray:
    return np.random.default_rng(0).random((20, 7, 7)).astype(np.float32)


def test_a_model_that_follows_has_one(maps: np.ndarray) -> None:
    columns = list(geometry_columns(view(maps, follows=True), "m"))
    for name in CHANGES:
        found = by_name(columns, "corrected", name)
        assert found["equivariance"] == pytest.approx(1)
        assert found["gain"] == pytest.approx(1 - found["static-floor"])
        assert (found["static-floor"] < 0.9).all()
        assert found["prediction-kept"] == pytest.approx(1)
        assert found["logit-cosine"] == pytest.approx(1)
    for name in ("flip-lr", "turn"):
        assert by_name(columns, "published", name)["ssim"] == pytest.approx(1)
    assert by_name(columns, "published", "shift") == {}


def test_a_model_that_does_not_move_has_the_floor(maps: np.ndarray) -> None:
    columns = list(geometry_columns(view(maps, follows=False), "m"))
    for name in CHANGES:
        found = by_name(columns, "corrected", name)
        assert found["equivariance"] == pytest.approx(found["static-floor"])
        assert found["gain"] == pytest.approx(0)
    published = by_name(columns, "published", "flip-lr")
    assert published["ssim"] == pytest.approx(published["static-floor"])
    assert published["ssim"] == pytest.approx(ssim_8bit(maps, np.flip(maps, -1)))


def test_a_centred_map_that_does_not_move_seems_to_follow_a_flip() -> None:
    """The published fault, and the floor that tells it."""
    line = np.exp(-((np.arange(7) - 3.0) ** 2) / 4)
    maps = np.repeat((line[:, None] * line)[None], 3, axis=0)
    columns = list(geometry_columns(view(maps, follows=False), "m"))
    published, corrected = by_name(columns, "published", "flip-lr"), by_name(columns, "corrected", "flip-lr")
    assert published["ssim"] == pytest.approx(1)
    assert published["static-floor"] == pytest.approx(1)
    assert corrected["static-floor"] == pytest.approx(1)
    assert corrected["gain"] == pytest.approx(0)


def test_only_what_both_images_show_counts(maps: np.ndarray) -> None:
    """What was rolled in from the other side is not looked at."""
    toy = view(maps, follows=True)
    lost = CHANGES["shift"](maps).copy()
    lost[:, :, 0] = 50  # comes back in the last column, which is not valid
    toy.changed = {**toy.changed, ("m", "shift"): lost}
    found = by_name(list(geometry_columns(toy, "m")), "corrected", "shift")
    assert found["equivariance"] == pytest.approx(1)
    assert found["static-floor"] == pytest.approx(pearson(maps, UNDO["shift"](maps), VALID["shift"]), abs=1e-9)


def test_small_grids_empty_and_missing_maps() -> None:
    maps = np.random.default_rng(0).random((4, 5, 5)).astype(np.float32)
    toy = view(maps, follows=True)
    changed = CHANGES["flip-lr"](maps).copy()
    changed[1], changed[2] = 0, np.nan
    toy.changed = {**toy.changed, ("m", "flip-lr"): changed}
    toy.valid = {}
    columns = list(geometry_columns(toy, "m"))
    published, corrected = by_name(columns, "published", "flip-lr"), by_name(columns, "corrected", "flip-lr")
    assert np.isnan(published["ssim"]).all()
    assert published["zero"].tolist() == pytest.approx([0, 1, np.nan, 0], nan_ok=True)
    assert corrected["equivariance"].tolist() == pytest.approx([1, 0, np.nan, 1], nan_ok=True)
    assert corrected["zero"].tolist() == pytest.approx([0, 1, np.nan, 0], nan_ok=True)


def test_invariance_of_the_model_stands_beside() -> None:
    maps = np.random.default_rng(0).random((3, 7, 7))
    toy = view(maps, follows=True)
    toy.outputs = {
        ("m", CLEAN): np.array([[1.0, 0, 0]] * 3),
        ("m", "turn"): np.array([[1.0, 0, 0], [0, 2, 0], [3, 3, 0]]),
    }
    toy.answers = {("m", "turn"): np.array([0, 1, 0])}
    found = by_name(list(geometry_columns(toy, "m")), "corrected", "turn")
    assert found["logit-cosine"] == pytest.approx([1, 0, np.sqrt(0.5)])
    assert found["prediction-kept"].tolist() == [1, 0, 1]


def test_cosine_of_nothing_is_unknown() -> None:
    found = cosine(np.array([[0.0, 0], [1, np.nan]]), np.array([[1.0, 1], [1, 1]]))
    assert np.isnan(found).all()
