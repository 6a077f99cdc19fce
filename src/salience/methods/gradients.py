"""Signed gradients (Llorente, Boal, Sanchez-Ubeda 2023, arXiv 2309.12913) and their family at the clean image.

``g_c`` is the gradient of class c's scalar by the pixels in [0, 1], the normalisation being part of the model; ``t``
is the class explained. Sign and competition are tested for each colour channel, before channels are combined. All
maps of one target come from one forward pass; those without competition from one or two backward passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from salience.engine.method import Contrast, Evidence, Gradient, PointMethod, Rivals, Want
from salience.methods.channels import Rule, combine, combine_signed, dot
from salience.methods.registry import register

_LLORENTE = "Llorente et al. 2023, arXiv 2309.12913"


@register(
    "gradient",
    summary="size of the gradient: where a small change of a pixel moves the output most",
    family="gradients",
    signed=False,
    reference="Simonyan et al. 2014, arXiv 1312.6034",
    details="Published: max_k |g_t|. Ours: channels='sum', and 'signed' for sum_k g_t with its sign.",
)
@dataclass(frozen=True)
class GradientMap(PointMethod):
    """``max_k |g_t|``: the usual saliency map, its sign lost.

    Parameters
    ----------
    channels
        ``max`` (published) or ``sum`` over colour channels; ``signed`` keeps the sign: ``sum_k g_t``.
    """

    channels: Literal["max", "sum", "signed"] = "max"

    @property
    def signed(self) -> bool:
        """Signed only with ``channels="signed"``."""
        return self.channels == "signed"

    @property
    def wants(self) -> tuple[Want, ...]:
        """The target's gradient."""
        return (Gradient(),)

    def look(self, seen: Evidence) -> Tensor:
        """Return the map."""
        g = seen.gradient()
        return g.sum(1) if self.channels == "signed" else combine(g.abs(), self.channels)


@register(
    "positive",
    summary="where a brighter pixel raises the output",
    family="gradients",
    signed=False,
    reference=_LLORENTE,
    details="Published: max_k relu(g_t). Ours: channels='sum'.",
)
@dataclass(frozen=True)
class Positive(PointMethod):
    """``max_k relu(g_t)``: brighter helps the target.

    Parameters
    ----------
    channels
        ``max`` (published) or ``sum`` (consistent with removing whole pixels).
    """

    channels: Rule = "max"

    @property
    def wants(self) -> tuple[Want, ...]:
        """The target's gradient."""
        return (Gradient(),)

    def look(self, seen: Evidence) -> Tensor:
        """Return the map."""
        return combine(seen.gradient().relu(), self.channels)


@register(
    "negative",
    summary="where a darker pixel raises the output",
    family="gradients",
    signed=False,
    reference=_LLORENTE,
    details="Published: max_k relu(-g_t). Ours: channels='sum'.",
)
@dataclass(frozen=True)
class Negative(PointMethod):
    """``max_k relu(-g_t)``: darker helps the target.

    Parameters
    ----------
    channels
        ``max`` (published) or ``sum``.
    """

    channels: Rule = "max"

    @property
    def wants(self) -> tuple[Want, ...]:
        """The target's gradient."""
        return (Gradient(),)

    def look(self, seen: Evidence) -> Tensor:
        """Return the map."""
        return combine(seen.gradient().neg().relu_(), self.channels)


@register(
    "active",
    summary="where a brighter pixel raises the target more than any other class",
    family="gradients",
    signed=False,
    reference=_LLORENTE,
    details="Published: max_k relu(g_t) [g_t > g_c for every c != t], all classes. Ours: channels='sum', and beyond "
    "20 classes a set of rivals, the 10 most probable and 10 random ones (rivals='all' takes every class).",
)
@dataclass(frozen=True)
class Active(PointMethod):
    """``max_k relu(g_t) [g_t > g_c for every rival c]``: brighter helps the target more than any other class.

    Parameters
    ----------
    channels
        ``max`` (published) or ``sum``.
    rivals
        ``all`` classes (published), a ``sample`` of the 10 most probable and 10 random others drawn per image, or
        ``auto``: all up to 20 classes, the sample beyond.
    """

    channels: Rule = "max"
    rivals: Literal["auto", "all", "sample"] = "auto"

    @property
    def wants(self) -> tuple[Want, ...]:
        """The target's gradient and the extremes of its rivals'."""
        return (Gradient(), Rivals(self.rivals))

    def look(self, seen: Evidence) -> Tensor:
        """Return the map."""
        g = seen.gradient()
        highest, _ = seen.pair(Rivals(self.rivals))
        return combine(g.relu().mul_(g > highest), self.channels)


