"""Surrogates: scikit-learn's ridge, Shapley values by enumeration, and shares that always add up."""

from __future__ import annotations

from itertools import combinations
from math import comb, factorial

import numpy as np
import pytest
import torch
from games import Game, ask, drawn, found, game, linear, pictures, stream
from scipy import stats
from sklearn.linear_model import Ridge
from torch import Tensor

from salience.engine.fills import fill
from salience.engine.masks import Cells, Patches
from salience.engine.queries import blend
from salience.methods.regression import coalitions, ridge, shapley
from salience.methods.superpixels import superpixels
from salience.models.classifier import Classifier

SIZE = (12, 12)
IMAGES = pictures(3, SIZE)


def bent(cells: int) -> Classifier:
    """A probability with interactions of every order: a steep function of a few cells' means and their products."""
    weights = drawn(cells**2, seed=2).square()
    weights = weights / weights.sum()

    def of(x: Tensor) -> Tensor:
        means = torch.nn.functional.adaptive_avg_pool2d(x.mean(1), cells).flatten(1)
        return torch.sigmoid(20 * ((means * weights).sum(1) - 0.3) + 8 * means[:, 0] * means[:, -1]) * 0.9 + 0.05

    return game(of, SIZE)


def answers(classifier: Classifier, images: Tensor, masks: Tensor, name: str = "mean") -> np.ndarray:
    """Probability of class 0 of each image (G,) under masks (G, k, H, W), (G, k) in float64."""
    count, k = masks.shape[:2]
    rows = torch.arange(count).repeat_interleave(k)
    inputs = blend(images, fill(name, images), masks.flatten(0, 1).unsqueeze(1), rows)
    with torch.no_grad():
        return classifier.logits(inputs).double().softmax(1)[:, 0].view(count, k).numpy()


def enlarged(values: Tensor) -> Tensor:
    """Grid masks (G, k, H, W) of values (G, k, D)."""
    groups, k, parts = values.shape
    side = int(parts**0.5)
    rows, every = torch.arange(groups).repeat_interleave(k), torch.arange(k).repeat(groups)
    return Cells(values.view(groups, k, side, side)).render(rows, every, SIZE).view(groups, k, *SIZE)


# ---------------------------------------------------------------------- ridge


