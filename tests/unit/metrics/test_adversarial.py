"""Searches for masks that bring a wrong label about, on models where the best mask is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from salience.engine.adversary import Adversary, MaskClass, Victims, log_probability, search
from salience.engine.descent import ModelCalls
from salience.engine.fitting import roughness
from salience.engine.passes import Calls
from salience.engine.plan import Plan
from salience.engine.tune import running
from salience.errors import MetricError
from salience.evaluating import evaluate
from salience.explaining import RunSettings
from salience.metrics.adversarial import AdversarialSoundness, behind_the_worst
from salience.models.classifier import Classifier
from salience.testing.metric_contracts import SIDE, corner_classifier, corner_images, corner_maps
from salience.testing.models import linear_classifier

SIZE = 16
HOW = RunSettings(batch=8, memory_format="contiguous", threads=1)


def victims_of(classifier: Classifier, images: Tensor, labels: Tensor) -> Victims:
    behind = torch.zeros_like(images)
    return Victims(images, behind, tuple(f"{i}" for i in range(len(images))), labels, 0)


def found(classifier: Classifier, adversary: Adversary, victims: Victims, batch: int = 8) -> Tensor:
    plan = Plan(batch, "contiguous", 1)
    calls = Calls()
    with running(classifier, plan):
        values = search(adversary, victims, ModelCalls(classifier, plan, calls))
    passes = adversary.passes(victims.labels.shape[1], classifier.capabilities)
    assert (calls.forward, calls.backward) == tuple(len(victims.images) * p for p in passes)
    return values


def planted(scale: int, area: float) -> tuple[Classifier, Victims, float]:
    """A linear model of two classes over a black background. The log odds of the wrong one are a sum over the cells of
    the grid of their values times u, so the best mask of an area keeps the cells with the largest positive sums. The
    weights are scaled so that its log odds are 3."""
    classifier, weights = linear_classifier(SIZE, 2, dtype=torch.float64)
    classifier.module.bias.data.zero_()
    images = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        labels = classifier.logits(images).argsort(dim=1, descending=True)
    first, wrong = labels[0].tolist()
    pull = torch.from_numpy(weights[wrong] - weights[first]) * images[0]
    masks = MaskClass(scale, area)
    cells = masks.enlarging((SIZE, SIZE), images).adjoint(pull.sum(0, keepdim=True)).flatten()
    best = cells.sort(descending=True).values[: int(area * len(cells))].clamp_min(0).sum()
    classifier.module.weight.data.mul_(3 / best)
    return classifier, victims_of(classifier, images, labels), 1 / (1 + math.exp(-3))


@pytest.mark.parametrize("scale", [1, 4])
def test_the_best_mask_of_a_linear_model_is_found(scale: int) -> None:
    classifier, victims, best = planted(scale, 0.25)
    adversary = Adversary(MaskClass(scale, 0.25), "black", steps=200)
    value = float(found(classifier, adversary, victims))
    assert value <= best + 1e-6
    assert value == pytest.approx(best, rel=0.01)


def test_an_evolution_comes_near_it_with_outputs_alone() -> None:
    classifier, victims, best = planted(4, 0.25)
    blind = Classifier(classifier.module, size=SIZE, capabilities=frozenset())
    value = float(found(blind, Adversary(MaskClass(4, 0.25), "black", queries=2048), victims))
    flat = float(found(blind, Adversary(MaskClass(4, 0.25), "black", queries=16), victims))
    assert flat < value <= best + 1e-6
    assert value > 0.95 * best


def test_masks_are_brought_into_their_class_by_one_factor() -> None:
    masks = torch.rand(5, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    masks[4] = 0
    for limits in (MaskClass(1, 0.2), MaskClass(1, 0.9, 0.05), MaskClass(1, 0.3, 0.01)):
        factor = limits.factor(masks)
        inside = masks * factor.view(-1, 1, 1)
        assert bool((inside.mean((1, 2)) <= limits.area + 1e-12).all())
        assert factor[4] == 1
        if limits.tv is not None:
            assert bool((roughness(inside) / 144 <= limits.tv + 1e-12).all())
        assert bool((limits.factor(inside) > 1 - 1e-9).all())  # no smaller than need be


@pytest.mark.parametrize("limits", [MaskClass(1, 0.2), MaskClass(1, 0.9, 0.01), MaskClass(1, 1.0)])
def test_the_slope_through_the_factor_is_that_of_autograd(limits: MaskClass) -> None:
    masks = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    weights = torch.randn(3, 9, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    factor = limits.factor(masks)
    (wanted,) = torch.autograd.grad((masks * factor.view(-1, 1, 1) * weights).sum(), masks)
    with torch.no_grad():
        torch.testing.assert_close(limits.slope(masks, factor, weights), wanted)


@pytest.mark.parametrize("softmax", ["restricted", "full"])
def test_log_probability_and_its_slope(softmax: str) -> None:
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    labels = torch.tensor([[2, 0, 5], [1, 2, 3], [4, 3, 0], [0, 1, 2]])
    column = torch.tensor([1, 2, 0, 1])
    value, slope = log_probability(logits.detach(), labels, column, softmax)
    own = labels.gather(1, column.unsqueeze(1))
    if softmax == "full":
        wanted = logits.log_softmax(1).gather(1, own)[:, 0]
    else:
        wanted = (logits.gather(1, own) - logits.gather(1, labels).logsumexp(1, keepdim=True))[:, 0]
    torch.testing.assert_close(value, wanted.detach())
    torch.testing.assert_close(slope, torch.autograd.grad(wanted.sum(), logits)[0])


def test_a_smaller_class_reaches_less() -> None:
    classifier, victims, _ = planted(4, 0.25)

    def reach(**limits: float) -> float:
        return float(found(classifier, Adversary(MaskClass(4, **limits), "black", steps=60), victims))

    assert reach(area=0.06) < reach(area=0.25)
    assert reach(area=0.25, tv=1e-4) < reach(area=0.25)


def test_what_is_found_does_not_depend_on_the_company() -> None:
    classifier = corner_classifier()
    images = torch.from_numpy(corner_images(5)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        labels = classifier.logits(images).argsort(dim=1, descending=True)
    for adversary in (
        Adversary(MaskClass(4, 0.2, 0.01), "black", steps=6, starts=2),
        Adversary(MaskClass(2, 0.2), "black", search="evolution", queries=48),
    ):
        together = found(classifier, adversary, victims_of(classifier, images, labels))
        for i in (1, 4):
            alone = Victims(images[i : i + 1], torch.zeros(1, 3, SIDE, SIDE), (f"{i}",), labels[i : i + 1], 0)
            assert torch.equal(found(classifier, adversary, alone)[0], together[i])


def test_the_ratio_by_hand() -> None:
    """Soundness of the method's worst mask is 0.1 / 0.4, of the worst of all 0.1 / 0.5."""
    own, reached, clean = (torch.tensor(v, dtype=torch.float64) for v in ([0.4, 0.1], [0.3, 0.5], [0.05, 0.02]))
    assert float(behind_the_worst(own, reached, clean, 0.1)) == pytest.approx(1 - (1 - 0.25) / (1 - 0.2))
    assert float(behind_the_worst(reached, own, clean, 0.1)) == pytest.approx(0)  # the method's masks count as found
    quiet = torch.tensor([0.05, 0.05], dtype=torch.float64)
    assert float(behind_the_worst(quiet, reached, clean, 0.1)) == 1
    assert math.isnan(float(behind_the_worst(quiet, quiet, clean, 0.1)))  # nothing in the class is unsound


