"""How much of the image a map takes to say what it says. Simple is not right: these have no better direction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from salience.metrics.metric import MapMetric, Seen
from salience.metrics.registry import register


@register(
    "entropy",
    summary="Spatial entropy of the map's absolute values: 0 is one pixel, 1 is evenly spread",
    family="complexity",
    direction="neither",
    low=0.0,
    high=1.0,
    sign="absolute",
    over="predicted",
    reference="Bhatt et al., IJCAI 2020 (arXiv 2005.00631)",
    details="Published: entropy of the fractions that pixels contribute. Ours: over the logarithm of their number, at "
    "the model's input size. A map of zeros has no score.",
)
@dataclass(frozen=True)
class Entropy(MapMetric):
    """Spatial entropy; it has no settings."""

    def score(self, seen: Seen) -> Tensor:
        """Return the normalised entropy of the predicted label's map."""
        mass = seen.maps[0].double().abs().flatten()
        share = mass / mass.sum()
        nats: Tensor = torch.special.xlogy(share, share)
        return (-nats.sum() / math.log(max(2, len(share)))).clamp(0, 1).view(1)


@register(
    "gini",
    summary="Gini index of the map's absolute values: 0 is evenly spread, near 1 is one pixel",
    family="complexity",
    direction="neither",
    low=0.0,
    high=1.0,
    sign="absolute",
    over="predicted",
    reference="Chalasani et al., ICML 2020 (arXiv 1810.06583)",
    details="Published: the index of the sorted absolute attributions. Ours: at the model's input size. A map of zeros "
    "has no score.",
)
@dataclass(frozen=True)
class Gini(MapMetric):
    """Gini index; it has no settings."""

    def score(self, seen: Seen) -> Tensor:
        """Return ``1 - 2 sum_k v_k / |v| * (n - k + 1/2) / n`` over values that rise."""
        rising = seen.maps[0].double().abs().flatten().sort().values
        n = len(rising)
        weight = (n - torch.arange(1, n + 1, dtype=torch.float64, device=rising.device) + 0.5) / n
        return (1 - 2 * (rising / rising.sum() * weight).sum()).clamp_min(0).view(1)
