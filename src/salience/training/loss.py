"""The loss of human-guided training (CYBORG): cross-entropy, and how far class activation maps are from human maps.

Boyd, Tinsley, Bowyer and Czajka, "CYBORG: Blending Human Saliency Into the Loss Improves Deep Learning"
(2021, arXiv 2112.00686):

    L = alpha CE(logits, y) + (1 - alpha) MSE(norm CAM(x), norm H(x)),    CAM(x) = sum_k w_ck F_k(x)

with F the last feature map, w_c the weights of class c in the linear layer behind its mean, norm the scaling of each
map from its least value to its largest onto [0, 1], and H a human's map of where to look.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from salience.errors import MethodError, SettingsError, nearest

CamTarget = Literal["predicted", "true"]
_POOLED = 1e-3
"""How far, relative to its size, a head's input may be from the mean over the feature map."""


class LossParts(NamedTuple):
    """The loss and what it is made of, scalars."""

    total: Tensor
    cross_entropy: Tensor
    map_error: Tensor
    """Mean squared error of the maps, in [0, 1]; zero where it was not asked for (alpha = 1)."""


def normalise_maps(maps: Tensor) -> Tensor:
    """Scale each map (N, h, w) from its least value to its largest onto [0, 1]; a constant map becomes all zero."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    span = high - low
    flat = span <= 0
    return torch.where(flat, 0.0, (maps - low) / torch.where(flat, 1.0, span))


def human_on_grid(human: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bring human maps (N, H, W) to a grid (h, w): means over the cells' areas, then scaled onto [0, 1] each."""
    return normalise_maps(F.adaptive_avg_pool2d(human, grid))


def class_activation_maps(features: Tensor, weight: Tensor, classes: Tensor) -> Tensor:
    """Return ``sum_k w_ck F_k``, (N, h, w), without a rectifier.

    Parameters
    ----------
    features
        Last feature map (N, K, h, w).
    weight
        Weights of the linear layer behind its mean, (C, K).
    classes
        Class of each map, int64 (N,).
    """
    return torch.einsum("nk,nkhw->nhw", weight[classes], features)


@dataclass(frozen=True)
class GuidedLoss:
    """Cross-entropy blended with the distance between class activation maps and human maps.

    Published (Boyd et al. 2021): the blend, alpha = 0.5, the map of the predicted class, no rectifier, min-max of each
    map, mean squared error. Inferred: that the gradient flows through the weights of the linear layer as well as
    through the features. Ours: where a model rectifies the layer's output before it takes the mean (DenseNet), the map
    is that of the rectified features; human maps come to the grid by means over areas; a human map without contrast
    says nothing, so its image adds nothing to the map's term (the mean is still over all images of the batch); a class
    activation map without contrast counts as all zero.

    Parameters
    ----------
    alpha
        Share of the cross-entropy, in [0, 1]. 1 is cross-entropy exactly: no map is computed.
    layer
        Dotted name of the module whose output is the last feature map, (N, K, h, w). The model must take its mean
        over the grid and classify it with one linear layer.
    target
        Whose map is compared: the ``predicted`` class (published), or the ``true`` one.
    class_weights
        Weight of each class in the cross-entropy, as in torch; None for equal ones.

    Raises
    ------
    SettingsError
        When a value makes no sense.

    Examples
    --------
    >>> loss = GuidedLoss(alpha=0.5, layer="layer4")
    >>> with loss.attach(model) as guided:  # doctest: +SKIP
    ...     for images, labels, human in batches:
    ...         value = guided(model(images), labels, human)
    ...         value.backward()
    """

    alpha: float = 0.5
    layer: str = ""
    target: CamTarget = "predicted"
    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise SettingsError(f"alpha is {self.alpha!r}: a share in [0, 1] is needed, the published one is 0.5.")
        if self.target not in get_args(CamTarget):
            raise SettingsError(f"target is {self.target!r}: choose 'predicted' or 'true'.")

    @property
    def needs_maps(self) -> bool:
        """Whether features and human maps have a part in the loss."""
        return self.alpha < 1

    def of(
        self, logits: Tensor, labels: Tensor, human: Tensor | None, features: Tensor | None, weight: Tensor | None
    ) -> LossParts:
        """Return the loss of a batch from its features: a pure function.

        Parameters
        ----------
        logits, labels
            (N, C), and int64 (N,).
        human
            Human maps (N, H, W) of any size and scale, larger where one should look; None only with alpha = 1.
        features, weight
            Last feature map (N, K, h, w), and the weights (C, K) of the linear layer behind its mean.

        Raises
        ------
        MethodError
            When something that the loss needs is missing or has another shape.
        """
        weights = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        cross_entropy = F.cross_entropy(logits, labels, weight=weights)
        if not self.needs_maps:
            return LossParts(cross_entropy, cross_entropy, torch.zeros_like(cross_entropy))
        if human is None or features is None or weight is None:
            raise MethodError(
                f"With alpha = {self.alpha} the loss needs human maps and the last feature map. Give them, or use "
                "alpha = 1, which is cross-entropy."
            )
        _check_shapes(logits, human, features, weight)
        exact = torch.promote_types(features.dtype, torch.float32)  # half precision has no room for the squares
        features, weight = features.to(exact), weight.to(exact)
        classes = logits.detach().argmax(1) if self.target == "predicted" else labels
        maps = normalise_maps(class_activation_maps(features, weight, classes))
        wanted = human_on_grid(human.to(exact), (features.shape[2], features.shape[3]))
        says = (wanted.amax((1, 2)) > 0).to(exact)  # min-max leaves a 1 in every map that has contrast
        map_error = ((maps - wanted).square().mean((1, 2)) * says).mean()
        return LossParts(self.alpha * cross_entropy + (1 - self.alpha) * map_error, cross_entropy, map_error)

    @contextmanager
    def attach(self, model: nn.Module) -> Iterator[AttachedLoss]:
        """Let the loss see the features of ``model`` while it is trained; the model is left as found.

        Of a model wrapped for several processes, give the wrapped one (``wrapper.module``).

        Yields
        ------
        AttachedLoss
            Called with (logits, labels, human) after each forward pass.

        Raises
        ------
        MethodError
            When the model has no such layer.
        """
        modules = dict(model.named_modules())
        if self.needs_maps and (not self.layer or self.layer not in modules):
            raise MethodError(
                f"The model has no layer {self.layer!r}.{nearest(self.layer, modules)} "
                "List them with: [name for name, _ in model.named_modules()]."
            )
        attached = AttachedLoss(self)
        handles = []
        try:
            if self.needs_maps:
                handles.append(modules[self.layer].register_forward_hook(attached.see_features))
                handles += [
                    m.register_forward_hook(attached.see_linear) for m in modules.values() if isinstance(m, nn.Linear)
                ]
            yield attached
        finally:
            for handle in handles:
                handle.remove()
            attached.forget()


