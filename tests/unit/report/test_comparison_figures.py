"""The figures of a comparison as numbers, patches as pixels, and concepts, slices and numbers in words."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from salience.report.comparison.figures import PLACES, around_zero, percents, places, scatter, spread, waterfall
from salience.report.comparison.overview import wilson
from salience.report.comparison.patches import SIDE, draw_patch, edge, window
from salience.report.comparison.wording import (
    Names,
    concept_name,
    place,
    points,
    q_text,
    scalar_ends,
    share_ends,
    signed,
)
from salience.report.words import MINUS, NBSP

numbers = st.floats(-5, 5, allow_nan=False, allow_subnormal=False)

# ---------------------------------------------------------------------- sums


@given(st.lists(numbers, min_size=1, max_size=9))
def test_steps_of_a_waterfall_join_and_end_in_the_sum(values: list[float]) -> None:
    found = waterfall([(str(i), v) for i, v in enumerate(values)])
    line, at = found.axis, 0.0
    for step, value in zip(found.steps, values, strict=True):
        start, end = 100 * line.share(at), 100 * line.share(at + value)
        assert step.start == pytest.approx(min(start, end), abs=0.02)
        assert step.width == pytest.approx(abs(end - start), abs=0.02)
        assert step.end == pytest.approx(end, abs=0.02)
        at += value
    assert found.total.value == pytest.approx(sum(values))
    assert found.total.end == pytest.approx(100 * line.share(sum(values)), abs=0.02)


def test_steps_know_their_sign_and_an_axis_holds_zero() -> None:
    found = waterfall([("a", 2.0), ("b", -0.5), ("c", 0.0)])
    assert [s.sign for s in found.steps] == ["up", "down", "none"]
    for values in ([3.0, 4.0], [-4.0, -3.0], [math.nan]):
        line = around_zero(values)
        assert line.low <= 0 <= line.high


def test_an_effect_without_an_interval_lies_at_its_value() -> None:
    line = around_zero([-1.0, 1.0])
    assert percents(line, (0.5, math.nan, math.nan)) == (75.0, 75.0, 75.0)
    assert percents(line, (0.0, -0.5, 0.5)) == (50.0, 25.0, 75.0)


# ---------------------------------------------------------------------- scatter, bins, places


def test_a_scatter_has_equal_axes_so_that_its_diagonal_means_equal() -> None:
    found = scatter({3: ((10.0, 8.0, 12.0), (10.0, 9.0, 11.0)), 5: ((0.0, 0.0, 0.0), (20.0, 15.0, 25.0))}, 400)
    even, upper = found.dots
    assert even.x == pytest.approx(400 - even.y)
    assert upper.x == found.zero
    assert upper.y < 400 - upper.x  # above the diagonal: more in the second model
    assert upper.top < upper.y < upper.bottom
    assert even.left < even.x < even.right


@given(st.lists(numbers, max_size=40))
def test_every_value_is_counted_once(values: list[float]) -> None:
    found = spread(np.array(values, dtype=np.float64))
    assert sum(found.counts) == found.below + found.above
    assert found.below + found.zero + found.above == len(values)
    half = len(found.counts) // 2
    assert sum(found.counts[:half]) == found.below


def test_places_cover_the_square_of_each_segments_area() -> None:
    corner = places(np.array([0.9]), np.array([0.1]), np.array([0.04]))
    assert corner.shape == (PLACES, PLACES)
    rows, columns = np.nonzero(corner)
    assert rows.min() >= 0.75 * PLACES
    assert columns.max() <= 0.25 * PLACES
    assert corner.max() == 1
    both = places(np.array([0.9, 0.9, 0.2]), np.array([0.1, 0.1, 0.8]), np.full(3, 0.01))
    assert both[int(0.2 * PLACES), int(0.8 * PLACES)] == pytest.approx(0.5)
    assert places(np.zeros(0), np.zeros(0), np.zeros(0)).max() == 0


def test_a_segment_smaller_than_a_cell_is_not_lost() -> None:
    assert places(np.array([0.5]), np.array([0.99]), np.array([1e-6])).sum() >= 1


# ---------------------------------------------------------------------- patches


def _square(height: int, width: int, top: int, left: int, side: int) -> np.ndarray:
    labels = np.zeros((height, width), dtype=np.int32)
    labels[top : top + side, left : left + side] = 1
    return labels


@pytest.mark.parametrize(("top", "left", "side"), [(0, 0, 10), (86, 140, 10), (40, 70, 60), (5, 5, 90)])
def test_a_window_holds_its_segment_and_stays_in_the_image(top: int, left: int, side: int) -> None:
    labels = _square(100, 160, top, left, side)
    y, x, size = window(labels == 1)
    assert y <= top
    assert x <= left
    assert y + size >= min(100, top + side)
    assert x + size >= min(160, left + side)
    assert size >= round(0.28 * 160)
    if size <= 100:
        assert 0 <= y <= 100 - size
        assert 0 <= x <= 160 - size


def test_a_patch_keeps_the_segment_and_takes_colour_and_light_from_the_rest() -> None:
    labels = _square(112, 112, 40, 40, 30)
    pixels = np.full((112, 112, 3), (200, 80, 20), dtype=np.uint8)
    patch = draw_patch(pixels, labels, 1)
    assert patch.shape == (SIDE, SIDE, 3)
    middle = patch[SIDE // 2, SIDE // 2]
    np.testing.assert_array_equal(middle, [200, 80, 20])
    outside = patch[2, 2]
    assert outside[0] == outside[1] == outside[2]
    assert outside[0] < 100
    assert (patch == 255).all(axis=-1).any()  # its outline


def test_labels_may_be_finer_or_coarser_than_the_photograph() -> None:
    pixels = np.zeros((60, 60, 3), dtype=np.uint8)
    pixels[:30, :30] = (250, 10, 10)
    for scale in (1, 3):
        labels = np.kron(_square(20, 20, 0, 0, 10), np.ones((scale, scale), dtype=np.int32)).astype(np.int32)
        red = (draw_patch(pixels, labels, 1) == (250, 10, 10)).all(axis=-1)
        assert 0.3 < red.mean() < 0.8


def test_the_outline_lies_outside_of_the_segment() -> None:
    inside = np.zeros((5, 5), dtype=bool)
    inside[2, 2] = True
    found = edge(inside)
    assert found.sum() == 4
    assert not (found & inside).any()


# ---------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("row", "column", "said"),
    [
        (0.9, 0.1, "the bottom left corner"),
        (0.1, 0.95, "the top right corner"),
        (0.1, 0.5, "the top"),
        (0.5, 0.9, "the right side"),
        (0.5, 0.5, "the middle"),
    ],
)
def test_places_have_names(row: float, column: float, said: str) -> None:
    assert place(row, column) == said


def _concept(**changes: object) -> dict[str, object]:
    return {
        "concept": 4,
        "name": None,
        "row": 0.93,
        "column": 0.2,
        "position_entropy": 0.05,
        "median_area": 0.062,
        **changes,
    }


def test_a_concept_with_a_fixed_place_is_called_by_it() -> None:
    name = concept_name(_concept())
    assert name.title == "Concept 4"
    assert name.place == "the bottom left corner"
    assert name.phrase == "what is in the bottom left corner"
    assert name.where == f"always in the bottom left corner, 6.2{NBSP}% of the image"


def test_other_concepts_are_called_by_number_or_mask() -> None:
    anywhere = concept_name(_concept(position_entropy=0.9))
    assert (anywhere.phrase, anywhere.place) == ("concept 4", "")
    assert anywhere.where.startswith("anywhere")
    named = concept_name(_concept(name="sky"))
    assert (named.title, named.place) == ("sky", "")
    assert "sky" in named.phrase
    assert concept_name(_concept(row=0.9, column=0.5)).phrase == "what is at the bottom"


def test_strata_are_named_by_models_and_short_classes() -> None:
    names = Names("old", "new", False, {"tench, Tinca tinca": "tench"})
    assert names.stratum("only-model") == "images that only new gets right"
    assert names.stratum("class:tench, Tinca tinca") == "images of tench"
    assert names.stratum("class:owl") == "images of owl"
    assert names.stratum("all") == "all images"


def test_numbers_carry_sign_and_interval() -> None:
    assert points((0.312, 0.241, 0.38)) == "+31.2 points [24.1, 38.0]"
    assert share_ends((-0.021, -0.05, 0.0)) == f"{MINUS}2.1{NBSP}% [{MINUS}5.0, 0.0]"
    assert share_ends((0.2, math.nan, math.nan)) == f"20.0{NBSP}%"
    assert scalar_ends((1.2, 0.8, 1.6)) == "+1.20 [0.80, 1.60]"
    assert scalar_ends((0.0012, 0.0008, 0.0016)) == "+0.0012 [0.0008, 0.0016]"
    assert signed(-0.001, 1) == "0.0"  # what rounds to zero has no sign
    assert [q_text(q) for q in (0.0002, 0.0312, 0.47, math.nan)] == ["q < 0.001", "q = 0.031", "q = 0.47", "not tested"]


@pytest.mark.parametrize(("right", "n"), [(0, 7), (7, 7), (33, 40), (1, 1), (812, 1000)])
def test_wilson_intervals_are_those_of_scipy(right: int, n: int) -> None:
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert wilson(0, 0) == (0.0, 1.0)
