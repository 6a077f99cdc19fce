"""Units of resampling, and BCa intervals over them."""

from __future__ import annotations

import numpy as np
import pytest

from salience.stats import Units, bca_interval, bca_limits, sum_units, unit_numbers, units_of


def test_units_are_groups_by_rank_of_their_name() -> None:
    np.testing.assert_array_equal(unit_numbers(["b", "a", 7, "b"], 4), [2, 1, 0, 2])
    np.testing.assert_array_equal(unit_numbers(None, 3), [0, 1, 2])
    with pytest.raises(ValueError, match="3 values have 1 groups"):
        unit_numbers(["a"], 3)


def test_sums_of_units_in_any_order_of_images() -> None:
    rng = np.random.default_rng(0)
    x, numbers = rng.normal(size=(3, 50)), rng.integers(0, 9, 50) * 2
    found = sum_units(x, numbers)
    np.testing.assert_array_equal(found.members, np.unique(numbers))
    for place, number in enumerate(found.members):
        np.testing.assert_allclose(found.sums[:, place], x[:, numbers == number].sum(axis=1))
        assert found.sizes[place] == (numbers == number).sum()
    np.testing.assert_allclose(found.mean, x.mean(axis=1))
    mixed = rng.permutation(50)
    again = sum_units(x[:, mixed], numbers[mixed])
    np.testing.assert_allclose(again.sums, found.sums, atol=1e-12)


def test_spread_is_the_standard_deviation_of_images() -> None:
    x = np.random.default_rng(1).normal(size=(4, 30))
    np.testing.assert_allclose(units_of(x).spread, x.std(axis=1, ddof=1))
    assert units_of([0.1] * 30).spread[0] == 0  # although 0.1 is not exact
    assert np.isnan(units_of([3.0]).spread[0])


def test_spread_of_groups_is_that_of_a_ratio() -> None:
    """Over many data sets, the mean of unequal groups varies as its spread over the root of their number says."""
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 8, 60)
    groups = np.repeat(np.arange(60), sizes).astype(str)
    means, errors = [], []
    for _ in range(400):
        x = np.repeat(rng.normal(size=60), sizes) + 1
        found = units_of(x, groups)
        means.append(found.mean[0])
        errors.append(found.spread[0] / np.sqrt(60))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.08)


@pytest.mark.parametrize("values", [[], [np.nan], [[1.0], [np.inf]], np.zeros((2, 0)), np.zeros((1, 2, 2))])
def test_what_is_no_matrix_of_numbers(values: object) -> None:
    with pytest.raises(ValueError, match="non-empty matrix of finite values"):
        units_of(values)


def test_interval_of_the_negated_is_the_negated_interval_exactly() -> None:
    x = np.random.default_rng(3).exponential(size=(5, 40)) - 0.7
    low, high = bca_limits(units_of(x))
    other_low, other_high = bca_limits(units_of(-x))
    np.testing.assert_array_equal(low, -other_high)
    np.testing.assert_array_equal(high, -other_low)


def test_skewed_values_are_covered_on_both_sides() -> None:
    """The percentile interval misses a skewed mean mostly from below; BCa shares the misses out better."""
    rng = np.random.default_rng(4)
    x = rng.exponential(size=(600, 40))
    low, high = bca_limits(units_of(x), draws=1000)
    assert 0.91 <= ((low <= 1) & (high >= 1)).mean() <= 0.97
    plain = np.quantile(x[:, rng.integers(0, 40, (1000, 40))].mean(axis=2), [0.025, 0.975], axis=1)
    assert (high < 1).mean() < (plain[1] < 1).mean()


def test_copies_within_groups_do_not_narrow_the_interval() -> None:
    x = np.random.default_rng(5).normal(size=40)
    plain = bca_interval(x)
    copies = bca_interval(np.repeat(x, 25), groups=[f"scene {i // 25:02d}" for i in range(1000)])
    assert copies.n == plain.n == 40
    assert (copies.low, copies.high) == pytest.approx((plain.low, plain.high), abs=1e-12)


def test_rows_without_spread_and_single_units() -> None:
    low, high = bca_limits(units_of([[0.0] * 9, [0.1] * 9, list(range(9))]))
    np.testing.assert_array_equal(low[:2], high[:2])
    np.testing.assert_allclose(low[:2], [0, 0.1])
    assert low[2] < 4 < high[2]
    alone = bca_interval([2.0])
    assert alone.value == 2
    assert alone.n == 1
    assert np.isnan([alone.low, alone.high]).all()


def test_blocks_of_rows_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x = units_of(np.random.default_rng(6).normal(size=(7, 30)))
    whole = bca_limits(x, draws=300)
    monkeypatch.setattr("salience.stats.intervals._BLOCK", 650)
    parts = bca_limits(x, draws=300)
    np.testing.assert_allclose(np.array(parts), np.array(whole), atol=0.15)  # other cuts of the draws, no other law
    assert np.array(parts).shape == (2, 7)


def test_level_and_seed() -> None:
    x = np.random.default_rng(7).normal(size=60)
    widths = [i.high - i.low for i in (bca_interval(x, level=v) for v in (0.5, 0.9, 0.99))]
    assert widths == sorted(widths)
    assert bca_interval(x, seed=1) == bca_interval(x, seed=1) != bca_interval(x, seed=2)


def test_rows_are_chosen_over_the_same_units() -> None:
    x = units_of(np.arange(12.0).reshape(3, 4))
    chosen = x.rows(np.array([True, False, True]))
    assert isinstance(chosen, Units)
    np.testing.assert_array_equal(chosen.sums, x.sums[[0, 2]])
    assert chosen.n == x.n
