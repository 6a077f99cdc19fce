"""What concepts are found from, and how well each holds together."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest

from salience.comparison.clusters import Assigned
from salience.comparison.quality import discovery_rows, quality
from salience.store.schema import DERIVED

Floats = npt.NDArray[np.float64]


def _segments(images: int, each: int, seed: int = 0) -> tuple[Floats, npt.NDArray[np.int64], list[str]]:
    area = np.random.default_rng(seed).dirichlet(np.full(each, 1.5), images).ravel() + 1e-4
    return area, np.arange(images + 1) * each, [f"image {i}" for i in range(images)]


# ---------------------------------------------------------------------- discovery


def test_the_union_of_the_top_and_as_many_others() -> None:
    area, starts, ids = _segments(20, 50)
    rng = np.random.default_rng(1)
    totals = {"a": rng.standard_normal(1000), "b": rng.standard_normal(1000)}
    found = discovery_rows(totals, area, starts, ids, seed=0).reshape(20, 50)
    for i in range(20):
        top = {int(s) for v in totals.values() for s in np.argsort(-np.abs(v.reshape(20, 50)[i]))[:5]}
        assert top <= set(np.flatnonzero(found[i]).tolist())
        assert found[i].sum() == 2 * len(top)


def test_the_sign_does_not_matter_nor_the_order_of_models() -> None:
    area, starts, ids = _segments(5, 40)
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 200))
    one = discovery_rows({"a": a, "b": b}, area, starts, ids, seed=0)
    np.testing.assert_array_equal(one, discovery_rows({"b": -b, "a": a}, area, starts, ids, seed=0))


def test_controls_match_in_area() -> None:
    area, starts, ids = _segments(200, 60)
    large = np.zeros(len(area))
    large += area  # the largest five of each image are wanted: the hardest to match
    wide = discovery_rows({"a": large}, area, starts, ids, seed=0, top=5).reshape(200, 60)
    middle = np.random.default_rng(3).standard_normal(len(area))
    some = discovery_rows({"a": middle}, area, starts, ids, seed=0, top=5).reshape(200, 60)
    of, rank = area.reshape(200, 60), np.argsort(np.argsort(-np.abs(middle).reshape(200, 60), axis=1), axis=1)
    top = (of * (rank < 5)).sum(axis=1)
    control = (of * (some & (rank >= 5))).sum(axis=1)
    assert np.median(np.abs(control / top - 1)) < 0.2
    assert abs(control.sum() / top.sum() - 1) < 0.1
    # where no other is as large, the next ones are taken
    next_ones = np.sort(of, axis=1)[:, -10:-5].sum(axis=1)
    assert np.median((of * wide).sum(axis=1) - np.sort(of, axis=1)[:, -5:].sum(axis=1) - next_ones) > -0.02


def test_controls_are_drawn_by_seed_and_image_alone() -> None:
    area, starts, ids = _segments(6, 50)
    totals = {"a": np.random.default_rng(4).standard_normal(300)}
    found = discovery_rows(totals, area, starts, ids, seed=0)
    alone = discovery_rows({"a": totals["a"][100:150]}, area[100:150], np.array([0, 50]), ids[2:3], seed=0)
    np.testing.assert_array_equal(alone, found[100:150])
    assert (discovery_rows(totals, area, starts, ids, seed=1) != found).any()
    assert (discovery_rows(totals, area, starts, [f"other {i}" for i in ids], seed=0) != found).any()


def test_every_segment_of_like_area_may_be_a_control() -> None:
    totals = np.zeros(12)
    totals[0] = 1.0
    drawn = Counter(
        int(np.flatnonzero(discovery_rows({"a": totals}, np.full(12, 1 / 12), [0, 12], ["i"], seed=s, top=1))[1])  # type: ignore[arg-type]
        for s in range(550)
    )
    assert set(drawn) == set(range(1, 12))
    assert max(drawn.values()) < 90  # 50 expected, standard deviation 7


@pytest.mark.parametrize(("segments", "expected"), [(1, 1), (3, 3), (6, 6), (8, 8), (12, 10)])
def test_images_of_few_segments(segments: int, expected: int) -> None:
    area, starts, ids = _segments(1, segments)
    found = discovery_rows({"a": np.arange(segments) + 1.0}, area, starts, ids, seed=0)
    assert found.sum() == expected


# ---------------------------------------------------------------------- quality


def _quality(
    concept: list[int],
    k: int,
    *,
    image: list[int] | None = None,
    classes: list[int] | None = None,
    row: list[float] | None = None,
    column: list[float] | None = None,
    area: list[float] | None = None,
) -> dict[str, npt.NDArray[np.generic]]:
    count = len(concept)
    cosine = np.linspace(0.5, 0.9, count).astype(np.float32)
    assigned = Assigned(np.array(concept, dtype=np.int32), cosine, cosine - np.float32(0.25))
    middle = [0.5] * count
    return quality(
        assigned,
        np.linspace(0.6, 0.9, k),
        image=np.array(image or range(count)),
        classes=np.array(classes or [0] * count),
        area=np.array(area or [0.1] * count),
        row=np.array(row or middle),
        column=np.array(column or middle),
    )


def test_columns_are_those_of_the_table() -> None:
    found = _quality([0, 1, 1], 2)
    assert set(found) == set(DERIVED["concepts"].names) - {"name"}
    assert {len(v) for v in found.values()} == {2}


def test_cohesion_separation_and_places_are_means() -> None:
    found = _quality([1, 0, 1, 0, 1], 2, row=[0.1, 0.2, 0.3, 0.4, 0.5], column=[1.0, 0.0, 0.5, 0.0, 0.0])
    np.testing.assert_allclose(found["cohesion"], [(0.6 + 0.8) / 2, (0.5 + 0.7 + 0.9) / 3], atol=1e-6)
    np.testing.assert_allclose(found["separation"], [0.25, 0.25], atol=1e-6)
    np.testing.assert_allclose(found["stability"], [0.6, 0.9])
    np.testing.assert_allclose(found["row"], [0.3, 0.3])
    np.testing.assert_allclose(found["column"], [0.0, 0.5])


def test_segments_and_images_are_counted() -> None:
    found = _quality([0, 0, 0, 1, 1, 0], 3, image=[0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(found["segments"], [4, 2, 0])
    np.testing.assert_array_equal(found["images"], [3, 2, 0])


def test_the_median_area_is_numpys() -> None:
    rng = np.random.default_rng(0)
    concept, area = rng.integers(0, 9, 400), rng.random(400)
    found = _quality(concept.tolist(), 9, area=area.tolist())
    np.testing.assert_allclose(found["median_area"], [np.median(area[concept == k]) for k in range(9)])


def test_class_entropy_counts_images_once() -> None:
    # concept 0: images 0 to 3, of classes 0, 0, 1, 2; the many segments of image 0 count once
    image, concept = [0, 0, 0, 0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 0, 0, 0, 1, 1]
    found = _quality(concept, 2, image=image, classes=[0, 0, 1, 2, 1, 1])
    nats = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    np.testing.assert_allclose(found["class_entropy"], [nats / math.log(3), 0.0], atol=1e-12)


def test_the_most_varied_concept_has_entropy_1() -> None:
    found = _quality([0, 0, 1, 1, 1], 2, classes=[0, 1, 2, 3, 0])
    np.testing.assert_allclose(found["class_entropy"], [1.0, 1.0])  # of two images, and of three


def test_unknown_classes_are_left_out() -> None:
    found = _quality([0, 0, 0, 1, 1], 2, classes=[0, 1, -1, -1, -1])
    np.testing.assert_allclose(found["class_entropy"], [1.0, np.nan])
    assert np.isnan(_quality([0, 0], 1, classes=[-1, -1])["class_entropy"]).all()


def test_position_entropy_tells_a_corner_from_anywhere() -> None:
    rng = np.random.default_rng(1)
    place = np.concatenate([rng.uniform(0.8, 1.0, (2000, 2)), rng.random((2000, 2)), [[0.1, 0.1], [0.9, 0.1]]])
    concept = [0] * 2000 + [1] * 2000 + [2] * 2
    found = _quality(concept, 3, row=place[:, 0].tolist(), column=place[:, 1].tolist())
    assert found["position_entropy"][0] == 0
    assert found["position_entropy"][1] > 0.99
    assert found["position_entropy"][2] == pytest.approx(1)  # two segments can have two places


def test_the_last_row_and_column_belong_to_the_image() -> None:
    found = _quality([0, 0], 1, row=[1.0, 0.99], column=[1.0, 0.99])
    np.testing.assert_allclose(found["position_entropy"], [0.0])


def test_what_does_not_exist_is_not_a_number() -> None:
    found = _quality([0, 0, 0], 2, classes=[0, 0, 0])
    for name in ("cohesion", "separation", "stability", "position_entropy", "median_area", "row", "column"):
        assert np.isnan(found[name][1]), name
    assert np.isnan(found["class_entropy"]).all()  # one class only
    alone = Assigned(np.zeros(2, dtype=np.int32), np.float32([0.9, 0.8]), np.full(2, np.nan, dtype=np.float32))
    one = np.ones(2)
    told = quality(alone, np.ones(1), image=np.arange(2), classes=np.arange(2), area=one, row=one, column=one)
    assert np.isnan(told["separation"]).all()
    assert told["cohesion"][0] == pytest.approx(0.85)


def test_no_segments() -> None:
    nothing = np.zeros(0)
    assigned = Assigned(nothing.astype(np.int32), nothing.astype(np.float32), nothing.astype(np.float32))
    found = quality(
        assigned,
        np.ones(2),
        image=nothing.astype(np.int64),
        classes=nothing.astype(np.int64),
        area=nothing,
        row=nothing,
        column=nothing,
    )
    assert np.isnan(found["median_area"]).all()
