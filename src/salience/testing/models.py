"""Small classifiers whose maps are known in closed form, or that misbehave in a known way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from salience.models.classifier import Classifier


def _random(shape: Sequence[int], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Linear(nn.Module):
    """Logits ``z_c = sum w_c * x + b_c``: every gradient is a weight."""

    def __init__(self, weights: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weights)
        self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, C)."""
        return F.linear(x.flatten(1), self.weight.flatten(1), self.bias)


def linear_classifier(
    size: int = 8, classes: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Classifier, npt.NDArray[np.float64]]:
    """Return a linear classifier and its weights (C, 3, H, W), which are its gradients by the pixels."""
    weights = _random((classes, 3, size, size), seed)
    bias = _random((classes,), seed + 1)
    module = Linear(weights.to(dtype), bias.to(dtype))
    return Classifier(module, size=size, name="linear"), weights.numpy()


class SmallNet(nn.Module):
    """Two convolutions, global average pooling, one linear layer; activations in place where asked."""

    def __init__(self, classes: int, inplace: bool, norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.relu1 = nn.ReLU(inplace=inplace)
        self.conv2 = nn.Conv2d(8, 12, 3, 2, 1)
        self.relu2 = nn.ReLU(inplace=inplace)
        self.fc = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, C)."""
        features = self.relu2(self.conv2(self.relu1(self.norm(self.conv1(x)))))
        logits: Tensor = self.fc(features.mean((2, 3)))
        return logits


def small_classifier(
    size: int = 16,
    classes: int = 5,
    seed: int = 0,
    *,
    inplace: bool = False,
    norm: bool = True,
    dtype: torch.dtype = torch.float32,
    name: str = "small",
) -> Classifier:
    """Return a small convolutional classifier with random weights."""
    module = SmallNet(classes, inplace, norm)
    _fill(module, seed)
    module = module.to(dtype).eval()
    return Classifier(module, size=size, mean=(0.4, 0.45, 0.5), std=(0.2, 0.25, 0.3), name=name)


def _fill(module: nn.Module, seed: int) -> None:
    """Set all weights from ``seed``, without the global generator."""
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            fan = max(1, parameter[0].numel()) if parameter.ndim > 1 else 4
            parameter.copy_(_random(parameter.shape, seed * 1000 + i) / fan**0.5)
        for module_ in module.modules():
            if isinstance(module_, nn.BatchNorm2d):
                if module_.running_mean is not None:
                    module_.running_mean.copy_(_random(module_.running_mean.shape, seed + 7) * 0.1)
                if module_.running_var is not None:
                    module_.running_var.copy_(_random(module_.running_var.shape, seed + 8).abs() + 0.5)


class Block(nn.Module):
    """A transformer block, norm first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (N, T, K)."""
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class SmallViT(nn.Module):
    """A vision transformer whose head reads the class token, or the mean of the patches."""

    def __init__(self, size: int, patch: int, classes: int, pool: str) -> None:
        super().__init__()
        width = 16
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(Block(width, 2) for _ in range(3))
        self.head = nn.Linear(width, classes)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, C)."""
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x[:, 0] if self.pool == "token" else x[:, 1:].mean(1))
        return logits


def small_vit(size: int = 16, patch: int = 4, classes: int = 5, seed: int = 0, pool: str = "token") -> Classifier:
    """Return a small vision transformer with random weights."""
    module = SmallViT(size, patch, classes, pool)
    _fill(module, seed)
    return Classifier(module.eval(), size=size, name=f"vit-{pool}")


class Wrapped(nn.Module):
    """A model that returns something else than a tensor of logits: ``tuple``, ``dict``, ``object`` or ``nan``."""

    def __init__(self, inner: nn.Module, kind: str) -> None:
        super().__init__()
        self.inner = inner
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        """Return the inner logits in another dress; ``nan`` spoils those of images that begin with a white pixel."""
        logits = self.inner(x)
        if self.kind == "tuple":
            return logits, x
        if self.kind == "dict":
            return {"features": x, "logits": logits}
        if self.kind == "object":
            return _Output(logits)
        if self.kind == "nan":
            bright = x[:, 0, 0, 0] >= x.amax((1, 2, 3)) - 1e-6
            return torch.where(bright[:, None], torch.full_like(logits, float("nan")), logits)
        return logits


class _Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
