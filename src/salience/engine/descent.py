"""Methods that search their maps by gradients through the model: what they get, and how they call it.

A :class:`DescentMethod` gets a whole batch with all its classes as one :class:`Problem`, so that it can fill every
model call with rows of several of them. The engine keeps what it keeps for all methods: calls of exactly the plan's
batch, counted, with no gradient for the weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from salience.engine.method import Method
from salience.engine.passes import Calls, call_model, pad
from salience.engine.plan import Plan
from salience.engine.pool import Pool
from salience.models.classifier import Classifier


@dataclass(frozen=True)
class ModelCalls:
    """The model under a plan: every call has exactly ``plan.batch`` rows and is counted, padding left out."""

    classifier: Classifier
    plan: Plan
    calls: Calls

    @property
    def batch(self) -> int:
        """The most rows that one call takes."""
        return self.plan.batch

    def _full(self, inputs: Tensor) -> Tensor:
        rows = pad(inputs.to(self.classifier.dtype), self.plan.batch)
        return rows.contiguous(memory_format=self.plan.torch_format)

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the logits (R, C) of inputs (R, 3, H, W), R at most :attr:`batch`; no gradients."""
        self.calls.count(forward=len(inputs))
        with torch.no_grad():
            return call_model(self.classifier, self._full(inputs), self.plan)[: len(inputs)]

    def pull_back(self, inputs: Tensor, cotangent: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logits (R, C), and the gradient (R, 3, H, W) by the inputs of what ``cotangent`` differentiates.

        ``cotangent`` turns the logits (R, C) into the derivatives (R, C) by them. Where logits are no numbers, the
        gradient is none either: what is made of it shows that, instead of going astray.
        """
        rows = len(inputs)
        leaf = self._full(inputs.detach()).requires_grad_()
        self.calls.count(forward=rows)
        with torch.enable_grad():
            whole = call_model(self.classifier, leaf, self.plan)
        logits = whole.detach()[:rows]
        vector = torch.zeros_like(whole)
        vector[:rows] = cotangent(logits)
        self.calls.count(backward=rows)
        with torch.enable_grad():
            total = (whole * vector).sum()  # in place of grad_outputs: see salience.engine.passes
        (slope,) = torch.autograd.grad(total, leaf)
        unusable = ~logits.isfinite().all(1)
        return logits, slope[:rows].masked_fill(unusable.view(-1, 1, 1, 1), float("nan"))


@dataclass(frozen=True)
class Problem:
    """What a :class:`DescentMethod` gets: images (N, 3, H, W), pixels in [0, 1], and for each T classes (N, T).

    ``pool`` is there where :attr:`~salience.engine.method.Method.needs_pool` asks for one.
    """

    model: ModelCalls
    images: Tensor
    image_ids: tuple[str, ...]
    targets: Tensor
    seed: int
    pool: Pool | None


@dataclass
class Descended:
    """What a descent ended at: maps (N, T, h, w), and numbers to store beside each map, (N, T)."""

    maps: Tensor
    diagnostics: dict[str, Tensor] = field(default_factory=dict)


class DescentMethod(Method):
    """A method that optimises maps: it needs a model with gradients, and no layers."""

    @abstractmethod
    def passes(self, batch: int) -> tuple[int, int]:
        """Return the forward and the backward passes that one image and class need in calls of ``batch`` rows."""

    @abstractmethod
    def descend(self, problem: Problem) -> Descended:
        """Optimise the maps of all images and classes of a batch."""
