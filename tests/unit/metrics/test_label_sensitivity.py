"""Similarities against peers, controls and forecasts on models whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from salience.engine.masked import Packer
from salience.engine.plan import Plan
from salience.engine.tune import running
from salience.metrics.faithfulness import Infidelity
from salience.metrics.label_sensitivity import ContentFree, RandomLogit, spearman, ssim, unit_scaled
from salience.metrics.metric import ProbeMetric, Seen
from salience.models.classifier import Classifier
from salience.testing.models import linear_classifier

RNG = np.random.default_rng(0)


def test_ssim_agrees_with_scikit_image() -> None:
    peer = pytest.importorskip("skimage.metrics").structural_similarity
    a = RNG.random((48, 40))
    for b in (a, np.clip(a + 0.2 * RNG.normal(size=a.shape), 0, 1), 1 - a, RNG.random(a.shape)):
        wanted = peer(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, full=True, truncate=3.0
        )
        found = float(ssim(torch.from_numpy(a), torch.from_numpy(b)))
        assert found == pytest.approx(wanted[0], abs=0.02)  # it cuts the window elsewhere and leaves the border out


def test_spearman_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = RNG.integers(0, 6, (9, 9)), RNG.integers(0, 6, (9, 9))
    wanted = stats.spearmanr(a.ravel(), b.ravel()).statistic
    assert float(spearman(torch.from_numpy(a), torch.from_numpy(b))) == pytest.approx(wanted)
    assert float(spearman(torch.from_numpy(a), torch.from_numpy(a) ** 3)) == pytest.approx(1)
    assert bool(spearman(torch.zeros(3, 3), torch.ones(3, 3)).isnan())


def seen_of(classifier: Classifier, pixels: torch.Tensor, maps: torch.Tensor) -> Seen:
    with torch.no_grad():
        logits = classifier.logits(pixels[None])[0]
    labels = logits.argsort(descending=True)
    return Seen("a", 0, pixels, logits, labels, maps, torch.zeros(0, 4))


def ask(metric: ProbeMetric, classifier: Classifier, seen: Seen, batch: int = 5) -> float:
    plan = Plan(batch, "contiguous", 1)
    with running(classifier, plan):
        packer = Packer(classifier, plan)
        value = metric.ask(seen, packer)
        packer.flush()
    assert packer.calls.forward == metric.rows(len(seen.labels), tuple(seen.pixels.shape[1:]))
    return float(value())


@pytest.mark.parametrize("similarity", ["ssim", "spearman"])
def test_a_map_that_ignores_the_label_is_similar_to_itself(similarity: str) -> None:
    classifier, _ = linear_classifier(8, 3)
    one = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    metric = RandomLogit(similarity=similarity)
    same = seen_of(classifier, torch.zeros(3, 8, 8), one.expand(3, -1, -1))
    assert float(metric.score(same)) == pytest.approx(1)
    other = torch.cat([one, 1 - one, one])
    opposite = float(metric.score(seen_of(classifier, torch.zeros(3, 8, 8), other)))
    assert opposite < -0.9
    alone = seen_of(classifier, torch.zeros(3, 8, 8), one)
    assert bool(metric.score(alone).isnan())


def test_a_random_other_label_is_drawn_from_all() -> None:
    classifier, _ = linear_classifier(8, 3)
    maps = torch.stack([torch.arange(64.0).view(8, 8), torch.arange(64.0).view(8, 8), -torch.arange(64.0).view(8, 8)])
    base = seen_of(classifier, torch.zeros(3, 8, 8), maps)
    found = set()
    for i in range(20):
        seen = Seen(f"{i}", 0, base.pixels, base.logits, base.labels, maps, base.boxes)
        found.add(round(float(RandomLogit("spearman", "random").score(seen))))
    assert found == {1, -1}


def test_unit_scaled() -> None:
    assert unit_scaled(torch.tensor([[-2.0, 2.0]])).tolist() == [[0.0, 1.0]]
    assert unit_scaled(torch.full((2, 2), 3.0)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_infidelity_of_a_linear_model_is_zero_for_gradient_times_input() -> None:
    """The logit changes by the sum of w * (x - mean) over the patch: that map forecasts it without error."""
    classifier, weights = linear_classifier(12, 3, dtype=torch.float64)
    pixels = torch.from_numpy(RNG.random((3, 12, 12)))
    label = int(seen_of(classifier, pixels, torch.zeros(1, 12, 12)).labels[0])
    truth = (torch.from_numpy(weights[label]) * (pixels - pixels.mean((1, 2), keepdim=True))).sum(0, keepdim=True)
    for scale in (1.0, -3.0):  # the best scale is found
        assert ask(Infidelity(), classifier, seen_of(classifier, pixels, scale * truth)) == pytest.approx(0, abs=1e-10)
    noise = torch.from_numpy(RNG.normal(size=(1, 12, 12)))
    assert 0.5 < ask(Infidelity(), classifier, seen_of(classifier, pixels, noise)) <= 1
    assert ask(Infidelity(), classifier, seen_of(classifier, pixels, torch.zeros(1, 12, 12))) == pytest.approx(1)


class Stripes(nn.Module):
    """Class 0 is likely where even columns are unlike odd ones, whatever they show."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        step = (x[:, :, :, ::2] - x[:, :, :, 1::2]).mean((2, 3)).abs().mean(1)
        return torch.stack([80 * step, torch.full_like(step, 1.0)], 1)


def test_a_mask_whose_shape_is_the_label_is_found_out() -> None:
    classifier = Classifier(Stripes(), size=8, capabilities=frozenset({"gradients"}))
    pixels = torch.zeros(3, 8, 8)
    pixels[:, :, ::2] = 1
    stripes, block = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    stripes[:, :, ::2] = 1
    block[:, :4] = 1
    metric = ContentFree("colours", draws=8)
    leaking = ask(metric, classifier, seen_of(classifier, pixels, stripes))
    plain = ask(metric, classifier, seen_of(classifier, pixels, block))
    assert leaking > 0.5
    assert plain < leaking / 2


def test_content_free_of_a_model_that_sees_no_shape_is_near_zero() -> None:
    classifier, _ = linear_classifier(8, 2)
    classifier.module.weight.data.zero_()  # the answer is the same for every image
    maps = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert ask(ContentFree("colours"), classifier, seen_of(classifier, torch.zeros(3, 8, 8), maps)) == pytest.approx(
        0, abs=1e-9
    )
