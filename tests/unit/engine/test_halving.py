"""Smaller batches where memory runs out."""

from __future__ import annotations

import pytest
import torch

from salience.engine.halving import run_halving
from salience.engine.plan import Plan
from salience.errors import ModelError
from salience.testing.models import small_classifier

PLAN = Plan(8, "contiguous", 1, "cpu")


def test_the_batch_is_halved_until_it_fits() -> None:
    asked: list[int] = []

    def compute(plan: Plan) -> str:
        asked.append(plan.batch)
        if plan.batch > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"

    classifier = small_classifier(16, 4)
    classifier.module.train()
    found, plan = run_halving(classifier, PLAN, compute)
    assert (found, plan.batch) == ("done", 2)
    assert asked == [8, 4, 2]
    assert classifier.module.training  # left as it was found


def test_no_memory_for_one_image_is_an_error_for_people() -> None:
    def compute(plan: Plan) -> None:
        raise MemoryError

    with pytest.raises(ModelError, match="no memory for a batch of one image of 'small'"):
        run_halving(small_classifier(16, 4), PLAN, compute)


def test_other_errors_are_not_held_back() -> None:
    asked: list[int] = []

    def compute(plan: Plan) -> None:
        asked.append(plan.batch)
        raise ValueError("something else")

    with pytest.raises(ValueError, match="something else"):
        run_halving(small_classifier(16, 4), PLAN, compute)
    assert asked == [8]
