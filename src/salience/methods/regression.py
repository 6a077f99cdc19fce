"""Surrogates: a linear model of what hiding each part of the image does (LIME-like ridge, KernelSHAP)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from salience.engine.masks import Cells, Masks, Patches
from salience.engine.queries import Found, Scene, Search
from salience.engine.random import Stream
from salience.errors import MethodError
from salience.methods.asking import Asking, checkpoints, convergence, positive
from salience.methods.registry import register
from salience.methods.superpixels import superpixels

Segments = Literal["grid", "slic"]


@dataclass(frozen=True)
class _Surrogate(Asking):
    """What both have in common: the parts of the image.

    Parameters
    ----------
    segments
        ``grid`` of cells, or ``slic`` superpixels of each image (needs scikit-image).
    cells
        Cells along each side of the grid; of superpixels, about its square.
    """

    segments: Segments = "grid"
    cells: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(cells=self.cells)

    def _parts(self, scene: Scene) -> tuple[Tensor | None, Tensor]:
        """Return each pixel's segment (G, H, W), None for a grid, and which of D parts an image has, (G, D) of 0 and 1.

        D is the same for every image, so that what one gets does not depend on the others of its group.
        """
        cells = self.cells**2
        if self.segments == "grid":
            return None, torch.ones(len(scene.images), cells, device=scene.device)
        found = superpixels(scene.images, cells)
        last = found.flatten(1).amax(1, keepdim=True)
        return found, (torch.arange(2 * cells, device=scene.device) <= last).to(torch.float32)

    def _masks(self, values: Tensor, place: Tensor | None) -> Masks:
        if place is None:
            return Cells(values.view(*values.shape[:2], self.cells, self.cells))
        return Patches(values, place)

    def _maps(self, weights: Tensor, place: Tensor | None) -> Tensor:
        """Lay weights (G, T, D) out as maps: a grid as it is, superpixels pixel by pixel."""
        if place is None:
            return weights.reshape(*weights.shape[:2], self.cells, self.cells)
        index = place.flatten(1).unsqueeze(1).expand(-1, weights.shape[1], -1)
        return weights.gather(2, index).view(*weights.shape[:2], *place.shape[1:])


@register(
    "ridge",
    summary="weights of a linear model that predicts the output from which parts are seen (LIME-like)",
    family="black boxes",
    signed=True,
    reference="after Ribeiro et al. 2016 (LIME), arXiv 1602.04938",
    details="As in LIME: parts on and off at random, a ridge regression of penalty 1. Ours: a grid whose edges are "
    "smooth, or superpixels; every part stays with the same chance; no kernel on the distance, which only weighs how "
    "many parts are seen.",
    stochastic=True,
)
@dataclass(frozen=True)
class Ridge(_Surrogate):
    """Coefficients of ``f(mask) ~ a + sum_j w_j mask_j`` with a penalty on ``w``, by the normal equations.

    Parameters
    ----------
    budget, fill
        As for every black-box method, see :class:`~salience.methods.asking.Asking`.
    segments, cells
        The parts: a ``grid`` of cells a side, or about as many ``slic`` superpixels as its square.
    keep
        Chance of a part to stay.
    penalty
        Of the squared weights.
    """

    keep: float = 0.5
    penalty: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(penalty=self.penalty)
        if not 0 < self.keep < 1:
            raise MethodError(f"keep is {self.keep}; a chance between 0 and 1 is needed.")

    def questions(self, size: tuple[int, int]) -> int:
        """One a mask."""
        return self.budget - 1

    def search(self, scene: Scene) -> Search:
        """Ask about all masks, then solve."""
        place, present = self._parts(scene)
        count = self.questions(scene.size)
        drawn = Stream(scene.image_ids, scene.seed, "parts", scene.device).uniform(count, present.shape[1])
        values = (drawn < self.keep) * present.unsqueeze(1)
        answers = yield self._masks(values, place)
        weights = ridge(values, answers, self.penalty)
        early = [
            (k, ridge(values[:, :k], scene.leading(answers[:, :k]).unsqueeze(2), self.penalty)[:, 0])
            for k in checkpoints(count)
        ]
        return Found(self._maps(weights, place), curve=convergence(early, count, weights, scene))


def ridge(values: Tensor, answers: Tensor, penalty: float) -> Tensor:
    """Return the weights (G, T, D) of a ridge regression with intercept of ``answers`` (G, k, T) on (G, k, D)."""
    x, y = values.cpu().double(), answers.cpu().double()
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    turned = x.transpose(1, 2)
    if x.shape[1] < x.shape[2]:  # fewer answers than parts: the same weights by the smaller of two systems
        found: Tensor = turned @ torch.linalg.solve(x @ turned + penalty * torch.eye(x.shape[1], dtype=x.dtype), y)
    else:
        found = torch.linalg.solve(turned @ x + penalty * torch.eye(x.shape[2], dtype=x.dtype), turned @ y)
    return found.transpose(1, 2).to(values.device, torch.float32)


@register(
    "kernel_shap",
    summary="Shapley values of the parts, by weighted regression: shares that add up to the change from the fill",
    family="black boxes",
    signed=True,
    reference="Lundberg & Lee 2017, arXiv 1705.07874; sampling: Covert & Lee 2021, arXiv 2012.01536",
    details="Published: coalitions of size s drawn with the Shapley kernel's weight, (D - 1) / (s (D - s)), the sum of "
    "the values held equal to f(all) - f(none); each coalition with its complement. Ours: a small ridge towards equal "
    "shares, which decides where there are fewer coalitions than parts.",
    stochastic=True,
)
@dataclass(frozen=True)
class KernelShap(_Surrogate):
    """Shapley values of the parts; they add up to ``f(image) - f(fill)``.

    Parameters
    ----------
    budget, fill
        As for every black-box method, see :class:`~salience.methods.asking.Asking`.
    segments, cells
        The parts: a ``grid`` of cells a side, or about as many ``slic`` superpixels as its square.
    """

    def questions(self, size: tuple[int, int]) -> int:
        """The empty coalition, and pairs."""
        return 1 + (self.budget - 2) // 2 * 2

    def search(self, scene: Scene) -> Search:
        """Ask about coalitions and their complements, then solve."""
        place, present = self._parts(scene)
        pairs = (self.questions(scene.size) - 1) // 2
        stream = Stream(scene.image_ids, scene.seed, "coalitions", scene.device)
        half = coalitions(stream.uniform(pairs, 1 + present.shape[1]), present)
        values = torch.stack([half, present.unsqueeze(1) - half], 2).flatten(1, 2)
        answers = yield self._masks(torch.cat([torch.zeros_like(values[:, :1]), values], 1), place)
        none, rest = answers[:, :1], answers[:, 1:]
        change = scene.scores.unsqueeze(1) - none
        shares = shapley(values, rest - none, change.squeeze(1), present)
        lead = scene.leading(change)
        early = [
            (k + 1, shapley(values[:, :k], scene.leading(rest[:, :k] - none).unsqueeze(2), lead, present)[:, 0])
            for k in checkpoints(2 * pairs)
        ]
        return Found(self._maps(shares, place), curve=convergence(early, 2 * pairs + 1, shares, scene))


def coalitions(drawn: Tensor, present: Tensor) -> Tensor:
    """Turn uniform numbers (G, k, 1 + D) into coalitions (G, k, D): sizes by the Shapley kernel, then members.

    ``present`` (G, D) says which parts an image has; the others are in no coalition.
    """
    count = present.double().sum(1, keepdim=True)  # (G, 1)
    sizes = torch.arange(1, present.shape[1], dtype=torch.float64, device=drawn.device)
    chance = torch.where(sizes < count, 1 / (sizes * (count - sizes)), 0.0)
    steps = (chance.cumsum(1) / chance.sum(1, keepdim=True)).to(torch.float32)
    size = torch.searchsorted(steps, drawn[..., 0].contiguous(), right=True) + 1
    size = torch.minimum(size, count.long() - 1).clamp_min(1)
    members = drawn[..., 1:].masked_fill(present.unsqueeze(1) == 0, 2.0)
    rank = members.argsort(dim=2, stable=True).argsort(dim=2)
    return (rank < size.unsqueeze(2)).to(torch.float32)


def shapley(values: Tensor, answers: Tensor, change: Tensor, present: Tensor, towards_equal: float = 1e-3) -> Tensor:
    """Return shares (G, T, D) that add up to ``change`` (G, T), closest to ``answers`` (G, k, T) of ``values``.

    Parts that are not ``present`` (G, D) have no share.
    """
    z, y, total = values.cpu().double(), answers.cpu().double(), change.cpu().double()
    there = present.cpu().double().unsqueeze(2)  # (G, D, 1)
    equal = total.unsqueeze(1) / there.sum(1, keepdim=True)  # (G, 1, T)
    gram = z.transpose(1, 2) @ z + towards_equal * torch.eye(z.shape[2], dtype=z.dtype)
    right = z.transpose(1, 2) @ (y - z.sum(2, keepdim=True) * equal)
    both: Tensor = torch.linalg.solve(gram, torch.cat([right, there], 2))
    free, ones = both[..., :-1], both[..., -1:]
    found = equal * there + free - ones * (free.sum(1, keepdim=True) / ones.sum(1, keepdim=True))
    return found.transpose(1, 2).to(values.device, torch.float32)