def test_methods_are_read_against_what_the_model_allows() -> None:
    """Each corner alone makes its label certain: own maps of wrong labels are as unsound as can be."""
    names = [f"{i:06d}" for i in range(4)]
    maps = [corner_maps(kind, names) for kind in ("good", "own")]
    scores = evaluate(
        corner_classifier(),
        corner_images(4),
        maps=maps,
        metrics=[
            "adversarial-soundness:background=black:area=0.0625",
            "adversarial-reach:background=black:area=0.0625",
        ],
        labels="all",
        settings=HOW,
    )
    mean = {(r["metric"].split(":")[0], r["method"]): r["mean"] for r in scores.ranking()}
    assert mean["adversarial-soundness", "good"] == 1
    # The runner-up's corner is shown whole by the first; enlarged cells are soft, and the search may do a little better
    assert mean["adversarial-soundness", "own"] < 0.1
    reaches = {v for (metric, _), v in mean.items() if metric == "adversarial-reach"}
    assert len(reaches) == 1
    assert scores.ranking("adversarial-reach:background=black:area=0.0625")[0]["rank"] is None


class Broken(nn.Module):
    """Answers whole images, and nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1).sum(1, keepdim=True) * torch.tensor([[1.0, 0.5, 0.2]])
        return torch.where(x.flatten(1).sum(1, keepdim=True) > 700, z, float("nan"))


def test_a_model_that_does_not_answer_an_adversary_is_a_failure() -> None:
    images = np.full((2, SIZE, SIZE, 3), 255, dtype=np.uint8)
    images[1, :8] = 250
    model = Classifier(Broken(), size=SIZE, name="broken", capabilities=frozenset({"gradients"}))
    scores = evaluate(
        model,
        images,
        ["gradient"],
        metrics=["adversarial-reach:background=black:steps=2", "gini"],
        labels="predicted+2",
        settings=HOW,
    )
    assert {r["metric"] for r in scores.table.to_pylist()} == {"gini"}
    kinds = {(f["image_id"], f["method"], f["kind"]) for f in scores.failures}
    assert {(i, "gradient", "model") for i in ("000000", "000001")} <= kinds
    assert all("adversarial-reach" in f["message"] for f in scores.failures)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("adversarial-soundness:area=0", "area is 0"),
        ("adversarial-reach:background=road", "background is 'road'"),
        ("adversarial-reach:queries=3", "queries is 3"),
        ("adversarial-soundness:points=0", "points is 0"),
        ("adversarial-reach:search=gradients", "has no gradients"),
    ],
)
def test_refused_with_a_cure(metric: str, message: str) -> None:
    blind = Classifier(corner_classifier().module, size=SIDE, name="corners", capabilities=frozenset())
    with pytest.raises(MetricError, match=message):
        evaluate(blind, corner_images(2), maps=corner_maps("own", ["000000"]), metrics=[metric], settings=HOW)


def test_cost_is_told() -> None:
    assert AdversarialSoundness(steps=10).cost(4, (32, 32)) == (
        "33 and 30 backward an image, shared (1536 without gradients); 12"
    )
