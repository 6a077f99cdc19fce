"""Maps made again: closed forms of a linear model, and weights that come back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from salience.engine.passes import Calls
from salience.engine.plan import Plan
from salience.engine.sweep import Sweep
from salience.engine.targets import parse_target
from salience.engine.tune import running
from salience.errors import MetricError
from salience.evaluating import evaluate
from salience.explaining import RunSettings
from salience.methods.registry import parse_method
from salience.metrics.metric import Seen
from salience.metrics.registry import parse_metric
from salience.metrics.remaking import Maker, remade
from salience.metrics.robustness import MaxSensitivity, Randomisation, layers_from_output, randomised
from salience.testing.contracts import example_images
from salience.testing.models import linear_classifier, small_classifier

HOW = RunSettings(batch=4, memory_format="contiguous", threads=1)


def values(metric: str, methods: list[str], classifier) -> dict[str, list[float]]:
    scores = evaluate(
        classifier, example_images(classifier, 3), methods, metrics=[metric], labels="predicted", settings=HOW
    )
    found: dict[str, list[float]] = {}
    for row in scores.table.to_pylist():
        found.setdefault(row["method"], []).append(row["value"])
    return found


def test_the_gradient_of_a_linear_model_does_not_move() -> None:
    classifier, _ = linear_classifier(8, 3)
    found = values("max-sensitivity", ["gradient", "ig:steps=4"], classifier)
    assert found["gradient"] == [0.0] * 3
    assert all(0 < v < 0.5 for v in found["ig:steps=4"])  # gradient times input moves with the input
    assert set(found) == {"gradient", "ig:steps=4"}  # baselines are not made by the model


def test_a_larger_radius_moves_maps_more() -> None:
    classifier = small_classifier()
    small, large = (values(f"max-sensitivity:radius={r}", ["gradient"], classifier)["gradient"] for r in (0.005, 0.2))
    assert all(a < b for a, b in zip(small, large, strict=True))


@pytest.mark.parametrize(
    ("metric", "maps", "rounds"), [("max-sensitivity:draws=3", 4, 1), ("randomisation:stages=2", 1, 3)]
)
def test_images_fill_the_batches_together(metric: str, maps: int, rounds: int) -> None:
    classifier = small_classifier()
    plan, images = Plan(8, "contiguous", 1), torch.rand(40, 3, 16, 16)
    target = parse_target("label", classifier.class_names)
    counted: list[Calls] = []
    method = parse_method("gradient").method
    maker = Maker(lambda: Sweep(classifier, [method], target, None, 0, plan), counted.append, plan.batch)
    labels = classifier.logits(images).argmax(1)
    none = torch.zeros(0)
    seen = [Seen(str(i), 0, images[i], none, labels[i : i + 1], none, none) for i in range(40)]
    chosen = parse_metric(metric)[0].metric
    calls = []
    with running(classifier, plan), classifier.module.register_forward_pre_hook(lambda *_: calls.append(1)):
        found = dict(remade(chosen, seen, maker))
    assert len(calls) == 40 * maps * rounds // 8
    assert sum(c.forward for c in counted) == 40 * maps * rounds
    assert sorted(found) == list(range(40))
    with running(classifier, plan):
        alone = [next(remade(chosen, [one], maker))[1] for one in seen[:6]]
    assert [float(v) for v in alone] == [float(found[i]) for i in range(6)]


def test_a_map_that_is_not_finite_ends_the_score_of_its_image_alone() -> None:
    classifier = small_classifier()
    limit = classifier.normalise(torch.full((1, 3, 16, 16), 0.9))
    classifier.module.register_forward_pre_hook(lambda _, args: (args[0] * torch.where(args[0] > limit, torch.nan, 1),))
    images = np.zeros((5, 16, 16, 3), np.uint8)
    images[:, ::2] = 120
    images[2, :, ::3] = 228  # near enough that a change goes beyond
    scores = evaluate(
        classifier, images, ["gradient"], metrics=["max-sensitivity:radius=0.05"], labels="predicted", settings=HOW
    )
    assert [row["image_id"] for row in scores.table.to_pylist()] == ["000000", "000001", "000003", "000004"]
    (failure,) = scores.failures
    assert "a map that it makes again is not finite" in failure["message"]


def test_other_weights_give_a_linear_model_an_unrelated_gradient() -> None:
    classifier, _ = linear_classifier(16, 3)
    (first, *_) = values("randomisation:stages=1", ["gradient:channels=sum"], classifier)["gradient:channels=sum"]
    assert abs(first) < 0.25


def test_layers_from_the_output_down_and_back_again() -> None:
    classifier = small_classifier()
    module = classifier.module
    names = [name for name, _ in layers_from_output(module)]
    assert names == ["fc", "conv2", "norm", "conv1"]
    before = {k: v.clone() for k, v in module.state_dict().items()}
    storage = [p.data_ptr() for p in module.parameters()]
    with pytest.raises(KeyError), randomised(layers_from_output(module)[:2], seed=0):  # noqa: PT012
        now = dict(module.named_parameters())
        assert not torch.equal(now["fc.weight"], before["fc.weight"])
        assert torch.equal(now["conv1.weight"], before["conv1.weight"])
        drawn = now["conv2.weight"].flatten()
        assert float(drawn.std()) == pytest.approx(float(before["conv2.weight"].std()), rel=0.15)
        raise KeyError
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert [p.data_ptr() for p in module.parameters()] == storage


@pytest.mark.parametrize("wrong", [lambda: MaxSensitivity(radius=0), lambda: Randomisation(stages=0)])
def test_settings_that_make_no_sense(wrong) -> None:
    with pytest.raises(MetricError):
        wrong()
