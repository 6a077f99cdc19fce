"""What the best mask of a class can do: the largest probability that it brings a wrong label to.

A class of masks is all ``M = up(u)`` with u in [0, 1] on a grid, of which the mean and the roughness are bounded. Any
u is brought into the class by one factor, so every mask that is tried counts, and what is found is a lower bound on
what the class can do. With gradients, u = sigmoid(w) is fitted by Adam to -log p; without, it is evolved. Sums are
taken mask by mask: what is found for an image does not depend on the images beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from salience.engine.descent import ModelCalls
from salience.engine.evolution import NaturalEvolution
from salience.engine.fitting import Adam, Resampling, roughness, roughness_slope, sigmoid
from salience.engine.random import Stream, normal, row_key
from salience.errors import MetricError
from salience.models.classifier import GRADIENTS

CANDIDATES = 16
"""Masks of one generation, where there are no gradients."""
CELLS = 8
"""Most cells along a side that are evolved."""


@dataclass(frozen=True)
class MaskClass:
    """Which masks an adversary may use.

    Attributes
    ----------
    scale
        Pixels of the image to a value of u, each way; 1 decides every pixel.
    area
        Largest mean of M, above 0, at most 1.
    tv
        Largest mean over the pixels of the squared differences of neighbours; None for no bound.
    """

    scale: int = 4
    area: float = 0.25
    tv: float | None = None

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise MetricError(f"scale is {self.scale}: 1 or more is needed.")
        if not 0 < self.area <= 1:
            raise MetricError(f"area is {self.area}: a share above 0, at most 1, is needed.")
        if self.tv is not None and self.tv <= 0:
            raise MetricError(f"tv is {self.tv}: a number above 0 is needed, or none for no bound.")

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size of u for images of ``size``."""
        return -(-size[0] // self.scale), -(-size[1] // self.scale)

    def enlarging(self, size: tuple[int, int], like: Tensor) -> Resampling:
        """Return what makes M of u."""
        return Resampling.bilinear(self.grid(size), size, like)

    def factor(self, masks: Tensor) -> Tensor:
        """Return the largest factor up to 1 (M,) that brings masks (M, H, W) into the class."""
        share, rough = self._measure(masks)
        found = (self.area / share.clamp_min(torch.finfo(share.dtype).tiny)).clamp_max(1)
        if self.tv is None:
            return found
        return torch.minimum(found, (self.tv / rough.clamp_min(torch.finfo(rough.dtype).tiny)).sqrt())

    def slope(self, masks: Tensor, factor: Tensor, by_scaled: Tensor) -> Tensor:
        """Return the derivatives by masks (M, H, W), of those by the masks times their factor."""
        share, rough = self._measure(masks)
        pull = torch.stack([part.sum() for part in by_scaled * masks])
        by_share = torch.where((factor < 1) & (factor * share >= self.area * (1 - 1e-6)), -factor / share, 0.0)
        by_mask = by_share.view(-1, 1, 1) / masks[0].numel()
        if self.tv is not None:
            bound = (factor < 1) & (by_share == 0)
            by_rough = torch.where(bound, -factor / (2 * rough), 0.0) / masks[0].numel()
            by_mask = by_mask + by_rough.view(-1, 1, 1) * roughness_slope(masks)
        return by_scaled * factor.view(-1, 1, 1) + by_mask * pull.view(-1, 1, 1)

    def _measure(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        pixels = masks[0].numel()
        share = torch.stack([mask.sum() for mask in masks]) / pixels
        return share, torch.cat([roughness(mask[None]) for mask in masks]) / pixels


@dataclass(frozen=True)
class Adversary:
    """How masks of a class are searched.

    Attributes
    ----------
    background
        What shows where a mask hides the image.
    softmax
        Probability among the label set (``restricted``), or among all classes (``full``).
    search
        ``gradients``, ``evolution``, or ``auto``: gradients where the model has them.
    steps, lr
        Steps of Adam, and its rate.
    starts
        Searches with gradients: the first from the flat mask, the others from noise.
    queries
        Masks that an evolution asks about for each label.
    """

    masks: MaskClass
    background: str
    softmax: Literal["restricted", "full"] = "restricted"
    search: Literal["auto", "gradients", "evolution"] = "auto"
    steps: int = 100
    lr: float = 0.3
    starts: int = 1
    queries: int = 512

    def __post_init__(self) -> None:
        for name, value, least in (("steps", self.steps, 1), ("starts", self.starts, 1)):
            if value < least:
                raise MetricError(f"{name} is {value}: {least} or more is needed.")
        if self.queries < CANDIDATES:
            raise MetricError(f"queries is {self.queries}: {CANDIDATES} or more are needed.")
        if self.lr <= 0:
            raise MetricError(f"lr is {self.lr}: a number above 0 is needed.")

    def uses_gradients(self, capabilities: frozenset[str]) -> bool:
        """Tell which way a model of such capabilities is searched."""
        return self.search == "gradients" or (self.search == "auto" and GRADIENTS in capabilities)

    def passes(self, labels: int, capabilities: frozenset[str]) -> tuple[int, int]:
        """Return the forward and backward passes for an image with a set of so many labels."""
        wrong = labels - 1
        if self.uses_gradients(capabilities):
            return wrong * self.starts * (self.steps + 1), wrong * self.starts * self.steps
        return wrong * (self.queries // CANDIDATES) * CANDIDATES, 0


@dataclass(frozen=True, eq=False)
class Victims:
    """N images to be searched.

    Attributes
    ----------
    images, behind
        Pixels in [0, 1], and what shows where they are hidden: (N, 3, H, W) each.
    labels
        Label sets (N, T), the predicted one first.
    """

    images: Tensor
    behind: Tensor
    image_ids: tuple[str, ...]
    labels: Tensor
    seed: int


def search(adversary: Adversary, victims: Victims, model: ModelCalls) -> Tensor:
    """Return the largest probability found for every wrong label, float64 (N, T - 1).

    NaN for labels of which an answer was not finite.
    """
    wrong = victims.labels.shape[1] - 1
    if not wrong:
        return victims.images.new_zeros(len(victims.images), 0, dtype=torch.float64)
    if adversary.uses_gradients(model.classifier.capabilities):
        return _descend(adversary, victims, model)
    return torch.stack([_evolve(adversary, victims, i, model) for i in range(len(victims.images))])


def log_probability(
    logits: Tensor, labels: Tensor, column: Tensor, softmax: Literal["restricted", "full"]
) -> tuple[Tensor, Tensor]:
    """Return log p (R,) of the label ``column`` (R,) of sets (R, T), and its derivatives by logits (R, C); float64."""
    z = logits.double()
    own = labels.gather(1, column.unsqueeze(1))
    if softmax == "restricted":
        part = z.gather(1, labels)
        p = torch.zeros_like(z).scatter_(1, labels, part.softmax(1))
        value = part.log_softmax(1).gather(1, column.unsqueeze(1))
    else:
        p = z.softmax(1)
        value = z.log_softmax(1).gather(1, own)
    return value.squeeze(1), torch.zeros_like(z).scatter_(1, own, 1.0) - p


# ---------------------------------------------------------------------- with gradients


def _descend(adversary: Adversary, victims: Victims, model: ModelCalls) -> Tensor:
    n, columns = victims.labels.shape[0], victims.labels.shape[1] - 1
    jobs = [(i, c, s) for i in range(n) for c in range(1, columns + 1) for s in range(adversary.starts)]
    found = [_fit(adversary, victims, jobs[at : at + model.batch], model) for at in range(0, len(jobs), model.batch)]
    return torch.cat(found).view(n, columns, adversary.starts).amax(2)


def _fit(adversary: Adversary, victims: Victims, jobs: list[tuple[int, int, int]], model: ModelCalls) -> Tensor:
    """Return the largest probability (M,) that each of M searches (image, column, start) came across."""
    device = victims.images.device
    owner, column = (torch.tensor([job[k] for job in jobs], device=device) for k in (0, 1))
    dtype = torch.promote_types(victims.images.dtype, torch.float32)
    behind = victims.behind[owner].to(dtype)
    change = victims.images[owner].to(dtype) - behind
    size = (change.shape[2], change.shape[3])
    enlarge = adversary.masks.enlarging(size, change)
    labels = victims.labels[owner]
    w = torch.stack([_start(adversary, victims, job, size).to(change) for job in jobs])
    adam = Adam(adversary.lr, torch.zeros_like(w), torch.zeros_like(w))
    best = torch.zeros(len(jobs), dtype=torch.float64, device=device)

    def judge(logits: Tensor) -> Tensor:
        nonlocal best
        value, slope = log_probability(logits, labels, column, adversary.softmax)
        best = torch.maximum(best, value.exp())  # NaN stays NaN
        return -slope

    for _ in range(adversary.steps):
        u = sigmoid(w)
        masks = enlarge(u)
        factor = adversary.masks.factor(masks)
        inputs = behind + change * (masks * factor.view(-1, 1, 1)).unsqueeze(1)
        _, slope = model.pull_back(inputs, judge)
        red, green, blue = (slope.to(change.dtype) * change).unbind(1)
        by_mask = adversary.masks.slope(masks, factor, red + green + blue)
        adam.step(w, enlarge.adjoint(by_mask) * (u * (1 - u)))
    masks = enlarge(sigmoid(w))
    masks = masks * adversary.masks.factor(masks).view(-1, 1, 1)
    judge(model.logits(behind + change * masks.unsqueeze(1)))
    return best


def _start(adversary: Adversary, victims: Victims, job: tuple[int, int, int], size: tuple[int, int]) -> Tensor:
    """Return the first w (h, w) of a search."""
    image, column, start = job
    grid = adversary.masks.grid(size)
    if not start:
        return torch.zeros(grid)
    purpose = f"adversary {int(victims.labels[image, column])}"
    return normal([row_key(victims.seed, purpose, victims.image_ids[image], start)], grid)[0]


# ---------------------------------------------------------------------- without


def _evolve(adversary: Adversary, victims: Victims, image: int, model: ModelCalls) -> Tensor:
    """Return the largest probability (T - 1,) that an evolution comes across for each wrong label of an image.

    Genes are those of a coarser grid, enlarged: few enough for few questions.
    """
    whole, behind = victims.images[image], victims.behind[image]
    labels, device = victims.labels[image], whole.device
    size = (whole.shape[1], whole.shape[2])
    grid = adversary.masks.grid(size)
    genes = (min(CELLS, grid[0]), min(CELLS, grid[1]))
    like = torch.zeros(1, device=device)
    coarse, enlarge = Resampling.bilinear(genes, grid, like), adversary.masks.enlarging(size, like)
    lines = len(labels) - 1
    ids = [f"{victims.image_ids[image]}\x1f{label}" for label in labels[1:].tolist()]
    stream = Stream(ids, victims.seed, "adversary", device)
    flat = torch.zeros(lines, genes[0] * genes[1], device=device)
    evolution = NaturalEvolution(flat, torch.full_like(flat, 2.0), stream, CANDIDATES)
    column = torch.arange(1, lines + 1, device=device).repeat_interleave(CANDIDATES)
    best = torch.zeros(lines, dtype=torch.float64, device=device)
    for _ in range(adversary.queries // CANDIDATES):
        u = sigmoid(evolution.trials()).view(-1, *genes)

        def show(rows: slice, u: Tensor = u) -> Tensor:
            masks = enlarge(coarse(u[rows]))
            masks = masks * adversary.masks.factor(masks).view(-1, 1, 1)
            return behind + (whole - behind) * masks.unsqueeze(1).to(whole.dtype)

        logits = _ask(show, len(u), model)
        value, _ = log_probability(logits, labels.expand(len(u), -1), column, adversary.softmax)
        value = value.view(lines, CANDIDATES)
        best = torch.maximum(best, value.exp().amax(1))
        evolution.select(value.float())
    return best


def _ask(show: Callable[[slice], Tensor], count: int, model: ModelCalls) -> Tensor:
    """Return the logits (count, C) of rows that ``show`` makes."""
    cuts = [slice(at, min(count, at + model.batch)) for at in range(0, count, model.batch)]
    return torch.cat([model.logits(show(cut)) for cut in cuts])
