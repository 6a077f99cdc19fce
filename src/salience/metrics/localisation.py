"""Does the map lie on the object? Pointing game, intersection over union and energy inside boxes.

Boxes say where an object is, not what the model uses: these metrics are right only as far as the model looks at the
object. The centre of the image alone does well on large boxes; ``under=0.25`` leaves them out.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from salience.engine.masked import falling_ranks, tie_order
from salience.errors import MetricError
from salience.metrics.metric import MapMetric, Seen, undefined
from salience.metrics.registry import register


@dataclass(frozen=True)
class _Boxes(MapMetric):
    under: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.under <= 1:
            raise MetricError(f"under is {self.under}; a share of the image above 0, up to 1, is needed.")

    def score(self, seen: Seen) -> Tensor:
        """Return the value (1,) of the predicted label's map; NaN without a box, or with one that is too large."""
        own = seen.maps[0]
        inside = box_mask(seen.boxes, (own.shape[0], own.shape[1]))
        share = float(inside.double().mean())
        if share == 0 or share > self.under:
            return undefined().view(1)
        return self.judge(own, inside, seen).double().view(1)

    @abstractmethod
    def judge(self, values: Tensor, inside: Tensor, seen: Seen) -> Tensor:
        """Return the value () of a map (H, W), given where boxes are, bool (H, W), with at least one pixel."""


def box_mask(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return where the pixels' centres lie in one of the boxes (B, 4): bool (H, W)."""
    y = (torch.arange(size[0], device=boxes.device) + 0.5).view(1, -1, 1)
    x = (torch.arange(size[1], device=boxes.device) + 0.5).view(1, 1, -1)
    x0, y0, x1, y1 = (b.view(-1, 1, 1) for b in boxes.unbind(1))
    return ((x >= x0) & (x < x1) & (y >= y0) & (y < y1)).any(0)


@register(
    "pointing",
    summary="Whether the most salient pixel lies in a box",
    family="localisation",
    direction="higher",
    low=0.0,
    high=1.0,
    sign="raw",
    over="predicted",
    reference="Zhang et al., ECCV 2016 (arXiv 1608.00507)",
    details="Published: a hit lies in the object's region, with a tolerance of 15 pixels (margin=15). Ours: no "
    "tolerance by default, ties drawn per image; larger boxes than a share of the image can be left out (under=0.25).",
)
@dataclass(frozen=True)
class Pointing(_Boxes):
    """Pointing game.

    Parameters
    ----------
    under
        Leave out images whose boxes cover more than this share of the input, in (0, 1].
    margin
        Pixels by which a box is enlarged on every side.
    """

    margin: float = 0.0

    def judge(self, values: Tensor, inside: Tensor, seen: Seen) -> Tensor:
        """Return 1 for a hit, else 0."""
        size = (values.shape[0], values.shape[1])
        if self.margin:
            grow = seen.boxes.new_tensor([-self.margin, -self.margin, self.margin, self.margin])
            inside = box_mask(seen.boxes + grow, size)
        ties = tie_order([seen.image_id], values.numel(), seen.seed, values.device)[0]
        first = ties[values.flatten()[ties] == values.max()][0]
        return inside.flatten()[first]


@register(
    "iou",
    summary="Overlap of the most salient pixels, as many as the boxes have, with the boxes",
    family="localisation",
    direction="higher",
    low=0.0,
    high=1.0,
    sign="raw",
    over="predicted",
    reference="Choe et al., CVPR 2020 (arXiv 2001.07437)",
    details="Published: intersection over union of a thresholded map with the object. Ours: the threshold keeps as "
    "many pixels as the boxes have, so that no threshold is tuned.",
)
@dataclass(frozen=True)
class Iou(_Boxes):
    """Intersection over union.

    Parameters
    ----------
    under
        As for ``pointing``.
    """

    def judge(self, values: Tensor, inside: Tensor, seen: Seen) -> Tensor:
        """Return the overlap."""
        ties = tie_order([seen.image_id], values.numel(), seen.seed, values.device)
        chosen = falling_ranks(values[None], ties)[0] < inside.sum()
        return (chosen & inside).sum() / (chosen | inside).sum()


@register(
    "energy",
    summary="Share of the map's positive mass inside the boxes",
    family="localisation",
    direction="higher",
    low=0.0,
    high=1.0,
    sign="positive",
    over="predicted",
    reference="Wang et al., CVPRW 2020 (arXiv 1910.01279)",
    details="Published: energy-based pointing game, for maps without negative values. Ours: negative values count as "
    "none; a map without positive values has no score.",
)
@dataclass(frozen=True)
class Energy(_Boxes):
    """Energy-based pointing game.

    Parameters
    ----------
    under
        As for ``pointing``.
    """

    def judge(self, values: Tensor, inside: Tensor, seen: Seen) -> Tensor:
        """Return the share; NaN for a map without positive values."""
        mass = values.double().clamp_min(0)
        return mass[inside].sum() / mass.sum()
