"""The contracts refuse what breaks them: each is given a method that does."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from salience.engine.method import Evidence
from salience.engine.tune import make_plan
from salience.methods.registry import methods
from salience.models.classifier import Classifier
from salience.testing import contracts
from salience.testing.models import small_classifier

Look = Callable[[Any, Evidence], Tensor]
GRADIENT = methods()["gradient"]
KEPT: list[Tensor] = []


def looking_at_the_others(look: Look) -> Look:
    return lambda self, seen: look(self, seen) + seen.images.mean()


def drawing(look: Look) -> Look:
    return lambda self, seen: look(self, seen) + torch.rand(1)


def keeping(look: Look) -> Look:
    def keep(self: Any, seen: Evidence) -> Tensor:
        KEPT.append(look(self, seen))
        return KEPT[-1]

    return keep


def remembering(look: Look) -> Look:
    """A method with a state of its own, which threads share."""
    turn = itertools.count()
    return lambda self, seen: look(self, seen) * (1 + next(turn))


def touching_the_model(look: Look) -> Look:
    def touch(self: Any, seen: Evidence) -> Tensor:
        with torch.no_grad():
            next(p for p in MODEL.module.parameters() if p.ndim == 1).add_(0.1)
        return look(self, seen)

    return touch


MODEL = small_classifier()


@pytest.mark.parametrize(
    ("check", "broken"),
    [
        (contracts.check_batch_invariance, looking_at_the_others),
        (contracts.check_seed_and_global_generators, drawing),
        (contracts.check_memory_is_flat, keeping),
        (contracts.check_model_left_as_found, touching_the_model),
        (contracts.check_failures_are_rows, looking_at_the_others),
        (contracts.check_resume, drawing),
        (contracts.check_lanes, remembering),
    ],
)
def test_a_method_that_breaks_a_contract_is_refused(
    check: Callable[[str, Classifier], None], broken: Callable[[Look], Look], monkeypatch: pytest.MonkeyPatch
) -> None:
    check("gradient", small_classifier())
    monkeypatch.setattr(GRADIENT, "look", broken(GRADIENT.look))
    with pytest.raises(AssertionError):
        check("gradient", MODEL)
    KEPT.clear()


def test_a_model_whose_rows_depend_on_one_another_is_asked_for_one_at_a_time() -> None:
    class Together(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_classifier().module

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.net(x) * x.mean())

    classifier = Classifier(Together().eval(), size=16)
    assert make_plan(classifier, batch=4, remember=False).batch == 1
    contracts.check_batch_invariance("gradient", classifier)