@pytest.mark.parametrize("penalty", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("count", [5, 40, 300])
def test_ridge_is_scikit_learn_s(count: int, penalty: float) -> None:
    values, target = (drawn(2, count, 9) < 0.4).float(), drawn(2, count, 3, seed=1)
    weights = ridge(values, target, penalty)
    assert weights.shape == (2, 3, 9)
    for g in range(2):
        expected = Ridge(alpha=penalty).fit(values[g].double().numpy(), target[g].double().numpy()).coef_
        np.testing.assert_allclose(weights[g], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("keep", [0.5, 0.8])
def test_the_method_fits_what_the_model_answered(keep: float) -> None:
    classifier = bent(3)
    values = (stream(3, "parts").uniform(99, 9) < keep).float()
    expected = [
        Ridge(alpha=2.0).fit(v, y).coef_
        for v, y in zip(values.numpy(), answers(classifier, IMAGES, enlarged(values)), strict=True)
    ]
    maps = found(f"ridge:cells=3:budget=100:penalty=2:keep={keep}", classifier, IMAGES)
    np.testing.assert_allclose(maps.reshape(3, 9), expected, atol=2e-6)


def test_ridge_finds_a_linear_model_s_cells() -> None:
    """What a cell adds is exact where nothing interacts and the penalty is small."""
    of, weights = linear(SIZE)
    maps = found("ridge:cells=3:budget=200:penalty=0.000001", game(of, SIZE), IMAGES)
    change = (IMAGES - fill("mean", IMAGES)) * weights
    ramps = enlarged(torch.eye(9).expand(3, -1, -1))  # (3, 9, H, W): each cell alone
    np.testing.assert_allclose(maps.reshape(3, 9), torch.einsum("nchw,nkhw->nk", change, ramps), atol=2e-6)


# ---------------------------------------------------------------------- Shapley values


def exact(value: dict[tuple[int, ...], float], parts: int) -> np.ndarray:
    """Shapley values by their definition: the mean gain over all orders."""
    out = np.zeros(parts)
    for j in range(parts):
        others = [i for i in range(parts) if i != j]
        for size in range(parts):
            weight = factorial(size) * factorial(parts - size - 1) / factorial(parts)
            for some in combinations(others, size):
                out[j] += weight * (value[tuple(sorted((*some, j)))] - value[some])
    return out


def every_coalition(parts: int) -> list[tuple[int, ...]]:
    return [some for size in range(parts + 1) for some in combinations(range(parts), size)]


def as_values(some: list[tuple[int, ...]], parts: int) -> Tensor:
    out = torch.zeros(len(some), parts)
    for row, members in zip(out, some, strict=True):
        row[list(members)] = 1
    return out


@pytest.mark.parametrize("parts", [4, 5, 6])
def test_regression_over_all_coalitions_is_exact(parts: int) -> None:
    """Theorem 2 of Lundberg & Lee: with the kernel's weights the regression gives the Shapley values."""
    some = every_coalition(parts)
    numbers = drawn(len(some), 2, seed=parts).double()
    values = as_values(some, parts)
    inner = [i for i, members in enumerate(some) if 0 < len(members) < parts]
    # the weight of a coalition of size s, (D - 1) / (C(D, s) s (D - s)), as so many copies of its row
    weight = {s: 1 / (comb(parts, s) * s * (parts - s)) for s in range(1, parts)}
    least = np.lcm.reduce([comb(parts, s) * s * (parts - s) for s in weight])
    copies = [i for i in inner for _ in range(round(weight[len(some[i])] * least))]
    gain = numbers - numbers[0]
    shares = shapley(
        values[copies][None], gain[copies][None].float(), gain[-1][None].float(), torch.ones(1, parts), 1e-9
    )
    for t in range(2):
        value = {members: float(numbers[i, t]) for i, members in enumerate(some)}
        np.testing.assert_allclose(shares[0, t], exact(value, parts), atol=2e-6)


@pytest.mark.parametrize("cells", [2, 3])
def test_kernel_shap_draws_around_the_enumerated_values(cells: int) -> None:
    """One picture under many names is as many draws: their mean is right within its standard error."""
    classifier, parts, draws = bent(cells), cells**2, 48
    some = every_coalition(parts)
    numbers = answers(classifier, IMAGES[:1], enlarged(as_values(some, parts)[None]), "black")[0]
    expected = exact(dict(zip(some, numbers.tolist(), strict=True)), parts)
    assert np.ptp(expected) > 0.1
    errors = []
    for budget in (101, 901):
        text = f"kernel_shap:cells={cells}:budget={budget}:fill=black"
        maps = found(text, classifier, IMAGES[:1].expand(draws, -1, -1, -1), batch=128)[:, 0].reshape(draws, parts)
        standard = maps.std(0, ddof=1) / np.sqrt(draws)
        assert (np.abs(maps.mean(0) - expected) < 5 * standard + 1e-3).all()
        errors.append(np.sqrt(((maps - expected) ** 2).mean()))
    assert errors[1] < 0.03
    assert 2 < errors[0] / errors[1] < 4.5  # nine times as many: a third of the error


def test_kernel_shap_of_a_model_without_interactions_is_exact() -> None:
    of, weights = linear(SIZE)
    maps = found("kernel_shap:cells=3:budget=400", game(of, SIZE), IMAGES)
    change = (IMAGES - fill("mean", IMAGES)) * weights
    ramps = enlarged(torch.eye(9).expand(3, -1, -1))
    np.testing.assert_allclose(maps.reshape(3, 9), torch.einsum("nchw,nkhw->nk", change, ramps), atol=5e-6)


@pytest.mark.parametrize("form", ["cells=7", "cells=3", "cells=2:segments=slic", "cells=4:segments=slic", "cells=1"])
@pytest.mark.parametrize("budget", [5, 6, 33, 200])
def test_shares_always_add_up(form: str, budget: int) -> None:
    """However few coalitions there are: to f(image) - f(fill)."""
    if "slic" in form:
        pytest.importorskip("skimage")
    classifier = bent(3)
    maps = found(f"kernel_shap:{form}:budget={budget}", classifier, IMAGES)[:, 0]
    ends = answers(classifier, IMAGES, torch.stack([torch.ones(3, *SIZE), torch.zeros(3, *SIZE)], 1))
    if "slic" in form:
        about = int(form[6]) ** 2
        total = []
        for values, place in zip(maps, superpixels(IMAGES, about).numpy(), strict=True):
            total.append(sum(values[place == k].mean() for k in np.unique(place)))
    else:
        total = maps.sum((1, 2))
    np.testing.assert_allclose(total, ends[:, 0] - ends[:, 1], atol=2e-6)


def test_a_part_that_does_nothing_has_no_share_and_equals_share_alike() -> None:
    """Dummy and symmetry, for a game that knows cells only by blocks of its own."""
    values = as_values([m for m in every_coalition(4) if 0 < len(m) < 4], 4)[None]
    gain = (values[..., 0] * values[..., 1]).unsqueeze(2)  # parts 2 and 3 do nothing
    shares = shapley(values, gain, torch.ones(1, 1), torch.ones(1, 4), 1e-9)[0, 0]
    np.testing.assert_allclose(shares, [0.5, 0.5, 0, 0], atol=1e-6)


@pytest.mark.parametrize("parts", [2, 3, 9, 49])
def test_coalitions_have_the_sizes_of_the_kernel(parts: int) -> None:
    made = coalitions(stream(4, "sizes").uniform(3000, parts + 1), torch.ones(4, parts))
    sizes = made.sum(2).flatten().long().numpy()
    assert sizes.min() >= 1
    assert sizes.max() <= parts - 1
    weight = np.array([1 / (s * (parts - s)) for s in range(1, parts)])
    expected = weight / weight.sum() * len(sizes)
    counts = np.bincount(sizes, minlength=parts)[1:]
    if parts > 2:
        assert stats.chisquare(counts, expected).pvalue > 1e-3
    members = made.sum((0, 1)).numpy()  # every part as often as any
    assert np.abs(members - members.mean()).max() < 5 * np.sqrt(len(sizes) / 4)


def test_coalitions_are_of_the_parts_that_are_there() -> None:
    """And the same as if the others had never been thought of."""
    present = torch.ones(3, 6)
    present[1, 4:] = 0
    present[2, 1:] = 0
    numbers = stream(3, "parts").uniform(500, 7)
    made = coalitions(numbers, present)
    assert not bool((made * (1 - present.unsqueeze(1))).any())
    assert torch.equal(made[1, :, :4], coalitions(numbers[1:2, :, :5], torch.ones(1, 4))[0])
    assert bool((made[2, :, 0] == 1).all())
    assert torch.equal(made[0], coalitions(numbers[:1], torch.ones(1, 6))[0])


# ---------------------------------------------------------------------- superpixels


def patchwork() -> Tensor:
    """Images in which SLIC finds different numbers of segments: noise, two halves, one colour."""
    images = pictures(3, (24, 24), seed=3)
    images[1, :, :, :12], images[1, :, :, 12:] = 0.2, 0.8
    images[2] = 0.5
    return images


@pytest.mark.parametrize("method", ["ridge", "kernel_shap"])
def test_superpixels_of_an_image_do_not_depend_on_its_group(method: str) -> None:
    pytest.importorskip("skimage")
    images = patchwork()
    counts = superpixels(images, 16).flatten(1).amax(1) + 1
    assert len(set(counts.tolist())) > 1  # else this proves nothing
    classifier = game(linear((24, 24))[0], (24, 24))
    text = f"{method}:segments=slic:cells=4:budget=60"
    whole, _ = ask(text, classifier, images)
    for i in range(3):
        alone, _ = ask(text, classifier, images[i : i + 1], ids=[f"image-{i}"])
        assert alone.maps[0].values.numpy().tobytes() == whole.maps[0].values[i : i + 1].numpy().tobytes()


def test_superpixels_are_ridge_s_parts() -> None:
    pytest.importorskip("skimage")
    images = pictures(2, (24, 24), seed=4)
    classifier = game(linear((24, 24))[0], (24, 24))
    place = superpixels(images, 9)
    values = (stream(2, "parts").uniform(79, 18) < 0.5).float()
    rows, every = torch.arange(2).repeat_interleave(79), torch.arange(79).repeat(2)
    masks = Patches(values, place).render(rows, every, (24, 24)).view(2, 79, 24, 24)
    maps = found("ridge:segments=slic:cells=3:budget=80", classifier, images)[:, 0]
    for g, numbers in enumerate(answers(classifier, images, masks)):
        parts = int(place[g].max()) + 1
        weights = Ridge(alpha=1.0).fit(values[g, :, :parts].numpy(), numbers).coef_
        np.testing.assert_allclose(maps[g], weights[place[g].numpy()], atol=2e-6)


def test_superpixels_of_tiny_images_are_never_too_many() -> None:
    pytest.importorskip("skimage")
    for size in (4, 6, 9, 16):
        place = superpixels(pictures(2, (size, size)), 9)
        assert int(place.min()) == 0
        assert int(place.max()) < 18


def test_games_answer_what_they_are_said_to() -> None:
    """The softmax of the logarithms gives the probabilities back."""
    of, _ = linear(SIZE)
    with torch.no_grad():
        p = Game(of)(IMAGES).softmax(1)[:, 0]
    torch.testing.assert_close(p, of(IMAGES))
