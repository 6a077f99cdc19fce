"""Interventions: what a linear model must answer in closed form, controls, packing, what is asked twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from salience.comparison.attributing import Attributions
from salience.comparison.frame import to_input
from salience.comparison.interventions import FILLS, Intervener, Trial, choose_trials
from salience.comparison.stage import Made
from salience.data.preprocessing import Preprocessing
from salience.data.source import open_images
from salience.engine.fills import fill
from salience.engine.plan import Plan
from salience.models.classifier import Classifier
from salience.testing.models import linear_classifier, small_classifier

PLAN = Plan(8, "contiguous", 1, "cpu")
SIZE = 16


@pytest.fixture(autouse=True)
def _small(one_thread: None) -> None:
    """The nets of these tests are small."""


class Labels:
    """Label maps in memory."""

    def __init__(self, maps: Mapping[str, np.ndarray]) -> None:
        self._maps = maps

    def read(self, image_id: str) -> np.ndarray:
        return self._maps[image_id]

    def names(self, image_id: str) -> None:
        return None


def grid(cells: int = 4, side: int = 32) -> np.ndarray:
    at = np.arange(side) * cells // side
    return (at[:, None] * cells + at).astype(np.int32)


def pixels(count: int = 3, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def intervener(
    classifier: Classifier, images: np.ndarray, trials: Mapping[str, Sequence[Trial]], **more: Any
) -> Intervener:
    ids = [f"{i:06d}" for i in range(len(images))]
    source = open_images(images)
    defaults: dict[str, Any] = {
        "scores": dict.fromkeys(ids, 0.5),
        "targets": dict.fromkeys(ids, 1),
        "output": "logit",
        "partition": "p",
        "view": classifier.preprocessing,
    }
    labels = Labels(dict.fromkeys(ids, grid()))
    given = {"plan": PLAN, "source": source, "labels": labels, "trials": trials, **defaults, **more}
    return Intervener(classifier, **given)


def rows(made: Made) -> list[dict[str, Any]]:
    columns = made.tables["drops"]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


TRIALS = {
    "000000": [Trial("000000", 0, (0, 5), (3, 7)), Trial("000000", 2, (1,), (15,))],
    "000002": [Trial("000002", 2, (10, 11), (0, 1))],
}


def test_a_linear_model_answers_in_closed_form() -> None:
    classifier, weights = linear_classifier(SIZE, dtype=torch.float64)
    images = pixels()
    asked = intervener(classifier, images, TRIALS)
    refs = [r for r in open_images(images).refs if r.image_id in TRIALS]
    made = asked.compute(refs)
    assert not made.failures
    assert [c.image_id for c in made.images] == list(TRIALS)
    labels = to_input(grid(), classifier.preprocessing, (SIZE, SIZE))
    found = rows(made)
    assert len(found) == 3 * len(FILLS)
    for row in found:
        i = int(row["image_id"])
        (trial,) = [t for t in TRIALS[row["image_id"]] if t.concept == row["concept"]]
        x = torch.from_numpy(images[i]).permute(2, 0, 1)[None].double() / 255
        other = fill(row["fill"], x).expand_as(x)
        for column, segments in (("changed", trial.segments), ("control", trial.control)):
            mask = torch.from_numpy(np.isin(labels, segments))
            filled = torch.where(mask, other, x)
            assert row[column] == pytest.approx(float(classifier.logits(filled)[0, 1].detach()), rel=1e-9)
            # in closed form: the logit changes by the weights times the change of the pixels
            step = (torch.from_numpy(weights[1]) * (filled - x)[0]).sum()
            assert row[column] - float(classifier.logits(x)[0, 1].detach()) == pytest.approx(float(step), rel=1e-7)
        assert row["area"] == pytest.approx(len(trial.segments) / 16)
        assert row["control_area"] == pytest.approx(len(trial.control) / 16)
        assert (row["clean"], row["target"], row["model"]) == (0.5, 1, "linear")


def test_an_image_answers_the_same_alone_and_beside_others() -> None:
    classifier = small_classifier(SIZE)
    images = pixels()
    asked = intervener(classifier, images, TRIALS, output="margin")
    refs = [r for r in open_images(images).refs if r.image_id in TRIALS]
    together = rows(asked.compute(refs))
    apart = [row for ref in reversed(refs) for row in rows(asked.compute([ref]))]
    order = lambda r: (r["image_id"], r["concept"], r["fill"])
    assert sorted(together, key=order) == sorted(apart, key=order)


def test_calls_are_full_and_counted() -> None:
    classifier = small_classifier(SIZE)
    calls: list[int] = []
    classifier.module.register_forward_hook(lambda _m, _a, out: calls.append(len(out)))
    asked = intervener(classifier, pixels(), TRIALS)
    refs = [r for r in open_images(pixels()).refs if r.image_id in TRIALS]
    made = asked.compute(refs)
    assert made.forward == 3 * len(FILLS) * 2
    assert calls == [8, 8]  # twelve rows, the last call filled up
    assert asked.calls_per_image() == 8


def test_what_a_crop_leaves_out_changes_nothing() -> None:
    module = small_classifier(SIZE).module
    classifier = Classifier(module, size=SIZE, crop=0.5)  # sees the middle half
    images = np.random.default_rng(1).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    outside = {"000000": [Trial("000000", 0, (0, 3), (12, 15))]}
    made = intervener(classifier, images, outside).compute(open_images(images).refs)
    for row in rows(made):
        assert row["changed"] == row["control"]
    inside = {"000000": [Trial("000000", 0, (5,), (15,))]}
    made = intervener(classifier, images, inside).compute(open_images(images).refs)
    assert all(row["changed"] != row["control"] for row in rows(made))


def test_answers_that_are_no_numbers_are_a_failure_of_the_image() -> None:
    class Spoilt(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            flat = x.mean((1, 2, 3))
            return torch.stack([flat, 1 / (flat > 0.45).float() - 1], 1)

    images = pixels(2)
    images[1] //= 4
    trials = {i: [Trial(i, 0, (0,), (1,))] for i in ("000000", "000001")}
    asked = intervener(Classifier(Spoilt(), size=SIZE), images, trials)
    made = asked.compute(open_images(images).refs)
    assert [c.image_id for c in made.images] == ["000000", "000001"]  # asked again, it would answer the same
    assert {r["image_id"] for r in rows(made)} == {"000000"}
    (failure,) = made.failures
    assert failure.failure.image_id == "000001"
    assert failure.recipe == asked.recipe
    assert "not finite" in failure.failure.message


def test_an_unreadable_image_is_a_failure_and_is_not_finished() -> None:
    source = open_images([np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, SIZE, 3), np.uint8)])
    asked = replace(intervener(small_classifier(SIZE), pixels(2), {"000000": TRIALS["000000"]}), source=source)
    read = source.read
    source.read = lambda ref: (_ for _ in ()).throw(OSError("gone")) if ref.index == 0 else read(ref)  # type: ignore[method-assign]
    made = asked.compute(source.refs[:1])
    assert made.images == []
    assert "gone" in made.failures[0].failure.message


def test_memory_that_runs_out_halves_the_batch() -> None:
    classifier = small_classifier(SIZE)

    def refuse(_module: Any, args: tuple[torch.Tensor, ...]) -> None:
        if len(args[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    plain = rows(intervener(classifier, pixels(), TRIALS, plan=replace(PLAN, batch=2)).compute(_refs()))
    classifier.module.register_forward_pre_hook(refuse)
    asked = intervener(classifier, pixels(), TRIALS)
    assert rows(asked.compute(_refs())) == plain
    assert asked.plan.batch == 2  # of eight, in two steps


def _refs() -> list[Any]:
    return [r for r in open_images(pixels()).refs if r.image_id in TRIALS]


def test_what_decides_the_answers_is_in_the_recipe() -> None:
    base = intervener(small_classifier(SIZE), pixels(), TRIALS)
    fewer = {"000000": TRIALS["000000"]}
    moved = {**TRIALS, "000002": [Trial("000002", 2, (10, 11), (0, 2))]}
    others = [
        intervener(small_classifier(SIZE, seed=1), pixels(), TRIALS),
        intervener(small_classifier(SIZE), pixels(), fewer),
        intervener(small_classifier(SIZE), pixels(), moved),
        intervener(small_classifier(SIZE), pixels(), TRIALS, output="margin"),
        intervener(small_classifier(SIZE), pixels(), TRIALS, partition="q"),
        intervener(small_classifier(SIZE), pixels(), TRIALS, targets=dict.fromkeys(TRIALS, 2)),
    ]
    assert len({base.recipe, *(o.recipe for o in others)}) == 1 + len(others)
    again = intervener(small_classifier(SIZE), pixels(), TRIALS, plan=replace(PLAN, batch=2))
    assert again.recipe == base.recipe


# ------------------------------------------------------------------ which images, which controls


def attributions(images: int, segments: int) -> Attributions:
    starts = np.arange(images + 1) * segments
    area = np.full(images * segments, 1 / segments)
    ids = tuple(f"{i:06d}" for i in range(images))
    return Attributions(ids, starts, None, area, area, area, {}, {})


def trials_of(
    images: int, concept: np.ndarray, worth: Sequence[int], most: int, seed: int = 0
) -> dict[str, list[Trial]]:
    made = attributions(images, 16)
    return choose_trials(made, concept, worth, Labels(dict.fromkeys(made.images, grid())), most, seed)


def test_controls_are_other_segments_of_the_same_area() -> None:
    concept = np.tile(np.arange(16) % 4, 5)
    for some in trials_of(5, concept, [0, 3], 100).values():
        assert [t.concept for t in some] == [0, 3]
        for trial in some:
            assert trial.segments == tuple(range(trial.concept, 16, 4))
            assert len(trial.control) == 4
            assert not set(trial.control) & set(trial.segments)


def test_of_many_images_as_many_are_drawn_by_key() -> None:
    concept = np.tile(np.arange(16) % 4, 50)
    first = trials_of(50, concept, [1], 10)
    assert len(first) == 10
    assert list(first) == sorted(first)
    assert trials_of(50, concept, [1], 10) == first
    assert set(trials_of(50, concept, [1], 10, seed=1)) != set(first)
    more = trials_of(50, concept, [1], 20)
    assert set(first) < set(more)  # a larger number keeps the smaller one's images
    assert all(more[i] == first[i] for i in first)


def test_a_concept_that_fills_the_image_has_no_control_and_no_trial() -> None:
    concept = np.zeros(32, dtype=int)
    concept[16:] = np.arange(16) % 2
    assert set(trials_of(2, concept, [0], 100)) == {"000001"}
    assert trials_of(2, np.zeros(32, dtype=int), [0], 100) == {}


def test_views_of_floats_are_the_whole_image() -> None:
    whole = Preprocessing(size=(SIZE, SIZE), fit="squash")
    classifier = Classifier(small_classifier(SIZE).module, size=SIZE, crop=0.5)
    floats = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    corner = {"000000": [Trial("000000", 0, (0,), (15,))]}
    made = intervener(classifier, floats, corner, view=whole).compute(open_images(floats).refs)
    assert all(row["changed"] != row["control"] for row in rows(made))
