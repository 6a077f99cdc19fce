from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salience.data.geometry import Frame, box_to_input, place, source_box
from salience.data.preprocessing import Preprocessing

SIDES = st.integers(1, 5000)


def preprocessings() -> st.SearchStrategy[Preprocessing]:
    sizes = st.tuples(st.integers(1, 400), st.integers(1, 400))
    return st.builds(Preprocessing, sizes, fit=st.sampled_from(["crop", "squash"]), crop=st.floats(0.1, 1.0))


@pytest.mark.parametrize(
    ("size", "crop", "frame"),
    [
        ((224, 224), 0.875, Frame(341, 256, 58, 16)),  # Resize(256) gives 341, and round(58.5) is 58: half to even
        ((224, 224), 1.0, Frame(298, 224, 37, 0)),
        ((224, 224), 224 / 232, Frame(309, 232, 42, 4)),  # 224 / (224 / 232) falls below 232 in floating point
        ((224, 112), 1.0, Frame(298, 224, 93, 0)),
        ((112, 224), 1.0, Frame(224, 168, 0, 28)),
    ],
)
def test_roundings_are_those_of_torchvision(size: tuple[int, int], crop: float, frame: Frame) -> None:
    assert place(500, 375, Preprocessing(size, crop=crop)) == frame


def test_squash_keeps_everything() -> None:
    preprocessing = Preprocessing((20, 10), fit="squash", crop=0.5)
    assert source_box(50, 40, preprocessing) == (0, 0, 50, 40)
    assert box_to_input((0, 10, 25, 40), 50, 40, preprocessing) == (0, 5, 5, 20)


def test_crop_moves_and_clips_boxes() -> None:
    preprocessing = Preprocessing((100, 100))  # a 400 x 200 image becomes 200 x 100, of which the middle is kept
    assert box_to_input((100, 0, 300, 200), 400, 200, preprocessing) == (0, 0, 100, 100)
    assert box_to_input((0, 20, 200, 60), 400, 200, preprocessing) == (0, 10, 50, 30)
    x0, _, x1, _ = box_to_input((0, 0, 90, 200), 400, 200, preprocessing)
    assert x0 == x1 == 0


@given(SIDES, SIDES, preprocessings())
def test_the_window_lies_inside_of_the_image(width: int, height: int, preprocessing: Preprocessing) -> None:
    frame = place(width, height, preprocessing)
    rows, columns = preprocessing.size
    assert 0 <= frame.left <= frame.width - columns
    assert 0 <= frame.top <= frame.height - rows
    x0, y0, x1, y1 = source_box(width, height, preprocessing)
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height


@given(SIDES, SIDES, preprocessings())
def test_what_the_model_sees_maps_to_its_whole_input(width: int, height: int, preprocessing: Preprocessing) -> None:
    rows, columns = preprocessing.size
    seen = box_to_input(source_box(width, height, preprocessing), width, height, preprocessing)
    assert np.allclose(seen, (0, 0, columns, rows), atol=1e-6 * max(rows, columns) * 10)
    assert box_to_input((0, 0, width, height), width, height, preprocessing) == pytest.approx((0, 0, columns, rows))
