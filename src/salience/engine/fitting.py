"""Masks fitted by gradient descent: what to keep of an image so that a class stays, whatever surrounds it.

The objective is that of Gupta, Saunshi, Yu, Lyu, Arora, "New Definitions and Evaluations for Saliency Methods",
NeurIPS 2022 (arXiv 2211.02912). A mask must be the same bytes in any batch. So its sums are taken in a fixed order, one
addition after the other, and functions whose vectorised and scalar forms differ in the last bit are avoided or taken
row by row: where a number stands in a batch decides which of the two forms computes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from typing import Literal

import torch
from torch import Tensor

from salience.engine.descent import Descended, ModelCalls, Problem
from salience.engine.pool import Pool
from salience.engine.random import key_words, row_key
from salience.errors import MethodError

Objective = Literal["published", "nll"]
AREA_WEIGHT = 2e-5 * 224 * 224
"""What the published l1 weight makes of the mean of a mask: 1.0035."""


@dataclass(frozen=True)
class MaskFit:
    """How masks are fitted; the fields are those of :class:`salience.methods.mask.Mask`."""

    scale: int
    tv: float
    l1: float | None
    steps: int
    draws: int
    lr: float
    objective: Objective
    purpose: str = "mask"

    def __post_init__(self) -> None:
        for name, value in (("scale", self.scale), ("steps", self.steps), ("draws", self.draws)):
            if value < 1:
                raise MethodError(f"{name} is {value}: 1 or more is needed.")
        if self.lr <= 0:
            raise MethodError(f"lr is {self.lr}: a number above 0 is needed.")
        for name, weight in (("tv", self.tv), ("l1", self.l1)):
            if weight is not None and weight < 0:
                raise MethodError(f"{name} is {weight}: 0 or more is needed.")

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the masks that are fitted, for images of ``size``: a ``scale``-th, rounded up."""
        return -(-size[0] // self.scale), -(-size[1] // self.scale)

    def area_weight(self, size: tuple[int, int]) -> float:
        """Return the weight of the sum of a mask of ``size``."""
        return AREA_WEIGHT / (size[0] * size[1]) if self.l1 is None else self.l1

    def passes(self, batch: int) -> tuple[int, int]:
        """Return the forward and backward passes of one mask in calls of ``batch`` rows."""
        looks = 1 if self.draws <= batch else 2  # draws in several calls: first all outputs, then the gradients
        return self.draws * (looks * self.steps + 1), self.draws * self.steps


def fit_masks(fit: MaskFit, problem: Problem) -> Descended:
    """Fit a mask for each image and class; as many as fit into a model call together.

    Returns maps (N, T, h, w) in [0, 1], 1 where the image is kept, with the figures of :func:`judge_masks` over
    backgrounds that the last step did not see.

    Raises
    ------
    MethodError
        When there is no pool.
    """
    masks = torch.cat([task.descend() for _, task in _tasks(fit, problem)])
    maps = masks.view(*problem.targets.shape, *masks.shape[1:])
    return Descended(maps, judge_masks(fit, problem, maps, first=fit.steps * fit.draws))


def judge_masks(fit: MaskFit, problem: Problem, maps: Tensor, first: int = 0) -> dict[str, Tensor]:
    """Return what masks (N, T, h, w) come to over ``fit.draws`` backgrounds, each figure (N, T).

    ``objective``; ``probability`` of the class, the mean over the backgrounds; ``area``, the mean of the enlarged mask.
    Backgrounds are those drawn after the ``first`` from the keys of the masks, which ``fit.purpose`` decides.
    """
    masks = maps.flatten(0, 1)
    found = [task.judge(masks[group], first) for group, task in _tasks(fit, problem)]
    return {name: torch.cat([figures[name] for figures in found]).view(maps.shape[:2]) for name in found[0]}


def _tasks(fit: MaskFit, problem: Problem) -> Iterator[tuple[slice, _Task]]:
    """Yield the masks of a batch, so many at a time as a model call can hold with all their draws."""
    if problem.pool is None:
        raise MethodError("Masks are fitted over backgrounds from other images, and no pool of images is given.")
    n, columns = problem.targets.shape
    classes = problem.targets.flatten()
    owners = torch.arange(n).repeat_interleave(columns)
    pairs = zip(owners.tolist(), classes.tolist(), strict=True)
    words = key_words([row_key(problem.seed, f"{fit.purpose} {c}", problem.image_ids[i]) for i, c in pairs], "cpu")
    places = problem.pool.find(problem.images)[owners]
    images = problem.images.to(torch.promote_types(problem.images.dtype, torch.float32))
    together = max(1, problem.model.batch // fit.draws)
    for at in range(0, n * columns, together):
        group = slice(at, at + together)
        own = images[owners[group].to(images.device)]
        yield group, _Task(fit, problem.model, problem.pool, own, classes[group], words[group], places[group])


@dataclass(frozen=True)
class _Task:
    """M masks that share model calls: each one's image (M, 3, H, W), class, key, and place of the image in the pool."""

    fit: MaskFit
    model: ModelCalls
    pool: Pool
    images: Tensor
    classes: Tensor
    words: Tensor
    places: Tensor

    def descend(self) -> Tensor:
        """Return the fitted masks (M, h, w)."""
        size = (self.images.shape[2], self.images.shape[3])
        enlarge = Resampling.bilinear(self.fit.grid(size), size, self.images)
        weight = self.fit.area_weight(size)
        w = self.images.new_zeros(len(self.images), *self.fit.grid(size))
        adam = Adam(self.fit.lr, torch.zeros_like(w), torch.zeros_like(w))
        for step in range(self.fit.steps):
            share = sigmoid(w)
            masks = enlarge(share)
            behind, change = self._backgrounds(step * self.fit.draws)
            slope = self._slope(_blend(behind, change, masks)).mul_(change)
            by_mask = _add_up(part for draw in slope.unbind(1) for part in draw.unbind(1))
            by_mask = by_mask + weight + roughness_slope(masks).mul_(self.fit.tv)
            adam.step(w, enlarge.adjoint(by_mask) * (share * (1 - share)))
        return sigmoid(w)

    def judge(self, shares: Tensor, first: int) -> dict[str, Tensor]:
        """Return what masks (M, h, w) come to over the backgrounds after the ``first``, each (M,)."""
        size = (self.images.shape[2], self.images.shape[3])
        masks = Resampling.bilinear(self.fit.grid(size), size, self.images)(shares)
        behind, change = self._backgrounds(first)
        logits = self._logits(_blend(behind, change, masks))
        value, probability, _ = likelihood(self.fit.objective, logits, self.classes)
        value = value + self.fit.area_weight(size) * masks.sum((1, 2)) + self.fit.tv * roughness(masks)
        return {"objective": value, "probability": probability, "area": masks.mean((1, 2))}

    def _backgrounds(self, first: int) -> tuple[Tensor, Tensor]:
        """Return backgrounds G and x - G, both (M, J, 3, H, W)."""
        behind = self.pool.backgrounds(self.words, first, self.fit.draws, self.places, self.images.dtype)
        return behind, self.images.unsqueeze(1) - behind

    def _logits(self, inputs: Tensor) -> Tensor:
        """Return the logits (M, J, C) of inputs (M, J, 3, H, W)."""
        logits = torch.cat([self.model.logits(rows) for rows in torch.split(inputs.flatten(0, 1), self.model.batch)])
        return logits.view(*inputs.shape[:2], -1)

    def _slope(self, inputs: Tensor) -> Tensor:
        """Return the gradient of the objective by inputs (M, J, 3, H, W), in the same shape.

        The draws of a mask are coupled: the objective is a function of their mean probabilities. Draws that fit into
        one call need one pass forward and back; more are seen twice, once for the mean and once for the gradient.
        """
        m, draws = inputs.shape[:2]
        rows = inputs.flatten(0, 1)

        def cotangent(logits: Tensor) -> Tensor:
            return likelihood(self.fit.objective, logits.view(m, draws, -1), self.classes)[2].flatten(0, 1)

        if len(rows) <= self.model.batch:
            slope = self.model.pull_back(rows, cotangent)[1]
        else:
            vectors = torch.split(cotangent(self._logits(inputs).flatten(0, 1)), self.model.batch)
            pieces = zip(torch.split(rows, self.model.batch), vectors, strict=True)
            slope = torch.cat([self.model.pull_back(some, partial(_given, vector))[1] for some, vector in pieces])
        return slope.to(inputs.dtype).view(inputs.shape)


def _given(vector: Tensor, logits: Tensor) -> Tensor:
    """Return a cotangent that is known before the logits are."""
    return vector


def _blend(behind: Tensor, change: Tensor, masks: Tensor) -> Tensor:
    """Return ``x M + G (1 - M)`` of G and x - G (M, J, 3, H, W) and masks (M, H, W)."""
    return behind + change * masks[:, None, None]


def _add_up(parts: Iterable[Tensor]) -> Tensor:
    """Add tensors one after the other: a library's sum takes another order at another place."""
    return reduce(torch.add, parts)


# ---------------------------------------------------------------------- the objective


def likelihood(objective: Objective, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the term of the objective that wants the class, over J backgrounds of each of M masks.

    With P = mean_j softmax(z_j): ``published`` is the cross-entropy that takes P for logits, -log softmax(P)_a, between
    1.461 and 2.461 for ten classes; ``nll`` is -log P_a.

    Parameters
    ----------
    logits
        (M, J, C).
    target
        (M,).

    Returns
    -------
    value, probability
        The term and P_a, float64 (M,).
    slope
        Derivatives of the term by the logits, float64 (M, J, C).
    """
    m, draws, count = logits.shape
    z = logits.double()
    p = z.softmax(2)
    mean = _add_up(p.unbind(1)) / draws
    own = torch.zeros(m, count, dtype=z.dtype, device=z.device).scatter_(1, target.unsqueeze(1), 1.0)
    probability = mean.gather(1, target.unsqueeze(1)).squeeze(1)
    if objective == "published":
        value = mean.logsumexp(1) - probability
        v = ((mean.softmax(1) - own) / draws).unsqueeze(1)
        return value, probability, p * (v - (p * v).sum(2, keepdim=True))
    # in logarithms: also where P_a is too small for a number, its gradient is not
    log_own = z.log_softmax(2).gather(2, target.view(-1, 1, 1).expand(-1, draws, 1)).squeeze(2)
    value = torch.log(torch.tensor(float(draws), dtype=z.dtype)).item() - log_own.logsumexp(1)
    return value, probability, log_own.softmax(1).unsqueeze(2) * (p - own.unsqueeze(1))


def roughness(masks: Tensor) -> Tensor:
    """Return the sum of squared differences of neighbours, across and down, of masks (M, H, W): (M,)."""
    return masks.diff(dim=1).square().sum((1, 2)) + masks.diff(dim=2).square().sum((1, 2))


def roughness_slope(masks: Tensor) -> Tensor:
    """Return the derivative (M, H, W) of :func:`roughness`."""
    down, across = masks.diff(dim=1).mul_(2), masks.diff(dim=2).mul_(2)
    out = torch.zeros_like(masks)
    out[:, 1:] += down
    out[:, :-1] -= down
    out[:, :, 1:] += across
    out[:, :, :-1] -= across
    return out


# ---------------------------------------------------------------------- masks


def sigmoid(w: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-w)): of any place in a tensor the same bytes, which torch.sigmoid is not."""
    return torch.stack([w, torch.zeros_like(w)], -1).softmax(-1).select(-1, 0)


@dataclass(frozen=True)
class Resampling:
    """A linear map of the rows and the columns of masks, with its adjoint; each as a table of places and weights."""

    rows: tuple[Tensor, Tensor]
    columns: tuple[Tensor, Tensor]
    rows_back: tuple[Tensor, Tensor]
    columns_back: tuple[Tensor, Tensor]

    @classmethod
    def bilinear(cls, grid: tuple[int, int], size: tuple[int, int], like: Tensor) -> Resampling:
        """Enlarge from ``grid`` to ``size``, half-pixel centres (``align_corners=False``), in the type of ``like``."""
        down, across = (_weights(g, s).to(like) for g, s in zip(grid, size, strict=True))
        return cls(_table(down), _table(across), _table(down.T), _table(across.T))

    def __call__(self, values: Tensor) -> Tensor:
        """Enlarge (M, h, w) to (M, H, W)."""
        return _along(_along(values, 2, self.columns), 1, self.rows)

    def adjoint(self, slopes: Tensor) -> Tensor:
        """Return what slopes (M, H, W) by the enlarged values are by the values (M, h, w)."""
        return _along(_along(slopes, 1, self.rows_back), 2, self.columns_back)


def _weights(count: int, length: int) -> Tensor:
    """Return the share (length, count) that each of ``count`` values has in each of ``length`` places, float64."""
    place = ((torch.arange(length, dtype=torch.float64) + 0.5) * (count / length) - 0.5).clamp_(0, count - 1)
    return (1 - (place.unsqueeze(1) - torch.arange(count, dtype=torch.float64)).abs()).clamp_(min=0)


def _table(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places (k, out) and values (k, out) of what is not zero in the rows of a matrix (out, in)."""
    most = int((matrix != 0).sum(1).max())
    places = (matrix == 0).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
    return places.T.contiguous(), matrix.gather(1, places).T.contiguous()


def _along(values: Tensor, axis: int, table: tuple[Tensor, Tensor]) -> Tensor:
    """Apply a table to an axis of (M, H, W)."""
    shape = (-1, 1) if axis == 1 else (1, -1)
    return _add_up(values.index_select(axis, place) * share.view(shape) for place, share in zip(*table, strict=True))


@dataclass
class Adam:
    """Kingma & Ba 2015 with their constants, number by number: each mask's steps are its own."""

    lr: float
    mean: Tensor
    square: Tensor
    taken: int = 0

    def step(self, w: Tensor, slope: Tensor) -> None:
        """Change ``w`` in place against its slope."""
        self.taken += 1
        self.mean.mul_(0.9).add_(slope * 0.1)
        self.square.mul_(0.999).add_(slope.square() * 0.001)
        spread = (self.square.sqrt() / (1 - 0.999**self.taken) ** 0.5).add_(1e-8)
        w.sub_((self.mean / spread).mul_(self.lr / (1 - 0.9**self.taken)))
