"""Evolution of many images at once: SciPy's generation, the rules of jDE and SHADE, and the natural strategy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize._differentialevolution import DifferentialEvolutionSolver
from torch import Tensor

from salience.engine import evolution
from salience.engine.evolution import Draws, Evolution, NaturalEvolution, Strategy, cross, draw, mutants, utilities
from salience.engine.random import Stream

STRATEGIES: tuple[Strategy, ...] = ("rand1", "best1", "jde", "shade")
IDS = ("one", "two", "three")


def stream(ids: tuple[str, ...] = IDS, seed: int = 0) -> Stream:
    return Stream(ids, seed, "test", "cpu")


def sphere(population: Tensor) -> Tensor:
    """Fitness (G, P), largest at 0.3."""
    return -(population - 0.3).square().sum(2)


def begun(strategy: Strategy, ids: tuple[str, ...] = IDS, count: int = 12, genes: int = 6) -> Evolution:
    numbers = stream(ids)
    first = numbers.uniform(count, genes)
    return Evolution(first, sphere(first), numbers, strategy)


# ---------------------------------------------------------------------- SciPy as the oracle


class Recorder(np.random.Generator):
    """SciPy's random numbers, kept in the order it draws them."""

    def __init__(self, seed: int) -> None:
        super().__init__(np.random.PCG64(seed))
        self.uniforms: list[np.ndarray] = []
        self.orders: list[np.ndarray] = []
        self.forced: list[np.ndarray] = []

    def uniform(self, *args, **kwargs):
        found = super().uniform(*args, **kwargs)
        self.uniforms.append(np.copy(found))
        return found

    def shuffle(self, x, axis=0):
        super().shuffle(x, axis)
        self.orders.append(np.copy(x))

    def integers(self, *args, **kwargs):
        found = super().integers(*args, **kwargs)
        self.forced.append(np.copy(found))
        return found

    def forget(self) -> None:
        self.uniforms, self.orders, self.forced = [], [], []


def bumpy(x: np.ndarray) -> np.ndarray:
    """Energy of each row, with many minima near a border: trials leave the range and are drawn anew."""
    return ((x - 0.95) ** 2).sum(1) + 0.1 * np.cos(25 * x).sum(1)


def as_draws(rng: Recorder, place: np.ndarray, population: np.ndarray, scale: float, best: bool) -> Draws:
    """Hand what SciPy drew for a generation to our lines; ``place`` is our line of each of SciPy's.

    SciPy draws anew only for genes that are out of range, all at once; ours have a number ready for every gene.
    """
    count, genes = population.shape
    crossing, rest = rng.uniforms[int(best)], rng.uniforms[int(best) + 1 :]
    samples = [order[:6][order[:6] != line][:3] for line, order in enumerate(rng.orders)]
    parents = np.array([[s[2], s[0], s[1]] for s in samples]) if best else np.array(samples)
    base = population[np.zeros(count, dtype=int) if best else parents[:, 0]]
    made = base + scale * (population[parents[:, 1]] - population[parents[:, 2]])
    taken = crossing < 0.9
    taken[np.arange(count), rng.forced[0]] = True
    outside = taken & ((made < 0) | (made > 1))
    redrawn = np.full((count, genes), np.nan)
    if outside.any():
        (redrawn[outside],) = rest
    back = np.argsort(place)
    return Draws(
        parents=torch.from_numpy(place[parents[back]])[None],
        cross=torch.from_numpy(crossing[back])[None],
        forced=torch.from_numpy(rng.forced[0][back])[None],
        redrawn=torch.from_numpy(redrawn[back])[None],
    )


