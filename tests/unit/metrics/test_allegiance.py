"""Allegiance: deletion by map, its published and its exact rule, against hand computation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import salience
from salience.engine.fills import gaussian_blur
from salience.errors import ImagesError, SettingsError
from salience.metrics.allegiance import PERCENTAGES, Allegiance, allegiance
from salience.models.classifier import Classifier
from salience.store.maps import Maps
from salience.testing.contracts import example_images
from salience.testing.models import linear_classifier, small_classifier

SIZE = 10
CELLS = SIZE * SIZE


class Recorder(nn.Module):
    """Two classes: the mean brightness against a threshold; keeps what it was shown."""

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(10.0))
        self.threshold = threshold
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        bright = x.mean((1, 2, 3)) - self.threshold
        return torch.stack([self.weight * bright, -self.weight * bright], 1)


def maps_of(values: np.ndarray, ids: tuple[str, ...] | None = None) -> Maps:
    n = len(values)
    return Maps(
        values=values.astype(np.float32),
        image_ids=ids or tuple(f"{i:06d}" for i in range(n)),
        targets=np.zeros(n, np.int64),
        probabilities=np.zeros((n, 2), np.float32),
        scores=np.zeros(n, np.float32),
        labels=np.full(n, -1),
        model="m",
        method="given",
        signed=False,
        input_size=(SIZE, SIZE),
    )


def shown(images: np.ndarray, maps: Maps, p: int, **how) -> tuple[np.ndarray, Allegiance]:
    """Which pixels were deleted at ``p`` per cent, bool (N, H, W), found by what the model was shown."""
    module = Recorder()
    found = allegiance(Classifier(module, size=SIZE), images, maps, percentages=(0, p), batch_size=8, **how)
    assert len(module.seen) >= 3
    n = len(maps.image_ids)
    clean, changed = module.seen[-2][:n], module.seen[-1][:n]
    return ((clean != changed).any(1)).numpy(), found


IMAGES = np.full((3, SIZE, SIZE, 3), 128, np.uint8)


def test_linear_model_in_closed_form() -> None:
    """Black pixels of a linear model: each removes its own w x, so the curve is a cumulative sum."""
    classifier, w = linear_classifier(size=SIZE, classes=2, dtype=torch.float64)
    rng = np.random.default_rng(0)
    images = rng.random((5, 3, SIZE, SIZE)).astype(np.float32)
    maps = salience.explain(classifier, images, "gradient_x_input", target=0)
    found = allegiance(classifier, images, maps, batch_size=8)
    bias = classifier.module.bias.detach().numpy()
    for i, x in enumerate(images.astype(np.float64)):
        order = np.argsort(-(w[0] * x).sum(0).ravel(), kind="stable")
        # ranks of the float32 maps may differ from float64 ones only where values tie to 1e-7: not here
        clean = np.array([(w[c] * x).sum() + bias[c] for c in range(2)])
        predicted = clean.argmax()
        for j, p in enumerate(PERCENTAGES):
            left = x.reshape(3, -1).copy()
            left[:, order[: round(CELLS * p / 100)]] = 0
            z = np.array([(w[c].reshape(3, -1) * left).sum() + bias[c] for c in range(2)])
            assert found.kept[i, j] == (z.argmax() == predicted)
            probability = np.exp(z[predicted] - z.max()) / np.exp(z - z.max()).sum()
            assert found.probability[i, j] == pytest.approx(probability, rel=1e-5, abs=1e-7)
            assert found.deleted[i, j] == pytest.approx(round(CELLS * p / 100) / CELLS)


@pytest.mark.parametrize("p", [1, 3, 5, 7, 10, 33, 50, 90, 100])
def test_exact_rule_deletes_exactly_so_many(p: int) -> None:
    rng = np.random.default_rng(p)
    values = rng.integers(0, 3, (3, SIZE, SIZE)).astype(np.float32)  # ties everywhere
    values[2] = 0
    gone, found = shown(IMAGES, maps_of(values), p)
    assert (gone.sum((1, 2)) == round(CELLS * p / 100)).all()
    np.testing.assert_allclose(found.deleted[:, 1], round(CELLS * p / 100) / CELLS)
    for i in range(3):  # nothing low goes before something high
        if gone[i].any() and not gone[i].all():
            assert values[i][gone[i]].min() >= values[i][~gone[i]].max()


def test_ties_are_broken_per_image_and_by_seed() -> None:
    flat = np.zeros((3, SIZE, SIZE), np.float32)
    first, _ = shown(IMAGES, maps_of(flat), 50)
    again, _ = shown(IMAGES, maps_of(flat), 50)
    other, _ = shown(IMAGES, maps_of(flat), 50, seed=1)
    alone, _ = shown(IMAGES, replace(maps_of(flat[:1]), image_ids=("000001",)), 50)
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).any()
    assert (first != other).any()
    np.testing.assert_array_equal(alone[0], first[1])


def test_deletions_are_nested() -> None:
    values = np.random.default_rng(0).integers(0, 4, (3, SIZE, SIZE)).astype(np.float32)
    for rule in ("exact", "published"):
        before = np.zeros((3, SIZE, SIZE), bool)
        for p in (3, 10, 30, 60, 90):
            gone, _ = shown(IMAGES, maps_of(values), p, rule=rule)
            assert (gone | ~before).all(), rule
            before = gone


def test_published_rule_spares_zeros() -> None:
    values = np.zeros((3, SIZE, SIZE), np.float32)
    values[0].ravel()[:7] = np.arange(1, 8)  # 7 % of the pixels are not zero
    values[1].ravel()[:40] = np.arange(1, 41)
    values[2] = np.arange(CELLS).reshape(SIZE, SIZE) + 1
    gone, found = shown(IMAGES, maps_of(values), 50, rule="published")
    assert gone.sum((1, 2)).tolist() == [7, 40, 50]
    assert found.deleted[:, 1].tolist() == pytest.approx([0.07, 0.4, 0.5])
    gone, _ = shown(IMAGES, maps_of(values), 5, rule="published")
    assert gone.sum((1, 2)).tolist() == [5, 5, 5]


def test_published_rule_stops_at_a_tie() -> None:
    """Above the value of that rank: where many share it, none of them goes."""
    values = np.ones((1, SIZE, SIZE), np.float32)
    values[0, 0, :3] = 2
    gone, _ = shown(IMAGES[:1], maps_of(values), 50, rule="published")
    assert gone.sum() == 3


def test_area_by_hand() -> None:
    found = Allegiance(
        image_ids=("a", "b"),
        percentages=(0, 10, 30, 90),
        kept=np.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool),
        probability=np.array([[1, 0.5, 0.25, 0], [0.8, 0.4, 0.2, 0.1]], np.float32),
        deleted=np.zeros((2, 4), np.float32),
        fill="black",
        rule="exact",
    )
    assert found.curve.tolist() == [1, 0.5, 0, 0]
    # first image: 0.1 * 1 + 0.2 * 1/2; second: 0.1 * 1/2
    assert found.auc().value == pytest.approx((0.2 + 0.05) / 2)
    assert found.auc(30).value == pytest.approx((0.2 + 0.05) / 2)
    assert found.auc(10).value == pytest.approx((0.1 + 0.05) / 2)
    probability = (0.1 * 0.75 + 0.2 * 0.375 + 0.6 * 0.125 + 0.1 * 0.6 + 0.2 * 0.3 + 0.6 * 0.15) / 2
    assert found.auc(of="probability").value == pytest.approx(probability, rel=1e-6)
    interval = found.auc()
    assert interval.low <= interval.value <= interval.high
    assert interval.n == 2
    for upto in (0, 20, 100):
        with pytest.raises(SettingsError, match="no point at"):
            found.auc(upto)


def test_a_prediction_that_never_changes_has_the_whole_area() -> None:
    classifier, _ = linear_classifier(size=SIZE)
    with torch.no_grad():
        classifier.module.weight.zero_()
    found = allegiance(classifier, IMAGES, maps_of(np.zeros((3, SIZE, SIZE))), batch_size=4)
    assert found.kept.all()
    assert found.auc().value == pytest.approx(0.9)
    assert found.auc(30).value == pytest.approx(0.3)


@pytest.mark.parametrize("fill", ["black", "white", "mean", "blur"])
def test_fills(fill: str) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    module = Recorder()
    values = rng.random((2, SIZE, SIZE))
    allegiance(Classifier(module, size=SIZE), images, maps_of(values), fill=fill, percentages=(0, 100), batch_size=2)
    clean, gone = module.seen[-2], module.seen[-1]
    expected = {
        "black": torch.zeros_like(clean),
        "white": torch.ones_like(clean),
        "mean": clean.mean((2, 3), keepdim=True).expand_as(clean),
        "blur": gaussian_blur(clean, SIZE / 8),
    }[fill]
    torch.testing.assert_close(gone, expected, rtol=1e-5, atol=1e-6)


def test_maps_of_a_coarse_grid_are_upsampled() -> None:
    values = np.zeros((1, 2, 2), np.float32)
    values[0, 0, 0] = 1
    gone, _ = shown(IMAGES[:1], maps_of(values), 16)
    assert gone[0, :4, :4].all()


def test_the_same_in_any_batch_and_subset() -> None:
    classifier = small_classifier()
    images = example_images(classifier, 7)
    maps = salience.explain(classifier, images, "positive", batch_size=4)
    whole = allegiance(classifier, images, maps, batch_size=4)
    again = allegiance(classifier, images, maps, batch_size=4)
    other = allegiance(classifier, images, maps, batch_size=3)
    few = allegiance(
        classifier, images, replace(maps, image_ids=maps.image_ids[2:5], values=maps.values[2:5]), batch_size=4
    )
    assert whole.probability.tobytes() == again.probability.tobytes()
    assert whole.probability[2:5].tobytes() == few.probability.tobytes()
    np.testing.assert_allclose(whole.probability, other.probability, rtol=1e-4)
    assert (whole.kept == other.kept).all()
    assert whole.kept[:, 0].all()


def test_the_model_is_left_as_found() -> None:
    classifier = small_classifier()
    classifier.module.train()
    before = [p.requires_grad for p in classifier.module.parameters()]
    images = example_images(classifier, 2)
    maps = salience.explain(classifier, images, "gradient", batch_size=4)
    allegiance(classifier, images, maps, batch_size=2)
    assert classifier.module.training
    assert [p.requires_grad for p in classifier.module.parameters()] == before


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"percentages": (3, 10)}, "ascending"),
        ({"percentages": (0, 10, 10)}, "ascending"),
        ({"percentages": (0, 110)}, "at most 100"),
        ({"percentages": ()}, "ascending"),
        ({"fill": "pink"}, "choose black"),
        ({"rule": "any"}, "published or exact"),
    ],
)
def test_settings_that_make_no_sense(how: dict, message: str) -> None:
    classifier = Classifier(Recorder(), size=SIZE)
    with pytest.raises(SettingsError, match=message):
        allegiance(classifier, IMAGES, maps_of(np.zeros((3, SIZE, SIZE))), batch_size=4, **how)


def test_maps_without_images() -> None:
    classifier = Classifier(Recorder(), size=SIZE)
    maps = maps_of(np.zeros((3, SIZE, SIZE)), ("000000", "elsewhere.png", "000002"))
    with pytest.raises(ImagesError, match=r"1 maps have no image, e\.g\. 'elsewhere.png'"):
        allegiance(classifier, IMAGES, maps, batch_size=4)
