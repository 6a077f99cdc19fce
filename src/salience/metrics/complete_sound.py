"""Completeness and soundness of maps (Gupta et al. 2022): does a map bring its own label about, and no other.

With ``p_a`` the model's probability of label a at the image, and ``AUC_a`` its mean over images of which only the k
most salient pixels of the map for a are left, k = step, 2 step, ..., all:

    completeness(x, a) = min(max(eps, AUC_a) / p_a, 1)
    soundness(x, a)    = min(max(beta, p_a) / AUC_a, 1)

A map is complete when what it shows is enough for its label, and sound when what it shows for a *wrong* label does not
produce that label. Neither is worth anything alone: a map that ignores the label, or a random one, looks sound.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from salience.errors import MetricError
from salience.metrics.metric import CurveMetric, Curves, Need, step_of
from salience.metrics.registry import register

REFERENCE = "Gupta et al., NeurIPS 2022 (arXiv 2211.02912)"
PUBLISHED = (
    "Published: the formulas, eps = beta = 0.1, softmax over the label set, the background dataset-mean, steps of 8 "
    "image rows at 224 (28 points, the empty image left out), ties in a random order. Ours: 28 points at every size "
    "(step_rows sets rows)."
)


@dataclass(frozen=True)
class _CompleteSound(CurveMetric):
    """Common settings.

    Parameters
    ----------
    softmax
        ``restricted`` to the label set (published) or ``full``: over all classes.
    points
        Points of the curve.
    step_rows
        Step in image rows, instead of ``points``.
    """

    softmax: Literal["restricted", "full"] = "restricted"
    points: int = 28
    step_rows: float | None = None

    def __post_init__(self) -> None:
        step_of((self.points, 1), self.points, self.step_rows)

    def needs(self, size: tuple[int, int]) -> tuple[Need, ...]:
        """Read the kept pixels of every label's map."""
        return (Need("keep", self.softmax, step_of(size, self.points, self.step_rows), "all"),)

    def score(self, curves: Curves, size: tuple[int, int]) -> Tensor:
        """Return what :meth:`judge` makes of the areas."""
        (need,) = self.needs(size)
        return self.judge(curves.read(need)[:, :, 1:].mean(2), curves.clean[self.softmax])

    @abstractmethod
    def judge(self, auc: Tensor, p: Tensor) -> Tensor:
        """Return (N,) or (N, T) for areas and clean probabilities (N, T), the predicted label first."""


@dataclass(frozen=True)
class _Complete(_CompleteSound):
    eps: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("eps", self.eps)

    def completeness(self, auc: Tensor, p: Tensor) -> Tensor:
        """Return the completeness (N, T)."""
        return completeness(auc, p, self.eps)


@dataclass(frozen=True)
class _Sound(_CompleteSound):
    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("beta", self.beta)

    def wrong(self, auc: Tensor, p: Tensor) -> Tensor:
        """Return the soundness (N, T - 1) of the wrong labels."""
        return soundness(auc, p, self.beta)[:, 1:]


