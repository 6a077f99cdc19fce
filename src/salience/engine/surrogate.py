"""A smooth linear model of what a black box answers to masks, that learns with every answer.

The answer to a mask m (a grid of D cells) is modelled as ``a + m . w + noise`` with ``w ~ N(0, K)``, K a Gaussian
kernel between cells: neighbours matter alike unless the answers say otherwise. In the coordinates ``w = L z`` with
``L L' = K`` this is a ridge regression on ``m L``, kept as its sums: memory depends on the grid, not on the number of
answers, and all targets share the matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Surrogate:
    """The model for G images, T targets and masks of h x w cells; computed in float64.

    Parameters
    ----------
    reach
        Standard deviation of the kernel in cells.
    noise
        Variance of the noise, as a share of the prior variance of an answer.
    """

    groups: int
    targets: int
    grid: tuple[int, int]
    reach: float
    noise: float
    device: torch.device
    count: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        rows, columns = _root(self.grid[0], self.reach), _root(self.grid[1], self.reach)
        self._rows, self._columns = rows.to(self.device), columns.to(self.device)
        cells = self.grid[0] * self.grid[1]
        zeros = {"dtype": torch.float64, "device": self.device}
        self._gram = torch.zeros(self.groups, cells, cells, **zeros)  # type: ignore[call-overload]
        self._cross = torch.zeros(self.groups, cells, self.targets, **zeros)  # type: ignore[call-overload]
        self._sum = torch.zeros(self.groups, cells, **zeros)  # type: ignore[call-overload]
        self._squares = torch.zeros(self.groups, self.targets, **zeros)  # type: ignore[call-overload]
        self._answers = torch.zeros(self.groups, self.targets, **zeros)  # type: ignore[call-overload]

    def learn(self, masks: Tensor, answers: Tensor) -> None:
        """Take masks (G, k, h, w) and their answers (G, k, T)."""
        z = self._whiten(masks.double())
        y = answers.double()
        self._gram += z.transpose(1, 2) @ z
        self._cross += z.transpose(1, 2) @ y
        self._sum += z.sum(1)
        self._answers += y.sum(1)
        self._squares += y.square().sum(1)
        self.count += masks.shape[1]

    def fit(self) -> tuple[Tensor, Tensor]:
        """Return the mean weights in white coordinates (G, D, T), and the Cholesky factor of their precision."""
        gram, cross = self._centred()
        scale = gram.diagonal(dim1=1, dim2=2).sum(1).view(-1, 1, 1) / self.count  # prior variance of an answer
        precision = gram + self.noise * scale * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        factor = torch.linalg.cholesky(precision)
        return torch.cholesky_solve(cross, factor), factor

    def deviation(self, white: Tensor) -> Tensor:
        """Return the standard deviation (G, T) of what the model of weights ``white`` (G, D, T) leaves unexplained."""
        gram, cross = self._centred()
        total = self._squares - self._answers.square() / self.count
        rest = total - 2 * (cross * white).sum(1) + (white * (gram @ white)).sum(1)
        found: Tensor = (rest / self.count).clamp_min(0).sqrt()
        return found

    def maps(self, white: Tensor) -> Tensor:
        """Return the weights of the cells (G, T, h, w) of white ones (G, D, T)."""
        groups, _, columns = white.shape
        found: Tensor = self._rows @ white.transpose(1, 2).reshape(groups, columns, *self.grid) @ self._columns.T
        return found

    def _centred(self) -> tuple[Tensor, Tensor]:
        """Return the sums about the means: of white masks with one another (G, D, D), and with answers (G, D, T)."""
        mean = self._sum / self.count
        gram = self._gram - self.count * mean.unsqueeze(2) * mean.unsqueeze(1)
        return gram, self._cross - mean.unsqueeze(2) * self._answers.unsqueeze(1)

    def _whiten(self, masks: Tensor) -> Tensor:
        return (self._rows.T @ masks @ self._columns).flatten(2)


def _root(cells: int, reach: float) -> Tensor:
    """Return the symmetric root (cells, cells) of a Gaussian kernel between cells in a row."""
    x = torch.arange(cells, dtype=torch.float64)
    kernel = torch.exp(-((x[:, None] - x) ** 2) / (2 * reach**2))
    values, vectors = torch.linalg.eigh(kernel)
    root: Tensor = vectors * values.clamp_min(0).sqrt() @ vectors.T
    return root