@register(
    "inactive",
    summary="where a darker pixel raises the target more than any other class",
    family="gradients",
    signed=False,
    reference=_LLORENTE,
    details="The printed formula takes the maximum over channels of negative numbers and would be zero nearly "
    "everywhere; the authors' code takes absolute values, with which max_k relu(-g_t) [g_t < g_c for every c != t] "
    "agrees. Ours: channels='sum', and the set of rivals beyond 20 classes.",
)
@dataclass(frozen=True)
class Inactive(PointMethod):
    """``max_k relu(-g_t) [g_t < g_c for every rival c]``: darker helps the target most.

    Parameters
    ----------
    channels, rivals
        As for ``active``.
    """

    channels: Rule = "max"
    rivals: Literal["auto", "all", "sample"] = "auto"

    @property
    def wants(self) -> tuple[Want, ...]:
        """The target's gradient and the extremes of its rivals'."""
        return (Gradient(), Rivals(self.rivals))

    def look(self, seen: Evidence) -> Tensor:
        """Return the map."""
        g = seen.gradient()
        _, lowest = seen.pair(Rivals(self.rivals))
        return combine(g.neg().relu_().mul_(g < lowest), self.channels)


@register(
    "contrast",
    summary="gradient of the target less the mean over classes: what speaks for it rather than for others",
    family="gradients",
    signed=True,
    reference="ours; compare Wang & Wang, NeurIPS 2022",
    details="Ours: h = g_t - mean_c g_c, the soft form of active and inactive, in one backward pass. Options: "
    "weights='probability' (mean by softmax) and 'rivals' (by softmax over the other classes).",
)
@dataclass(frozen=True)
class ContrastMap(PointMethod):
    """``h = g_t - sum_c w_c g_c``, channels combined with their sign.

    Parameters
    ----------
    weights
        ``uniform`` 1/C; ``probability`` softmax over all classes; ``rivals`` softmax over all but the target.
    channels
        ``sum``, or ``max``: the channel with the largest absolute value, with its sign.
    """

    weights: Literal["uniform", "probability", "rivals"] = "uniform"
    channels: Rule = "sum"

    @property
    def wants(self) -> tuple[Want, ...]:
        """One contrast gradient."""
        return (Contrast(self.weights),)

    def look(self, seen: Evidence) -> Tensor:
        """Return the map."""
        return combine_signed(seen.one(Contrast(self.weights)), self.channels)


@register(
    "gradient_x_input",
    summary="gradient times pixel: first-order share of each pixel in the output, against black",
    family="gradients",
    signed=True,
    reference="Shrikumar et al. 2016, arXiv 1605.01713",
    details="Published: x * g_t. Here x is the pixel in [0, 1], so the reference is a black image; channels summed.",
)
@dataclass(frozen=True)
class GradientXInput(PointMethod):
    """``sum_k x_k g_t,k`` with pixels x in [0, 1]."""

    @property
    def wants(self) -> tuple[Want, ...]:
        """The target's gradient."""
        return (Gradient(),)

    def look(self, seen: Evidence) -> Tensor:
        """Return the map."""
        return dot(seen.gradient(), seen.inputs)


@register(
    "competitive_gi",
    summary="gradient times pixel where the target wins the pixel against all other classes",
    family="gradients",
    signed=True,
    reference="Gupta & Arora 2019, arXiv 1905.12152",
    details="Published: a class keeps a value that is positive and the largest of all classes, or negative and the "
    "smallest. Inferred: the test is made for each colour channel. Ours: beyond 20 classes a set of rivals.",
)
@dataclass(frozen=True)
class CompetitiveGradientXInput(PointMethod):
    """``sum_k x_k g_t,k`` over the channels in which the target wins.

    It wins where ``g_t > 0`` is above, or ``g_t < 0`` below, the gradients of all rivals (pixels are not negative,
    so comparing ``x g`` or ``g`` is the same; a black pixel contributes nothing either way).

    Parameters
    ----------
    rivals
        As for ``active``.
    """

    rivals: Literal["auto", "all", "sample"] = "auto"

    @property
    def wants(self) -> tuple[Want, ...]:
        """The target's gradient and the extremes of its rivals'."""
        return (Gradient(), Rivals(self.rivals))

    def look(self, seen: Evidence) -> Tensor:
        """Return the map."""
        g = seen.gradient()
        highest, lowest = seen.pair(Rivals(self.rivals))
        wins = ((g > 0) & (g > highest)) | ((g < 0) & (g < lowest))
        return dot(g * wins, seen.inputs)
