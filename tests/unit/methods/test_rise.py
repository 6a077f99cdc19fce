"""RISE against its sum in plain loops, and the maps that a planted model must get."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from games import ask, drawn, found, game, linear, names, pictures

from salience.engine.fills import fill
from salience.engine.masks import Cells, RandomCells
from salience.errors import MethodError
from salience.methods.asking import checkpoints, convergence, correlation, weighted_sum
from salience.methods.registry import parse_method
from salience.methods.rise import coarse

SIZE = (28, 24)
IMAGES = pictures(3, SIZE)


def masks_of(count: int, cells: int, keep: float, seed: int = 0) -> np.ndarray:
    """The masks (3, k, H, W) that RISE draws for the images, in float64."""
    made = RandomCells(names(3), seed, count, SIZE, cells, keep, torch.device("cpu"))
    rows, every = torch.arange(3).repeat_interleave(count), torch.arange(count).repeat(3)
    return made.render(rows, every, SIZE).view(3, count, *SIZE).double().numpy()


@pytest.mark.parametrize(
    ("form", "cells", "keep", "name"),
    [("", 7, 0.5, "mean"), (":cells=4:keep=0.3", 4, 0.3, "mean"), (":cells=2:fill=black", 2, 0.5, "black")],
)
@pytest.mark.parametrize("budget", [8, 101])
@pytest.mark.parametrize("centred", [True, False])
def test_the_map_is_the_weighted_mean_of_the_masks(
    form: str, cells: int, keep: float, name: str, budget: int, centred: bool
) -> None:
    of, weights = linear(SIZE)
    count = budget - 1
    masks = masks_of(count, cells, keep)
    back = fill(name, IMAGES).expand_as(IMAGES).double().numpy()
    images, weights_ = IMAGES.double().numpy(), weights.double().numpy()
    expected = np.zeros((3, *SIZE))
    for i in range(3):
        outputs = [0.5 + ((back[i] + mask * (images[i] - back[i])) * weights_).sum() for mask in masks[i]]
        level = np.mean(outputs) if centred else 0
        for mask, output in zip(masks[i], outputs, strict=True):
            expected[i] += (output - level) * mask / (count * keep)
    maps = found(f"rise:budget={budget}:centred={centred}{form}", game(of, SIZE), IMAGES)[:, 0]
    h, w = maps.shape[1:]
    blocks = expected.reshape(3, h, SIZE[0] // h, w, SIZE[1] // w).mean((2, 4))
    np.testing.assert_allclose(maps, blocks, rtol=2e-5, atol=2e-7)


def test_a_constant_model_gets_the_mean_of_its_masks() -> None:
    """Every pixel's map is the constant times how often it was kept, by the chance of keeping it."""
    classifier = game(lambda x: 0.25 + 0 * x.sum((1, 2, 3)), SIZE)
    maps = found("rise:budget=4001:cells=3:centred=false", classifier, IMAGES[:1], batch=128)
    assert np.abs(maps - 0.25).max() < 0.25 * 5 * np.sqrt(0.25 / 4000) / 0.5
    centred = found("rise:budget=101:cells=3", classifier, IMAGES[:1])
    assert np.abs(centred).max() < 1e-6


