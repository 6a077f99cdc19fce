"""Maps made again: closed forms of a linear model, and weights that come back."""

from __future__ import annotations

import pytest
import torch

from salience.errors import MetricError
from salience.evaluating import evaluate
from salience.explaining import RunSettings
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
