from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from salience.errors import SettingsError
from salience.training import Recipe
from salience.training.recipe import generator, own_random


def test_the_defaults_are_the_published_recipe() -> None:
    recipe = Recipe()
    published = (
        recipe.alpha,
        recipe.target,
        recipe.lr,
        recipe.momentum,
        recipe.weight_decay,
        recipe.step,
        recipe.gamma,
    )
    assert published == (0.5, "predicted", 0.005, 0.9, 1e-6, 12, 0.1)
    assert (recipe.epochs, recipe.batch_size, recipe.patience) == (50, 20, None)


def test_the_rate_falls_to_a_tenth_every_twelve_epochs() -> None:
    rates = [Recipe().rate(epoch) for epoch in (0, 11, 12, 23, 24, 49)]
    assert rates == pytest.approx([5e-3, 5e-3, 5e-4, 5e-4, 5e-5, 5e-7])


def test_the_cosine_begins_at_the_rate_and_ends_near_zero() -> None:
    recipe = Recipe(schedule="cosine", epochs=10, lr=0.1)
    rates = [recipe.rate(epoch) for epoch in range(10)]
    assert rates[0] == 0.1
    assert rates[5] == pytest.approx(0.05)
    assert rates == sorted(rates, reverse=True)
    assert rates[9] == pytest.approx(0.05 * (1 + math.cos(0.9 * math.pi)))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "plain"),
        ({"loss": "guided"}, "guided"),
        ({"loss": "guided", "control": "shuffled"}, "guided-shuffled"),
        ({"loss": "guided", "control": "centre"}, "guided-centre"),
    ],
)
def test_groups_are_named_by_what_guides_them(settings: dict[str, Any], name: str) -> None:
    assert Recipe(**settings).default_name == name


def test_alpha_one_is_not_guided() -> None:
    assert not Recipe(loss="guided", alpha=1.0).guided
    assert Recipe(loss="guided").guided
    assert not Recipe().guided


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "guide"}, "Did you mean 'guided'"),
        ({"target": "label"}, "choose 'predicted' or 'true'"),
        ({"control": "centre"}, "which the loss 'cross-entropy' does not use"),
        ({"loss": "guided", "control": "center"}, "Did you mean 'centre'"),
        ({"epochs": 0}, "epochs is 0: 1 or more"),
        ({"batch_size": 0}, "batch-size is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"momentum": 1.0}, r"momentum is 1.0: 0 or more is needed, below 1.0"),
        ({"weight_decay": -1.0}, "weight-decay is -1.0: 0 or more is needed"),
        ({"gamma": 0.0}, "gamma"),
        ({"alpha": 2.0}, "alpha is 2.0"),
        ({"schedule": "steps"}, "Did you mean 'step'"),
        ({"augment": ("flip", "turn")}, "augment is 'turn'"),
        ({"validation": 1.0}, "validation is 1.0"),
        ({"train": ""}, "train is empty"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Recipe(**settings)


def test_each_purpose_and_run_has_its_own_numbers() -> None:
    def drawn(*of: Any) -> list[float]:
        return [float(v) for v in torch.rand(4, generator=generator(*of))]

    first = drawn(0, 1, "order", 0)
    assert drawn(0, 1, "order", 0) == first
    for other in ((1, 1, "order", 0), (0, 2, "order", 0), (0, 1, "weights", 0), (0, 1, "order", 1)):
        assert drawn(*other) != first


def test_modules_draw_the_runs_numbers_and_the_global_generator_is_put_back() -> None:
    before = torch.get_rng_state()
    drawn = []
    for run, epoch in ((1, 0), (1, 1), (1, 0)):
        with own_random(0, run, epoch):
            drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[2] != drawn[1]
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(KeyError), own_random(0, 1, 0):
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)
