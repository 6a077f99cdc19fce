"""Fitted masks: the objective and its gradient as the paper writes them, and masks whose answer is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from salience.engine.descent import ModelCalls, Problem
from salience.engine.fitting import (
    Adam,
    MaskFit,
    Resampling,
    fit_masks,
    judge_masks,
    likelihood,
    roughness,
    roughness_slope,
    sigmoid,
)
from salience.engine.passes import Calls
from salience.engine.plan import Plan
from salience.engine.pool import Pool
from salience.engine.random import key_words, row_key
from salience.engine.tune import running
from salience.errors import MethodError
from salience.models.classifier import Classifier
from salience.testing.models import small_classifier

GENERATOR = torch.Generator().manual_seed(0)
OBJECTIVES = ("published", "nll")


def rand(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=GENERATOR, dtype=torch.float64)


def make_pool(size: int, count: int = 5) -> Pool:
    generator = torch.Generator().manual_seed(1)
    return Pool(torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8), "a pool")


def problem(
    classifier: Classifier, images: Tensor, targets: Tensor, batch: int = 8, seed: int = 0, ids: str = "abcdefgh"
) -> Problem:
    model = ModelCalls(classifier, Plan(batch, "contiguous", 1), Calls())
    names = tuple(ids[: len(images)])
    return Problem(model, images, names, targets, seed, make_pool(images.shape[-1]))


@pytest.fixture(autouse=True)
def _frozen(one_thread: None) -> Iterator[None]:
    return


def fit_of(**changes: object) -> MaskFit:
    settings = {"scale": 4, "tv": 0.01, "l1": None, "steps": 5, "draws": 3, "lr": 0.1, "objective": "published"}
    return MaskFit(**{**settings, **changes})


# ---------------------------------------------------------------------- the objective


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_term_and_its_slope_are_those_of_autograd(objective: str) -> None:
    logits = (rand(4, 3, 7) * 6 - 3).requires_grad_()
    target = torch.tensor([0, 6, 2, 3])
    mean = logits.softmax(2).mean(1)
    p = mean[torch.arange(4), target]
    expected = F.cross_entropy(mean, target, reduction="none") if objective == "published" else -p.log()
    (slope,) = torch.autograd.grad(expected.sum(), logits)
    value, probability, found = likelihood(objective, logits.detach(), target)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(probability, p.detach())
    torch.testing.assert_close(found, slope)


def test_the_published_term_of_ten_classes_runs_from_1461_to_2461() -> None:
    sure = torch.full((2, 1, 10), -1e3)
    sure[0, 0, 4] = sure[1, 0, 5] = 1e3
    value, _, _ = likelihood("published", sure, torch.tensor([4, 4]))
    assert value.tolist() == pytest.approx([1.4612, 2.4612], abs=1e-4)


def test_nll_has_a_gradient_where_the_probability_is_no_number() -> None:
    logits = torch.tensor([[[0.0, 2000.0], [0.0, 1999.0]]])
    value, probability, slope = likelihood("nll", logits, torch.tensor([0]))
    assert probability.item() == 0
    assert value.item() == pytest.approx(1999 + torch.log(torch.tensor(2 / (1 + torch.e**-1))).item(), rel=1e-4)
    assert slope.sum((0, 1)).tolist() == pytest.approx([-1, 1])


def test_roughness_and_its_slope() -> None:
    masks = torch.tensor([[[0.0, 1.0], [0.5, 0.5]]], dtype=torch.float64)
    assert roughness(masks).item() == 1 + 0 + 0.25 + 0.25
    masks = rand(2, 5, 4).requires_grad_()
    (slope,) = torch.autograd.grad(roughness(masks).sum(), masks)
    torch.testing.assert_close(roughness_slope(masks.detach()), slope)


@pytest.mark.parametrize(("grid", "size"), [((8, 8), (32, 32)), ((5, 3), (17, 12)), ((4, 7), (4, 7))])
def test_enlarging_is_bilinear_and_its_adjoint_is_the_adjoint(grid: tuple[int, int], size: tuple[int, int]) -> None:
    values = rand(3, *grid).requires_grad_()
    enlarge = Resampling.bilinear(grid, size, values.detach())
    expected = F.interpolate(values[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(enlarge(values.detach()), expected.detach())
    slopes = rand(3, *size)
    (adjoint,) = torch.autograd.grad(expected, values, slopes)
    torch.testing.assert_close(enlarge.adjoint(slopes), adjoint)


def test_sigmoid_is_the_sigmoid_and_does_not_know_its_place() -> None:
    w = (rand(50, 49) * 200 - 100).float()
    torch.testing.assert_close(sigmoid(w), torch.sigmoid(w))
    assert torch.equal(sigmoid(w), torch.stack([sigmoid(row.clone()) for row in w]))


def test_adam_is_torchs() -> None:
    w = rand(3, 4, 4)
    ours, theirs = w.clone(), w.clone().requires_grad_()
    adam = Adam(0.05, torch.zeros_like(w), torch.zeros_like(w))
    optimiser = torch.optim.Adam([theirs], lr=0.05)
    for _ in range(7):
        theirs.grad = slope = rand(3, 4, 4) - 0.5
        optimiser.step()
        adam.step(ours, slope)
    torch.testing.assert_close(ours, theirs.detach())


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("batch", [8, 4, 2], ids=["together", "alone", "in pieces"])
def test_a_fit_is_that_of_autograd_and_torchs_adam(objective: str, batch: int) -> None:
    """The paper's optimisation, written plainly over the same backgrounds, in float64."""
    classifier = small_classifier(dtype=torch.float64)
    images, targets = rand(2, 3, 16, 16), torch.tensor([[1, 3], [0, 2]])
    fit = fit_of(objective=objective, l1=2e-3, steps=6)
    given = problem(classifier, images, targets, batch)
    with running(classifier, given.model.plan):
        found = fit_masks(fit, given)
        for i in range(2):
            for t in range(2):
                a = targets[i, t]
                words = key_words([row_key(0, f"mask {a}", "ab"[i])], "cpu")
                w = torch.zeros(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
                optimiser = torch.optim.Adam([w], lr=fit.lr)
                for step in range(fit.steps + 1):
                    own = torch.tensor([len(given.pool)])
                    behind = given.pool.backgrounds(words, step * fit.draws, fit.draws, own, torch.float64)[0]
                    mask = F.interpolate(torch.sigmoid(w), scale_factor=4, mode="bilinear", align_corners=False)
                    mean = classifier.logits(images[i] * mask + behind * (1 - mask)).softmax(1).mean(0)
                    term = F.cross_entropy(mean, a) if objective == "published" else -mean[a].log()
                    wavy = mask.diff(dim=2).square().sum() + mask.diff(dim=3).square().sum()
                    loss = term + fit.l1 * mask.sum() + fit.tv * wavy
                    if step < fit.steps:
                        optimiser.zero_grad()
                        loss.backward()
                        optimiser.step()
                torch.testing.assert_close(found.maps[i, t], torch.sigmoid(w[0, 0]).detach())
                assert found.diagnostics["objective"][i, t].item() == pytest.approx(loss.item())
                assert found.diagnostics["probability"][i, t].item() == pytest.approx(mean[a].item())
                assert found.diagnostics["area"][i, t].item() == pytest.approx(mask.mean().item())
    each = fit.passes(batch)
    assert (given.model.calls.forward, given.model.calls.backward) == (4 * each[0], 4 * each[1])


def test_l1_keeps_its_weight_for_the_whole_mask() -> None:
    assert fit_of().area_weight((224, 224)) == pytest.approx(2e-5)
    assert fit_of().area_weight((32, 32)) * 32 * 32 == pytest.approx(2e-5 * 224 * 224)
    assert fit_of(l1=3e-4).area_weight((32, 32)) == 3e-4
    assert fit_of().grid((32, 30)) == (8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 0}, "scale is 0"),
        ({"steps": 0}, "steps"),
        ({"lr": 0.0}, "lr"),
        ({"tv": -1.0}, "tv"),
        ({"l1": -1.0}, "l1"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        fit_of(**changes)


def test_without_a_pool_nothing_is_fitted() -> None:
    classifier = small_classifier()
    given = problem(classifier, rand(1, 3, 16, 16).float(), torch.tensor([[0]]))
    with pytest.raises(MethodError, match="no pool"):
        fit_masks(fit_of(), replace(given, pool=None))


# ---------------------------------------------------------------------- masks whose answer is known


class Corner(nn.Module):
    """Class 0: the top left quarter is bright; class 1: the bottom right one is; class 2: neither."""

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        first, second = x[:, :, :half, :half].mean((1, 2, 3)), x[:, :, half:, half:].mean((1, 2, 3))
        return torch.stack([first, second, torch.full_like(first, 0.75)], 1) * 40


def test_a_mask_finds_what_the_model_looks_at_for_each_class() -> None:
    size, classifier = 16, Classifier(Corner(), size=16)
    image = torch.full((1, 3, size, size), 0.2)
    image[:, :, :8, :8] = image[:, :, 8:, 8:] = 1.0
    given = problem(classifier, image, torch.tensor([[0, 1]]), batch=8)
    with running(classifier, given.model.plan):
        found = fit_masks(fit_of(steps=150, draws=4, lr=0.2, scale=2), given)
    quarters = found.maps[0].view(2, 2, 4, 2, 4).mean((2, 4)).flatten(1)  # (class, quarter)
    for row, quarter in ((0, 0), (1, 3)):
        own = quarters[row, quarter].item()
        others = [q for k, q in enumerate(quarters[row].tolist()) if k != quarter]
        assert own > 0.4, quarters
        assert max(others) < 0.1, quarters
    assert (found.diagnostics["probability"] > 0.9).all()
    assert (found.diagnostics["area"] < 0.3).all()


def test_a_class_that_is_not_there_gets_no_probability() -> None:
    classifier = Classifier(Corner(), size=16)
    image = torch.full((1, 3, 16, 16), 0.2)
    image[:, :, :8, :8] = 1.0
    given = problem(classifier, image, torch.tensor([[0, 1]]))
    with running(classifier, given.model.plan):
        found = fit_masks(fit_of(steps=150, draws=4, lr=0.2), given)
    there, absent = found.diagnostics["probability"][0].tolist()
    assert there > 0.9
    assert absent < 0.3


# ---------------------------------------------------------------------- batches


def test_a_mask_is_the_same_bytes_whoever_shares_its_calls() -> None:
    classifier = small_classifier()
    images = rand(5, 3, 16, 16).float()
    targets = torch.tensor([[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]])
    given = problem(classifier, images, targets)
    with running(classifier, given.model.plan):
        whole = fit_masks(fit_of(draws=3), given)
        for i in (0, 3, 4):
            alone = problem(classifier, images[i : i + 1], targets[i : i + 1, 1:], ids="abcde"[i])
            found = fit_masks(fit_of(draws=3), alone)
            assert torch.equal(found.maps[0, 0], whole.maps[i, 1])
            for name, values in found.diagnostics.items():
                assert values[0, 0] == whole.diagnostics[name][i, 1]


def test_judging_is_over_other_backgrounds_of_the_same_keys() -> None:
    classifier = small_classifier()
    given = problem(classifier, rand(2, 3, 16, 16).float(), torch.tensor([[0], [1]]))
    fit = fit_of()
    with running(classifier, given.model.plan):
        found = fit_masks(fit, given)
        again = judge_masks(fit, given, found.maps, first=fit.steps * fit.draws)
        other = judge_masks(fit, given, found.maps)
    assert torch.equal(again["objective"], found.diagnostics["objective"])
    assert not torch.equal(other["objective"], again["objective"])
    assert torch.equal(other["area"], again["area"])


def test_the_image_itself_is_never_behind_its_mask() -> None:
    """With a pool of the image and a grey one, every background is grey."""
    classifier = small_classifier()
    pixels = (rand(1, 3, 16, 16) * 255).round().to(torch.uint8)
    grey = torch.full_like(pixels, 128)
    given = problem(classifier, pixels.float() / 255, torch.tensor([[2]]))
    fit = fit_of(l1=0.0)
    with running(classifier, given.model.plan):
        both, greys = (
            fit_masks(fit, replace(given, pool=Pool(torch.cat(pair), "two"))) for pair in ((pixels, grey), (grey, grey))
        )
    assert torch.equal(both.maps, greys.maps)
    assert both.maps.std() > 0
