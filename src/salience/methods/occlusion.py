"""Occlusion: hide one window after another and see how far the output falls."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from salience.engine.masks import Windows
from salience.engine.queries import Found, Scene, Search
from salience.errors import MethodError
from salience.methods.asking import Asking, grid_windows, square
from salience.methods.registry import register

_LARGEST = 32


@register(
    "occlusion",
    summary="fall of the output when a window is hidden: what the model cannot do without",
    family="black boxes",
    signed=True,
    reference="Zeiler & Fergus 2014, arXiv 1311.2901",
    details="Published: a grey square slides over the image, the map is the output under it. Ours: the fall of the "
    "output, averaged over the windows that cover a point; without a window, the finest grid of touching windows that "
    "the budget allows, at most 32 x 32; refine=true spends half of the budget on a coarse grid and the other half on "
    "splitting the windows that matter most into four.",
)
@dataclass(frozen=True)
class Occlusion(Asking):
    """Mean fall of the output over the windows that cover a point.

    Parameters
    ----------
    budget, fill
        As for every black-box method, see :class:`~salience.methods.asking.Asking`.
    window
        Side of the square window in pixels; None divides the image into a grid that the budget allows.
    stride
        Pixels between windows; the window's side when None.
    refine
        Begin coarse and split the windows that matter most: of several targets, to the one that is followed.
    """

    window: int | None = None
    stride: int | None = None
    refine: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("window", self.window), ("stride", self.stride)):
            if value is not None and value < 1:
                raise MethodError(f"{name} is {value}; 1 pixel or more is needed.")
        if self.stride is not None and self.window is None:
            raise MethodError("stride is given without window; give both, or neither.")
        if self.window is not None and (self.stride or 0) > self.window:
            raise MethodError(f"stride {self.stride} is wider than window {self.window}: pixels would never be hidden.")
        if self.refine and self.window is not None:
            raise MethodError("refine chooses its windows itself; leave window and stride out.")

    def questions(self, size: tuple[int, int]) -> int:
        """One a window."""
        if self.window is not None:
            rows, columns = self._starts(size[0]), self._starts(size[1])
            return len(rows) * len(columns)
        side = self._side(size)
        return side**2 + (4 * self._split(side) if self.refine else 0)

    def _side(self, size: tuple[int, int]) -> int:
        most = self.budget - 1
        return min(square(most // 2 if self.refine else most), _LARGEST, *size)

    def _split(self, side: int) -> int:
        return min(side**2, (self.budget - 1 - side**2) // 4)

    def _starts(self, length: int) -> list[int]:
        assert self.window is not None  # asked only then
        last = max(0, length - self.window)
        step = self.stride or self.window
        return [*range(0, last, step), last]

    def search(self, scene: Scene) -> Search:
        """Hide every window, and those that matter most again in parts."""
        if self.window is not None:
            down, across = self._starts(scene.size[0]), self._starts(scene.size[1])
            corners = [(y, x, y + self.window, x + self.window) for y in down for x in across]
            windows = torch.tensor(corners, device=scene.device)
            fall = scene.scores.unsqueeze(1) - (yield Windows(windows))
            step = self.stride or self.window
            return Found(_average(fall, windows, scene.size, step))
        side = self._side(scene.size)
        windows = grid_windows(scene.size, side, scene.device)
        fall = scene.scores.unsqueeze(1) - (yield Windows(windows))  # (G, side^2, T)
        maps = fall.transpose(1, 2).reshape(len(fall), -1, side, side)
        split = self._split(side) if self.refine else 0
        if not split:
            return Found(maps)
        chosen = scene.leading(fall).topk(split, dim=1).indices  # (G, split)
        parts = _quarter(windows[chosen])  # (G, split, 4, 4)
        finer = scene.scores.unsqueeze(1) - (yield Windows(parts.flatten(1, 2)))
        return Found(_refined(maps, chosen, finer.view(len(finer), split, 4, -1)))


def _average(fall: Tensor, windows: Tensor, size: tuple[int, int], step: int) -> Tensor:
    """Return the mean fall (G, T, h, w) over the windows that cover the middle of each cell of the map.

    Cells are about ``step`` x ``step``, and divide the image evenly: that is where a map's values stand.
    """
    y, x = _middles(size[0], step).to(fall.device), _middles(size[1], step).to(fall.device)
    down = (windows[:, 0, None] <= y) & (y < windows[:, 2, None])
    across = (windows[:, 1, None] <= x) & (x < windows[:, 3, None])
    covers = (down[:, :, None] & across[:, None, :]).flatten(1).to(fall.dtype)  # (k, h * w)
    total = fall.transpose(1, 2) @ covers
    return (total / covers.sum(0).clamp_min(1)).view(*total.shape[:2], len(y), len(x))


def _middles(length: int, step: int) -> Tensor:
    """Return the middle pixels of the cells of about ``step`` pixels that divide a side evenly."""
    cells = -(-length // step)
    return (2 * torch.arange(cells) + 1) * length // (2 * cells)


def _quarter(windows: Tensor) -> Tensor:
    """Cut windows (..., 4) into four each, (..., 4, 4)."""
    top, left, bottom, right = windows.unbind(-1)
    y, x = (top + bottom) // 2, (left + right) // 2
    parts = [(top, left, y, x), (top, x, y, right), (y, left, bottom, x), (y, x, bottom, right)]
    return torch.stack([torch.stack(part, -1) for part in parts], -2)


def _refined(maps: Tensor, chosen: Tensor, finer: Tensor) -> Tensor:
    """Share the fall of the chosen windows out among their quarters, in proportion to what each loses alone.

    ``maps`` (G, T, s, s), ``chosen`` (G, n) numbers of cells, ``finer`` (G, n, 4, T). A cell's mean stays what it was.
    """
    groups, columns, side, _ = maps.shape
    shares = finer.clamp_min(0)
    total = shares.sum(2, keepdim=True)
    shares = torch.where(total > 0, shares / total.clamp_min(torch.finfo(shares.dtype).tiny), 0.25)
    cells = maps.flatten(2).unsqueeze(-1).repeat(1, 1, 1, 4)  # (G, T, s * s, 4)
    index = chosen.view(groups, 1, -1, 1).expand(-1, columns, -1, 4)
    cells.scatter_(2, index, cells.gather(2, index) * 4 * shares.permute(0, 3, 1, 2))
    fine = cells.view(groups, columns, side, side, 2, 2).permute(0, 1, 2, 4, 3, 5)
    return fine.reshape(groups, columns, 2 * side, 2 * side)