def _check_shapes(logits: Tensor, human: Tensor, features: Tensor, weight: Tensor) -> None:
    rows = len(logits)
    if human.ndim != 3 or len(human) != rows:
        raise MethodError(f"Human maps have the shape {tuple(human.shape)}; ({rows}, H, W) is needed.")
    if features.ndim != 4 or len(features) != rows or features.shape[1] != weight.shape[1]:
        raise MethodError(
            f"The features have the shape {tuple(features.shape)}; ({rows}, {weight.shape[1]}, h, w) is needed, what "
            "the linear layer classifies the mean of. Name the last feature map as the layer."
        )


class AttachedLoss:
    """A :class:`GuidedLoss` that sees the forward passes of one model."""

    def __init__(self, loss: GuidedLoss) -> None:
        self.loss = loss
        self._features: Tensor | None = None
        self._linears: list[tuple[nn.Linear, Tensor, Tensor]] = []
        self._rectified: bool | None = None  # found out at the first pass

    def __call__(self, logits: Tensor, labels: Tensor, human: Tensor | None) -> Tensor:
        """Return the loss of the forward pass that gave ``logits``: see :meth:`GuidedLoss.of`.

        Raises
        ------
        MethodError
            When the logits are not those of the last forward pass, or the model does not classify the mean of the
            layer's output with one linear layer.
        """
        return self.parts(logits, labels, human).total

    def parts(self, logits: Tensor, labels: Tensor, human: Tensor | None) -> LossParts:
        """Return the loss of the forward pass that gave ``logits``, and its parts."""
        if not self.loss.needs_maps:
            return self.loss.of(logits, labels, human, None, None)
        features, head, pooled = self._last_pass(logits)
        if self._rectified is None:
            self._rectified = _is_rectified(features, pooled, self.loss.layer)
        self.forget()
        features = features.relu() if self._rectified else features
        return self.loss.of(logits, labels, human, features, head.weight)

    def forget(self) -> None:
        """Let go of what was seen, so that no graph outlives its step."""
        self._features = None
        self._linears.clear()

    def see_features(self, _module: nn.Module, _args: object, output: object) -> Tensor:
        """Record the layer's output, as a forward hook, and hand on a copy: operations in place must not reach it."""
        if not isinstance(output, Tensor) or output.ndim != 4:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise MethodError(f"Layer {self.loss.layer!r} returns {shape}; a feature map (N, K, h, w) is needed.")
        self._features = output
        self._linears.clear()  # what ran before the features is not the head
        return output.clone()

    def see_linear(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        """Record what goes in and out of a linear layer, as a forward hook."""
        self._linears.append((cast(nn.Linear, module), args[0], output))

    def _last_pass(self, logits: Tensor) -> tuple[Tensor, nn.Linear, Tensor]:
        if self._features is None:
            raise MethodError(
                f"Layer {self.loss.layer!r} did not run before the loss was asked for: call the model, then the loss, "
                "once for each forward pass, and inside of 'with loss.attach(model)'."
            )
        for linear, inputs, output in reversed(self._linears):
            if output is logits or (output.shape == logits.shape and torch.equal(output.detach(), logits.detach())):
                return self._features, linear, inputs
        raise MethodError(
            "The logits are not the output of a linear layer (torch.nn.Linear) behind the layer "
            f"{self.loss.layer!r} in the last forward pass, so the model has no class activation map. The loss is for "
            "models that end in a global mean and one linear layer, and takes the logits as they come out of it."
        )


def _is_rectified(features: Tensor, pooled: Tensor, layer: str) -> bool:
    """Tell whether a rectifier stands between the features and their mean; refuse heads that take anything else."""
    if _is_mean(features, pooled):
        return False
    if _is_mean(features.relu(), pooled):
        return True
    raise MethodError(
        f"The linear layer does not classify the mean of the output of {layer!r} over its grid, so the weights of a "
        "class do not make a class activation map. Name the last feature map as the layer; models that end "
        "otherwise cannot be guided this way."
    )


def _is_mean(features: Tensor, pooled: Tensor) -> bool:
    """Tell whether ``pooled`` is the mean of the features, to scale; dropout between the two is fine."""
    mean, seen = features.detach().double().mean((2, 3)), pooled.detach().double()
    if seen.shape != mean.shape:
        return False
    mean = torch.where(seen == 0, 0.0, mean)  # dropped, or zero anyway
    scale = (mean * seen).sum() / mean.square().sum().clamp_min(torch.finfo(torch.float64).tiny)
    return bool((seen - scale * mean).norm() <= (_POOLED + torch.finfo(pooled.dtype).eps * 8) * seen.norm())
