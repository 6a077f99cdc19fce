"""The whole of evaluate on models whose truth is known: tables, baselines, resuming, external maps, tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from torch import Tensor, nn

import salience
from salience.errors import MetricError, RunError, SalienceError, SettingsError
from salience.evaluating import evaluate
from salience.explaining import RunSettings, explain, explain_run
from salience.models.classifier import Classifier
from salience.scores import HEADLINE, read_scores
from salience.store.maps import Maps
from salience.testing.contracts import example_images
from salience.testing.models import small_classifier

HOW = RunSettings(batch=8, memory_format="contiguous", threads=1)
SIZE = 12


class Patches(nn.Module):
    """Class c is as likely as patch c is bright: corner patches of 4 x 4 pixels, four classes."""

    corners = ((0, 0), (0, 8), (8, 0), (8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, :, r : r + 4, c : c + 4].mean((1, 2, 3)) * 12 for r, c in self.corners], 1)


def patches() -> Classifier:
    return Classifier(Patches(), size=SIZE, name="patches", capabilities=frozenset({"gradients"}))


def pictures(count: int = 5) -> np.ndarray:
    """Patch i % 4 bright, the next one half as bright, on black."""
    images = np.zeros((count, SIZE, SIZE, 3), dtype=np.uint8)
    for i in range(count):
        for rank, level in ((0, 255), (1, 128)):
            r, c = Patches.corners[(i + rank) % 4]
            images[i, r : r + 4, c : c + 4] = level
    return images


def truth(kind: str, count: int = 5) -> Maps:
    """Maps of four labels: ``truth`` shows the label's own patch, ``blind`` the predicted one's, ``flat`` nothing."""
    values = np.zeros((count, 4, SIZE, SIZE), dtype=np.float32)
    for i in range(count):
        for label in range(4):
            shown = {"truth": label, "blind": i % 4, "flat": None}[kind]
            if shown is not None:
                r, c = Patches.corners[shown]
                values[i, label, r : r + 4, c : c + 4] = 1
    ids = tuple(f"{i:06d}" for i in range(count) for _ in range(4))
    return Maps(
        values.reshape(-1, SIZE, SIZE),
        ids,
        np.tile(np.arange(4), count),
        np.zeros((len(ids), 4), np.float32),
        np.zeros(len(ids), np.float32),
        np.full(len(ids), -1),
        "patches",
        kind,
        False,
        (SIZE, SIZE),
    )


def rows(scores: salience.Scores, **where: object) -> list[dict[str, object]]:
    table = scores.table
    for column, value in where.items():
        table = table.filter(pc.is_null(table[column]) if value is None else pc.equal(table[column], value))
    return table.to_pylist()


def mean(scores: salience.Scores, metric: str, method: str) -> float:
    (row,) = [r for r in scores.ranking(metric) if r["method"] == method]
    return float(row["mean"])


@pytest.fixture(scope="module")
def known() -> salience.Scores:
    torch.set_num_threads(1)
    return evaluate(
        patches(),
        pictures(),
        maps=[truth("truth"), truth("blind"), truth("flat")],
        metrics=["complete-sound:points=9", "insertion:points=9", "deletion:points=9", "srg:points=9"],
        background="black",
        labels="all",
        settings=HOW,
    )


def softmax(levels: dict[int, float]) -> np.ndarray:
    z = np.array([12 * levels.get(c, 0.0) for c in range(4)])
    p = np.exp(z - z.max())
    return p / p.sum()


def test_a_map_that_is_the_truth(known: salience.Scores) -> None:
    """With k = 16, 32, ..., 144 the label's own patch is shown first: by hand, the curve of the predicted label is
    p(bright) until the rest, in an order of the image's own, brings the half bright patch in."""
    p_clean = softmax({0: 1.0, 1: 128 / 255})[0]
    (image,) = rows(known, method="truth", metric="completeness:points=9", image_id="000000", position=0)
    assert image["label"] == 0
    assert p_clean <= float(image["value"]) <= 1
    assert float(image["value"]) == 1.0  # without its rival the label is likelier than in the whole image
    curves = known.curves.filter(pc.equal(known.curves["method"], "truth")).to_pylist()
    (curve,) = [
        c
        for c in curves
        if c["image_id"] == "000000" and c["label"] == 0 and c["curve"] == "keep" and c["output"] == "restricted"
    ]
    assert curve["fractions"] == pytest.approx([k / 144 for k in range(0, 145, 16)])
    assert curve["values"][0] == pytest.approx(0.25)
    assert curve["values"][1] == pytest.approx(softmax({0: 1.0})[0])
    assert curve["values"][-1] == pytest.approx(p_clean)


