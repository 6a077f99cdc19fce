"""Evolution strategies for many images at once: every state has a leading axis of images, and no loop over them.

Differential evolution (Storn & Price 1997) in the variants rand/1/bin, best/1/bin, jDE (Brest et al. 2006) and SHADE
(Tanabe & Fukunaga 2013), and the separable natural evolution strategy (Schaul et al. 2011). Fitness is maximised; genes
of differential evolution lie in [0, 1]. All random numbers come from :class:`~salience.engine.random.Stream`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from salience.engine.random import Stream

Strategy = Literal["rand1", "best1", "jde", "shade"]

_JDE_CHANGE = 0.1
_SHADE_MEMORY = 10


@dataclass
class Draws:
    """The random numbers of one generation of P candidates with D genes, for G images.

    Attributes
    ----------
    parents
        Three distinct other candidates of each, int64 (G, P, 3).
    cross
        Uniform, (G, P, D): a gene comes from the mutant where it is below the crossover rate.
    forced
        The gene that always does, int64 (G, P).
    redrawn
        Uniform, (G, P, D): takes the place of mutant genes out of range.
    """

    parents: Tensor
    cross: Tensor
    forced: Tensor
    redrawn: Tensor


def draw(stream: Stream, candidates: int, genes: int) -> Draws:
    """Return the numbers of one generation."""
    order = stream.uniform(candidates, candidates)
    order.diagonal(dim1=1, dim2=2).fill_(2.0)  # never itself
    return Draws(
        parents=order.argsort(dim=2)[..., :3],
        cross=stream.uniform(candidates, genes),
        forced=(stream.uniform(candidates) * genes).long().clamp_max(genes - 1),
        redrawn=stream.uniform(candidates, genes),
    )


def pick(population: Tensor, index: Tensor) -> Tensor:
    """Return candidates ``index`` (G, P) of a population (G, Q, D): (G, P, D)."""
    return population.gather(1, index.unsqueeze(2).expand(-1, -1, population.shape[2]))


def cross(population: Tensor, mutants: Tensor, rate: Tensor | float, draws: Draws) -> Tensor:
    """Return the trials (G, P, D): mutant genes at the rate ``rate`` (G, P, 1), those out of range drawn anew."""
    taken = draws.cross < rate
    taken = taken.scatter(2, draws.forced.unsqueeze(2), True)
    trials = torch.where(taken, mutants, population)
    return torch.where((trials < 0) | (trials > 1), draws.redrawn, trials)


def mutants(population: Tensor, base: Tensor, scale: Tensor | float, draws: Draws) -> Tensor:
    """Return ``base`` + scale * (second - third parent), (G, P, D)."""
    second, third = pick(population, draws.parents[..., 1]), pick(population, draws.parents[..., 2])
    return base + scale * (second - third)


@dataclass
class Evolution:
    """Differential evolution of P candidates (G, P, D) in [0, 1].

    Ask for :meth:`trials`, find their fitness, and :meth:`select`. ``population`` holds the best of each line.
    """

    population: Tensor
    fitness: Tensor
    stream: Stream
    strategy: Strategy = "rand1"
    scale: float = 0.5
    rate: float = 0.9
    _scales: Tensor = field(init=False)
    _rates: Tensor = field(init=False)
    _memory: Tensor = field(init=False)
    _slot: Tensor = field(init=False)
    _archive: Tensor = field(init=False)
    _archived: Tensor = field(init=False)
    _trial: tuple[Tensor, Tensor, Tensor] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        groups, count, _ = self.population.shape
        self._scales = self.population.new_full((groups, count, 1), self.scale)
        self._rates = self.population.new_full((groups, count, 1), self.rate)
        self._memory = self.population.new_full((groups, _SHADE_MEMORY, 2), 0.5)
        self._slot = torch.zeros(groups, dtype=torch.int64, device=self.population.device)
        self._archive = self.population.clone()
        self._archived = torch.zeros(groups, dtype=torch.int64, device=self.population.device)

    def trials(self) -> Tensor:
        """Return the next candidates (G, P, D), one for each line."""
        _, count, genes = self.population.shape
        draws = draw(self.stream, count, genes)
        scales, rates = self._controls()
        if self.strategy == "best1":
            best = self.fitness.argmax(1, keepdim=True).expand(-1, count)
            made = mutants(self.population, pick(self.population, best), scales, draws)
        elif self.strategy == "shade":
            made = self._towards_best(scales, draws)
        else:
            made = mutants(self.population, pick(self.population, draws.parents[..., 0]), scales, draws)
        trial = cross(self.population, made, rates, draws)
        self._trial = (trial, scales, rates)
        return trial

    def select(self, fitness: Tensor) -> None:
        """Take the trials' fitness (G, P): a trial as good as its line's candidate or better takes its place."""
        assert self._trial is not None  # trials() comes first
        trial, scales, rates = self._trial
        better = fitness >= self.fitness
        if self.strategy == "shade":
            self._learn(fitness - self.fitness, scales, rates)
        keep = better.unsqueeze(2)
        self.population = torch.where(keep, trial, self.population)
        self.fitness = torch.where(better, fitness, self.fitness)
        if self.strategy == "jde":
            self._scales = torch.where(keep, scales, self._scales)
            self._rates = torch.where(keep, rates, self._rates)

    def _controls(self) -> tuple[Tensor, Tensor]:
        """Return the scale and the crossover rate of every trial, (G, P, 1) each."""
        count = self.population.shape[1]
        if self.strategy == "rand1":
            return self._scales, self._rates
        if self.strategy == "best1":  # dithered: one scale a generation, as SciPy does
            return self._scales * 0 + (0.5 + 0.5 * self.stream.uniform(1, 1)), self._rates
        if self.strategy == "jde":
            u = self.stream.uniform(count, 4)
            scales = torch.where(u[..., :1] < _JDE_CHANGE, 0.1 + 0.9 * u[..., 1:2], self._scales)
            rates = torch.where(u[..., 2:3] < _JDE_CHANGE, u[..., 3:4], self._rates)
            return scales, rates
        slot = (self.stream.uniform(count) * _SHADE_MEMORY).long()
        means = pick(self._memory, slot)
        tries = means[..., :1] + 0.1 * self.stream.cauchy(count, 8)  # drawn anew while not above zero
        first = (tries > 0).float().argmax(2, keepdim=True)
        scales = tries.gather(2, first)
        scales = torch.where(scales > 0, scales, means[..., :1]).clamp_max(1)
        rates = (means[..., 1:] + 0.1 * self.stream.normal(count, 1)).clamp(0, 1)
        return scales, rates

    def _towards_best(self, scales: Tensor, draws: Draws) -> Tensor:
        """SHADE's current-to-pbest/1 with an archive of replaced candidates."""
        _, count, _ = self.population.shape
        share = 2 / count + (0.2 - 2 / count) * self.stream.uniform(count)
        rank = (self.stream.uniform(count) * (share * count).clamp_min(1)).long().clamp_max(count - 1)
        best = pick(self.population, self.fitness.argsort(dim=1, descending=True, stable=True).gather(1, rank))
        first = pick(self.population, draws.parents[..., 0])
        both = torch.cat([self.population, self._archive], 1)
        room = (count + self._archived - 2).unsqueeze(1)  # neither itself nor the first parent
        drawn = torch.minimum((self.stream.uniform(count) * room).long(), room - 1)
        itself = torch.arange(count, device=drawn.device).expand_as(drawn)
        for taken in (torch.minimum(itself, draws.parents[..., 0]), torch.maximum(itself, draws.parents[..., 0])):
            drawn = drawn + (drawn >= taken)
        second = pick(both, drawn)
        return self.population + scales * (best - self.population + first - second)

    def _learn(self, gain: Tensor, scales: Tensor, rates: Tensor) -> None:
        """Keep what was replaced, and move the memory to the controls that succeeded (weighted Lehmer means)."""
        count = self.population.shape[1]
        won = gain > 0
        # the archive of each image is filled in order, then overwritten at random
        place = (self._archived.unsqueeze(1) + won.cumsum(1) - 1).clamp_min(0)
        place = torch.where(place < count, place, (self.stream.uniform(count) * count).long())
        for line in range(count):  # in the order of the lines: two may fall on one place
            index = place[:, line].view(-1, 1, 1).expand(-1, 1, self.population.shape[2])
            old = self._archive.gather(1, index)
            new = torch.where(won[:, line].view(-1, 1, 1), self.population[:, line : line + 1], old)
            self._archive = self._archive.scatter(1, index, new)
        self._archived = (self._archived + won.sum(1)).clamp_max(count)
        weight = torch.where(won, gain, 0.0)
        total = weight.sum(1, keepdim=True)
        any_won = total > 0
        weight = (weight / total.clamp_min(torch.finfo(weight.dtype).tiny)).unsqueeze(2)
        mean_scale = (weight * scales.square()).sum(1) / (weight * scales).sum(1).clamp_min(1e-12)
        mean_rate = (weight * rates).sum(1)
        fresh = torch.cat([mean_scale, mean_rate], 1).unsqueeze(1)
        here = (torch.arange(_SHADE_MEMORY, device=fresh.device) == self._slot.unsqueeze(1)) & any_won
        self._memory = torch.where(here.unsqueeze(2), fresh, self._memory)
        self._slot = (self._slot + any_won.squeeze(1)) % _SHADE_MEMORY


