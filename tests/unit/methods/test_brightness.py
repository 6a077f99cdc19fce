"""Brightness against finite differences in plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from games import ask, drawn, found, game, pictures
from torch import Tensor

from salience.methods.brightness import competing
from salience.models.classifier import Classifier
from salience.testing.models import linear_classifier, small_classifier

SIZE = (10, 12)
IMAGES = pictures(3, SIZE)


def margins(classifier: Classifier, images: Tensor) -> np.ndarray:
    """log p - log(1 - p) of every class, (N, C) in float64."""
    with torch.no_grad():
        p = classifier.logits(images).double().softmax(1).numpy()
    return np.log(p) - np.log1p(-p)


def slopes(classifier: Classifier, image: Tensor, side: int) -> np.ndarray:
    """Half the difference that painting a cell white rather than black makes, (C, side, side)."""
    height, width = image.shape[1:]
    down, across = ([round(i * n / side) for i in range(side + 1)] for n in (height, width))
    out = []
    for i in range(side):
        for j in range(side):
            painted = image.expand(2, -1, -1, -1).clone()
            painted[0, :, down[i] : down[i + 1], across[j] : across[j + 1]] = 1
            painted[1, :, down[i] : down[i + 1], across[j] : across[j + 1]] = 0
            white, black = margins(classifier, painted)
            out.append((white - black) / 2)
    return np.stack(out, 1).reshape(-1, side, side)


def three_classes() -> Classifier:
    weights = drawn(2, 3, *SIZE, seed=9) - 0.5
    weights = 0.3 * weights / weights.abs().sum((1, 2, 3), keepdim=True)
    return game(lambda x: 0.3 + torch.einsum("nchw,kchw->nk", x, weights), SIZE)


@pytest.mark.parametrize(("budget", "side"), [(5, 1), (9, 2), (19, 3), (40, 4), (201, 10), (2000, 10)])
def test_maps_are_finite_differences(budget: int, side: int) -> None:
    classifier = three_classes()
    result, sweep = ask(f"brightness:budget={budget}", classifier, IMAGES, target="all")
    assert sweep.calls.forward == 3 * (1 + 2 * side**2)
    maps = result.maps[0].values.double().numpy()
    for image, values in zip(IMAGES, maps, strict=True):
        np.testing.assert_allclose(values, slopes(classifier, image, side), atol=2e-5)


def test_of_a_linear_logit_they_are_the_gradient() -> None:
    """Cells of one pixel, the logit as output: half the sum of the weights over colours, whatever the image."""
    classifier, weights = linear_classifier(size=8)
    maps = found("brightness:budget=129", classifier, pictures(2, (8, 8)), target="class:1", output="logit", batch=32)
    for values in maps[:, 0]:
        np.testing.assert_allclose(values, weights[1].sum(0) / 2, atol=2e-5)


def test_the_fill_does_not_matter() -> None:
    classifier = three_classes()
    a = found("brightness:budget=33", classifier, IMAGES)
    b = found("brightness:budget=33:fill=blur", classifier, IMAGES)
    assert a.tobytes() == b.tobytes()


# ---------------------------------------------------------------------- competition


def by_loop(values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Keep a positive slope above all others, a negative one below all others."""
    out = np.zeros((len(values), values.shape[1], targets.shape[1]))
    for g in range(len(values)):
        for k in range(values.shape[1]):
            for t, target in enumerate(targets[g]):
                own = values[g, k, target]
                others = [v for c, v in enumerate(values[g, k]) if c != target]
                if (own > 0 and all(own > v for v in others)) or (own < 0 and all(own < v for v in others)):
                    out[g, k, t] = own
    return out


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_competing_is_the_loop(classes: int) -> None:
    values = drawn(4, 50, classes, seed=classes) - 0.5
    values[0] = (values[0] * 3).round() / 3  # ties, and zeros
    values[1] = values[1].abs()  # none is negative
    targets = torch.stack([torch.arange(classes).roll(g)[:2] for g in range(4)])
    found_ = competing(values, targets)
    np.testing.assert_array_equal(found_, by_loop(values.numpy(), targets.numpy()))
    assert bool((found_ != 0).any())


@pytest.mark.parametrize("target", ["class:1", "all"])
def test_competing_maps(target: str) -> None:
    classifier = small_classifier()
    images = pictures(3, (16, 16))
    maps = found("brightness:compete=true:budget=33", classifier, images, target=target)
    columns = [1] if target == "class:1" else range(5)
    for image, values in zip(images, maps, strict=True):
        every = slopes(classifier, image, 4)
        expected = by_loop(every.reshape(1, 5, -1).transpose(0, 2, 1), np.array([list(columns)]))
        np.testing.assert_allclose(values, expected[0].T.reshape(-1, 4, 4), atol=2e-5)


def test_at_most_one_class_wins_a_cell_in_each_direction() -> None:
    maps = found("brightness:compete=true:budget=129", small_classifier(), pictures(3, (16, 16)), target="all")
    assert ((maps > 0).sum(1) <= 1).all()
    assert ((maps < 0).sum(1) <= 1).all()
    assert (maps > 0).any()
    assert (maps < 0).any()
