"""Class activation maps: the activations A_k of one layer, weighed by the gradient of the target's scalar.

All of them come from one forward pass whose graph begins at the layer, and one backward pass through the head alone.
Maps are stored at the layer's own grid. For vision transformers the patch tokens are the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from salience.engine.method import Activation, Evidence, PointMethod, Want
from salience.methods.channels import dot
from salience.methods.registry import register


@dataclass(frozen=True)
class _Cam(PointMethod):
    """What all class activation maps share: the layer, and whether negative evidence is cut off."""

    layer: str | None = None
    relu: bool = True

    @property
    def signed(self) -> bool:
        """Signed where the rectifier is off."""
        return not self.relu

    @property
    def wants(self) -> tuple[Want, ...]:
        """The layer's activations and the gradient by them."""
        return (Activation(self.layer),)

    def _seen(self, seen: Evidence) -> tuple[Tensor, Tensor]:
        return seen.pair(Activation(self.layer))

    def _cut(self, maps: Tensor) -> Tensor:
        return maps.relu() if self.relu else maps


def _weighted(weights: Tensor, activations: Tensor) -> Tensor:
    """Return sum_k w_k A_k for weights (N, K)."""
    return torch.einsum("nk,nkhw->nhw", weights, activations)


@register(
    "gradcam",
    summary="activations of the last feature map, weighed by their mean gradient",
    family="cams",
    signed=False,
    reference="Selvaraju et al. 2017, arXiv 1610.02391",
    details="Published: relu(sum_k w_k A_k), w_k = mean_ij dS/dA_k(i, j). relu=false keeps the sign.",
)
@dataclass(frozen=True)
class GradCam(_Cam):
    """``relu(sum_k w_k A_k)`` with ``w_k`` the spatial mean of ``dS/dA_k``.

    Parameters
    ----------
    layer
        Dotted name of a module; found automatically when None.
    relu
        Cut off negative values (published).
    """

    def look(self, seen: Evidence) -> Tensor:
        """Return the map."""
        a, g = self._seen(seen)
        return self._cut(_weighted(g.mean((2, 3)), a))


@register(
    "gradcam++",
    summary="Grad-CAM with weights for several instances of a class",
    family="cams",
    signed=False,
    reference="Chattopadhay et al. 2018, arXiv 1710.11063",
    details="Published: w_k = sum_ij alpha_k,ij relu(dS/dA_k,ij), alpha = g^2 / (2 g^2 + sum_ab A_k,ab g^3), for "
    "exp(S) of a logit S. Where the denominator is zero, alpha is zero.",
)
@dataclass(frozen=True)
class GradCamPlusPlus(_Cam):
    """``relu(sum_k w_k A_k)``, ``w_k = sum_ij alpha_k,ij relu(g_k,ij)``.

    Parameters
    ----------
    layer, relu
        As for ``gradcam``.
    """

    def look(self, seen: Evidence) -> Tensor:
        """Return the map."""
        a, g = self._seen(seen)
        # alpha does not change when g and A g are scaled alike; dividing by the largest keeps g^3 above underflow
        size = g.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(g.dtype).tiny)
        u = g / size
        below = 2 * u.square() + a.sum((2, 3), keepdim=True) * u.pow(3) * size
        alpha = torch.where(below == 0, torch.zeros_like(u), u.square() / torch.where(below == 0, 1.0, below))
        return self._cut(_weighted((alpha * g.relu()).sum((2, 3)), a))


@register(
    "hirescam",
    summary="gradient times activation, cell by cell: for nets that end in one linear layer its sum is the logit",
    family="cams",
    signed=True,
    reference="Draelos & Carin 2020, arXiv 2011.08891",
    details="Published: sum_k g_k * A_k, element by element; no rectifier. relu=true cuts negative values off.",
)
@dataclass(frozen=True)
class HiResCam(_Cam):
    """``sum_k g_k * A_k``, element by element.

    Parameters
    ----------
    layer
        As for ``gradcam``.
    relu
        Cut off negative values; off by default, as published.
    """

    relu: bool = False

    def look(self, seen: Evidence) -> Tensor:
        """Return the map."""
        a, g = self._seen(seen)
        return self._cut(dot(g, a))


@register(
    "layercam",
    summary="activations weighed by their own positive gradients: sharp also for early layers",
    family="cams",
    signed=False,
    reference="Jiang et al. 2021, IEEE TIP 30",
    details="Published: relu(sum_k relu(g_k) * A_k).",
)
@dataclass(frozen=True)
class LayerCam(_Cam):
    """``relu(sum_k relu(g_k) * A_k)``, element by element.

    Parameters
    ----------
    layer, relu
        As for ``gradcam``.
    """

    def look(self, seen: Evidence) -> Tensor:
        """Return the map."""
        a, g = self._seen(seen)
        return self._cut(dot(g.relu(), a))


@register(
    "xgradcam",
    summary="Grad-CAM with weights that keep sensitivity and conservation as far as possible",
    family="cams",
    signed=False,
    reference="Fu et al. 2020, arXiv 2008.02312",
    details="Published: w_k = sum_ij g_k,ij A_k,ij / sum_ij A_k,ij, then relu. A channel whose activations sum to "
    "zero gets the weight zero.",
)
@dataclass(frozen=True)
class XGradCam(_Cam):
    """``relu(sum_k w_k A_k)``, ``w_k = sum_ij g_k,ij A_k,ij / sum_ij A_k,ij``.

    Parameters
    ----------
    layer, relu
        As for ``gradcam``.
    """

    def look(self, seen: Evidence) -> Tensor:
        """Return the map."""
        a, g = self._seen(seen)
        total = a.sum((2, 3))
        weights = (g * a).sum((2, 3)) / torch.where(total == 0, 1.0, total)
        return self._cut(_weighted(weights.masked_fill(total == 0, 0.0), a))