@dataclass
class NaturalEvolution:
    """Separable natural evolution strategy with mirrored samples: a Gaussian (mean, sigma) for each gene.

    ``mean`` and ``sigma`` are (G, D); utilities are those of Schaul et al. 2011 and depend on ranks alone.
    """

    mean: Tensor
    sigma: Tensor
    stream: Stream
    candidates: int
    mean_rate: float = 1.0
    sigma_rate: float | None = None
    _noise: Tensor | None = field(init=False, default=None)

    def trials(self) -> Tensor:
        """Return candidates (G, P, D)."""
        half = self.stream.normal(-(-self.candidates // 2), self.mean.shape[1])
        self._noise = torch.cat([half, -half], 1)[:, : self.candidates]
        return self.mean.unsqueeze(1) + self.sigma.unsqueeze(1) * self._noise

    def select(self, fitness: Tensor) -> None:
        """Move the Gaussian by the candidates' fitness (G, P)."""
        assert self._noise is not None  # trials() comes first
        weight = utilities(fitness)
        genes = self.mean.shape[1]
        rate = (3 + math.log(genes)) / (5 * math.sqrt(genes)) if self.sigma_rate is None else self.sigma_rate
        self.mean = self.mean + self.mean_rate * self.sigma * (weight.unsqueeze(2) * self._noise).sum(1)
        change = (weight.unsqueeze(2) * (self._noise.square() - 1)).sum(1)
        self.sigma = self.sigma * (0.5 * rate * change).exp()


def utilities(fitness: Tensor) -> Tensor:
    """Return the weights (G, P) of ranks: max(0, log(P/2 + 1) - log(rank)), scaled to one, less 1/P."""
    count = fitness.shape[1]
    rank = fitness.argsort(dim=1, descending=True, stable=True).argsort(dim=1) + 1
    raw = (math.log(count / 2 + 1) - rank.to(fitness.dtype).log()).clamp_min(0)
    shares: Tensor = raw / raw.sum(1, keepdim=True)
    return shares - 1 / count
