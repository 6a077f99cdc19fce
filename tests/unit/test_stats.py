"""Bootstrap intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salience.stats import Interval, bootstrap_mean, bootstrap_means, bootstrap_p, holm, kendall_tau


def test_mean_and_interval_of_many_values() -> None:
    x = np.random.default_rng(0).normal(3, 2, 400)
    found = bootstrap_mean(x)
    assert found.value == pytest.approx(x.mean())
    half = 1.96 * x.std() / np.sqrt(400)  # the normal approximation
    assert found.low == pytest.approx(x.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(x.mean() + half, abs=0.15 * half)
    assert (found.level, found.n) == (0.95, 400)


def test_intervals_cover() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        found = bootstrap_mean(rng.exponential(1.0, 60), draws=400, seed=seed)
        hits += found.low <= 1.0 <= found.high
    assert 0.86 <= hits / 200 <= 0.99


def test_groups_are_drawn_together() -> None:
    """Twenty copies of each of ten values are ten values."""
    x = np.random.default_rng(2).normal(size=10)
    copies = np.repeat(x, 20)
    groups = [f"patient {i // 20}" for i in range(200)]
    plain, few, many = bootstrap_mean(x, seed=3), bootstrap_mean(copies, groups=groups, seed=3), bootstrap_mean(copies)
    assert (few.n, many.n) == (10, 200)
    assert few.value == pytest.approx(plain.value)
    assert few.high - few.low == pytest.approx(plain.high - plain.low, rel=0.15)
    assert few.high - few.low > 3 * (many.high - many.low)


def test_groups_of_unequal_size_keep_the_mean_of_values() -> None:
    found = bootstrap_mean([0.0, 0.0, 0.0, 4.0], groups=["a", "a", "a", "b"])
    assert found.value == 1
    assert (found.low, found.high) == (0, 4)


def test_same_seed_same_interval_and_no_global_generator() -> None:
    state = repr(np.random.get_state())  # noqa: NPY002
    x = np.arange(20.0)
    assert bootstrap_mean(x, seed=1) == bootstrap_mean(x, seed=1)
    assert bootstrap_mean(x, seed=1) != bootstrap_mean(x, seed=2)
    assert repr(np.random.get_state()) == state  # noqa: NPY002


def test_one_value_has_no_width() -> None:
    assert bootstrap_mean([0.25]) == Interval(0.25, 0.25, 0.25, 0.95, 1)
    assert str(bootstrap_mean([0.25])) == "0.250 [0.250, 0.250]"


@pytest.mark.parametrize("values", [[], [np.nan], [1.0, np.inf], [[1.0, 2.0]], 3.0])
def test_what_is_no_vector_of_numbers(values: object) -> None:
    with pytest.raises(ValueError, match="non-empty vector of finite values"):
        bootstrap_mean(values)


def test_groups_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="2 values have 1 groups"):
        bootstrap_mean([1.0, 2.0], groups=["a"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.floats(0.5, 0.99))
def test_interval_lies_within_the_values(values: list[float], level: float) -> None:
    found = bootstrap_mean(values, level=level, draws=200)
    slack = 1e-9 * max(1.0, max(map(abs, values)))
    assert min(values) - slack <= found.low <= found.high <= max(values) + slack
    assert found.level == level


def test_wider_levels_have_wider_intervals() -> None:
    x = np.random.default_rng(0).normal(size=50)
    widths = [i.high - i.low for i in (bootstrap_mean(x, level=v) for v in (0.5, 0.8, 0.95, 0.99))]
    assert widths == sorted(widths)


def test_paired_differences_are_narrower_than_each_mean() -> None:
    rng = np.random.default_rng(4)
    image = rng.normal(size=200)
    x = np.stack([image + 0.1 + 0.01 * rng.normal(size=200), image])
    means, n = bootstrap_means(x, draws=1000)
    assert n == 200
    difference = means[0] - means[1]
    assert difference.std() < 0.02 * means[0].std()
    assert difference.mean() == pytest.approx(0.1, abs=0.005)
    assert bootstrap_p(difference) == pytest.approx(2 / 1001)


def test_bootstrap_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    x = np.random.default_rng(5).exponential(size=80)
    theirs = stats.bootstrap((x,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(0))
    ours = bootstrap_mean(x, draws=20000)
    width = ours.high - ours.low
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)


def test_p_of_no_difference_and_of_ties() -> None:
    assert bootstrap_p(np.zeros(99)) == 1
    assert bootstrap_p(np.linspace(-1, 1, 100)) == 1
    assert bootstrap_p(np.r_[-np.ones(4), np.ones(95)]) == pytest.approx(2 * 5 / 100)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 3 x 0.01, 2 x 0.03, then no less
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12))
def test_kendall_agrees_with_scipy(pairs: list[tuple[int, int]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = zip(*pairs, strict=True)
    assert kendall_tau(a, b) == pytest.approx(stats.kendalltau(a, b).statistic, nan_ok=True)


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([], [])])
def test_kendall_needs_two_rankings(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="equal length"):
        kendall_tau(a, b)


@pytest.mark.parametrize("values", [[1.0], [[np.nan]], np.zeros((2, 0))])
def test_means_of_what_is_no_matrix(values: object) -> None:
    with pytest.raises(ValueError, match="non-empty matrix"):
        bootstrap_means(values)
