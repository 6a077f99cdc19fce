"""Smaller batches where memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from salience.engine.passes import is_out_of_memory
from salience.engine.plan import Plan
from salience.engine.tune import running
from salience.errors import ModelError
from salience.models.classifier import Classifier

Result = TypeVar("Result")


def run_halving(classifier: Classifier, plan: Plan, compute: Callable[[Plan], Result]) -> tuple[Result, Plan]:
    """Run ``compute(plan)`` with the model held by the plan; with half its batch as often as memory runs out.

    Returns
    -------
    tuple
        What was computed, and the plan under which that was.

    Raises
    ------
    ModelError
        When there is no memory for a batch of one image.
    """
    while True:
        try:
            with running(classifier, plan):
                return compute(plan), plan
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if plan.batch == 1:
                name = classifier.name
                raise ModelError(f"There is no memory for a batch of one image of {name!r}: {error}") from error
            plan = replace(plan, batch=plan.batch // 2)
        if classifier.device.type == "cuda":
            torch.cuda.empty_cache()
