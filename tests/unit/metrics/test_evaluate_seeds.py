"""Several seeds: methods that draw are made again, their numbers are means, and their spread is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from torch import Tensor, nn

import salience
from salience.errors import SettingsError
from salience.evaluating import evaluate
from salience.explaining import RunSettings, explain
from salience.models.classifier import Classifier
from salience.scores import Scores, read_scores
from salience.testing.contracts import example_images
from salience.testing.models import small_classifier

HOW = RunSettings(batch=8, memory_format="contiguous", threads=1)
METHODS = ["gradient", "smoothgrad:samples=3", "random"]


def scored(folder: Path, out: str | None = "run", **how: object) -> Scores:
    given = {
        "methods": METHODS,
        "metrics": ["complete-sound:points=4", "gini"],
        "labels": "predicted+2",
        "settings": HOW,
        "seeds": 3,
        **how,
    }
    model = how.pop("model", None) or small_classifier()
    given.pop("model", None)
    images = example_images(small_classifier(), 4)
    return evaluate(model, images, out=None if out is None else folder / out, **given)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Scores]:
    folder = tmp_path_factory.mktemp("seeds")
    return folder / "run", scored(folder)


def test_methods_that_draw_are_repeated_and_no_others(run: tuple[Path, Scores]) -> None:
    folder, scores = run
    assert scores.repeats == {
        "smoothgrad:samples=3": ("smoothgrad:samples=3 (seed 1)", "smoothgrad:samples=3 (seed 2)"),
        "random (2)": ("random (2) (seed 1)", "random (2) (seed 2)"),  # 'random' is the baseline
    }
    assert not set(scores.methods) & {name for names in scores.repeats.values() for name in names}
    again = salience.open_run(folder / "seeds" / "2")
    assert again.methods == ("smoothgrad:samples=3", "random")
    ranked = {r["method"]: r for r in scores.ranking("gini")}
    assert {m for m, r in ranked.items() if r["seeds"] == 3} == {"smoothgrad:samples=3", "random (2)"}
    assert ranked["gradient"]["seeds"] == 1
    assert ranked["gradient"]["between_seeds"] is None
    assert set(ranked) == set(scores.methods)


def test_maps_of_a_seed_are_those_of_that_seed(run: tuple[Path, Scores]) -> None:
    maps = explain(
        small_classifier(), example_images(small_classifier(), 4), "smoothgrad", samples=3, target="predicted+2",
        seed=2, batch_size=8,
    )  # fmt: skip
    kept = salience.open_run(run[0] / "seeds" / "2").maps("smoothgrad:samples=3")
    found = dict(zip(zip(kept.image_ids, kept.targets.tolist(), strict=True), kept.values, strict=True))
    for image, target, values in zip(maps.image_ids, maps.targets.tolist(), maps.values, strict=True):
        np.testing.assert_allclose(found[image, target], values, atol=1e-3 * np.abs(values).max())


@pytest.mark.parametrize("metric", ["gini", "complete-and-sound:points=4"])
def test_the_mean_is_over_seeds_and_the_spread_is_between_their_means(run: tuple[Path, Scores], metric: str) -> None:
    _, scores = run
    name = "smoothgrad:samples=3"
    alone = []
    for line in (name, *scores.repeats[name]):
        table = scores.table.filter(pc.equal(scores.table["method"], line))
        of_one = Scores(table, scores.curves, scores.metrics, {line: scores.methods[name]})
        (row,) = of_one.ranking(metric)
        alone.append(row["mean"])
    (row,) = [r for r in scores.ranking(metric) if r["method"] == name]
    assert len(set(alone)) == 3
    assert row["between_seeds"] == pytest.approx(np.std(alone, ddof=1))
    if metric == "gini":
        assert row["mean"] == pytest.approx(np.mean(alone))


def test_it_resumes_and_reads_back(run: tuple[Path, Scores]) -> None:
    folder, scores = run
    units = sorted((folder / "units").iterdir()) + sorted((folder / "seeds" / "1" / "units").iterdir())
    again = scored(folder.parent)
    assert sorted((folder / "units").iterdir()) + sorted((folder / "seeds" / "1" / "units").iterdir()) == units
    assert again.ranking() == scores.ranking() == read_scores(str(folder)).ranking()
    one = scored(folder.parent, seeds=1)
    assert one.repeats == {}
    assert {r["seeds"] for r in one.ranking()} == {1}
    assert scored(folder.parent).ranking() == scores.ranking()


class Touchy(nn.Module):
    """Answers with NaN where the first pixel's red is above a limit; remembers the largest one it saw."""

    limit, seen, begun = float("inf"), 0.0, False

    def hear(self, event: object) -> None:
        kind = getattr(event, "kind", "")
        self.begun = kind == "started" or (self.begun and kind != "finished")

    def forward(self, x: Tensor) -> Tensor:
        red = x[:, 0, 0, 0]
        if self.begun:  # not while the model is measured
            self.seen = max(self.seen, float(red.detach().max()))
        z = torch.stack([x.mean((1, 2, 3)), x[:, :, :8].mean((1, 2, 3)), x[:, :, :, :8].mean((1, 2, 3))], 1)
        return z * torch.where(red.unsqueeze(1) > self.limit, float("nan"), 9.0)


def test_a_map_that_fails_under_another_seed_is_told_and_left_out() -> None:
    module = Touchy()
    model = Classifier(module, size=16, name="touchy", capabilities=frozenset({"gradients"}))

    def of(seeds: int) -> Scores:
        images = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
        images[:, 0, 0] = 128
        how = {"metrics": ["gini"], "labels": "predicted", "settings": HOW, "listen": module.hear}
        return evaluate(model, images, ["smoothgrad:samples=2"], seeds=seeds, **how)

    of(1)
    module.limit = module.seen + 1e-4  # the first seed's noise never goes beyond
    assert of(1).failures == ()
    scores = of(3)
    told = {(f["image_id"], f["method"]) for f in scores.failures}
    assert told
    assert {name for _, name in told} <= set(scores.repeats["smoothgrad:samples=2"])
    (row,) = [r for r in scores.ranking("gini") if r["method"] == "smoothgrad:samples=2"]
    assert 0 < row["n"] == 12 - len({image for image, _ in told})
    assert row["seeds"] == 3


def test_no_seed_is_no_number() -> None:
    with pytest.raises(SettingsError, match="seeds is 0"):
        evaluate(small_classifier(), example_images(small_classifier(), 2), METHODS, seeds=0)