def test_what_the_map_of_a_wrong_label_shows(known: salience.Scores) -> None:
    """The runner-up's own patch alone makes it certain: a true map of a wrong label is not sound here."""
    first = softmax({1: 128 / 255})[1]
    clean = softmax({0: 1.0, 1: 128 / 255})[1]
    (row,) = rows(known, method="truth", metric="runner-up-soundness:points=9", image_id="000000", label=None)
    assert float(row["value"]) < max(0.1, clean) / (first / 9)
    assert mean(known, "worst-soundness:points=9", "blind") > mean(known, "worst-soundness:points=9", "truth")


def test_a_map_that_ignores_the_label_is_found_out_by_nothing_but_completeness_of_others(
    known: salience.Scores,
) -> None:
    sound = [mean(known, "worst-soundness:points=9", m) for m in ("blind", "class-agnostic:truth")]
    assert sound[0] == sound[1]  # the cheat made here is the one that came as maps, byte for byte
    complete = [mean(known, "completeness:points=9", m) for m in ("truth", "blind", "class-agnostic:truth")]
    assert complete[0] == complete[1] == complete[2]


def test_deletion_of_the_truth_kills_the_label_at_once(known: salience.Scores) -> None:
    (curve,) = [
        c
        for c in known.curves.to_pylist()
        if c["method"] == "truth" and c["image_id"] == "000000" and c["curve"] == "delete" and c["output"] == "full"
    ]
    assert curve["values"][0] == pytest.approx(softmax({0: 1.0, 1: 128 / 255})[0])
    assert curve["values"][1] == pytest.approx(softmax({1: 128 / 255})[0])
    assert mean(known, "srg:points=9", "truth") > mean(known, "srg:points=9", "flat")


def test_a_constant_map_keeps_pixels_at_random(known: salience.Scores) -> None:
    """Its ties are broken by the image, not by the method or label: two constant maps score the same."""
    again = evaluate(
        patches(),
        pictures(),
        maps=[truth("flat"), truth("blind")],
        metrics=["srg:points=9"],
        background="black",
        labels="all",
        settings=HOW,
    )
    assert rows(again, method="flat") != []
    assert [r["value"] for r in rows(again, method="flat")] == [
        r["value"] for r in rows(known, method="flat", metric="srg:points=9")
    ]


def test_baselines_are_always_in_the_table(known: salience.Scores) -> None:
    assert list(known.methods) == [
        "truth",
        "blind",
        "flat",
        "random",
        "random-blurred",
        "sobel",
        "centre",
        "class-agnostic:truth",
    ]
    kinds = [known.methods[m]["kind"] for m in known.methods]
    assert kinds == ["method"] * 3 + ["baseline"] * 5
    assert {r["method"] for r in known.ranking(HEADLINE.replace(HEADLINE, "srg:points=9"))} == set(known.methods)


def test_columns_of_the_table(known: salience.Scores) -> None:
    assert {"image_id", "model", "method", "label", "metric", "background", "smooth", "value"} <= set(
        known.table.column_names
    )
    per_image = rows(known, method="truth", image_id="000000")
    counted = {m: sum(r["metric"] == m for r in per_image) for m in known.metrics}
    assert counted == {
        "completeness:points=9": 4,
        "worst-completeness:points=9": 1,
        "soundness:points=9": 3,
        "worst-soundness:points=9": 1,
        "runner-up-soundness:points=9": 1,
        "wrong-auc:points=9": 1,
        "agreement:points=9": 1,
        "insertion:points=9": 1,
        "deletion:points=9": 1,
        "srg:points=9": 1,
    }


# ---------------------------------------------------------------------- runs


def methods_run(folder: Path, out: str, **how: object) -> salience.Scores:
    classifier = small_classifier()
    images = folder / "images.npz"
    if not images.exists():
        np.savez(images, images=example_images(classifier, 5))
    given = {
        "metrics": ["complete-sound:points=4", "srg:points=4", "gini", "average-drop"],
        "background": ["dataset-mean", "dataset:draws=2"],
        "labels": "predicted+2",
        "settings": RunSettings(batch=8, memory_format="contiguous", threads=1, unit_images=2),
        **how,
    }
    return evaluate(classifier, images, ["gradient", "gradcam"], out=folder / out, **given)


