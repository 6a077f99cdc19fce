"""RISE: the mean of random masks, weighed by what the model says behind them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from salience.engine.masks import RandomCells
from salience.engine.queries import Found, Scene, Search
from salience.errors import MethodError
from salience.methods.asking import Asking, convergence, positive, weighted_sum
from salience.methods.registry import register

_POINTS_A_CELL = 8


@register(
    "rise",
    summary="mean of random smooth masks, weighed by the output behind them",
    family="black boxes",
    signed=True,
    reference="Petsiuk et al. 2018, arXiv 1806.07421",
    details="Published: grids of 7 x 7 cells kept with chance 0.5, enlarged bilinearly and shifted at random, 4000 to "
    "8000 masks, S = sum_i f(x * m_i) m_i / (N p), hidden pixels zero after normalisation. Ours: the mean output is "
    "taken from f (centred), which lowers the noise and gives zero a meaning; any fill (the image's own mean by "
    "default), 1024 forward passes by default, maps stored at an eighth of a cell.",
    stochastic=True,
)
@dataclass(frozen=True)
class Rise(Asking):
    """``sum_i f(x m_i) m_i / (N keep)``: the expected output where the pixel is seen.

    Parameters
    ----------
    budget, fill
        As for every black-box method, see :class:`~salience.methods.asking.Asking`.
    cells
        Cells along each side of the random grids.
    keep
        Chance of a cell to stay.
    centred
        Subtract the mean output: above zero, seeing the pixel helps more than seeing another. False is as published.
    """

    cells: int = 7
    keep: float = 0.5
    centred: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(cells=self.cells)
        if not 0 < self.keep < 1:
            raise MethodError(f"keep is {self.keep}; a chance between 0 and 1 is needed.")

    @property
    def signed(self) -> bool:
        """Signed where the mean is subtracted."""
        return self.centred

    def questions(self, size: tuple[int, int]) -> int:
        """One a mask."""
        return self.budget - 1

    def search(self, scene: Scene) -> Search:
        """Ask about all masks, then add them up."""
        count = self.questions(scene.size)
        masks = RandomCells(scene.image_ids, scene.seed, count, scene.size, self.cells, self.keep, scene.device)
        answers = yield masks
        grid = coarse(scene.size, masks.cell)
        mean = answers.mean(1, keepdim=True) if self.centred else torch.zeros_like(answers[:, :1])
        total, sums = weighted_sum(masks, answers - mean, scene, grid)
        followed = scene.leading(answers)

        def map_after(k: int, so_far: Tensor, plain: Tensor) -> Tensor:
            """Centre the sum by the mean of its own answers: those to come are not known yet."""
            known = followed[:, :k].mean(1, keepdim=True) - scene.leading(mean)
            return so_far - known * plain if self.centred else so_far

        early = [(k, map_after(k, so_far, plain)) for k, so_far, plain in sums]
        return Found(total / (count * self.keep), curve=convergence(early, count, total, scene))


def coarse(size: tuple[int, int], cell: tuple[int, int]) -> tuple[int, int]:
    """Return the grid at which masks of such cells lose nothing to speak of: eight points a cell, dividing the size."""
    return _divide(size[0], cell[0]), _divide(size[1], cell[1])


def _divide(length: int, cell: int) -> int:
    step = max(s for s in range(1, max(2, cell // _POINTS_A_CELL + 1)) if length % s == 0)
    return length // step
