"""Average drop and increase: the image multiplied by its map, as Grad-CAM++ was judged."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from salience.engine.masked import Packer, answers
from salience.metrics.metric import ProbeMetric, Seen
from salience.metrics.registry import register

REFERENCE = "Chattopadhay et al., WACV 2018 (arXiv 1710.11063)"
DETAILS = (
    "Published: the image times the map scaled to [0, 1], softmax over all classes. Ours: a share instead of a "
    "percentage; a constant map shows everything."
)


@dataclass(frozen=True)
class _Shown(ProbeMetric):
    def rows(self, labels: int, size: tuple[int, int]) -> int:
        """One masked image."""
        return 1

    def ask(self, seen: Seen, packer: Packer) -> Callable[[], Tensor]:
        """Ask for the image times its map; the value is made of both probabilities."""
        own = seen.maps[0]
        span = own.max() - own.min()
        mask = (own - own.min()) / span if bool(span > 0) else torch.ones_like(own)
        masked = (seen.pixels * mask.to(seen.pixels.dtype)).unsqueeze(0)
        label = seen.labels[None, :1]
        clean = answers(seen.logits[None], label, ("full",))["full"][0, 0]
        found: list[Tensor] = []

        def write(inputs: Tensor, rows: slice) -> None:
            inputs.copy_(masked)

        def take(logits: Tensor, rows: slice) -> None:
            found.append(answers(logits, label, ("full",))["full"][0, 0])

        packer.add(1, write, take)
        return lambda: self.judge(clean, found[0]).view(1)

    @abstractmethod
    def judge(self, whole: Tensor, shown: Tensor) -> Tensor:
        """Return the value () of the two probabilities."""


@register(
    "average-drop",
    summary="Share of the probability that is lost when the image is multiplied by its map",
    family="perturbation",
    direction="lower",
    low=0.0,
    high=1.0,
    sign="raw",
    over="predicted",
    reference=REFERENCE,
    details=DETAILS,
)
@dataclass(frozen=True)
class AverageDrop(_Shown):
    """Average drop; it has no settings."""

    def judge(self, whole: Tensor, shown: Tensor) -> Tensor:
        """Return ``max(0, p - p') / p``."""
        return (whole - shown).clamp_min(0) / whole


@register(
    "increase",
    summary="Whether the probability rises when the image is multiplied by its map",
    family="perturbation",
    direction="higher",
    low=0.0,
    high=1.0,
    sign="raw",
    over="predicted",
    reference=REFERENCE,
    details=DETAILS,
)
@dataclass(frozen=True)
class Increase(_Shown):
    """Increase in confidence; it has no settings."""

    def judge(self, whole: Tensor, shown: Tensor) -> Tensor:
        """Return 1 where it rises, else 0."""
        return (shown > whole).double() if bool(shown.isfinite()) else shown
