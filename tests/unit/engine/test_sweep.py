"""What a batch does when memory runs out, when the model answers oddly, or with something else than a tensor."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import runs
import torch

import salience
from salience.data.labels import resolve_labels
from salience.data.source import open_images
from salience.engine.driver import Summary
from salience.engine.events import Event, Failed, PlanChanged
from salience.engine.hiring import carry_out
from salience.engine.mapping import MapCraft, map_work
from salience.engine.plan import Plan
from salience.engine.runner import Request, make_recipes
from salience.engine.targets import parse_target
from salience.errors import ModelError
from salience.methods.registry import parse_method
from salience.models.classifier import Classifier
from salience.store.maps import Maps
from salience.store.memory import MemorySink
from salience.testing.contracts import example_images
from salience.testing.models import Wrapped, small_classifier, small_vit

METHODS = ["gradient", "active", "ig:steps=4", "smoothgrad:samples=3"]


def explain(
    classifier: Classifier, images: np.ndarray, batch: int, methods: list[str] = METHODS
) -> tuple[dict[str, Maps], Summary, list[Event]]:
    """``salience.explain`` under a plan that nobody tried before."""
    chosen = tuple(parse_method(m) for m in methods)
    request = Request(chosen, parse_target("predicted", classifier.class_names))
    recipes = make_recipes(classifier, request, "float32", {})
    source, sink, events = open_images(images), MemorySink(), []
    labels = resolve_labels(source.refs, None, None, classifier.num_classes).values
    plan = Plan(batch, "contiguous", 1)
    craft = MapCraft(source, tuple(labels), request, tuple(recipes), "float32")
    summary = carry_out(map_work(craft, classifier, plan, sink.known(), 64), sink, None, events.append)
    maps = {
        r.label: sink.maps(
            r, signed=False, labels={}, input_size=classifier.preprocessing.size, class_names=classifier.class_names
        )
        for r in recipes
    }
    return maps, summary, events


def hungry(when: Callable[[torch.Tensor], bool]) -> Classifier:
    inner = small_classifier()
    return Classifier(
        runs.OutOfMemoryFor(inner.module, when).eval(),
        size=16,
        mean=inner.preprocessing.mean,
        std=inner.preprocessing.std,
        name="hungry",
    )


def same(a: Maps, b: Maps) -> None:
    assert a.image_ids == b.image_ids
    assert a.values.tobytes() == b.values.tobytes()
    assert {k: v.tobytes() for k, v in a.diagnostics.items()} == {k: v.tobytes() for k, v in b.diagnostics.items()}


@pytest.mark.parametrize("most", [1, 2])
def test_halves_the_batch_until_it_fits(most: int) -> None:
    images = example_images(small_classifier(), 7)
    small, _, calm = explain(hungry(lambda x: False), images, most)
    halved, summary, events = explain(hungry(lambda x: len(x) > most), images, 8)
    for method in METHODS:
        same(halved[method], small[method])
    assert [e.batch for e in events if isinstance(e, PlanChanged)] == [most]
    assert not [e for e in calm if isinstance(e, PlanChanged)]
    assert summary.plan is not None
    assert summary.plan.batch == most
    assert summary.failures == 0
    anchors = 1  # of integrated gradients
    assert summary.calls.forward == 7 * (1 + 4 + 3) + anchors
    assert summary.calls.backward == 7 * (5 + 4 + 3)


def test_memory_may_run_out_late() -> None:
    """Finished rows of a batch stay; only what did not fit is done again."""
    images = example_images(small_classifier(), 8)
    count = 0

    def late(x: torch.Tensor) -> bool:
        nonlocal count
        count += 1
        return count > 3 and len(x) > 2

    small, _, _ = explain(hungry(lambda x: False), images, 2)
    halved, summary, events = explain(hungry(late), images, 4)
    for method in METHODS:
        np.testing.assert_allclose(halved[method].values, small[method].values, rtol=1e-3, atol=1e-6)
    assert len([e for e in events if isinstance(e, PlanChanged)]) == 1
    assert summary.computed == 8


def test_an_image_that_never_fits_is_a_row() -> None:
    """And its neighbours in the batch are none the worse."""
    images = example_images(small_classifier(), 6)
    images[2, 0, 0] = 255
    mean, std = small_classifier().preprocessing.mean[0], small_classifier().preprocessing.std[0]
    white = (1 - mean) / std

    def bad(x: torch.Tensor) -> bool:
        return bool((x[:, 0, 0, 0] >= white - 1e-3).any())

    whole, _, _ = explain(hungry(lambda x: False), images, 1, ["gradient"])
    lost, summary, events = explain(hungry(bad), images, 4, ["gradient"])
    assert [(f.image_id, f.kind) for f in lost["gradient"].failures] == [("000002", "memory")]
    assert len([e for e in events if isinstance(e, Failed)]) == 1
    assert summary.failures == 1
    assert lost["gradient"].image_ids == tuple(f"00000{i}" for i in (0, 1, 3, 4, 5))
    np.testing.assert_allclose(
        lost["gradient"].values, np.delete(whole["gradient"].values, 2, axis=0), rtol=1e-4, atol=1e-8
    )


def test_a_model_that_never_fits_fails_every_image() -> None:
    images = example_images(small_classifier(), 3)
    started = []  # the class count takes one pass
    classifier = hungry(lambda x: bool(started))
    assert classifier.num_classes == 5
    started.append(True)
    maps, summary, _ = explain(classifier, images, 4, ["gradient"])
    assert len(maps["gradient"]) == 0
    assert [f.kind for f in maps["gradient"].failures] == ["memory"] * 3
    assert summary.failures == 3


def test_memory_failures_are_tried_again(tmp_path: Path) -> None:
    starved = [True]
    classifier = hungry(lambda x: starved[0] and len(runs_seen) > 0)
    runs_seen: list[int] = []
    assert classifier.num_classes == 5
    runs.write_images(tmp_path / "images", classifier, 3)
    runs_seen.append(1)
    outcome, summary = runs.run(classifier, tmp_path / "images", ["gradient"], tmp_path / "out")
    assert (summary.computed, summary.failures) == (0, 3)
    assert outcome.failures == 3
    starved[0] = False
    outcome, summary = runs.run(classifier, tmp_path / "images", ["gradient"], tmp_path / "out")
    assert (summary.computed, summary.failures) == (3, 0)
    assert outcome.failures == 0
    assert len(outcome.run.maps()) == 3


# ---------------------------------------------------------------------- answers


def wrapped(kind: str) -> Classifier:
    inner = small_classifier()
    return Classifier(
        Wrapped(inner.module, kind).eval(),
        size=16,
        mean=inner.preprocessing.mean,
        std=inner.preprocessing.std,
        name="small",
    )


@pytest.mark.parametrize("kind", ["tuple", "dict", "object"])
def test_outputs_in_another_dress(kind: str) -> None:
    images = example_images(small_classifier(), 3)
    methods = ["gradient", "active", "gradcam", "ig:steps=2"]
    plain = salience.explain(small_classifier(), images, methods, batch_size=4)
    found = salience.explain(wrapped(kind), images, methods, batch_size=4)
    for method in methods:
        same(found[method], plain[method])


@pytest.mark.parametrize("method", ["gradient", "gradcam", "ig:steps=2", "smoothgrad:samples=2"])
def test_nan_logits_are_a_row_and_touch_no_neighbour(method: str) -> None:
    images = np.clip(example_images(small_classifier(), 5), 0, 250)
    whole = salience.explain(wrapped("plain"), images, method, batch_size=4)
    images[1, 0, 0] = 255
    found = salience.explain(wrapped("nan"), images, method, batch_size=4)
    assert [(f.image_id, f.kind, f.method) for f in found.failures] == [("000001", "model", None)]
    assert "NaN" in found.failures[0].message
    assert found.image_ids == ("000000", "000002", "000003", "000004")
    assert found.values.tobytes() == whole.values[[0, 2, 3, 4]].tobytes()


def test_nan_of_a_map_alone_is_a_row_of_its_method() -> None:
    """Logits may be finite where a gradient is not: the square root of zero."""

    class Root(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            means = (x * self.scale).mean((2, 3))
            return torch.stack([means.sum(1), means[:, 0].sqrt()], 1)

    images = np.full((3, 4, 4, 3), 100, dtype=np.uint8)
    images[1, :, :, 0] = 0
    classifier = Classifier(Root(), size=4, name="root")
    found = salience.explain(classifier, images, ["gradient", "smoothgrad:samples=1:noise=0"], target=1, batch_size=4)
    assert [(f.image_id, f.kind, f.method) for f in found["gradient"].failures] == [("000001", "map", "gradient")]
    assert found["gradient"].image_ids == ("000000", "000002")
    assert np.isfinite(found["gradient"].values).all()


def test_a_broken_model_is_named() -> None:
    class Broken(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(3, 2)
            self.left = 1

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.left -= 1
            if self.left < 0:
                raise KeyError("lost")
            return self.fc(x.mean((2, 3)))

    with pytest.raises(ModelError, match=re.escape("'broken' fails on a batch of shape (4, 3, 8, 8): KeyError")):
        salience.explain(Classifier(Broken(), size=8, name="broken"), np.zeros((2, 8, 8, 3), np.uint8), batch_size=4)


def test_layers_of_a_vision_transformer_in_any_batch() -> None:
    images = example_images(small_vit(), 5)
    a = salience.explain(small_vit(), images, "gradcam", batch_size=2)
    b = salience.explain(small_vit(), images, "gradcam", batch_size=5)
    np.testing.assert_allclose(a.values, b.values, rtol=1e-4, atol=1e-6)
    assert a.values.shape == (5, 4, 4)
