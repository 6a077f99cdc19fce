"""DE-CAM: a class activation map for a black box, by differential evolution of a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from salience.engine.evolution import Evolution, Strategy
from salience.engine.masks import Blobs, Cells, Masks, Turned
from salience.engine.queries import Found, Scene, Search
from salience.engine.random import Stream
from salience.errors import MethodError
from salience.methods.asking import Asking, positive
from salience.methods.registry import register
from salience.methods.regression import ridge

Encoding = Literal["grid", "points", "blobs"]
MapOf = Literal["best", "elite", "ridge"]

_RASTER = 28
_ELITE = 0.1


@register(
    "decam",
    summary="a mask evolved so that what it keeps shows the class and what it leaves out does not",
    family="black boxes",
    signed=False,
    reference="after Karatsiolis & Kamilaris 2022, arXiv 2209.08906",
    details="Published: differential evolution over the outputs alone finds the pixels that matter. Encoding, fitness "
    "and settings could not be read and there is no code: all of them are our reading. Fitness: p(kept) - p(left out) "
    "- spread * mean(mask) - rough * total variation.",
    stochastic=True,
)
@dataclass(frozen=True)
class DeCam(Asking):
    """The best mask of a differential evolution, the mean of the elite, or a regression over all that were tried.

    Every candidate is asked about twice: what the mask keeps, and what it leaves out. With several targets the
    evolution follows one; each target then picks its own best, elite or regression of all candidates tried.

    Parameters
    ----------
    budget, fill
        As for every black-box method, see :class:`~salience.methods.asking.Asking`.
    encoding
        ``grid``: a value a cell; ``points``: pixels with a Gaussian around them; ``blobs``: ellipses.
    strategy
        ``rand1`` (rand/1/bin), ``best1`` (best/1/bin, dithered), ``jde`` or ``shade``.
    map
        ``best``, ``elite`` (mean of the best tenth of all candidates), or ``ridge`` (weights of a linear model).
    cells
        Side of the grid.
    parts
        Number of points or blobs.
    population
        Candidates of a generation, fewer where the budget allows less than five generations.
    scale, rate
        F and CR.
    spread, rough
        Weights of the mask's area and of its total variation.
    """

    fill: str = "blur"
    encoding: Encoding = "grid"
    strategy: Strategy = "rand1"
    map: MapOf = "best"
    cells: int = 7
    parts: int = 5
    population: int = 50
    scale: float = 0.5
    rate: float = 0.9
    spread: float = 0.5
    rough: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(cells=self.cells, parts=self.parts, scale=self.scale)
        if self.population < 4:
            raise MethodError(f"population is {self.population}; differential evolution needs 4 or more.")
        if not 0 <= self.rate <= 1:
            raise MethodError(f"rate is {self.rate}; a share between 0 and 1 is needed.")

    @property
    def signed(self) -> bool:
        """Weights of a linear model have signs; masks have none."""
        return self.map == "ridge"

    @property
    def least(self) -> int:
        """Two generations of four, two questions each, and the image."""
        return 17

    def _sizes(self) -> tuple[int, int]:
        """Return the candidates of a generation, and the generations, the first among them."""
        pairs = (self.budget - 1) // 2
        count = max(4, min(self.population, pairs // 5))
        return count, pairs // count

    def questions(self, size: tuple[int, int]) -> int:
        """Two a candidate."""
        count, generations = self._sizes()
        return 2 * count * generations

    def search(self, scene: Scene) -> Search:
        """Evolve."""
        count, generations = self._sizes()
        stream = Stream(scene.image_ids, scene.seed, "decam", scene.device)
        code = _Code(self.encoding, self.cells, self.parts)
        first = stream.uniform(count, code.genes)
        answers = yield Turned(code.masks(first))
        tried, gains = [first], [self._fitness(code, first, answers)]
        lead = scene.leading(gains[0])
        evolution = Evolution(first, lead, stream, self.strategy, self.scale, self.rate)
        curve = [(2 * count, _best(evolution, scene))]
        for generation in range(1, generations):
            trials = evolution.trials()
            answers = yield Turned(code.masks(trials))
            gain = self._fitness(code, trials, answers)
            evolution.select(scene.leading(gain))
            tried.append(trials)
            gains.append(gain)
            curve.append((2 * count * (generation + 1), _best(evolution, scene)))
        maps = self._maps(code, torch.cat(tried, 1), torch.cat(gains, 1))
        return Found(maps, curve=_thin(curve), curve_of="fitness")

    def _fitness(self, code: _Code, genes: Tensor, answers: Tensor) -> Tensor:
        """Return the fitness (G, P, T) of candidates for every target."""
        pairs = answers.view(*genes.shape[:2], 2, -1)
        raster = code.raster(genes)
        area = raster.mean((2, 3))
        down = (raster[..., 1:, :] - raster[..., :-1, :]).abs().mean((2, 3))
        across = (raster[..., 1:] - raster[..., :-1]).abs().mean((2, 3))
        cost = self.spread * area + self.rough * (down + across)
        return pairs[:, :, 0] - pairs[:, :, 1] - cost.unsqueeze(2)

    def _maps(self, code: _Code, genes: Tensor, gains: Tensor) -> Tensor:
        """Return maps (G, T, h, w) of all candidates (G, n, D) and their fitness (G, n, T)."""
        raster = code.raster(genes)
        flat = raster.flatten(2)  # (G, n, h * w)
        if self.map == "ridge":
            found = ridge(flat, gains, penalty=1.0)
        else:
            elite = 1 if self.map == "best" else max(1, round(_ELITE * gains.shape[1]))
            chosen = gains.topk(elite, dim=1).indices  # (G, elite, T)
            share = torch.zeros_like(gains).scatter_(1, chosen, 1 / elite)
            found = share.transpose(1, 2) @ flat
        return found.view(*found.shape[:2], *raster.shape[2:])


@dataclass(frozen=True)
class _Code:
    """How genes in [0, 1] stand for a mask."""

    encoding: Encoding
    cells: int
    parts: int

    @property
    def genes(self) -> int:
        """Genes of a candidate."""
        return {"grid": self.cells**2, "points": 2 * self.parts, "blobs": 5 * self.parts}[self.encoding]

    def masks(self, genes: Tensor) -> Masks:
        """Return the masks of candidates (G, P, D)."""
        if self.encoding == "grid":
            return Cells(genes.view(*genes.shape[:2], self.cells, self.cells))
        if self.encoding == "points":
            place = genes.view(*genes.shape[:2], self.parts, 2)
            rest = place.new_tensor([1 / 14, 1 / 14, 1.0]).expand(*place.shape[:3], 3)
            return Blobs(torch.cat([place, rest], 3))
        g = genes.view(*genes.shape[:2], self.parts, 5)
        return Blobs(torch.cat([g[..., :2], 0.03 + 0.27 * g[..., 2:4], g[..., 4:]], 3))

    def raster(self, genes: Tensor) -> Tensor:
        """Return the masks on a coarse grid, (G, P, h, w)."""
        groups, count, _ = genes.shape
        if self.encoding == "grid":
            return genes.view(groups, count, self.cells, self.cells)
        rows = torch.arange(groups, device=genes.device).repeat_interleave(count)
        every = torch.arange(count, device=genes.device).repeat(groups)
        made = self.masks(genes).render(rows, every, (_RASTER, _RASTER))
        return made.view(groups, count, _RASTER, _RASTER)


def _best(evolution: Evolution, scene: Scene) -> Tensor:
    """Return the best fitness so far of the target that is followed, (G, T); NaN for the others."""
    out = scene.scores.new_full(scene.targets.shape, float("nan"))
    return out.scatter_(1, scene.lead.unsqueeze(1), evolution.fitness.amax(1, keepdim=True))


def _thin(curve: list[tuple[int, Tensor]], most: int = 12) -> list[tuple[int, Tensor]]:
    """Keep at most so many points, the last among them."""
    step = -(-len(curve) // most)
    return curve[::-1][::step][::-1]