def test_a_finished_run_is_not_computed_again(tmp_path: Path) -> None:
    first = methods_run(tmp_path, "run")
    units = sorted((tmp_path / "run" / "units").iterdir())
    events = []
    again = methods_run(tmp_path, "run", listen=events.append)
    assert sorted((tmp_path / "run" / "units").iterdir()) == units
    assert again.table.equals(first.table)
    started = [e for e in events if getattr(e, "verb", "") == "score" and e.kind == "started"]
    assert [(e.images, e.reused) for e in started] == [(0, 5)]


def test_another_metric_computes_only_what_is_missing(tmp_path: Path) -> None:
    first = methods_run(tmp_path, "run", metrics=["srg:points=4"], background="black")
    more = methods_run(tmp_path, "run", metrics=["srg:points=4", "entropy"], background="black")
    forward = [r for r in more.table.to_pylist() if r["metric"] == "srg:points=4"]
    assert forward == first.table.to_pylist()
    assert {r["metric"] for r in more.table.to_pylist()} == {"srg:points=4", "entropy"}
    less = methods_run(tmp_path, "run", metrics=["entropy"], background="black")
    assert {r["metric"] for r in less.table.to_pylist()} == {"entropy"}  # the table is about the last call


def test_a_metric_of_curves_that_are_stored_asks_the_model_nothing_about_masks(tmp_path: Path) -> None:
    """All that is asked again is the whole image; values are the bytes of a run that asked for all at once."""
    two = ["complete-sound:points=4", "srg:points=4"]
    methods_run(tmp_path, "run", metrics=two)
    events = []
    every = [*two, "insertion:points=4", "deletion:points=4", "completeness:points=4:eps=0.2", "gini"]
    more = methods_run(tmp_path, "run", metrics=every, listen=events.append)
    (done,) = [e for e in events if getattr(e, "verb", "") == "score" and e.kind == "finished"]
    assert (done.computed, done.forward_calls) == (5, 5)
    whole = methods_run(tmp_path, "whole", metrics=every)
    assert more.ranking() == whole.ranking()
    order = [("recipe", "ascending"), ("image_id", "ascending"), ("position", "ascending")]
    assert more.table.sort_by(order).equals(whole.table.sort_by(order))

    finer = [*every, "insertion:points=8"]
    methods_run(tmp_path, "run", metrics=finer, listen=events.append)
    (_, done) = [e for e in events if getattr(e, "verb", "") == "score" and e.kind == "finished"]
    assert done.forward_calls > 5  # other points: a sweep of their own


def test_a_run_in_memory_equals_one_on_disk(tmp_path: Path) -> None:
    on_disk = methods_run(tmp_path, "run")
    in_memory = evaluate(
        small_classifier(),
        tmp_path / "images.npz",
        ["gradient", "gradcam"],
        metrics=["complete-sound:points=4", "srg:points=4", "gini", "average-drop"],
        background=["dataset-mean", "dataset:draws=2"],
        labels="predicted+2",
        settings=RunSettings(batch=8, memory_format="contiguous", threads=1, unit_images=2),
    )
    assert in_memory.run is None
    assert in_memory.table.equals(on_disk.table)
    assert in_memory.ranking() == on_disk.ranking()
    assert read_scores(str(tmp_path / "run")).ranking() == on_disk.ranking()


