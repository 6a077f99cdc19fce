"""Completeness and soundness by hand, and on models whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from salience.errors import MetricError
from salience.metrics.complete_sound import (
    Agreement,
    Completeness,
    RunnerUpSoundness,
    Soundness,
    WorstCompleteness,
    WorstSoundness,
    WrongAuc,
    completeness,
    soundness,
)
from salience.metrics.metric import Curves

SIZE = (2, 2)  # four pixels; with points=4, k is 1, 2, 3, 4


def curves(keep: list[list[float]]) -> Curves:
    """One image; for each label the restricted probability with 0, 1, 2, 3 and 4 pixels kept."""
    values = torch.tensor([keep], dtype=torch.float64)
    return Curves({"restricted": values[:, :, -1]}, {("keep", "restricted"): values}, {"keep": (0, 1, 2, 3, 4)}, 4)


#: predicted label: AUC (0.5 + 0.7 + 0.8 + 0.8) / 4 = 0.7, p 0.8.  runner-up: AUC 0.4, p 0.15.  third: AUC 0.02, p 0.05
HAND = [[0.9, 0.5, 0.7, 0.8, 0.8], [0.9, 0.6, 0.5, 0.35, 0.15], [0.9, 0.01, 0.01, 0.01, 0.05]]


def test_by_hand() -> None:
    seen = curves(HAND)
    assert Completeness(points=4).score(seen, SIZE)[0].tolist() == pytest.approx([0.7 / 0.8, 1.0, 1.0])
    assert WorstCompleteness(points=4).score(seen, SIZE).tolist() == pytest.approx([0.875])
    sound = Soundness(points=4).score(seen, SIZE)[0]
    assert bool(sound[0].isnan())  # the predicted label is not wrong
    assert sound[1:].tolist() == pytest.approx([0.15 / 0.4, 1.0])
    assert WorstSoundness(points=4).score(seen, SIZE).tolist() == pytest.approx([0.375])
    assert RunnerUpSoundness(points=4).score(seen, SIZE).tolist() == pytest.approx([0.375])
    assert WrongAuc(points=4).score(seen, SIZE).tolist() == pytest.approx([(0.4 + 0.02) / 2])
    assert Agreement(points=4).score(seen, SIZE).tolist() == [1.0]
    assert Agreement(points=4).score(curves([HAND[1], HAND[0], HAND[2]]), SIZE).tolist() == [0.0]


def test_the_empty_image_does_not_count_and_the_whole_one_does() -> None:
    changed = [[0.0, *row[1:]] for row in HAND]
    assert torch.equal(
        Completeness(points=4).score(curves(changed), SIZE), Completeness(points=4).score(curves(HAND), SIZE)
    )


def test_floors() -> None:
    auc, p = torch.tensor([0.02, 0.5, 0.05]), torch.tensor([0.5, 0.02, 0.05])
    assert completeness(auc, p).tolist() == pytest.approx([0.2, 1.0, 1.0])  # max(0.1, 0.02) / 0.5
    assert soundness(auc, p).tolist() == pytest.approx([1.0, 0.2, 1.0])  # max(0.1, 0.02) / 0.5
    assert completeness(auc, p, eps=0.01).tolist() == pytest.approx([0.04, 1.0, 1.0])
    assert soundness(auc, p, beta=0.01).tolist() == pytest.approx([1.0, 0.04, 1.0])


def test_a_label_without_a_map_takes_what_needs_it_along() -> None:
    nan = float("nan")
    seen = curves([HAND[0], [nan] * 5, [nan] * 5])
    seen = Curves({"restricted": torch.tensor([[0.8, 0.15, 0.05]]).double()}, seen.values, seen.counts, 4)
    assert Completeness(points=4).score(seen, SIZE)[0].isnan().tolist() == [False, True, True]
    for metric in (WorstCompleteness, WorstSoundness, RunnerUpSoundness, WrongAuc, Agreement):
        assert bool(metric(points=4).score(seen, SIZE).isnan().all()), metric.__name__


def test_a_set_of_one_label_has_no_soundness() -> None:
    seen = curves([HAND[0]])
    assert bool(WorstSoundness(points=4).score(seen, SIZE).isnan().all())
    assert Completeness(points=4).score(seen, SIZE).shape == (1, 1)


def test_published_grid_at_224() -> None:
    (need,) = Completeness().needs((224, 224))
    assert need.counts(224 * 224)[1:] == tuple(1792 * j for j in range(1, 29))
    (rows,) = Completeness(step_rows=8).needs((224, 224))
    assert rows == need
    (small,) = Completeness(step_rows=8).needs((32, 32))
    assert small.counts(1024) == (0, 256, 512, 768, 1024)
    (default,) = Completeness().needs((32, 32))
    assert len(default.counts(1024)) == 29
    (uneven,) = Completeness(step_rows=3).needs((8, 8))
    assert uneven.counts(64) == (0, 24, 48, 64)  # the whole image is always the last


@pytest.mark.parametrize("wrong", [{"eps": 0.0}, {"eps": 1.0}, {"points": 0}, {"step_rows": -1.0}])
def test_settings_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(MetricError):
        Completeness(**wrong)


def test_ranges() -> None:
    rng = np.random.default_rng(0)
    auc, p = (torch.from_numpy(rng.random(1000)) for _ in range(2))
    for values in (completeness(auc, p), soundness(auc, p)):
        assert float(values.min()) > 0
        assert float(values.max()) <= 1
