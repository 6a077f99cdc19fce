"""Evolving the ranking of an image's cells, with a surrogate that learns from every question."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from salience.engine.evolution import NaturalEvolution
from salience.engine.masks import Cells, Turned
from salience.engine.queries import Found, Scene, Search
from salience.engine.random import Stream
from salience.engine.scalars import Output
from salience.engine.surrogate import Surrogate
from salience.errors import MethodError
from salience.methods.asking import Asking, convergence, positive
from salience.methods.registry import register

AREAS = (0.05, 0.1, 0.2, 0.4)
_PIXELS_A_CELL = 4
_SMALLEST_SURVEY = 8
_FULL_SURVEY = 128
"""Pairs that are asked at random whatever the share: before them, evolving costs localisation."""
_SATURATED = 8.0
"""Margins beyond this are all alike: a probability of 0.9997."""


@register(
    "evolve",
    summary="ranking of the cells, evolved by asking about the best and the worst of it, from a smooth surrogate",
    family="black boxes",
    signed=True,
    reference="ours",
    details="A survey hides random cells, in pairs of a mask and its complement, and fits a linear surrogate in which "
    "neighbouring cells matter alike, to margins that saturate at 8. Then the ranking evolves. mode=posterior: every "
    "generation draws rankings from what the surrogate still holds possible, asks what their top keeps and what it "
    "takes away, and learns from it; the map is the surrogate's mean. mode=snes: a separable evolution strategy over "
    "the score map, whose fitness is the mean over areas of 5, 10, 20 and 40 per cent of S(top kept) - S(top deleted).",
    stochastic=True,
)
@dataclass(frozen=True)
class Evolve(Asking):
    """The mean of a Gaussian belief over the cells' weights, after a survey and an evolution of its ranking.

    With several targets the evolution follows one; the surrogate learns all of them from the same answers.

    Parameters
    ----------
    budget, fill
        As for every black-box method, see :class:`~salience.methods.asking.Asking`.
    search
        ``posterior`` or ``snes``.
    cells
        Cells along each side, at most; not smaller than four pixels.
    survey
        Share of the budget that is asked beforehand, at random, and at least 256 forward passes.
    reach
        Over how many cells weights are alike.
    noise
        How far answers depart from the linear model, as a share of their variance.
    candidates
        Rankings in a generation.
    sigma
        Of ``snes``: the first standard deviation, in units of the map's own.
    """

    mode: Literal["posterior", "snes"] = "posterior"
    cells: int = 7
    survey: float = 0.6
    reach: float = 0.7
    noise: float = 0.1
    candidates: int = 16
    sigma: float = 0.15

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(cells=self.cells, reach=self.reach, noise=self.noise, candidates=self.candidates, sigma=self.sigma)
        if not 0 < self.survey <= 1:
            raise MethodError(f"survey is {self.survey}; a share above 0, at most 1, is needed.")

    @property
    def output(self) -> Output:
        """The margin log p - log(1 - p): where the class is nearly sure, or gone, probabilities hardly move."""
        return "margin"

    @property
    def least(self) -> int:
        """A survey of eight pairs, and the image."""
        return 2 * _SMALLEST_SURVEY + 1

    def _rounds(self) -> tuple[int, list[int]]:
        """Return the pairs of the survey, and those of every generation."""
        pairs = (self.budget - 1) // 2
        first = max(min(pairs, _FULL_SURVEY), round(pairs * self.survey))
        return first, _cut(pairs - first, self.candidates * (len(AREAS) if self.mode == "snes" else 1))

    def questions(self, size: tuple[int, int]) -> int:
        """Two a pair."""
        first, rounds = self._rounds()
        return 2 * (first + sum(rounds))

    def search(self, scene: Scene) -> Search:
        """Survey, then evolve."""
        grid = tuple(max(2, min(self.cells, s // _PIXELS_A_CELL)) for s in scene.size)
        stream = Stream(scene.image_ids, scene.seed, "evolve", scene.device)
        first, rounds = self._rounds()
        belief = Surrogate(
            len(scene.images), scene.targets.shape[1], (grid[0], grid[1]), self.reach, self.noise, scene.device
        )
        early: list[tuple[int, Tensor]] = []
        yield from _ask(belief, (stream.uniform(first, *grid) < 0.5).to(torch.float32), scene)
        if self.mode == "snes":
            return (yield from self._snes(belief, stream, rounds, scene))
        rows = torch.arange(len(scene.images), device=scene.device)
        for pairs in rounds:
            mean, factor = belief.fit()
            early.append((belief.count, belief.maps(mean).float()[rows, scene.lead]))
            yield from _ask(belief, self._draw(belief, mean, factor, stream, pairs, scene), scene)
        maps = belief.maps(belief.fit()[0]).float()
        return Found(maps, curve=convergence(early, belief.count, maps, scene))

    def _snes(self, belief: Surrogate, stream: Stream, rounds: list[int], scene: Scene) -> Search:
        """Evolve the score map itself, from the surrogate's."""
        maps = belief.maps(belief.fit()[0]).float()
        rows, asked = torch.arange(len(maps), device=maps.device), belief.count
        start = maps[rows, scene.lead].flatten(1)
        size = start.std(1, keepdim=True).clamp_min(1e-12)
        mean = (start - start.mean(1, keepdim=True)) / size
        evolution = NaturalEvolution(mean, torch.full_like(mean, self.sigma), stream, self.candidates)
        curve = []
        for pairs in rounds:
            evolution.candidates = pairs // len(AREAS)
            trials = evolution.trials()  # (G, P, D)
            shapes = torch.stack([self._tops(trials, area, maps) for area in AREAS], 2).flatten(1, 2)
            answers = scene.leading((yield Turned(Cells(shapes))))
            asked += answers.shape[1]
            gains = answers.view(len(answers), -1, len(AREAS), 2)
            fitness = (gains[..., 0] - gains[..., 1]).mean(2)
            evolution.select(fitness)
            best = maps.new_full(maps.shape[:2], float("nan"))
            best[rows, scene.lead] = fitness.mean(1)
            curve.append((asked, best))
        maps[rows, scene.lead] = (evolution.mean * size).view(-1, *maps.shape[2:])
        return Found(maps, curve=curve, curve_of="fitness")

    def _tops(self, trials: Tensor, area: float, like: Tensor) -> Tensor:
        grid = trials.view(*trials.shape[:2], *like.shape[2:])
        return top(grid, torch.full(trials.shape[:2], area, device=trials.device))

    def _draw(
        self, belief: Surrogate, mean: Tensor, factor: Tensor, stream: Stream, pairs: int, scene: Scene
    ) -> Tensor:
        """Draw rankings from the belief, and cut each at an area: masks (G, pairs, h, w)."""
        groups, genes, _ = mean.shape
        rows = torch.arange(groups, device=mean.device)
        centre = mean[rows, :, scene.lead]
        noise = stream.normal(pairs, genes).double()
        # covariance of the belief: noise variance times the inverse of the precision
        spread = torch.linalg.solve_triangular(factor.transpose(1, 2), noise.transpose(1, 2), upper=True)
        white = centre.unsqueeze(2) + belief.deviation(mean)[rows, scene.lead].view(-1, 1, 1) * spread
        scores = belief.maps(white)
        areas = stream.uniform(pairs)
        return top(scores.float(), AREAS[0] + (0.6 - AREAS[0]) * areas)


def _ask(belief: Surrogate, shapes: Tensor, scene: Scene) -> Search:
    """Ask about shapes (G, k, h, w) and their complements, and learn."""
    answers = yield Turned(Cells(shapes))
    if scene.output == "margin":
        answers = _SATURATED * (answers / _SATURATED).tanh()
    both = torch.stack([shapes, 1 - shapes], 2).flatten(1, 2)
    belief.learn(both, answers)
    return Found(shapes)


def top(scores: Tensor, share: Tensor) -> Tensor:
    """Return masks (G, k, h, w) of the ``share`` (G, k) of cells with the highest ``scores`` (G, k, h, w)."""
    flat = scores.flatten(2)
    rank = flat.argsort(dim=2, descending=True, stable=True).argsort(dim=2)
    kept = (share * flat.shape[2]).round().clamp(1, flat.shape[2] - 1).unsqueeze(2)
    return (rank < kept).to(torch.float32).view(scores.shape)


def _cut(pairs: int, each: int) -> list[int]:
    """Cut pairs into generations of about ``each``."""
    if pairs <= 0:
        return []
    rounds = max(1, math.ceil(pairs / each))
    return [pairs // rounds + (i < pairs % rounds) for i in range(rounds)]
