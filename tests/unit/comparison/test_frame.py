"""Maps of different windows over one frame: nothing is lost, nothing is moved."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salience.comparison.frame import to_frame, to_input
from salience.data.base import RawImage
from salience.data.decode import decode
from salience.data.geometry import source_box
from salience.data.preprocessing import Preprocessing

SIDES = st.integers(1, 40)
VIEWS = st.builds(
    Preprocessing,
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    fit=st.sampled_from(["crop", "squash"]),
    crop=st.sampled_from([1.0, 0.875, 0.95, 0.5]),
)


def overlaps(cells: int, length: int, start: Fraction, end: Fraction) -> np.ndarray:
    """Share of each cell of a window in each part of the frame, by exact fractions, one by one."""
    found = np.zeros((length, cells))
    for j in range(cells):
        low, high = start + (end - start) * j / cells, start + (end - start) * (j + 1) / cells
        for i in range(length):
            shared = max(Fraction(0), min(high, Fraction(i + 1)) - max(low, Fraction(i)))
            found[i, j] = float(shared / (high - low))
    return found


@settings(max_examples=100, deadline=None)
@given(VIEWS, SIDES, SIDES, st.tuples(st.integers(1, 12), st.integers(1, 12)), st.integers(0, 1000))
def test_cells_get_what_overlaps_them(
    view: Preprocessing, height: int, width: int, frame: tuple[int, int], seed: int
) -> None:
    values = np.random.default_rng(seed).standard_normal(view.size)
    x0, y0, x1, y1 = (Fraction(v).limit_denominator(10**6) for v in source_box(width, height, view))
    down = overlaps(view.size[0], frame[0], y0 / height * frame[0], y1 / height * frame[0])
    across = overlaps(view.size[1], frame[1], x0 / width * frame[1], x1 / width * frame[1])
    np.testing.assert_allclose(to_frame(values, view, (height, width), frame), down @ values @ across.T, atol=1e-6)


@settings(max_examples=200, deadline=None)
@given(VIEWS, st.integers(1, 5000), st.integers(1, 5000), st.tuples(st.integers(1, 300), st.integers(1, 300)))
def test_sums_are_kept(view: Preprocessing, height: int, width: int, grid: tuple[int, int]) -> None:
    values = np.random.default_rng(grid).standard_normal(grid).astype(np.float32)
    found = to_frame(values, view, (height, width))
    assert found.shape == (224, 224)
    whole = float(np.abs(values.astype(np.float64)).sum())
    assert abs(found.sum() - values.astype(np.float64).sum()) <= 1e-12 * whole


@pytest.mark.parametrize("size", [(224, 224), (17, 33), (1000, 667), (7, 4999)])
@pytest.mark.parametrize("grid", [(224, 224), (7, 7)])
def test_the_same_window_and_size_change_nothing(size: tuple[int, int], grid: tuple[int, int]) -> None:
    values = np.random.default_rng(0).standard_normal(grid).astype(np.float32)
    view = Preprocessing(size=(224, 224), fit="squash")
    np.testing.assert_array_equal(to_frame(values, view, size, grid), values.astype(np.float64))
    square = Preprocessing(size=(224, 224))
    np.testing.assert_array_equal(to_frame(values, square, (224, 224), grid), values.astype(np.float64))


def test_what_a_model_does_not_see_gets_nothing() -> None:
    """The middle half of a wide image: 112 of 224 columns, and all rows."""
    found = to_frame(np.ones((32, 32)), Preprocessing(size=(32, 32)), (300, 600))
    assert (found[:, :56] == 0).all()
    assert (found[:, 168:] == 0).all()
    np.testing.assert_allclose(found[:, 56:168], 32 * 32 / (224 * 112), rtol=1e-12)


@pytest.mark.parametrize(("crop", "size"), [(1.0, (448, 448)), (0.875, (512, 640)), (0.5, (900, 300))])
def test_labels_lie_in_the_input_as_the_image_does(crop: float, size: tuple[int, int]) -> None:
    """An image whose grey values are labels, as the model gets it."""
    down, across = np.arange(224) // 32, np.arange(224) // 32
    labels = (down[:, None] * 7 + across).astype(np.int32)
    image = labels[np.arange(size[0]) * 224 // size[0]][:, np.arange(size[1]) * 224 // size[1]]
    pixels = np.repeat(image[..., None], 3, axis=2).astype(np.uint8)
    view = Preprocessing(size=(160, 200), crop=crop, interpolation="nearest")
    seen = decode(RawImage(pixels, ""), view).pixels[..., 0]
    found = to_input(labels, view, size)
    assert found.shape == (160, 200)
    assert found.dtype == np.int32
    assert (found == seen).mean() > 0.98  # edges of segments may lie a pixel apart
    assert len(np.unique(found)) > 4


def test_labels_of_the_same_frame_are_left_alone() -> None:
    labels = np.arange(224 * 224, dtype=np.int32).reshape(224, 224)
    np.testing.assert_array_equal(to_input(labels, Preprocessing(size=(224, 224), fit="squash"), (333, 777)), labels)


def test_a_map_and_its_labels_meet() -> None:
    """Attribution inside one segment of the input is found on that segment of the frame, but for its rim."""
    labels = (np.arange(224)[:, None] // 56 * 4 + np.arange(224) // 56).astype(np.int32)
    view = Preprocessing(size=(96, 96), crop=0.875)
    inside = to_input(labels, view, (480, 640)) == 5
    found = to_frame(inside.astype(np.float32), view, (480, 640))
    assert found[labels == 5].sum() / found.sum() > 0.95
