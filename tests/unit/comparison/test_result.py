"""What is read of a comparison: tables, slices, pictures, words, exports."""

from __future__ import annotations

import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image

from salience.comparing import compare
from salience.comparison import wording
from salience.comparison.result import Comparison, read_comparison
from salience.comparison.strata import QUADRANTS
from salience.errors import RunError
from salience.explaining import RunSettings
from salience.store.run import open_run
from salience.store.schema import DERIVED
from salience.testing.models import small_classifier

COUNT = 64
CLASSES = ("ant", "bee")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("photos")
    colours = np.random.default_rng(0).integers(0, 256, (COUNT, 3, 3, 3), dtype=np.uint8)
    for i, image in enumerate(colours.repeat(8, axis=1).repeat(8, axis=2)):
        (folder / CLASSES[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / CLASSES[i % 2] / f"{i:03d}.png")
    models = [small_classifier(16, 2, seed=s, name=n) for s, n in ((1, "a"), (2, "b"), (3, "c"))]
    for m in models:
        m.classes = CLASSES
    return compare(
        models[0],
        models[1:],
        str(folder),
        method="ig:steps=8:baseline=black+white",
        segments="grid:rows=3:columns=3",
        concepts=4,
        confirm=2,
        out=tmp_path_factory.mktemp("run") / "run",
        settings=RunSettings(batch=16, memory_format="contiguous", threads=1),
    )


# ------------------------------------------------------------------ slices


def test_quadrants_are_those_of_the_predictions(found: Comparison) -> None:
    a, b = found.predicted("a"), found.predicted("b")
    named = found.quadrants("b")
    assert list(named) == list(found.images)
    for i, (image, truth) in enumerate(zip(found.images, found.labels, strict=True)):
        right = (a[i] == truth, b[i] == truth)
        assert named[image] == QUADRANTS[{(1, 1): 0, (1, 0): 1, (0, 1): 2, (0, 0): 3}[right]]
    assert found.accuracy()["a"] == pytest.approx((a == found.labels).mean())
    assert 0 < found.mcnemar("b") <= 1  # type: ignore[operator]


def test_slices(found: Comparison) -> None:
    assert found.slice() == list(found.images)
    parts = [found.slice(q, model="b") for q in QUADRANTS]
    assert sorted(i for part in parts for i in part) == sorted(found.images)
    assert found.slice("class:bee") == [i for i in found.images if i.startswith("bee/")]
    assert found.slice(found.images[3]) == [found.images[3]]
    having = found.slice("class:ant", concept=1)
    for image_id in found.slice("class:ant"):
        has = any(r["concept"] == 1 for r in found.segments_of(image_id))
        assert (image_id in having) == has


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda c: c.slice("class:bees"), r"no slice 'class:bees'.*Did you mean 'class:bee'"),
        (lambda c: c.slice(concept=99), "no concept 99; they are 0 to"),
        (lambda c: c.slice("only-model"), "Name the model: b, c are compared with 'a'"),
        (lambda c: c.predicted("d"), "no model 'd' in this comparison; it has a, b, c"),
        (lambda c: c.label_map("bee/none.png"), "'bee/none.png' is not among the 64 compared ones"),
        (lambda c: c.gap("b", "nowhere"), "'nowhere' is not among"),
    ],
)
def test_what_is_not_there_is_told(found: Comparison, ask: Any, message: str) -> None:
    with pytest.raises(RunError, match=message):
        ask(found)


def test_pictures_lie_over_the_frame(found: Comparison) -> None:
    image_id = found.images[0]
    labels, heat = found.label_map(image_id), found.heatmap("c", image_id)
    assert labels.shape == heat.shape == (224, 224)
    assert labels.dtype == np.int32
    assert sorted(np.unique(labels)) == list(range(9))
    assert heat.dtype == np.float32
    change = found.diagnostic("c", "output_change")[0]
    assert heat.sum() == pytest.approx(change + found.gap("c", image_id), abs=1e-3)


