"""Insertion, deletion and their difference: how fast the probability comes and goes with the pixels of a map.

All are areas under curves over the share of pixels, 0 to 1, by the trapezoid rule; the curves are those of one masked
sweep, so each of these costs nothing beside the others.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from salience.engine.masked import Order, Output
from salience.metrics.metric import CurveMetric, Curves, Need, step_of
from salience.metrics.registry import register

PETSIUK = "Petsiuk et al., BMVC 2018 (arXiv 1806.07421)"
BLUECHER = "Bluecher et al., TMLR 2024 (arXiv 2401.06654)"
ALLEGIANCE = "Llorente et al. 2023"


@dataclass(frozen=True)
class _Area(CurveMetric):
    points: int = 28
    step_rows: float | None = None

    orders: ClassVar[tuple[Order, ...]]

    def __post_init__(self) -> None:
        step_of((self.points, 1), self.points, self.step_rows)

    @property
    @abstractmethod
    def read(self) -> Output:
        """Which output is followed."""

    def needs(self, size: tuple[int, int]) -> tuple[Need, ...]:
        """Read the predicted label's curves."""
        step = step_of(size, self.points, self.step_rows)
        return tuple(Need(order, self.read, step, "predicted") for order in self.orders)

    def score(self, curves: Curves, size: tuple[int, int]) -> Tensor:
        """Return the area of the first curve, less that of the second where there is one: (N, 1)."""
        pixels = size[0] * size[1]
        areas = [area(curves.read(need)[:, :1], need.counts(pixels)) for need in self.needs(size)]
        return areas[0] if len(areas) == 1 else areas[0] - areas[1]


@dataclass(frozen=True)
class _Probability(_Area):
    softmax: Literal["restricted", "full"] = "full"

    @property
    def read(self) -> Output:
        """The probability."""
        return self.softmax


def area(values: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Return the area (...) under curves (..., P) over the share of pixels, by the trapezoid rule."""
    share = torch.tensor(counts, dtype=torch.float64, device=values.device) / counts[-1]
    return torch.trapezoid(values, share, dim=-1)


@register(
    "insertion",
    summary="Area under the probability while the most salient pixels come in first",
    family="perturbation",
    direction="higher",
    low=0.0,
    high=1.0,
    sign="raw",
    over="predicted",
    reference=PETSIUK,
    details="Published: 224 steps of 224 pixels into a blurred image, softmax over all classes, trapezoid rule. Ours: "
    "28 points, so that one sweep serves all metrics (points=224 is the published number), any background.",
)
@dataclass(frozen=True)
class Insertion(_Probability):
    """Insertion.

    Parameters
    ----------
    points
        Points of the curve beside the empty image.
    step_rows
        Step in image rows, instead of ``points``.
    softmax
        ``full`` (over all classes) or ``restricted`` to the label set.
    """

    orders = ("keep",)


@register(
    "deletion",
    summary="Area under the probability while the most salient pixels go first",
    family="perturbation",
    direction="lower",
    low=0.0,
    high=1.0,
    sign="raw",
    over="predicted",
    reference=PETSIUK,
    details="Published: 224 steps of 224 pixels to zero in the normalised space, softmax over all classes, trapezoid "
    "rule. Ours: 28 points (points=224 is the published number), any background.",
)
@dataclass(frozen=True)
class Deletion(_Probability):
    """Deletion.

    Parameters
    ----------
    points, step_rows, softmax
        As for ``insertion``.
    """

    orders = ("delete",)


@register(
    "srg",
    summary="Area when the least important pixels go first, less that when the most important go first",
    family="perturbation",
    direction="higher",
    low=-1.0,
    high=1.0,
    sign="raw",
    over="predicted",
    reference=BLUECHER,
    details="Published: symmetric relevance gain, AUC(least important first) - AUC(most important first). Deleting the "
    "least important pixels first is keeping the most salient, read backwards. A random map has 0 on average.",
)
@dataclass(frozen=True)
class Srg(_Probability):
    """Symmetric relevance gain.

    Parameters
    ----------
    points, step_rows, softmax
        As for ``insertion``.
    """

    orders = ("keep", "delete")


@register(
    "deletion-class",
    summary="Share of the deletion curve over which the predicted class stays the first",
    family="perturbation",
    direction="lower",
    low=0.0,
    high=1.0,
    sign="raw",
    over="predicted",
    reference=f"{ALLEGIANCE}; Rong et al., ICML 2022 (with the background road)",
    details="Published: allegiance (black or white background, percentages) and ROAD's accuracy along most relevant "
    "first (background road). Ours: evenly spaced points, trapezoid rule over 0 to 1.",
)
@dataclass(frozen=True)
class DeletionClass(_Area):
    """Whether the predicted class is kept while the most salient pixels go.

    Parameters
    ----------
    points, step_rows
        As for ``insertion``.
    """

    orders = ("delete",)

    @property
    def read(self) -> Output:
        """Whether the label leads."""
        return "top"
