"""How three colour channels become one map."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Rule = Literal["max", "sum"]


def combine(values: Tensor, rule: Rule) -> Tensor:
    """Combine non-negative channels (N, 3, H, W) to (N, H, W) by their largest value or their sum."""
    return values.amax(1) if rule == "max" else values.sum(1)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum over channels of a product, (N, K, H, W) to (N, H, W), without holding the product."""
    total: Tensor = torch.linalg.vecdot(a, b, dim=1)
    return total


def combine_signed(values: Tensor, rule: Rule) -> Tensor:
    """Combine signed channels (N, 3, H, W): their sum, or the one with the largest absolute value, with its sign."""
    if rule == "sum":
        return values.sum(1)
    return values.gather(1, values.abs().argmax(1, keepdim=True)).squeeze(1)