def test_an_image_that_changed_is_scored_again(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, image in enumerate(example_images(small_classifier(), 3)):
        Image.fromarray(image).save(folder / f"{i}.png")

    def scored() -> dict[str, list[float]]:
        scores = evaluate(
            small_classifier(),
            folder,
            ["gradient"],
            metrics=["srg:points=4"],
            labels="predicted",
            out=tmp_path / "run",
            settings=HOW,
        )
        return {i: [r["value"] for r in rows(scores, image_id=i)] for i in ("0.png", "1.png", "2.png")}

    before = scored()
    Image.fromarray(example_images(small_classifier(), 1, seed=9)[0]).save(folder / "1.png")
    after = scored()
    assert {i for i in before if before[i] != after[i]} == {"1.png"}
    assert len(after["1.png"]) == len(before["1.png"])  # the old rows are gone
    (folder / "1.png").write_bytes(b"")
    broken = scored()
    assert broken["1.png"] == []
    assert broken["0.png"] == before["0.png"]


def test_maps_of_another_run_stand_beside(tmp_path: Path) -> None:
    classifier = small_classifier()
    images = tmp_path / "images.npz"
    np.savez(images, images=example_images(classifier, 4))
    explain_run([classifier], images, ["gradient"], tmp_path / "old", target="predicted+2", settings=HOW)
    maps = explain(classifier, images, "gradient", target="predicted+2", batch_size=8)
    np.savez(
        tmp_path / "other.npz",
        values=maps.values,
        image_ids=np.array([int(i) for i in maps.image_ids]),
        targets=maps.targets,
        method=np.array("mine"),
    )
    scores = evaluate(
        classifier,
        images,
        ["gradient"],
        runs=[tmp_path / "old"],
        maps=str(tmp_path / "other.npz"),
        metrics=["complete-sound:points=4"],
        labels="predicted+2",
        out=tmp_path / "new",
        settings=HOW,
    )
    assert list(scores.methods)[:3] == ["gradient", "gradient of old", "mine"]
    found = {m: [r["value"] for r in rows(scores, method=m)] for m in list(scores.methods)[:2]}
    assert found["gradient"] == found["gradient of old"]
    with pytest.raises(RunError, match="no maps of this model"):
        evaluate(small_classifier(seed=3), images, runs=[tmp_path / "old"], settings=HOW)


def test_maps_of_the_predicted_label_alone_have_no_soundness(tmp_path: Path) -> None:
    classifier = small_classifier()
    images = example_images(classifier, 3)
    maps = explain(classifier, images, "gradient", batch_size=8)
    scores = evaluate(
        classifier, images, maps=maps, metrics=["complete-sound:points=4"], labels="predicted+2", settings=HOW
    )
    assert {r["metric"] for r in rows(scores, method="gradient")} == {"completeness:points=4"}
    assert {r["position"] for r in rows(scores, method="gradient")} == {0}
    assert rows(scores, method="random", metric="worst-soundness:points=4") != []


def test_nan_maps_are_failures(tmp_path: Path) -> None:
    maps = truth("truth")
    maps.values[4] = np.nan  # the first label of the second image
    scores = evaluate(patches(), pictures(), maps=maps, metrics=["srg:points=4", "gini"], labels="all", settings=HOW)
    (failure,) = scores.failures
    assert (failure["image_id"], failure["method"], failure["kind"]) == ("000001", "truth", "map")
    assert {r["image_id"] for r in rows(scores, method="truth")} == {f"{i:06d}" for i in (0, 2, 3, 4)}
    assert len({r["image_id"] for r in rows(scores, method="random")}) == 5
    (ranked,) = [r for r in scores.ranking("gini") if r["method"] == "truth"]
    assert ranked["n"] == 4
    assert ranked["notes"] == ["images left out because not every method has a score for them: 1"]


def test_smoothing_is_equal_for_all_and_zero_is_none() -> None:
    scores = evaluate(
        patches(), pictures(), maps=truth("truth"), metrics=["entropy"], labels="all", smooth=[0, 1, 3], settings=HOW
    )
    for method in ("truth", "random"):
        by_blur = [mean_of(rows(scores, method=method, smooth=s)) for s in (0.0, 1.0, 3.0)]
        assert by_blur == sorted(by_blur)
        assert by_blur[0] < by_blur[2]


def mean_of(found: list[dict[str, object]]) -> float:
    return float(np.mean([float(r["value"]) for r in found]))  # type: ignore[arg-type]


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"metrics": ["soundnes"]}, MetricError, "no metric 'soundnes'.*Did you mean 'soundness'"),
        ({"metrics": []}, MetricError, "No metric is named"),
        ({"metrics": ["complete-sound:gamma=1"]}, MetricError, "setting 'gamma'.*They have: beta, eps"),
        ({"metrics": ["complete-sound:eps=2"]}, MetricError, "eps is 2"),
        ({"background": "bluur"}, MetricError, "Background 'bluur' is unknown.*Did you mean 'blur'"),
        ({"background": "blur:draws=3"}, MetricError, "no setting 'draws'"),
        ({"background": "dataset:draws=0"}, MetricError, "draws is '0'"),
        ({"background": []}, MetricError, "No background"),
        ({"labels": "label"}, SettingsError, "label set is 'label'"),
        ({"smooth": [-1]}, SettingsError, "smooth is"),
        ({"maps": ()}, MetricError, "nothing to score"),
        ({"maps": "missing.npz"}, RunError, "missing.npz cannot be read"),
    ],
)
def test_refused_with_a_cure(how: dict[str, object], error: type[SalienceError], message: str) -> None:
    given = {"maps": truth("truth"), "metrics": ["gini"], "settings": HOW, **how}
    with pytest.raises(error, match=message):
        evaluate(patches(), pictures(), **given)
