"""Groups of runs: what is drawn, what intervals cover, how often nothing is called something."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from salience.behaviour.hierarchy import (
    Estimate,
    Mean,
    Means,
    average,
    difference,
    group_mean,
    hedges_g,
    of_pairs,
    permutation_p,
    runs_needed,
    smallest_p,
)

DRAWS = 400


def means(values: np.ndarray, seed: int = 0, units: list[str] | None = None) -> list[Mean]:
    """Rows (R, N) over the same images."""
    collected: Means[int] = Means(values.shape[1], units, draws=DRAWS, seed=seed)
    for run, row in enumerate(values):
        collected.add(run, row)
    found = collected.found()
    return [found[run] for run in range(len(values))]


def recipe(
    rng: np.random.Generator, runs: int, images: np.ndarray, between: float = 0.05, within: float = 0.1
) -> np.ndarray:
    """Values (R, N) of runs that differ, on images that all runs share."""
    return 0.5 + between * rng.normal(size=(runs, 1)) + images + within * rng.normal(size=(runs, images.shape[1]))


# ---------------------------------------------------------------------- one run over images


def test_one_draw_is_of_the_same_images_in_all_runs_and_blocks() -> None:
    values = np.random.default_rng(0).normal(size=(3, 50))
    collected: Means[int] = Means(50, draws=DRAWS, seed=1)
    for k in range(150):  # more than a block holds
        collected.add(k, values[k % 3])
    found = collected.found()
    assert all((found[k].drawn == found[k % 3].drawn).all() for k in range(150))
    shifted: Means[int] = Means(50, draws=DRAWS, seed=1)
    shifted.add(0, values[0] + 7)
    assert shifted.found()[0].drawn == pytest.approx(found[0].drawn + 7)


def test_images_without_a_value_do_not_count() -> None:
    values = np.random.default_rng(0).normal(size=(1, 60))
    gaps = values.copy()
    gaps[0, 20:] = np.nan
    found = means(gaps)[0]
    assert found.value == pytest.approx(values[0, :20].mean())
    assert (found.images, found.units) == (20, 20)
    assert np.nanstd(found.drawn) == pytest.approx(values[0, :20].std() / np.sqrt(20), rel=0.15)
    nothing: Means[int] = Means(3)
    nothing.add(0, np.full(3, np.nan))
    assert nothing.found() == {}


def test_groups_of_images_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    few = rng.normal(size=(1, 12))
    copies = few.repeat(10, axis=1)
    grouped = means(copies, units=[f"u{i // 10}" for i in range(120)])[0]
    assert (grouped.images, grouped.units) == (120, 12)
    assert grouped.drawn.std() == pytest.approx(means(few)[0].drawn.std(), rel=0.15)
    assert grouped.drawn.std() > 2.5 * means(copies)[0].drawn.std()


def test_conditions_are_averaged_draw_by_draw() -> None:
    values = np.random.default_rng(0).normal(size=(2, 40))
    a, b = means(values)
    both = average([a, b])
    direct = means(values.mean(axis=0, keepdims=True))[0]
    assert both.value == pytest.approx(direct.value)
    assert both.drawn == pytest.approx(direct.drawn)


# ---------------------------------------------------------------------- closed forms


def exact(*values: float) -> list[Mean]:
    """Runs whose images all have the same value."""
    return [Mean(v, np.full(DRAWS, v), 10, 10) for v in values]


def test_without_spread_over_images_the_interval_is_students() -> None:
    values = np.array([0.2, 0.5, 0.3, 0.6, 0.4])
    runs = [Mean(v, np.full(20_000, v), 10, 10) for v in values]
    found = group_mean(runs)
    half = 2.7764 * values.std(ddof=1) / np.sqrt(5)  # t of 4 degrees
    assert (found.value, found.runs, found.images, found.scope) == (pytest.approx(0.4), 5, 10, "recipe")
    assert found.high - found.value == pytest.approx(half, rel=0.03)
    assert found.value - found.low == pytest.approx(half, rel=0.03)


def test_equal_runs_have_no_width_and_no_effect_size() -> None:
    found = difference(exact(0.5, 0.5, 0.5, 0.5), exact(0.5, 0.5, 0.5, 0.5))
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert math.isnan(found.effect_size)


def test_dealing_runs_anew_by_hand() -> None:
    first, second = np.array([5.0, 6, 7, 9]), np.array([1.0, 2, 3, 8])
    pooled = np.concatenate([first, second])
    gap = abs(first.mean() - second.mean())
    deals = [abs(pooled[list(c)].mean() - np.delete(pooled, c).mean()) for c in combinations(range(8), 4)]
    assert permutation_p(first, second) == pytest.approx(np.mean([d >= gap - 1e-9 for d in deals]))
    assert permutation_p(first, second) == permutation_p(second, first) == permutation_p(-first, -second)
    apart = permutation_p(np.arange(4.0), np.arange(4.0) + 10)
    assert apart == pytest.approx(smallest_p(4, 4)) == pytest.approx(2 / 70)


def test_of_many_deals_some_are_drawn() -> None:
    first, second = np.arange(10.0), np.arange(10.0) + 100
    assert permutation_p(first, second) == pytest.approx(1 / 10_000)
    assert permutation_p(first, first[::-1]) == 1
    assert permutation_p(first, second + 1, seed=1) == permutation_p(first, second + 1, seed=1)


def test_what_so_few_runs_can_show() -> None:
    assert smallest_p(2, 2) == pytest.approx(1 / 3)
    assert smallest_p(3, 3) == pytest.approx(0.1)
    assert smallest_p(3, 4) == pytest.approx(1 / 35)
    assert smallest_p(1, 1) == 1
    assert runs_needed() == 4


def test_effect_size_by_hand() -> None:
    first, second = np.array([2.0, 4, 6]), np.array([1.0, 2, 3])
    assert hedges_g(first, second) == pytest.approx((1 - 3 / 15) * 2 / np.sqrt(2.5))
    assert hedges_g(second, first) == -hedges_g(first, second)
    assert math.isnan(hedges_g(first, second[:1]))


def test_pseudo_values_average_to_the_mean_over_pairs() -> None:
    rng = np.random.default_rng(0)
    similarity = rng.random((5, 5))
    similarity = (similarity + similarity.T) / 2
    np.fill_diagonal(similarity, np.nan)
    runs = of_pairs(exact(*np.nanmean(similarity, axis=1)))
    every = similarity[np.triu_indices(5, 1)].mean()
    assert np.mean([r.value for r in runs]) == pytest.approx(every)
    for r, run in enumerate(runs):  # the definition: R mean - (R - 1) mean without the run
        rest = np.delete(np.delete(similarity, r, 0), r, 1)
        assert run.value == pytest.approx(5 * every - 4 * rest[np.triu_indices(4, 1)].mean())
    assert [r.value for r in of_pairs(exact(0.3, 0.3))] == [0.3, 0.3]


# ---------------------------------------------------------------------- few runs


def test_one_run_speaks_for_itself() -> None:
    found = group_mean(means(np.random.default_rng(0).normal(size=(1, 100))))
    assert (found.scope, found.runs) == ("runs", 1)
    assert found.high - found.low == pytest.approx(2 * 1.96 / 10, rel=0.2)


def test_two_single_models_are_compared_over_images() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(1, 200))
    first, second = means(np.concatenate([images + 0.1, images]) + 0.05 * rng.normal(size=(2, 200)))
    found = difference([first], [second])
    assert (found.scope, found.test) == ("runs", "images")
    assert found.low > 0.05
    assert found.p < 0.01
    assert math.isnan(found.effect_size)
    assert difference([first], [first]).p == 1


@pytest.mark.parametrize(("here", "there"), [(2, 2), (1, 2), (5, 2), (1, 5)])
def test_too_few_runs_show_no_difference(here: int, there: int) -> None:
    values = np.random.default_rng(0).normal(size=(here + there, 30))
    values[:here] += 100
    found = difference(means(values[:here]), means(values[here:]))
    assert found.value > 90
    assert np.isnan([found.low, found.high, found.p, found.effect_size]).all()
    assert (found.scope, found.test) == ("none", "none")


def test_one_image_has_no_interval() -> None:
    found = group_mean(means(np.array([[0.3]])))
    assert found.value == 0.3
    assert np.isnan([found.low, found.high]).all()


def test_three_runs_rest_on_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    a, b = (means(recipe(rng, 3, np.zeros((1, 40))) + gap) for gap in (1.0, 0.0))
    found = difference(a, b)
    assert (found.scope, found.test) == ("recipe", "bootstrap")
    assert 0 < found.p < 0.01
    assert found.low > 0.5


def test_same_seed_same_numbers() -> None:
    a, b = (means(recipe(np.random.default_rng(k), 5, np.zeros((1, 40)))) for k in (0, 1))
    assert difference(a, b, seed=3) == difference(a, b, seed=3)
    assert difference(a, b, seed=3) != difference(a, b, seed=4)


# ---------------------------------------------------------------------- simulations


def simulate(runs: int, between: float, shared: float, within: float, times: int = 250) -> tuple[float, float, float]:
    """Return the coverage of means and of differences, and the share of p-values below 0.05, where nothing differs."""
    mean = gap = called = 0
    for seed in range(times):
        rng = np.random.default_rng(seed)
        images = shared * rng.normal(size=(1, 50))
        a, b = (means(recipe(rng, runs, images, between, within), seed) for _ in range(2))
        one, two = group_mean(a, seed=seed), difference(a, b, seed=seed)
        mean += one.low <= 0.5 <= one.high
        gap += two.low <= 0 <= two.high
        called += two.p < 0.05
    return mean / times, gap / times, called / times


@pytest.mark.parametrize("runs", [3, 5, 10])
@pytest.mark.parametrize(("between", "shared", "within"), [(0.05, 0.3, 0.1), (0.1, 0.1, 0.05)])
def test_intervals_cover_and_nothing_is_rarely_called_something(
    runs: int, between: float, shared: float, within: float
) -> None:
    mean, gap, called = simulate(runs, between, shared, within)
    assert 0.91 <= mean <= 0.985  # 0.95, three standard errors of 250 simulations either way
    assert gap >= 0.91
    assert called <= 0.09


def test_images_alone_would_call_runs_a_difference() -> None:
    """The trap: treating images as replicates of a recipe."""
    called = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        images = 0.3 * rng.normal(size=(1, 200))
        a, b = (means(recipe(rng, 1, images, 0.1, 0.05), seed) for _ in range(2))
        found = difference(a, b)
        called += not found.low <= 0 <= found.high
    assert called > 40


@pytest.mark.parametrize("runs", [5, 10])
def test_pairs_of_runs_are_no_independent_replicates(runs: int) -> None:
    """Stability: each run's own part enters all of its pairs, and the interval has to know."""
    times, hit, naive, called = 250, 0, 0, 0

    def group(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
        own = 0.1 * rng.normal(size=runs)
        noise = 0.03 * rng.normal(size=(runs, runs, len(images)))
        pairs = 0.6 + own[:, None, None] + own[None, :, None] + images + noise + noise.swapaxes(0, 1)
        pairs[range(runs), range(runs)] = np.nan
        return np.nanmean(pairs, axis=1)

    for seed in range(times):
        rng = np.random.default_rng(1000 + seed)
        images = 0.05 * rng.normal(size=40)
        a, b = (means(group(rng, images), seed) for _ in range(2))
        found, plain = group_mean(of_pairs(a), seed=seed), group_mean(a, seed=seed)
        hit += found.low <= 0.6 <= found.high
        naive += plain.low <= 0.6 <= plain.high
        called += difference(of_pairs(a), of_pairs(b), seed=seed).p < 0.05
    assert hit / times >= 0.9
    assert naive / times < 0.8
    assert called / times <= 0.09


def test_a_difference_is_found() -> None:
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        images = 0.3 * rng.normal(size=(1, 50))
        a, b = (means(recipe(rng, 5, images) + gap, seed) for gap in (0.15, 0.0))
        gap: Estimate = difference(a, b, seed=seed)
        found += gap.p < 0.05 and gap.low > 0
    assert found > 32
