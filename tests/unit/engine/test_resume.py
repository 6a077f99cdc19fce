"""Carrying on with a run: what depends on a change is computed again, and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from torch import nn

from salience.engine.events import Started
from salience.explaining import RunSettings
from salience.models.classifier import Classifier
from salience.store.run import open_run
from salience.testing.models import Wrapped, small_classifier

METHODS = ["gradient", "active", "smoothgrad:samples=2"]


@pytest.fixture
def classifier() -> Classifier:
    return small_classifier(classes=10)


@pytest.fixture
def images(tmp_path: Path, classifier: Classifier) -> Path:
    runs.write_images(tmp_path / "images", classifier, 5)
    return tmp_path / "images"


def values(out: Path, method: str) -> dict[str, bytes]:
    maps = open_run(out).maps(method)
    assert len(set(maps.image_ids)) == len(maps.image_ids), "two maps of one image"
    return dict(zip(maps.image_ids, (m.tobytes() for m in maps.values), strict=True))


def test_nothing_is_computed_twice(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    _, first = runs.run(classifier, images, METHODS, tmp_path / "out")
    assert (first.computed, first.reused) == (5, 0)
    with runs.counted(classifier.module) as seen:
        _, again = runs.run(classifier, images, METHODS, tmp_path / "out")
    assert (again.computed, again.reused) == (0, 5)
    assert (again.calls.forward, seen.forward) == (0, 0)


def test_a_changed_image_alone_is_computed_again(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runs.run(classifier, images, METHODS, out)
    before = {m: values(out, m) for m in METHODS}
    for seed in (1, 2, 3):  # its class may change with it
        runs.replace_image(images / "3.png", seed)
        _, summary = runs.run(classifier, images, METHODS, out)
        assert (summary.computed, summary.reused) == (1, 4)
    runs.run(classifier, images, METHODS, tmp_path / "fresh")
    for method in METHODS:
        after = values(out, method)
        assert after == values(tmp_path / "fresh", method)
        assert {k for k in after if after[k] != before[method][k]} == {"3.png"}
    a, b = open_run(out), open_run(tmp_path / "fresh")
    for name in ("images", "contents", "predictions", "diagnostics", "failures"):
        drop = [c for c in ("mtime_ns",) if c in a.table(name).column_names]
        assert a.table(name).drop_columns(drop).equals(b.table(name).drop_columns(drop)), name


def test_a_touched_image_is_not(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    runs.run(classifier, images, METHODS, tmp_path / "out")
    os.utime(images / "3.png", ns=(1, 1))
    _, summary = runs.run(classifier, images, METHODS, tmp_path / "out")
    assert (summary.computed, summary.reused) == (0, 5)


def test_an_added_method_is_computed_alone(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runs.run(classifier, images, ["active"], out)
    before = values(out, "active")
    events: list[object] = []
    _, summary = runs.run(classifier, images, ["active", "gradient"], out, listen=events.append)
    assert summary.computed == 5
    assert (summary.calls.forward, summary.calls.backward) == (5, 5)  # the gradient's, not those of ten classes
    assert [e.reused for e in events if isinstance(e, Started)] == [0]
    assert values(out, "active") == before
    assert open_run(out).methods == ("active", "gradient")


def test_an_added_image_is_computed_alone(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runs.run(classifier, images, METHODS, out, limit=3)
    _, summary = runs.run(classifier, images, METHODS, out)
    assert (summary.computed, summary.reused) == (2, 3)
    assert len(open_run(out).maps("gradient")) == 5
    _, summary = runs.run(classifier, images, METHODS, out, limit=2)
    assert (summary.computed, summary.reused) == (0, 2)
    assert len(open_run(out).maps("gradient")) == 2


def test_another_seed_concerns_what_draws(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runs.run(classifier, images, METHODS, out)
    before = {m: values(out, m) for m in METHODS}
    _, summary = runs.run(classifier, images, METHODS, out, seed=1)
    # ten classes all compete, so nothing is drawn for 'active'
    assert (summary.calls.forward, summary.calls.backward) == (5 * 3, 5 * 2)
    assert values(out, "gradient") == before["gradient"]
    assert values(out, "active") == before["active"]
    assert values(out, "smoothgrad:samples=2") != before["smoothgrad:samples=2"]
    _, summary = runs.run(classifier, images, METHODS, out)
    assert summary.computed == 0
    assert values(out, "smoothgrad:samples=2") == before["smoothgrad:samples=2"]


def test_another_seed_concerns_drawn_rivals(tmp_path: Path) -> None:
    classifier = small_classifier(classes=40)
    runs.write_images(tmp_path / "images", classifier, 2)
    for methods, computed in ((["active"], 2), (["active:rivals=all"], 0)):
        out = tmp_path / methods[0].replace(":", "-")
        runs.run(classifier, tmp_path / "images", methods, out)
        _, summary = runs.run(classifier, tmp_path / "images", methods, out, seed=1)
        assert summary.computed == computed


@pytest.mark.parametrize(
    "change", [{"target": "class:1"}, {"target": "all"}, {"output": "prob"}, {"map_dtype": "float16"}]
)
def test_another_question_is_another_answer(
    change: dict[str, str], classifier: Classifier, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    runs.run(classifier, images, METHODS, out)
    before = {m: values(out, m) for m in METHODS}
    outcome, summary = runs.run(classifier, images, METHODS, out, **change)
    assert (summary.computed, summary.reused) == (5, 0)
    assert len(outcome.run.maps("gradient")) == (50 if change.get("target") == "all" else 5)
    _, summary = runs.run(classifier, images, METHODS, out)
    assert (summary.computed, summary.reused) == (0, 5)
    assert {m: values(out, m) for m in METHODS} == before


def test_other_weights_under_one_name(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    """Maps *and* predictions are those of the weights that were asked for last."""
    out = tmp_path / "out"
    runs.run(classifier, images, ["gradient"], out)
    maps = open_run(out).maps()
    other = small_classifier(classes=10, seed=5)
    _, summary = runs.run(other, images, ["gradient"], out)
    assert summary.computed == 5
    assert not np.allclose(open_run(out).maps().probabilities, maps.probabilities)
    _, summary = runs.run(classifier, images, ["gradient"], out)
    assert summary.computed == 0
    again = open_run(out).maps()
    assert again.values.tobytes() == maps.values.tobytes()
    np.testing.assert_array_equal(again.probabilities, maps.probabilities)
    assert again.targets.tolist() == again.probabilities.argmax(1).tolist()


def labelled(folder: Path, classifier: Classifier, labels: list[str]) -> Path:
    runs.write_images(folder, classifier, len(labels))
    rows = "\n".join(f"{i}.png,{label}" for i, label in enumerate(labels))
    (folder / "labels.csv").write_text(f"file,label\n{rows}\n")
    return folder


def test_changed_labels_with_target_label(classifier: Classifier, tmp_path: Path) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    labelled(folder, classifier, ["1", "2", "3", "4"])
    _, summary = runs.run(classifier, folder, ["gradient", "active"], out, target="label")
    assert summary.computed == 4
    assert open_run(out).maps("gradient").targets.tolist() == [1, 2, 3, 4]
    labelled(folder, classifier, ["1", "2", "9", "4"])
    _, summary = runs.run(classifier, folder, ["gradient", "active"], out, target="label")
    assert (summary.computed, summary.reused) == (1, 3)
    maps = open_run(out).maps("gradient")
    assert maps.targets.tolist() == [1, 2, 9, 4]
    assert maps.labels.tolist() == [1, 2, 9, 4]
    # labels do not matter where they are not the target
    runs.run(classifier, folder, ["gradient"], out)
    labelled(folder, classifier, ["5", "5", "5", "5"])
    _, summary = runs.run(classifier, folder, ["gradient"], out)
    assert summary.computed == 0
    assert open_run(out).maps("gradient").labels.tolist() == [5, 5, 5, 5]


def test_a_missing_label_fails_until_it_is_there(classifier: Classifier, tmp_path: Path) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    labelled(folder, classifier, ["1", "", "3"])
    outcome, summary = runs.run(classifier, folder, ["gradient"], out, target="label")
    assert (summary.computed, summary.failures) == (2, 1)
    assert outcome.run.table("failures")["kind"].to_pylist() == ["label"]
    outcome, summary = runs.run(classifier, folder, ["gradient"], out, target="label")
    assert (summary.computed, summary.failures) == (0, 0), "a failure that cannot have changed is tried again"
    assert outcome.failures == 1, "but it is still one"
    outcome, _ = runs.run(classifier, folder, ["gradient"], out)
    assert outcome.failures == 0, "without the label as target nothing is missing"
    labelled(folder, classifier, ["1", "2", "3"])
    outcome, summary = runs.run(classifier, folder, ["gradient"], out, target="label")
    assert (summary.computed, summary.failures, outcome.failures) == (1, 0, 0)
    assert outcome.run.maps().targets.tolist() == [1, 2, 3]


def test_an_unreadable_image_fails_until_it_is_mended(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole = (images / "2.png").read_bytes()
    (images / "2.png").write_bytes(whole[:50])
    outcome, summary = runs.run(classifier, images, ["gradient"], out)
    assert (summary.computed, summary.failures, outcome.failures) == (4, 1, 1)
    outcome, summary = runs.run(classifier, images, ["gradient"], out)
    assert (summary.computed, summary.failures, outcome.failures) == (0, 0, 1)
    (images / "2.png").write_bytes(whole)
    outcome, summary = runs.run(classifier, images, ["gradient"], out)
    assert (summary.computed, outcome.failures) == (1, 0)
    # and an image that breaks later loses the maps of what it was
    (images / "1.png").write_bytes(b"")
    outcome, summary = runs.run(classifier, images, ["gradient"], out)
    assert (summary.computed, outcome.failures) == (0, 1)
    assert "1.png" not in outcome.run.maps().image_ids
    assert len(outcome.run.maps()) == 4
    # and gets them back when it is restored
    runs.write_images(images, classifier, 5)
    outcome, summary = runs.run(classifier, images, ["gradient"], out)
    assert outcome.failures == 0
    assert len(outcome.run.maps()) == 5


def test_a_missing_file_is_looked_for_again(classifier: Classifier, tmp_path: Path) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    labelled(folder, classifier, ["1", "2"])
    held = (folder / "1.png").read_bytes()
    (folder / "1.png").unlink()
    outcome, _ = runs.run(classifier, folder, ["gradient"], out)
    assert outcome.failures == 1
    (folder / "1.png").write_bytes(held)
    outcome, summary = runs.run(classifier, folder, ["gradient"], out)
    assert (summary.computed, outcome.failures) == (1, 0)


def test_an_image_that_vanishes_meanwhile_stops_nothing(images: Path, tmp_path: Path) -> None:
    """Its pixels were read, so its maps are made; what its file is now cannot be told."""
    inner = small_classifier(classes=10)
    held: list[Path] = [images / "1.png"]
    inner.module.register_forward_pre_hook(lambda _m, _a: held[0].unlink(missing_ok=True) if armed else None)
    armed: list[int] = []
    runs.run(inner, images, ["gradient"], tmp_path / "warm", limit=1)
    armed.append(1)
    _, summary = runs.run(inner, images, ["gradient"], tmp_path / "out")
    assert not held[0].exists()
    assert summary.computed == 5


def test_an_image_that_changes_meanwhile_is_noticed_next_time(images: Path, tmp_path: Path) -> None:
    """The stamp that is kept is the one from before the image was read."""
    inner = small_classifier(classes=10)
    armed: list[int] = []

    def change(_m: nn.Module, _a: object) -> None:
        if armed:
            armed.clear()
            runs.replace_image(images / "0.png", 9)

    inner.module.register_forward_pre_hook(change)
    runs.run(inner, images, ["gradient"], tmp_path / "warm", limit=1)
    armed.append(1)
    runs.run(inner, images, ["gradient"], tmp_path / "out")
    assert not armed
    _, summary = runs.run(inner, images, ["gradient"], tmp_path / "out")
    assert summary.computed == 1
    runs.run(inner, images, ["gradient"], tmp_path / "fresh")
    assert values(tmp_path / "out", "gradient") == values(tmp_path / "fresh", "gradient")


def test_a_model_s_nan_is_not_tried_again(images: Path, tmp_path: Path) -> None:
    inner = small_classifier()
    classifier = Classifier(Wrapped(inner.module, "nan").eval(), size=16, name="nan")
    pixels = np.full((16, 16, 3), 255, dtype=np.uint8)
    from PIL import Image

    Image.fromarray(pixels).save(images / "1.png")
    outcome, summary = runs.run(classifier, images, ["gradient"], tmp_path / "out")
    assert (summary.failures, outcome.failures) == (1, 1)
    outcome, summary = runs.run(classifier, images, ["gradient"], tmp_path / "out")
    assert (summary.computed, summary.failures, summary.calls.forward) == (0, 0, 0)
    assert outcome.failures == 1
    runs.replace_image(images / "1.png", 0)
    outcome, summary = runs.run(classifier, images, ["gradient"], tmp_path / "out")
    assert (summary.computed, outcome.failures) == (1, 0)


def test_a_failed_map_is_a_failure_of_its_recipe(tmp_path: Path) -> None:
    """Going to another seed and back shows the failures of what is shown."""

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            means = (x * self.scale).mean((2, 3))
            return torch.stack([means.sum(1), means[:, 0].clamp_min(0).sqrt()], 1)

    images = np.full((2, 4, 4, 3), 100, dtype=np.uint8)
    images[1, :, :, 0] = 0
    np.savez(tmp_path / "images.npz", images=images)
    classifier = Classifier(Root(), size=4, name="root")
    how = {"target": "class:1"}
    for seed in (0, 1, 0, 0):
        outcome, _ = runs.run(
            classifier,
            tmp_path / "images.npz",
            ["gradient", "smoothgrad:samples=1:noise=0"],
            tmp_path / "out",
            seed=seed,
            **how,
        )
        failures = outcome.run.table("failures").to_pylist()
        assert {(f["image_id"], f["method"]) for f in failures} == {
            ("000001", "gradient"),
            ("000001", "smoothgrad:samples=1:noise=0"),
        }, seed


def test_batch_of_the_run_is_kept(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runs.run(classifier, images, ["gradient"], out, limit=3)
    outcome, _ = runs.run(classifier, images, ["gradient"], out, settings=RunSettings(batch=5))
    assert any("keeps its batch of 2" in note for note in outcome.notes)
    runs.run(classifier, images, ["gradient"], tmp_path / "fresh")
    assert values(out, "gradient") == values(tmp_path / "fresh", "gradient")


def test_a_run_is_carried_on_where_the_device_is_another(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    """Another machine measures another batch; the arrays keep the shards they were begun with."""
    out = tmp_path / "out"
    runs.run(classifier, images, ["gradient"], out, limit=2)
    info = json.loads((out / "run.json").read_text())
    info["models"]["small"]["plan"]["device"] = "cuda:0"
    (out / "run.json").write_text(json.dumps(info))
    settings = RunSettings(batch=4, memory_format="contiguous", threads=1)
    _, summary = runs.run(classifier, images, ["gradient"], out, settings=settings)
    assert (summary.computed, summary.reused) == (3, 2)
    assert len(open_run(out).maps()) == 5


def test_maps_of_an_older_image_are_hidden(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    """A method that was not asked for since an image changed has no map of what the image is now."""
    out = tmp_path / "out"
    runs.run(classifier, images, ["gradient", "ig:steps=2"], out)
    before = values(out, "ig:steps=2")
    runs.replace_image(images / "3.png", 1)
    runs.run(classifier, images, ["gradient"], out)
    assert set(values(out, "gradient")) == set(before)
    assert set(values(out, "ig:steps=2")) == set(before) - {"3.png"}
    assert "3.png" not in {
        r["image_id"] for r in open_run(out).table("diagnostics").to_pylist() if r["recipe"].startswith("small.ig")
    }
    _, summary = runs.run(classifier, images, ["gradient", "ig:steps=2"], out)
    assert (summary.computed, summary.reused) == (1, 4)
    assert len(values(out, "ig:steps=2")) == 5


def test_two_models_in_one_run(images: Path, tmp_path: Path) -> None:
    from salience.explaining import explain_run

    a, b = small_classifier(name="a"), small_classifier(seed=3, name="b")
    out = tmp_path / "out"
    explain_run([a], images, ["gradient"], out, settings=runs.SETTINGS)
    outcome = explain_run([a, b], images, ["gradient"], out, settings=runs.SETTINGS)
    assert (outcome.summaries["a"].computed, outcome.summaries["b"].computed) == (0, 5)
    assert outcome.run.models == ("a", "b")
    assert not np.array_equal(outcome.run.maps(model="a").values, outcome.run.maps(model="b").values)
    assert len(outcome.run.table("predictions")) == 10