@pytest.mark.parametrize("generations", [1, 12])
@pytest.mark.parametrize(("name", "strategy"), [("rand1bin", "rand1"), ("best1bin", "best1")])
def test_generations_are_scipy_s(
    name: str, strategy: Strategy, generations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same population, same random numbers, same trials, same survivors: bit for bit in float64."""
    count, genes, rng, best = 14, 5, Recorder(7), strategy == "best1"
    asked: list[np.ndarray] = []
    answered: list[np.ndarray] = []

    def energies(x: np.ndarray) -> np.ndarray:
        answered.append(bumpy(x.T))
        return answered[-1]

    first = np.random.default_rng(1).random((count, genes))
    solver = DifferentialEvolutionSolver(
        energies,
        [(0, 1)] * genes,
        strategy=name,
        mutation=(0.5, 1.0) if best else 0.5,
        recombination=0.9,
        init=first,
        rng=rng,
        updating="deferred",
        vectorized=True,
        polish=False,
    )
    into_range = solver._ensure_constraint
    monkeypatch.setattr(solver, "_ensure_constraint", lambda made: (into_range(made), asked.append(made.copy())))
    solver.population_energies[:] = bumpy(solver.population)
    solver._promote_lowest_energy()
    start = torch.from_numpy(first)[None].clone()
    ours = Evolution(start, torch.from_numpy(-bumpy(first))[None], stream(("a",)), strategy)
    inside = True
    for _ in range(generations):
        theirs = solver.population.copy()
        place = match(theirs, ours.population[0].numpy())  # SciPy keeps its best in the first place
        rng.forget()
        next(solver)
        scale = float(rng.uniforms[0]) if best else 0.5
        numbers = as_draws(rng, place, theirs, scale, best)
        inside &= bool(numbers.redrawn.isnan().all())
        monkeypatch.setattr(evolution, "draw", lambda *_, numbers=numbers: numbers)
        dither = torch.full((1, 1, 1), (scale - 0.5) / 0.5, dtype=torch.float64)
        monkeypatch.setattr(ours.stream, "uniform", lambda *_, dither=dither: dither)
        trials = ours.trials()
        assert np.array_equal(trials[0].numpy()[place], asked[-1])
        ours.select(torch.from_numpy(-answered[-1][np.argsort(place)])[None])
        now = match(solver.population, ours.population[0].numpy())
        assert np.array_equal(-ours.fitness[0].numpy()[now], solver.population_energies)
    assert not inside  # genes were drawn anew


def match(theirs: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """Return for each of SciPy's lines the line of ours that equals it, bit for bit."""
    same = (theirs[:, None, :] == ours[None, :, :]).all(2)
    assert (same.sum(1) == 1).all()
    return same.argmax(1)


# ---------------------------------------------------------------------- differential evolution by its parts


def test_parents_are_three_others_and_every_triple_comes() -> None:
    numbers = draw(stream(tuple(map(str, range(2000)))), 5, 3)
    parents = numbers.parents
    assert parents.shape == (2000, 5, 3)
    lines = torch.arange(5).view(1, 5, 1)
    assert not bool((parents == lines).any())
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not bool((parents[..., a] == parents[..., b]).any())
    triples, counts = np.unique(parents[:, 2].numpy(), axis=0, return_counts=True)
    assert len(triples) == 4 * 3 * 2
    assert counts.min() > 2000 / 24 * 0.6
    forced = np.bincount(numbers.forced.flatten().numpy(), minlength=3)
    assert forced.sum() == 10_000
    assert forced.min() > 3000


def test_cross_takes_the_forced_gene_and_redraws_what_is_outside() -> None:
    population = torch.full((1, 2, 3), 0.5)
    made = torch.tensor([[[0.1, 1.2, -0.2], [0.1, 0.2, 0.3]]])
    numbers = Draws(
        parents=torch.zeros(1, 2, 3, dtype=torch.int64),
        cross=torch.tensor([[[0.9, 0.1, 0.9], [0.9, 0.9, 0.9]]]),
        forced=torch.tensor([[2, 0]]),
        redrawn=torch.full((1, 2, 3), 0.77),
    )
    expected = torch.tensor([[[0.5, 0.77, 0.77], [0.1, 0.5, 0.5]]])
    assert torch.equal(cross(population, made, 0.5, numbers), expected)
    rates = torch.tensor([[[0.5], [1.0]]])  # each candidate's own
    expected[0, 1] = torch.tensor([0.1, 0.2, 0.3])
    assert torch.equal(cross(population, made, rates, numbers), expected)


def test_mutants_are_base_and_scaled_difference() -> None:
    population = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    numbers = draw(stream(("a", "b")), 5, 4)
    made = mutants(population, population, 0.7, numbers)
    for g in range(2):
        for line in range(5):
            _, second, third = numbers.parents[g, line].tolist()
            expected = population[g, line] + 0.7 * (population[g, second] - population[g, third])
            assert torch.equal(made[g, line], expected)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_line_ever_falls_and_genes_stay_in_range(strategy: Strategy) -> None:
    state = begun(strategy)
    start = state.fitness.amax(1)
    for _ in range(40):
        before, lines = state.fitness, state.population
        trials = state.trials()
        assert float(trials.min()) >= 0
        assert float(trials.max()) <= 1
        gains = sphere(trials)
        state.select(gains)
        assert bool((state.fitness >= before).all())
        won = gains >= before
        assert torch.equal(state.fitness, torch.where(won, gains, before))
        assert torch.equal(state.population, torch.where(won.unsqueeze(2), trials, lines))
        assert torch.equal(state.fitness, sphere(state.population))
    assert bool((state.fitness.amax(1) > 0.5 * start).all())  # fitness is below zero: at least halved


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_image_alone_evolves_to_the_same_bytes(strategy: Strategy) -> None:
    together = begun(strategy)
    alone = begun(strategy, ("two",))
    for generation in range(25):
        a, b = together.trials(), alone.trials()
        assert a[1].numpy().tobytes() == b[0].numpy().tobytes(), generation
        spoilt = sphere(a)
        spoilt[2] = float("nan")  # nor does an image whose answers are no numbers matter to the others
        together.select(spoilt)
        alone.select(sphere(b))
    assert together.population[1].numpy().tobytes() == alone.population[0].numpy().tobytes()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_evolution_finds_the_optimum(strategy: Strategy) -> None:
    state = begun(strategy, count=30, genes=5)
    for _ in range(250):
        state.select(sphere(state.trials()))
    assert float(state.fitness.amax(1).min()) > -1e-4


def test_best1_scales_are_dithered_once_a_generation() -> None:
    state = begun("best1")
    seen = []
    for _ in range(200):
        scales, rates = state._controls()
        assert scales.shape[0] == len(IDS)
        assert float(scales.amax() - scales.amin()) < 0.5
        assert torch.equal(scales, scales[:, :1].expand_as(scales))
        assert float((rates - 0.9).abs().max()) < 1e-6
        seen.append(scales[:, 0, 0])
    values = torch.stack(seen)
    assert 0.5 <= float(values.min()) < 0.52
    assert 0.98 < float(values.max()) < 1


# ---------------------------------------------------------------------- jDE (Brest et al. 2006)


def test_jde_changes_a_tenth_of_the_controls_and_keeps_those_that_win() -> None:
    state = begun("jde", count=200)
    scales, rates = state._controls()
    for values, low in ((scales, 0.1), (rates, 0.0)):
        changed = values != (0.5 if values is scales else state._rates)
        assert 0.05 < float(changed.float().mean()) < 0.15
        assert low <= float(values[changed].min())
        assert float(values[changed].max()) < 1
    both = (scales != 0.5) & (rates != state._rates)
    assert 0 < int(both.sum()) < 20  # independent of each other: one in a hundred
    state = begun("jde", count=200)
    trials = state.trials()
    assert state._trial is not None
    _, scales, rates = state._trial
    gains = state.fitness + torch.where(torch.arange(200) % 2 == 0, 1.0, -1.0)  # every second trial wins
    state.select(gains)
    even = (torch.arange(200) % 2 == 0).view(1, -1, 1)
    assert torch.equal(state._scales, torch.where(even, scales, torch.tensor(0.5)))
    assert torch.equal(state._rates, torch.where(even, rates, torch.tensor(0.9)))
    assert torch.equal(state.population[:, ::2], trials[:, ::2])


# ---------------------------------------------------------------------- SHADE (Tanabe & Fukunaga 2013)


def shade_select(state: Evolution, gains: Tensor, scales: Tensor, rates: Tensor) -> None:
    """Select as if the trials had had these controls."""
    trials = state.trials()
    state._trial = (trials, scales, rates)
    state.select(state.fitness + gains)


def test_shade_moves_its_memory_to_what_succeeded() -> None:
    """Equations 13 to 16: Lehmer mean of scales, mean of rates, both weighed by the gain of those that won."""
    state = begun("shade", ("a", "b"), count=4)
    gains = torch.tensor([[1.0, 3.0, 0.0, -1.0], [-1.0, -1.0, 0.0, -1.0]])
    scales = torch.tensor([0.2, 0.6, 0.9, 0.9]).view(1, 4, 1).expand(2, 4, 1)
    rates = torch.tensor([0.1, 0.5, 0.9, 0.9]).view(1, 4, 1).expand(2, 4, 1)
    shade_select(state, gains, scales, rates)
    scale = (0.25 * 0.2**2 + 0.75 * 0.6**2) / (0.25 * 0.2 + 0.75 * 0.6)
    rate = 0.25 * 0.1 + 0.75 * 0.5
    assert state._memory[0, 0].tolist() == pytest.approx([scale, rate], rel=1e-5)
    assert bool((state._memory[0, 1:] == 0.5).all())
    assert bool((state._memory[1] == 0.5).all())  # nothing won there
    shade_select(state, torch.tensor([[0.5, -1, -1, -1], [0.5, -1, -1, -1.0]]), scales, rates)
    assert state._memory[0, 1].tolist() == pytest.approx([0.2, 0.1], rel=1e-5)
    assert state._memory[0, 0].tolist() == pytest.approx([scale, rate], rel=1e-5)
    # the place in the memory moves on after a success alone
    assert state._memory[1, 0].tolist() == pytest.approx([0.2, 0.1], rel=1e-5)
    assert bool((state._memory[1, 1:] == 0.5).all())


def test_shade_s_memory_goes_round() -> None:
    state = begun("shade", ("a",), count=4)
    for turn in range(11):
        value = torch.full((1, 4, 1), 0.05 * (turn + 1))
        shade_select(state, torch.tensor([[1.0, -1, -1, -1]]), value, value)
    expected = [0.55, *(0.05 * (i + 1) for i in range(1, 10))]
    assert state._memory[0, :, 0].tolist() == pytest.approx(expected, rel=1e-5)


def test_shade_s_archive_is_filled_in_order_and_never_outgrows_the_population() -> None:
    state = begun("shade", ("a", "b"), count=5)
    half = torch.full((2, 5, 1), 0.5)
    expected: list[list[Tensor]] = [[], []]
    for wins in (
        [[1, 0, 1, 0, 0], [0, 0, 0, 0, 0]],
        [[0, 0, 0, 0, 1], [0, 1, 0, 0, 0]],
        [[0, 1, 0, 1, 0], [1, 1, 0, 0, 1]],
    ):
        won = torch.tensor(wins) > 0
        for g in range(2):
            expected[g] += [state.population[g, line].clone() for line in range(5) if won[g, line]]
        shade_select(state, torch.where(won, 0.1, -0.1), half, half)
    assert state._archived.tolist() == [5, 4]
    for g, lines in enumerate(expected):
        assert torch.equal(state._archive[g, : len(lines)], torch.stack(lines))
    full = state._archive.clone()
    leaving = state.population[0, 2].clone()
    shade_select(state, torch.tensor([[-1, -1, 1, -1, -1], [-1.0] * 5]), half, half)
    assert state._archived.tolist() == [5, 4]
    changed = (state._archive[0] != full[0]).any(1)
    assert int(changed.sum()) == 1  # one of the old makes room
    assert torch.equal(state._archive[0][changed][0], leaving)
    assert torch.equal(state._archive[1], full[1])


def test_equal_trials_take_the_place_but_are_no_success() -> None:
    state = begun("shade", ("a",), count=4)
    half = torch.full((1, 4, 1), 0.1)
    trials = state.trials()
    state._trial = (trials, half, half)
    state.select(state.fitness.clone())
    assert torch.equal(state.population, trials)
    assert state._archived.tolist() == [0]
    assert bool((state._memory == 0.5).all())


def test_shade_goes_towards_the_best_and_away_from_two_others() -> None:
    """current-to-pbest/1: population and archive carry marks, so the parts of the difference can be read off."""
    count = 8
    state = begun("shade", tuple(map(str, range(400))), count=count, genes=2 * count)
    state.population = torch.eye(count, 2 * count).expand(400, -1, -1).clone()
    state._archive = torch.eye(count, 2 * count).roll(count, 1).expand(400, -1, -1).clone()
    state._archived = torch.full((400,), 3)
    state.fitness = torch.arange(count, dtype=torch.float32).expand(400, -1).clone()
    numbers = draw(state.stream, count, 2 * count)
    made = state._towards_best(torch.ones(400, count, 1), numbers)  # scale 1: best + first - second
    seen = set()
    for line in range(count):
        away = made[:, line]
        first = torch.eye(2 * count)[numbers.parents[:, line, 0]]
        rest = away - first  # + best - second
        best = rest.argmax(1)
        second = rest.argmin(1)
        same = rest.abs().sum(1) == 0  # the best was drawn as the second too
        assert bool(((rest.sum(1) - 0).abs() < 1e-6).all())
        best, second = best[~same], second[~same]
        assert int(best.min()) >= count - 2  # of 8, a fifth or two: the best two
        assert int(second.max()) == count + 2  # three are in the archive
        assert not bool((second == line).any())
        assert not bool((second == numbers.parents[:, line, 0][~same]).any())
        seen |= set(second.tolist())
    assert seen == set(range(count + 3))


def test_shade_draws_controls_around_its_memory() -> None:
    state = begun("shade", tuple(map(str, range(300))), count=50)
    state._memory[..., 0], state._memory[..., 1] = 0.3, 0.6
    scales, rates = state._controls()
    assert float(scales.min()) > 0
    assert float(scales.max()) == 1  # the Cauchy's tail is cut there
    assert float(scales.median()) == pytest.approx(0.333, abs=0.02)  # of a Cauchy above zero only
    assert float(rates.mean()) == pytest.approx(0.6, abs=0.005)
    assert float(rates.std()) == pytest.approx(0.1, abs=0.005)
    assert float(rates.min()) >= 0
    assert float(rates.max()) <= 1


# ---------------------------------------------------------------------- the natural strategy


def test_utilities_are_schaul_s() -> None:
    fitness = torch.tensor([[3.0, -1, 10, 4, 0, 2], [0, 1, 2, 3, 4, 5]], dtype=torch.float64)
    raw = np.maximum(0, np.log(6 / 2 + 1) - np.log(np.arange(1, 7)))
    expected = raw / raw.sum() - 1 / 6
    found = utilities(fitness).numpy()
    for row, values in zip(found, fitness.numpy(), strict=True):
        np.testing.assert_allclose(row[np.argsort(-values)], expected, rtol=1e-12)
    assert np.abs(found.sum(1)).max() < 1e-12


def test_one_step_of_the_natural_strategy() -> None:
    mean, sigma = torch.tensor([[0.5, 1.0]]), torch.tensor([[0.2, 0.4]])
    state = NaturalEvolution(mean, sigma, stream(("a",)), candidates=4, mean_rate=0.7, sigma_rate=0.3)
    trials = state.trials()
    noise = ((trials - mean) / sigma).numpy()[0].astype(np.float64)
    np.testing.assert_allclose(noise[2:], -noise[:2], atol=1e-6)  # mirrored
    fitness = torch.tensor([[1.0, 4.0, 3.0, 2.0]])
    state.select(fitness)
    raw = np.maximum(0, np.log(3) - np.log([4, 1, 2, 3]))
    weight = raw / raw.sum() - 0.25
    np.testing.assert_allclose(state.mean[0], [0.5, 1.0] + 0.7 * np.array([0.2, 0.4]) * (weight @ noise), rtol=1e-5)
    np.testing.assert_allclose(state.sigma[0], [0.2, 0.4] * np.exp(0.15 * (weight @ (noise**2 - 1))), rtol=1e-5)


def test_a_rate_of_zero_leaves_sigma_alone() -> None:
    state = NaturalEvolution(torch.zeros(1, 3), torch.ones(1, 3), stream(("a",)), 6, sigma_rate=0.0)
    state.select(state.trials()[..., 0])
    assert torch.equal(state.sigma, torch.ones(1, 3))


def test_the_usual_rate_of_sigma() -> None:
    usual = NaturalEvolution(torch.zeros(1, 16), torch.ones(1, 16), stream(("a",)), 8)
    named = replace(usual, stream=stream(("a",)), sigma_rate=(3 + np.log(16)) / (5 * np.sqrt(16)))
    for state in (usual, named):
        state.select(sphere(state.trials()))
    torch.testing.assert_close(usual.sigma, named.sigma, rtol=1e-6, atol=0)


def ranking(trials: Tensor) -> Tensor:
    """How many pairs of genes stand in the order of the gene's number: flat almost everywhere."""
    pairs = trials.unsqueeze(3) < trials.unsqueeze(2)  # (G, P, i, j): gene j below gene i
    order = torch.arange(trials.shape[2])
    wanted = order.unsqueeze(1) > order
    return (pairs & wanted).float().sum((2, 3))


@pytest.mark.parametrize(
    ("fitness", "enough"),
    [
        (lambda x: -(x - torch.linspace(-1, 1, 16)).square().sum(2), -1e-3),
        (lambda x: -((x - 0.7).square() * torch.logspace(0, 2, 16)).sum(2), -1e-2),  # ill-conditioned
        (ranking, 16 * 15 / 2 - 6),
    ],
    ids=["quadratic", "scaled", "ranking"],
)
def test_the_natural_strategy_converges(fitness: Callable[[Tensor], Tensor], enough: float) -> None:
    state = NaturalEvolution(torch.zeros(3, 16), torch.full((3, 16), 0.5), stream(), 16)
    start = fitness(state.mean.unsqueeze(1)).amax()
    for _ in range(400):
        state.select(fitness(state.trials()))
    end = fitness(state.mean.unsqueeze(1))
    assert float(start) < enough
    assert float(end.min()) >= enough


def test_the_natural_strategy_of_an_image_is_its_own() -> None:
    together = NaturalEvolution(torch.zeros(3, 9), torch.ones(3, 9), stream(), 7)
    alone = NaturalEvolution(torch.zeros(1, 9), torch.ones(1, 9), stream(("two",)), 7)
    for _ in range(20):
        a, b = together.trials(), alone.trials()
        assert a.shape == (3, 7, 9)
        together.select(sphere(a))
        alone.select(sphere(b))
    assert together.mean[1].numpy().tobytes() == alone.mean[0].numpy().tobytes()
    assert together.sigma[1].numpy().tobytes() == alone.sigma[0].numpy().tobytes()