def _check(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise MetricError(f"{name} is {value}; a value between 0 and 1 is needed.")


def completeness(auc: Tensor, p: Tensor, eps: float = 0.1) -> Tensor:
    """Return ``min(max(eps, auc) / p, 1)``, in (0, 1]: 1 where the kept pixels do what the image does."""
    return (auc.clamp_min(eps) / p).clamp_max(1.0)


def soundness(auc: Tensor, p: Tensor, beta: float = 0.1) -> Tensor:
    """Return ``min(max(beta, p) / auc, 1)``, in (0, 1]: 1 where the kept pixels do no more than the image."""
    return (p.clamp_min(beta) / auc).clamp_max(1.0)


@register(
    "completeness",
    summary="How much of its label's probability the most salient pixels alone keep",
    family="complete and sound",
    direction="higher",
    low=0.0,
    high=1.0,
    sign="raw",
    over="predicted",
    reference=REFERENCE,
    details=f"{PUBLISHED} A value for every label; the mean over images is of the predicted label.",
)
@dataclass(frozen=True)
class Completeness(_Complete):
    """Completeness of every label.

    Parameters
    ----------
    eps
        Floor of the area.
    softmax, points, step_rows
        The curve.
    """

    def judge(self, auc: Tensor, p: Tensor) -> Tensor:
        """Return the completeness of every label."""
        return self.completeness(auc, p)


@register(
    "worst-completeness",
    summary="Completeness of the label whose map is the least complete",
    family="complete and sound",
    direction="higher",
    low=0.0,
    high=1.0,
    sign="raw",
    over="image",
    reference=REFERENCE,
    details=f"{PUBLISHED} The least value over all labels of the set, right and wrong.",
)
@dataclass(frozen=True)
class WorstCompleteness(_Complete):
    """The smallest completeness of an image's labels.

    Parameters
    ----------
    eps, softmax, points, step_rows
        As for ``completeness``.
    """

    def judge(self, auc: Tensor, p: Tensor) -> Tensor:
        """Return the least over the labels; NaN where one of them has no map."""
        return self.completeness(auc, p).amin(1)


@register(
    "soundness",
    summary="How far the maps of wrong labels are from producing their label",
    family="complete and sound",
    direction="higher",
    low=0.0,
    high=1.0,
    sign="raw",
    over="wrong",
    reference=REFERENCE,
    details=f"{PUBLISHED} A value for every wrong label. Never to be read without completeness.",
)
@dataclass(frozen=True)
class Soundness(_Sound):
    """Soundness of every wrong label.

    Parameters
    ----------
    beta
        Floor of the clean probability.
    softmax, points, step_rows
        The curve.
    """

    def judge(self, auc: Tensor, p: Tensor) -> Tensor:
        """Return the soundness of every label but the predicted one."""
        values = soundness(auc, p, self.beta)
        values[:, 0] = float("nan")
        return values


@register(
    "worst-soundness",
    summary="Soundness of the wrong label that its map justifies best",
    family="complete and sound",
    direction="higher",
    low=0.0,
    high=1.0,
    sign="raw",
    over="image",
    reference=REFERENCE,
    details=f"{PUBLISHED} The least value over the wrong labels of the set.",
)
@dataclass(frozen=True)
class WorstSoundness(_Sound):
    """The smallest soundness of an image's wrong labels.

    Parameters
    ----------
    beta, softmax, points, step_rows
        As for ``soundness``.
    """

    def judge(self, auc: Tensor, p: Tensor) -> Tensor:
        """Return the least over the wrong labels; NaN where one of them has no map."""
        return _or_none(self.wrong(auc, p), lambda wrong: wrong.amin(1))


@register(
    "runner-up-soundness",
    summary="Soundness of the second most probable label",
    family="complete and sound",
    direction="higher",
    low=0.0,
    high=1.0,
    sign="raw",
    over="image",
    reference=REFERENCE,
    details=PUBLISHED,
)
@dataclass(frozen=True)
class RunnerUpSoundness(_Sound):
    """Soundness of the runner-up.

    Parameters
    ----------
    beta, softmax, points, step_rows
        As for ``soundness``.
    """

    def judge(self, auc: Tensor, p: Tensor) -> Tensor:
        """Return the soundness of the second label."""
        return _or_none(self.wrong(auc, p), lambda wrong: wrong[:, 0])


@register(
    "wrong-auc",
    summary="Mean probability that the maps of wrong labels bring their label to",
    family="complete and sound",
    direction="lower",
    low=0.0,
    high=1.0,
    sign="raw",
    over="image",
    reference=REFERENCE,
    details=f"{PUBLISHED} The raw area, without floor and clip, averaged over the wrong labels.",
)
@dataclass(frozen=True)
class WrongAuc(_CompleteSound):
    """Raw area under the curves of wrong labels.

    Parameters
    ----------
    softmax, points, step_rows
        As for ``completeness``.
    """

    def judge(self, auc: Tensor, p: Tensor) -> Tensor:
        """Return the mean area of the wrong labels."""
        return _or_none(auc[:, 1:], lambda wrong: wrong.mean(1))


@register(
    "agreement",
    summary="Whether the label that its own map supports best is the predicted one",
    family="complete and sound",
    direction="higher",
    low=0.0,
    high=1.0,
    sign="raw",
    over="image",
    reference=REFERENCE,
    details=f"{PUBLISHED} 1 where the predicted label has the largest area of the set (it wins ties), else 0.",
)
@dataclass(frozen=True)
class Agreement(_CompleteSound):
    """Agreement of the largest area with the model.

    Parameters
    ----------
    softmax, points, step_rows
        As for ``completeness``.
    """

    def judge(self, auc: Tensor, p: Tensor) -> Tensor:
        """Return 1 or 0; NaN where a label has no map."""
        best = (auc[:, :1] >= auc).all(1).double()
        return _or_none(auc[:, 1:], lambda _: best.masked_fill(auc.isnan().any(1), float("nan")))


def _or_none(wrong: Tensor, value: object) -> Tensor:
    """Return ``value(wrong)``, or NaN for every image where the set has no wrong label."""
    assert callable(value)
    if not wrong.shape[1]:
        return torch.full((len(wrong),), float("nan"), dtype=torch.float64, device=wrong.device)
    found: Tensor = value(wrong)
    return found
