"""Degradation: what is read off degraded images, and off curves of equal area."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from toy_views import ToyView, by_name

from salience.behaviour.degradation import CONTROL, SCORE, area_columns, degradation_columns
from salience.behaviour.similarity import ssim_8bit
from salience.behaviour.view import BACKGROUND, CLEAN, OBJECT, ConditionTraits
from salience.store.schema import PARTS

TRAITS = {"degradation": tuple(ConditionTraits(n, "guided", 0, published=True) for n in (BACKGROUND, OBJECT))}


def test_score_accuracy_and_map_of_degraded_images() -> None:
    rng = np.random.default_rng(0)
    maps, own = rng.random((2, 4, 8, 8)).astype(np.float32)
    own[2] = np.nan
    logits = np.log(np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]]))
    view = ToyView(
        {"m": maps},
        own={("m", BACKGROUND): own},
        answers={("m", CLEAN): np.array([0, 0, 2, -1]), ("m", BACKGROUND): np.array([0, 1, 2, 1])},
        outputs={("m", BACKGROUND): logits},
        known=np.array([0, 1, -1, 0]),
        traits=TRAITS,
    )
    found = by_name(list(degradation_columns(view, "m")), "published", BACKGROUND)
    assert found["score-after"].tolist() == pytest.approx([0.6, 0.2, 0.6, np.nan], nan_ok=True)
    assert found["accuracy"].tolist() == pytest.approx([1, 1, np.nan, 0], nan_ok=True)
    there = [0, 1, 3]
    assert found["ssim"][there] == pytest.approx(ssim_8bit(maps[there], own[there]))
    assert np.isnan(found["ssim"][2])
    assert by_name(list(degradation_columns(view, "m")), "published", OBJECT)["ssim"] == pytest.approx(1)


def test_which_way_is_better_turns_with_the_degraded_part() -> None:
    assert SCORE.better(BACKGROUND) == "higher"
    assert SCORE.better(OBJECT) == "lower"


def scores(rows: list[tuple[str, str, str, str | None, str, float, float]]) -> pa.Table:
    names = ("image_id", "model", "method", "background", "metric", "smooth", "value")
    made = [{**dict(zip(names, row, strict=True)), "recipe": "r", "label": 0, "position": 0} for row in rows]
    return pa.Table.from_pylist(made, schema=PARTS["scores"])


def test_areas_of_equal_masks_against_random_ones() -> None:
    rows = []
    for fill, lift in (("blur", 0.0), ("road", 0.1)):
        for i in range(3):
            keep, delete = 0.8 + lift, 0.2 + i / 10
            for metric, value in (("insertion", keep), ("deletion", delete), ("srg:points=10", keep - delete)):
                rows.append((f"image {i}", "m", "gradcam", fill, metric, 0.0, value))
                rows.append((f"image {i}", "m", "gradcam", fill, metric, 4.0, -9.0))  # smoothed: not read
                rows.append((f"image {i}", "other", "gradcam", fill, metric, 0.0, -9.0))
            rows.append((f"image {i}", "m", CONTROL, fill, "srg", 0.0, 0.05 * i))
            rows.append((f"image {i}", "m", "sobel", fill, "srg", 0.0, -9.0))
    rows.append(("image of another run", "m", "gradcam", "blur", "srg", 0.0, -9.0))
    table = scores(rows)
    ids = ["image 2", "image 0", "image 1", "image without scores"]
    columns = list(area_columns(table, "m", "gradcam", ids))
    for fill, lift in (("blur", 0.0), ("road", 0.1)):
        found = by_name(columns, "corrected", fill)
        assert found["area-difference"][:3] == pytest.approx([0.4 + lift, 0.6 + lift, 0.5 + lift])
        assert found["least-first"][:3] == pytest.approx(0.8 + lift)
        assert found["most-first"][:3] == pytest.approx([0.4, 0.2, 0.3])
        assert found["random-control"][:3] == pytest.approx([0.1, 0, 0.05])
        assert found["gain"][:3] == pytest.approx([0.3 + lift, 0.6 + lift, 0.45 + lift])
        assert all(np.isnan(v[3]) for v in found.values())


def test_values_of_labels_that_are_not_predicted_are_not_read() -> None:
    table = scores([("image 0", "m", "gradcam", "blur", "srg", 0.0, 0.5)])
    wrong = table.set_column(table.schema.get_field_index("position"), "position", pa.array([1], pa.int32()))
    found = by_name(
        list(area_columns(pa.concat_tables([table, wrong]), "m", "gradcam", ["image 0"])), "corrected", "blur"
    )
    assert found["area-difference"].tolist() == [0.5]
    assert list(area_columns(wrong, "m", "gradcam", ["image 0"])) == []
