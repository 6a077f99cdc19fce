"""The signed gradients of a black box: what brightening or darkening each cell does to the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from salience.engine.masks import Filled, Windows
from salience.engine.queries import Found, Scene, Search
from salience.engine.scalars import Output
from salience.methods.asking import Asking, grid_windows, square
from salience.methods.registry import register

_LARGEST = 32


@register(
    "brightness",
    summary="where making a cell white rather than black raises the output (positive) or lowers it (negative)",
    family="black boxes",
    signed=True,
    reference="ours, after Llorente et al. 2023, arXiv 2309.12913",
    details="The finite difference (S(cell white) - S(cell black)) / 2 stands for the gradient: its positive part is "
    "the positive map, its negative part the negative one. compete=true keeps it only where the target's difference is "
    "above ('active') or, where negative, below ('inactive') that of every other class: all come with each query.",
)
@dataclass(frozen=True)
class Brightness(Asking):
    """``d_c = (S_c(cell white) - S_c(cell black)) / 2`` for every cell, of the target.

    Parameters
    ----------
    budget, fill
        As for every black-box method, see :class:`~salience.methods.asking.Asking`.
    compete
        Keep only the cells where the target changes more than every other class does, in its direction.
    """

    every_class: ClassVar[bool] = True
    compete: bool = False

    @property
    def output(self) -> Output:
        """The margin log p - log(1 - p): probabilities near 1 hardly move."""
        return "margin"

    def _side(self, size: tuple[int, int]) -> int:
        return min(square((self.budget - 1) // 2), _LARGEST, *size)

    def questions(self, size: tuple[int, int]) -> int:
        """Two a cell."""
        return 2 * self._side(size) ** 2

    def search(self, scene: Scene) -> Search:
        """Paint every cell white, then black."""
        side = self._side(scene.size)
        windows = Windows(grid_windows(scene.size, side, scene.device))
        white = yield Filled(windows, "white")
        black = yield Filled(windows, "black")
        slopes = (white - black) / 2  # (G, side^2, C)
        maps = competing(slopes, scene.targets) if self.compete else _own(slopes, scene.targets)
        return Found(maps.transpose(1, 2).reshape(len(maps), -1, side, side))


def _own(slopes: Tensor, targets: Tensor) -> Tensor:
    return slopes.gather(2, targets.unsqueeze(1).expand(-1, slopes.shape[1], -1))


def competing(slopes: Tensor, targets: Tensor) -> Tensor:
    """Return slopes (G, k, T) of the targets of (G, k, C), zero where another class has one as far from zero.

    Positive ones are held against the largest of all other classes, negative ones against the smallest.
    """
    best, worst = slopes.topk(2, dim=2), slopes.topk(2, dim=2, largest=False)
    index = targets.unsqueeze(1).expand(-1, slopes.shape[1], -1)
    own = slopes.gather(2, index)
    above = torch.where(best.indices[..., :1] == index, best.values[..., 1:], best.values[..., :1])
    below = torch.where(worst.indices[..., :1] == index, worst.values[..., 1:], worst.values[..., :1])
    wins = torch.where(own > 0, own > above, own < below)
    return torch.where(wins, own, 0.0)