def test_a_linear_model_s_expectation() -> None:
    """E[f m] / p = f at the mean mask, plus what comes with the pixel itself: covariances of the masks."""
    of, weights = linear(SIZE)
    maps = found("rise:budget=4001:cells=3:fill=black:centred=false", game(of, SIZE), IMAGES[:1], batch=128)[0, 0]
    many = masks_of(3000, 3, 0.5, seed=77)[0]
    flat = many.reshape(len(many), -1)
    change = (IMAGES[0] * weights).sum(0).double().numpy().ravel()
    expected = ((0.5 + flat @ change)[:, None] * flat).mean(0).reshape(SIZE) / 0.5
    h, w = maps.shape
    blocks = expected.reshape(h, SIZE[0] // h, w, SIZE[1] // w).mean((1, 3))
    assert np.abs(maps - blocks).max() < 0.05  # two samples of about the same size


@pytest.mark.parametrize("place", [(slice(0, 14), slice(0, 12)), (slice(14, 28), slice(12, 24))])
def test_the_part_that_decides_is_found(place: tuple[slice, slice]) -> None:
    classifier = game(lambda x: 0.05 + 0.9 * x[(slice(None), slice(None), *place)].mean((1, 2, 3)), SIZE)
    maps = found("rise:budget=800:fill=black", classifier, torch.ones(2, 3, *SIZE), batch=64)[:, 0]
    up = np.repeat(np.repeat(maps, SIZE[0] // maps.shape[1], 1), SIZE[1] // maps.shape[2], 2)
    inside = up[(slice(None), *place)].mean((1, 2))
    assert (inside > up.mean((1, 2)) + 0.02).all()
    for values in up:
        y, x = np.unravel_index(values.argmax(), SIZE)
        assert place[0].start <= y < place[0].stop
        assert place[1].start <= x < place[1].stop


def test_classes_of_one_set_of_masks_are_weighed_each_by_its_own_output() -> None:
    """Two probabilities add up to one: so do their maps to the mean of the masks."""
    of, _ = linear(SIZE)
    maps = found("rise:budget=101:centred=false", game(of, SIZE), IMAGES, target="all")
    masks = masks_of(100, 7, 0.5).mean(1) / 0.5
    h, w = maps.shape[2:]
    blocks = masks.reshape(3, h, SIZE[0] // h, w, SIZE[1] // w).mean((2, 4))
    np.testing.assert_allclose(maps.sum(1), blocks, rtol=2e-5)


def test_the_stored_grid_divides_the_image() -> None:
    assert coarse((224, 224), (32, 32)) == (56, 56)  # eight points a cell: four pixels each
    assert coarse((32, 32), (5, 5)) == (32, 32)
    assert coarse((227, 240), (33, 35)) == (227, 60)  # 227 is a prime


@pytest.mark.parametrize("centred", [True, False])
def test_convergence_is_stored_beside_the_map(centred: bool) -> None:
    result, _ = ask(f"rise:budget=300:centred={centred}", game(linear(SIZE)[0], SIZE), IMAGES, target="all")
    seen = result.maps[0].diagnostics
    assert list(seen) == ["forward_passes", "agreement@64", "agreement@128", "agreement@256", "agreement@299"]
    assert bool((seen["forward_passes"] == 300).all())
    lead = result.logits.argmax(1)
    rows = torch.arange(3)
    few = found(f"rise:budget=65:centred={centred}", game(linear(SIZE)[0], SIZE), IMAGES, target="all")
    for i in range(3):
        end, early = result.maps[0].values[i, lead[i]].double().numpy(), few[i, lead[i]]
        expected = np.corrcoef(end.ravel(), early.ravel())[0, 1]
        assert float(seen["agreement@64"][i, lead[i]]) == pytest.approx(expected, abs=1e-4)
    assert bool((seen["agreement@299"][rows, lead] > 0.9999).all())
    assert bool(seen["agreement@64"][rows, 1 - lead].isnan().all())  # of a target that is not followed


# ---------------------------------------------------------------------- sums that black boxes share


@pytest.mark.parametrize("count", [1, 63, 64, 65, 130, 256])
def test_weighted_sums_are_sums(count: int) -> None:
    values, weights = drawn(3, count, 4, 4), drawn(3, count, 2, seed=1) - 0.3

    class Lead:
        lead = torch.tensor([1, 0, 1])
        device = torch.device("cpu")

    total, early = weighted_sum(Cells(values), weights, Lead(), (4, 4))  # type: ignore[arg-type]
    expected = torch.einsum("gkt,gkhw->gthw", weights.double(), values.double())
    np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-5)
    assert [k for k, _, _ in early] == [k for k in (64, 128) if k < count]
    for k, sums, plain in early:
        np.testing.assert_allclose(plain, values[:, :k].double().sum(1).flatten(1), rtol=1e-5)
        part = torch.einsum("gkt,gkhw->gthw", weights[:, :k].double(), values[:, :k].double())
        np.testing.assert_allclose(sums, part[torch.arange(3), Lead.lead].flatten(1), rtol=1e-4, atol=1e-5)


def test_checkpoints_double_below_the_end() -> None:
    assert [checkpoints(n) for n in (1, 64, 65, 128, 129)] == [[], [], [64], [64], [64, 128]]
    assert checkpoints(4096) == [64, 128, 256, 512, 1024, 2048]


@pytest.mark.parametrize("size", [1.0, 1e-9, 1e-15])
def test_correlation_is_pearson_s_whatever_the_scale(size: float) -> None:
    a, b = drawn(4, 50) * size, drawn(4, 50, seed=1) * size
    found_ = correlation(a, b)
    for i in range(4):
        expected = np.corrcoef(a[i].double(), b[i].double())[0, 1]
        assert float(found_[i]) == pytest.approx(expected, abs=1e-5)
    assert correlation(a, torch.ones(4, 50)).tolist() == [0, 0, 0, 0]


def test_agreement_is_of_the_target_that_is_followed() -> None:
    final = drawn(2, 3, 4, 4)

    class Lead:
        lead = torch.tensor([2, 0])

    rows = torch.arange(2)
    ((k, figure), (end, one)) = convergence([(8, -final[rows, Lead.lead])], 20, final, Lead())  # type: ignore[arg-type]
    assert (k, end) == (8, 20)
    assert figure[rows, Lead.lead].tolist() == pytest.approx([-1, -1])
    assert one[rows, Lead.lead].tolist() == pytest.approx([1, 1])
    assert int(figure.isnan().sum()) == 4


@pytest.mark.parametrize(
    ("text", "words"), [("rise:keep=0", "keep"), ("rise:keep=1", "keep"), ("rise:cells=0", "cells")]
)
def test_settings_that_make_no_sense(text: str, words: str) -> None:
    with pytest.raises(MethodError, match=words):
        parse_method(text)
