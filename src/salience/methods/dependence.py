"""Sensitivity analysis: how much of the output's variation each part of the image carries (HSIC, Sobol indices)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from salience.engine.masks import Cells
from salience.engine.queries import Found, Scene, Search, every
from salience.engine.random import Stream
from salience.errors import MethodError
from salience.methods.asking import Asking, checkpoints, convergence, positive
from salience.methods.registry import register

_ROWS = 256
_FEWEST_DESIGNS = 8


@register(
    "hsic",
    summary="dependence of the output on each part, by the Hilbert-Schmidt independence criterion",
    family="black boxes",
    signed=False,
    reference="Novello et al. 2022, arXiv 2206.06219",
    details="Published: binary masks with chance 0.5, the Dirac kernel for a part, a Gaussian kernel of the median "
    "distance for the output, 750 to 1500 forward passes. Inferred: a grid of 7 x 7 cells. Ours: cells are enlarged "
    "bilinearly. Dependence has no sign: a part that speaks against the class counts too.",
    stochastic=True,
)
@dataclass(frozen=True)
class Hsic(Asking):
    """``tr(K_j H L H) / (n - 1)^2`` for every cell j, over the same n masks.

    Parameters
    ----------
    budget, fill
        As for every black-box method, see :class:`~salience.methods.asking.Asking`.
    cells
        Cells along each side of the grid.
    """

    cells: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(cells=self.cells)

    def questions(self, size: tuple[int, int]) -> int:
        """One a mask."""
        return self.budget - 1

    def search(self, scene: Scene) -> Search:
        """Ask about all masks, then measure dependence."""
        count, parts = self.questions(scene.size), self.cells**2
        drawn = Stream(scene.image_ids, scene.seed, "parts", scene.device).uniform(count, parts)
        values = (drawn < 0.5).to(torch.float32)
        answers = yield Cells(values.view(-1, count, self.cells, self.cells))
        maps = torch.stack([hsic(values, answers[..., t]) for t in range(answers.shape[2])], 1)
        lead = scene.leading(answers)
        early = [(k, hsic(values[:, :k], lead[:, :k])) for k in checkpoints(count)]
        curve = convergence(early, count, maps, scene)
        return Found(maps.reshape(*maps.shape[:2], self.cells, self.cells), curve=curve)


def hsic(values: Tensor, answers: Tensor) -> Tensor:
    """Return the criterion (G, D) between each binary part of ``values`` (G, k, D) and ``answers`` (G, k).

    With parts as signs s in {-1, 1} the Dirac kernel is (1 + s s') / 2, so the criterion is s^T H L H s / 2 (n - 1)^2:
    the n x n kernel L of the answers is made in rows, image by image, and never held whole.
    """
    out = []
    for x, y in zip(values.double().cpu(), answers.double().cpu(), strict=True):
        n = len(y)
        signs = 2 * x - 1
        signs = signs - signs.mean(0)  # H s
        width = _median_distance(y).clamp_min(1e-12)
        total = torch.zeros(x.shape[1], dtype=x.dtype)
        for rows in every(n, _ROWS):
            kernel = torch.exp(-((y[rows.start : rows.stop, None] - y) ** 2) / (2 * width**2))
            total += (signs[rows.start : rows.stop] * (kernel @ signs)).sum(0)
        out.append(total.clamp_min(0) / (2 * (n - 1) ** 2))  # of independent parts, rounding alone is left
    return torch.stack(out).to(values.device, torch.float32)


def _median_distance(y: Tensor) -> Tensor:
    """Return the median of |y_i - y_j| over all i and j; from 200 answers on, over 100 or more of the j."""
    return (y[:, None] - y[None, :: max(1, len(y) // 100)]).abs().median()


@register(
    "sobol",
    summary="share of the output's variance in which a part takes part, alone or with others (total Sobol index)",
    family="black boxes",
    signed=False,
    reference="Fel et al. 2021, arXiv 2111.04138",
    details="Published: masks of real values in [0, 1] on a grid of 8 x 8 cells from a Sobol sequence, Jansen's "
    "estimator of the total index, N (d + 2) forward passes with N = 32 designs. Ours: the sequence is shifted by "
    "numbers of the image's own, cells are enlarged bilinearly, and where the budget does not allow 8 designs of the "
    "grid, the grid becomes coarser.",
    stochastic=True,
)
@dataclass(frozen=True)
class Sobol(Asking):
    """``sum (f(A) - f(A with column j of B))^2 / (2 N Var f)`` for every cell j.

    Parameters
    ----------
    budget, fill
        As for every black-box method, see :class:`~salience.methods.asking.Asking`.
    cells
        Cells along each side of the grid, at most: fewer where the budget is small.
    """

    cells: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cells < 2:
            raise MethodError(f"cells is {self.cells}; 2 or more along each side are needed.")
        if self.budget - 1 < 2 * 6:
            raise MethodError(f"budget is {self.budget}; 13 forward passes or more are needed.")

    def _design(self) -> tuple[int, int]:
        """Return the cells along each side, and the number of designs."""
        most = self.budget - 1
        fitting = [c for c in range(2, self.cells + 1) if most // (c * c + 2) >= _FEWEST_DESIGNS]
        side = max(fitting, default=2)
        return side, most // (side * side + 2)

    def questions(self, size: tuple[int, int]) -> int:
        """Two and one a cell for each design."""
        side, designs = self._design()
        return designs * (side * side + 2)

    def search(self, scene: Scene) -> Search:
        """Ask about all designs, then estimate."""
        side, designs = self._design()
        parts = side * side
        shift = Stream(scene.image_ids, scene.seed, "sobol", scene.device).uniform(2 * parts)
        sequence = torch.quasirandom.SobolEngine(2 * parts, scramble=False)  # type: ignore[no-untyped-call]
        points = sequence.draw(designs).to(scene.device)
        both = (points.unsqueeze(0) + shift.unsqueeze(1)) % 1  # (G, N, 2 d)
        a, b = both[..., :parts], both[..., parts:]
        swapped = a.unsqueeze(2).expand(-1, -1, parts, -1).clone()
        swapped.diagonal(dim1=2, dim2=3).copy_(b)
        values = torch.cat([a.unsqueeze(2), b.unsqueeze(2), swapped], 2).flatten(1, 2)
        flat = yield Cells(values.view(len(values), -1, side, side))
        answers = flat.view(len(flat), designs, parts + 2, -1)
        maps = total_indices(answers)
        lead = scene.leading(flat).view(len(flat), designs, parts + 2, 1)
        early = [(n * (parts + 2), total_indices(lead[:, :n])[:, 0]) for n in (designs // 4, designs // 2) if n > 1]
        curve = convergence(early, designs * (parts + 2), maps, scene)
        return Found(maps.reshape(*maps.shape[:2], side, side), curve=curve)


def total_indices(answers: Tensor) -> Tensor:
    """Return Jansen's total indices (G, T, d) of answers (G, N, 2 + d, T): f(A), f(B), then f(A with column j of B)."""
    first, second, swapped = answers[:, :, :1], answers[:, :, 1:2], answers[:, :, 2:]
    pooled = torch.cat([first, second], 1).squeeze(2)
    variance = pooled.var(1, unbiased=True).unsqueeze(1)  # (G, 1, T)
    found = (first - swapped).square().mean(1) / (2 * variance.clamp_min(torch.finfo(answers.dtype).tiny))
    return found.transpose(1, 2)
