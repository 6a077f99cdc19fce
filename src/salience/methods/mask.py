"""Masks that keep a class and nothing else: the saliency method of the complete-and-sound paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from salience.engine.descent import Descended, DescentMethod, Problem
from salience.engine.fitting import MaskFit, fit_masks
from salience.engine.scalars import Output
from salience.methods.registry import register

_REFERENCE = "Gupta et al. 2022, arXiv 2211.02912"


@register(
    "mask",
    summary="the smallest smooth part of the image that keeps the class before any background",
    family="masks",
    signed=False,
    reference=_REFERENCE,
    details="Published: the objective, and backgrounds drawn anew at every step. Inferred: how backgrounds are cropped "
    "(8 to 100 % of the area, ratio 3/4 to 4/3). Ours: fewer steps and draws at a larger rate than published (see "
    "mask_published), the l1 weight at other resolutions, backgrounds without the image itself.",
    stochastic=True,
)
@dataclass(frozen=True)
class Mask(DescentMethod):
    """``M = up(sigmoid(w))`` that minimises ``CE(mean_j p(x M + G_j (1 - M)), a) + l1 sum(M) + tv |dM|^2``.

    Maps are sigmoid(w) in [0, 1] at their own grid, 1 where the image is kept. They explain the probability. Stored
    beside each map, over backgrounds that it was not fitted to: ``objective``, ``probability`` of the class behind the
    mask, ``area`` in [0, 1].

    Parameters
    ----------
    scale
        Pixels of the image to a value of the mask, each way; 1 fits every pixel.
    tv
        Weight of the squared differences of neighbouring pixels of M.
    l1
        Weight of the sum of M; ``auto`` is the published 2e-5 at 224x224, and as much for the whole mask elsewhere.
    steps
        Steps of Adam.
    draws
        Backgrounds at every step.
    lr
        Rate of Adam.
    objective
        ``published`` takes mean probabilities for logits of a cross-entropy, as the paper does; ``nll`` is
        -log of the mean probability.
    """

    scale: int = 4
    tv: float = 0.01
    l1: float | Literal["auto"] = "auto"
    steps: int = 300
    draws: int = 4
    lr: float = 0.2
    objective: Literal["published", "nll"] = "published"

    def __post_init__(self) -> None:
        _ = self._fit  # tells what cannot be fitted

    @property
    def _fit(self) -> MaskFit:
        l1 = None if self.l1 == "auto" else self.l1
        return MaskFit(self.scale, self.tv, l1, self.steps, self.draws, self.lr, self.objective)

    @property
    def output(self) -> Output:
        """The probability; the objective is about nothing else."""
        return "prob"

    @property
    def needs_pool(self) -> bool:
        """Backgrounds are other images."""
        return True

    def passes(self, batch: int) -> tuple[int, int]:
        """Return the passes of one mask."""
        return self._fit.passes(batch)

    def descend(self, problem: Problem) -> Descended:
        """Fit the masks of a batch together."""
        return fit_masks(self._fit, problem)


@register(
    "mask_published",
    summary="mask with the published steps, draws and rate: slow, for replication",
    family="masks",
    signed=False,
    reference=_REFERENCE,
    details="As mask; the steps, draws and rate are the published ones.",
    stochastic=True,
)
@dataclass(frozen=True)
class PublishedMask(Mask):
    """As for :class:`Mask`, with the published settings."""

    steps: int = 2000
    draws: int = 10
    lr: float = 0.05
