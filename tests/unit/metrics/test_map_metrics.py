"""Metrics of the map alone: closed forms, and peers' values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from salience.metrics.complexity import Entropy, Gini
from salience.metrics.localisation import Energy, Iou, Pointing, box_mask
from salience.metrics.metric import Seen
from salience.metrics.registry import parse_metric

BOX = [[2.0, 1.0, 5.0, 4.0]]  # columns 2 to 4, rows 1 to 3: nine pixels


def seen(values: torch.Tensor, boxes: list[list[float]] | None = None, image_id: str = "a") -> Seen:
    h, w = values.shape
    return Seen(
        image_id,
        0,
        torch.zeros(3, h, w),
        torch.zeros(2),
        torch.tensor([0, 1]),
        values.float().unsqueeze(0),
        torch.tensor(boxes or []).view(-1, 4),
    )


def one(metric: object, *args: object) -> float:
    return float(metric.score(seen(*args)))  # type: ignore[attr-defined, arg-type]


def test_box_mask_counts_centres() -> None:
    inside = box_mask(torch.tensor(BOX), (8, 8))
    assert int(inside.sum()) == 9
    assert bool(inside[1:4, 2:5].all())
    both = box_mask(torch.tensor([*BOX, [4.0, 3.0, 6.0, 5.0]]), (8, 8))
    assert int(both.sum()) == 9 + 4 - 1
    assert not box_mask(torch.zeros(0, 4), (8, 8)).any()
    assert int(box_mask(torch.tensor([[1.6, 0.0, 3.4, 1.0]]), (2, 8)).sum()) == 1  # half pixels count by their centre


def test_pointing() -> None:
    peak = torch.zeros(8, 8)
    peak[2, 3] = 1
    assert one(Pointing(), peak, BOX) == 1
    peak[7, 7] = 2
    assert one(Pointing(), peak, BOX) == 0
    assert one(Pointing(margin=4), peak, BOX) == 1
    assert math.isnan(one(Pointing(), peak, []))
    assert math.isnan(one(Pointing(under=0.1), peak, BOX))  # 9 of 64 pixels are more than a tenth
    assert one(Pointing(under=0.25), peak, BOX) == 0


def test_pointing_draws_among_ties() -> None:
    """A constant map hits as often as the boxes are large."""
    hits = [one(Pointing(), torch.ones(8, 8), BOX, str(i)) for i in range(600)]
    assert np.mean(hits) == pytest.approx(9 / 64, abs=0.04)


def test_iou() -> None:
    inside = box_mask(torch.tensor(BOX), (8, 8)).float()
    assert one(Iou(), inside, BOX) == 1
    assert one(Iou(), -inside, BOX) == 0
    shifted = torch.roll(inside, 1, 1)
    assert one(Iou(), shifted, BOX) == pytest.approx(6 / 12)


def test_energy() -> None:
    inside = box_mask(torch.tensor(BOX), (8, 8))
    assert one(Energy(), torch.ones(8, 8), BOX) == pytest.approx(9 / 64)
    assert one(Energy(), torch.where(inside, 2.0, -5.0), BOX) == 1  # negative values are none
    assert math.isnan(one(Energy(), -torch.ones(8, 8), BOX))


def test_entropy() -> None:
    peak = torch.zeros(4, 4)
    peak[1, 2] = -3
    assert one(Entropy(), peak) == 0
    assert one(Entropy(), torch.full((4, 4), -2.0)) == pytest.approx(1)
    half = torch.zeros(4, 4)
    half[:2] = 1
    assert one(Entropy(), half) == pytest.approx(math.log(8) / math.log(16))
    assert math.isnan(one(Entropy(), torch.zeros(4, 4)))


def test_gini() -> None:
    assert one(Gini(), torch.full((4, 4), 0.5)) == pytest.approx(0, abs=1e-9)
    peak = torch.zeros(4, 4)
    peak[0, 0] = 1
    assert one(Gini(), peak) == pytest.approx(1 - 1 / 16)
    x = np.abs(np.random.default_rng(0).normal(size=(6, 6)))
    pairs = np.abs(x.ravel()[:, None] - x.ravel()[None]).sum() / (2 * x.size**2 * x.mean())
    assert one(Gini(), torch.from_numpy(x)) == pytest.approx(pairs, rel=1e-6)
    assert math.isnan(one(Gini(), torch.zeros(4, 4)))


@pytest.mark.parametrize("name", ["energy", "entropy", "gini"])
def test_sign_as_declared(name: str) -> None:
    (item,) = parse_metric(name)
    values = torch.from_numpy(np.random.default_rng(1).normal(size=(8, 8)))
    treated = values.abs() if item.metric.traits.sign == "absolute" else values.clamp_min(0)
    assert one(item.metric, values, BOX) == pytest.approx(one(item.metric, treated, BOX))
