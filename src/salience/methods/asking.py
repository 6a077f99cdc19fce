"""What methods that need outputs alone have in common: their settings, and sums over masks in one order."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from salience.engine.fills import FILLS, unknown_fill
from salience.engine.masks import Masks
from salience.engine.queries import QueryMethod, Scene, every
from salience.engine.scalars import Output
from salience.errors import MethodError

CHUNK = 64


@dataclass(frozen=True)
class Asking(QueryMethod):
    """Base of the black-box methods: ``budget`` and ``fill`` come first in each.

    Parameters
    ----------
    budget
        Forward passes for each image at most, that of the whole image among them.
    fill
        What shows where a mask hides the image: ``mean`` (the image's own colour), ``blur``, ``black``, ``grey``,
        ``white``, ``noise`` or ``dataset`` (another image).
    """

    budget: int = 1024
    fill: str = "mean"

    def __post_init__(self) -> None:
        if self.fill not in FILLS:
            raise unknown_fill(self.fill, FILLS)
        if self.budget < self.least:
            raise MethodError(f"budget is {self.budget}; {self.least} forward passes or more are needed.")

    def within(self, budget: int) -> Asking:
        """Return the same method with another budget."""
        return replace(self, budget=budget)

    @property
    def least(self) -> int:
        """The smallest budget that the method makes sense with."""
        return 5

    @property
    def output(self) -> Output:
        """Probabilities, as in all of these methods' papers."""
        return "prob"

    @property
    def needs_pool(self) -> bool:
        """Whether hidden pixels are those of another image."""
        return self.fill == "dataset"


def positive(**settings: float) -> None:
    """Refuse settings that are not above zero."""
    for name, value in settings.items():
        if value <= 0:
            raise MethodError(f"{name} is {value}; a number above zero is needed.")


def checkpoints(count: int) -> list[int]:
    """Return the numbers of masks at which convergence is looked at: 64 and its doubles below ``count``."""
    return [64 << i for i in range(max(0, (count - 1) // 64).bit_length())]


def convergence(early: list[tuple[int, Tensor]], count: int, final: Tensor, scene: Scene) -> list[tuple[int, Tensor]]:
    """Return how alike maps of the leading target after so many masks, (G, ...), are to the final maps (G, T, ...).

    The figure (G, T) is Pearson's correlation over the map; of targets that are not followed it is NaN.
    """
    rows = torch.arange(len(final), device=final.device)
    end = final[rows, scene.lead].flatten(1)

    def figure(values: Tensor) -> Tensor:
        out = final.new_full(final.shape[:2], float("nan"))
        out[rows, scene.lead] = correlation(values.flatten(1), end)
        return out

    return [*((k, figure(values)) for k, values in early), (count, figure(end))]


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's correlation of rows (G, n), 0 where one is constant."""
    x, y = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    # in float64, where the squares of small outputs do not vanish
    x, y = x.double(), y.double()
    both = x.square().sum(1) * y.square().sum(1)
    found = torch.where(both > 0, (x * y).sum(1) / both.clamp_min(torch.finfo(both.dtype).tiny).sqrt(), 0.0)
    return found.to(a.dtype)


def weighted_sum(
    masks: Masks, weights: Tensor, scene: Scene, size: tuple[int, int]
) -> tuple[Tensor, list[tuple[int, Tensor, Tensor]]]:
    """Return sum_k weights_k mask_k, (G, T, h, w), for weights (G, k, T) and masks rendered at ``size``.

    Also, at :func:`checkpoints`, the sums of the leading target so far and of the masks alone, (G, h * w) each. Masks
    are made again chunk by chunk: none is held, and the order of the sum does not depend on the batch.
    """
    marks = set(checkpoints(masks.count))
    early: list[tuple[int, Tensor, Tensor]] = []
    groups, _, columns = weights.shape
    out = weights.new_zeros(groups, columns, size[0] * size[1])
    plain = out.new_zeros(groups, out.shape[2])
    rows = torch.arange(groups, device=scene.device)
    for chunk in every(masks.count, CHUNK):
        candidate = torch.arange(chunk.start, chunk.stop, device=scene.device)
        made = masks.render(rows.repeat_interleave(len(chunk)), candidate.repeat(groups), size)
        made = made.view(groups, len(chunk), -1)
        out += weights[:, chunk.start : chunk.stop].transpose(1, 2) @ made
        plain += made.sum(1)
        if chunk.stop in marks:
            early.append((chunk.stop, out[rows, scene.lead].clone(), plain.clone()))
    return out.view(groups, columns, *size), early


def square(cells: int) -> int:
    """Return the side of the largest square grid of at most ``cells`` cells."""
    side = int(cells**0.5)
    return side + 1 if (side + 1) ** 2 <= cells else side


def grid_windows(size: tuple[int, int], side: int, device: torch.device) -> Tensor:
    """Return the ``side`` x ``side`` windows (side^2, 4) that tile an image: top, left, bottom, right."""
    down = torch.tensor([round(i * size[0] / side) for i in range(side + 1)], device=device)
    across = torch.tensor([round(i * size[1] / side) for i in range(side + 1)], device=device)
    y, x = torch.arange(side, device=device).repeat_interleave(side), torch.arange(side, device=device).repeat(side)
    return torch.stack([down[y], across[x], down[y + 1], across[x + 1]], 1)