def test_reading_needs_no_torch(found: Comparison) -> None:
    code = (
        "import sys; from salience.comparison.result import read_comparison; "
        f"c = read_comparison({str(found.run.folder)!r}); c.claims(); c.ledger('all', 'b'); c.quadrants('b'); "
        "c.heatmap('a', c.images[0]); c.sizes; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_without_a_comparison_says_how_to_make_one(found: Comparison, tmp_path: Path) -> None:
    run = open_run(found.run.folder)
    run.info = {**run.info, "stages": {}}
    with pytest.raises(RunError, match="has no comparison: 'salience compare"):
        read_comparison(run)
    stage = {**found.run.info["stages"]["compare"], "complete": False}
    run.info = {**run.info, "stages": {"compare": stage}}
    with pytest.raises(RunError, match="not finished: run the same command again"):
        read_comparison(run)


# ------------------------------------------------------------------ words


def effects(found: Comparison, *rows: dict[str, Any], alone: bool = False) -> Comparison:
    schema = DERIVED["effects"]
    plain = {"model": "b", "family": "direction", "stratum": "class:bee", "n": 50, "effect": 0.12, "low": 0.1}
    made = [
        {**dict.fromkeys(schema.names), **plain, "high": 0.15, "p": 1e-9, "q": 1e-8, "detectable": 0.02, **row}
        for row in rows
    ]
    table = pa.Table.from_pylist(made, schema=schema)
    return replace(found, effects=table, models=("a",) if alone else found.models)


def test_a_confirmed_claim(found: Comparison) -> None:
    (claim,) = effects(found, {"concept": 1, "confirmed": True}).claims()
    assert claim == (
        "On images explained for bee, concept 1 speaks for the class more in b than in a: +12.0% [+10.0%, +15.0%] of "
        "the attribution (n = 50, q = 1e-08); changing its pixels confirms it."
    )


def test_confirmed_claims_leave_unconfirmed_ones_out_and_each_concept_is_told_once(found: Comparison) -> None:
    made = effects(
        found,
        {"concept": 1, "effect": 0.5, "confirmed": False},
        {"concept": 2, "effect": 0.1, "confirmed": True, "stratum": "all", "family": "use"},
        {"concept": 3, "effect": 0.2, "confirmed": False, "stratum": "all", "family": "use"},
        {"concept": 2, "effect": -3.0, "low": -4.0, "high": -2.0, "confirmed": True, "family": "ledger"},
    )
    (claim,) = made.claims()
    assert claim.startswith("On images explained for bee, concept 2 adds -3 [-4, -2] of the margin to b beyond")
    assert [r["concept"] for r in made.confirmed.to_pylist()] == [2, 2]


def test_by_attribution_only(found: Comparison) -> None:
    (claim,) = effects(found, {"concept": 0, "effect": -0.2, "low": -0.3, "high": -0.1, "confirmed": False}).claims()
    assert "less in b than in a: -20.0% [-30.0%, -10.0%]" in claim
    assert claim.endswith("by attribution only, changing its pixels does not confirm it.")
    (claim,) = effects(found, {"concept": 0, "stratum": "only-reference", "family": "use"}).claims()
    assert claim.startswith("On images that only a gets right, concept 0 is used more in b than in a:")
    assert claim.endswith("by attribution only, not tested by changing its pixels.")


def test_nothing_that_can_be_shown(found: Comparison) -> None:
    rows = [{"concept": c, "q": 0.6, "p": 0.5, "detectable": d} for c, d in ((0, 0.01), (1, 0.03), (2, 0.09))]
    assert effects(found, *rows).claims() == [
        "No difference of b or c from a can be shown on these 64 images; one of 3.0% of the attribution within a class "
        "would have been found with a power of 0.8 (the median over concepts and classes)."
    ]
    few = effects(found, {"concept": 0, "p": None, "q": None, "n": 4})
    assert few.claims()[0].endswith("there are too few images of each class for a test.")


def test_one_model_alone(found: Comparison) -> None:
    made = effects(found, {"concept": 0, "model": "a", "confirmed": True}, alone=True)
    (claim,) = made.claims()
    assert claim.startswith("On images explained for bee, concept 0 carries +12.0% [+10.0%, +15.0%] of the attribution")
    nothing = effects(found, {"concept": 0, "model": "a", "q": 0.9, "p": 0.9}, alone=True)
    assert nothing.claims()[0].startswith("It cannot be shown that a concept carries a class of a on these 64 images;")


def test_only_the_largest_are_told(found: Comparison) -> None:
    rows = [{"concept": c, "model": m, "confirmed": True} for c in range(4) for m in "bc"]
    assert len(effects(found, *rows).claims()) == wording.MOST


# ------------------------------------------------------------------ elsewhere


def test_a_page_of_its_own(found: Comparison, tmp_path: Path) -> None:
    page = found.report(tmp_path / "only.html")
    assert [p.name for p in tmp_path.iterdir()] == ["only.html"]
    assert page.read_text().startswith("<!doctype html>")


def test_pandas_is_asked_for_by_name_where_it_is_missing(found: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(RunError, match="A data frame needs pandas, which is not installed: pip install pandas"):
        found.to_pandas()


def test_a_data_frame_has_effects_and_quality(found: Comparison) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = found.to_pandas()
    assert len(frame) == len(found.effects)
    assert {"concept", "family", "stratum", "effect", "low", "high", "q", "cohesion", "stability"} <= set(frame.columns)


def test_fiftyone_is_asked_for_by_name_where_it_is_missing(found: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(RunError, match=r"needs fiftyone, which is not installed: pip install 'salience\[fiftyone\]'"):
        found.to_fiftyone()


class Fake(types.ModuleType):
    """As much of fiftyone as a data set needs: everything keeps what it was made of."""

    class Thing(dict):  # type: ignore[type-arg]
        def __init__(self, **given: Any) -> None:
            super().__init__(given)

    Sample = Classification = Heatmap = Detection = Detections = Thing

    class Dataset:
        def __init__(self, name: str | None) -> None:
            self.name = name
            self.samples: list[Any] = []

        def add_samples(self, samples: Any) -> None:
            self.samples += samples


def test_a_fiftyone_dataset(found: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", Fake("fiftyone"))
    dataset = found.to_fiftyone("differences")
    assert dataset.name == "differences"
    assert len(dataset.samples) == COUNT
    sample, image_id = dataset.samples[5], found.images[5]
    assert Path(sample["filepath"]).is_file()
    assert sample["image_id"] == image_id
    assert sample["ground_truth"]["label"] == image_id.partition("/")[0]
    assert sample["a"]["label"] == CLASSES[found.predicted("a")[5]]
    assert sample["quadrant_c"] == found.quadrants("c")[image_id]
    heat = sample["b_heatmap"]["map"]
    assert np.abs(heat).max() == pytest.approx(1)
    detections = sample["concepts"]["detections"]
    labels = found.label_map(image_id)
    assert len(detections) == 9
    for row, seen in zip(found.segments_of(image_id), detections, strict=True):
        assert seen["label"] == f"concept {row['concept']}"
        assert seen["share_b"] == row["shares"]["b"]
        x, y, width, height = (v * 224 for v in seen["bounding_box"])
        inside = labels[round(y) : round(y + height), round(x) : round(x + width)]
        assert np.array_equal(seen["mask"], inside == row["segment"])
        assert seen["mask"].sum() == (labels == row["segment"]).sum()


def test_fiftyone_shows_files_only(found: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", Fake("fiftyone"))
    run = open_run(found.run.folder)
    at = run.images.schema.get_field_index("path")
    run.__dict__["images"] = run.images.set_column(at, run.images.schema.field(at), pa.nulls(COUNT, pa.string()))
    with pytest.raises(RunError, match="FiftyOne shows image files"):
        replace(found, run=run).to_fiftyone()


def test_attributions_stand_in_the_order_of_segments(found: Comparison) -> None:
    for model in found.models:
        rows = found.attributions.filter(pc.equal(found.attributions["model"], model))
        for column in ("image_id", "segment"):
            assert rows[column].equals(found.segments[column])
