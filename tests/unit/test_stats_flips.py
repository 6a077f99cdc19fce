"""Tests by flipping the signs of units, their tails, and McNemar's."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salience.stats import (
    Units,
    d_z,
    detectable_effect,
    flip_tests,
    mcnemar_exact,
    sign_flip_p,
    signed_ranks,
    units_of,
    wilcoxon_p,
)
from salience.stats.tails import exact_tail, saddlepoint_tail


def every_flip(x: np.ndarray) -> float:
    """The share of all flips of signs whose sum is as large, one by one."""
    sums = [abs(np.dot(signs, x)) for signs in product([1, -1], repeat=len(x))]
    return float(np.mean(np.array(sums) >= abs(x.sum()) - 1e-9))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9))
def test_few_units_are_exact(values: list[int]) -> None:
    assert sign_flip_p([float(v) for v in values])[0] == pytest.approx(every_flip(np.array(values, float)))


def test_few_units_that_are_not_zero_are_exact_among_many() -> None:
    x = np.zeros((2, 500))
    x[0, :5] = 1, 2, 3, 4, 5
    x[1, 100:104] = 1, -2, 3, 4
    np.testing.assert_allclose(sign_flip_p(x), [2 / 32, every_flip(np.array([1.0, -2, 3, 4]))])


def test_random_flips_agree_with_all_flips() -> None:
    x = np.random.default_rng(0).normal(0.15, 1, (6, 16))
    all_of_them = [every_flip(row) for row in x]
    np.testing.assert_allclose(sign_flip_p(x, flips=20000), all_of_them, atol=0.015)


@pytest.mark.parametrize("kind", ["normal", "skewed", "heavy", "ranks", "outlier", "equal"])
def test_tail_agrees_with_all_flips(kind: str) -> None:
    """Probabilities of 1e-3 to 1e-5, where random flips say little, to a factor of two; of equal terms exactly."""
    rng = np.random.default_rng(1)
    patterns = 1.0 - 2 * ((np.arange(2**17)[:, None] >> np.arange(18)) & 1)
    ratios = []
    for _ in range(60):
        x = {
            "normal": lambda: rng.normal(1.1, 1, 18),
            "skewed": lambda: rng.exponential(size=18) * np.where(rng.random(18) < 0.1, -1, 1),
            "heavy": lambda: np.abs(rng.standard_cauchy(18)) * np.where(rng.random(18) < 0.1, -1, 1),
            "ranks": lambda: signed_ranks(units_of(rng.normal(1, 1, 18))).sums[0],
            "outlier": lambda: np.r_[40.0, rng.normal(1, 1, 17)],
            "equal": lambda: np.where(rng.random(18) < 0.1, -1.0, 1.0),
        }[kind]()
        x /= np.sqrt((x**2).sum())
        exact = (np.abs(patterns @ x) >= abs(x.sum()) - 1e-9).mean()  # flips of flips of x
        if exact < 2e-3:
            ratios.append(saddlepoint_tail(x[None])[0] / exact)
    assert len(ratios) >= 10
    assert 0.5 <= min(ratios) <= max(ratios) <= 1.5
    assert 0.8 <= np.median(ratios) <= 1.1
    if kind == "equal":
        np.testing.assert_allclose(ratios, 1)


def test_large_effects_have_tiny_p_values_that_are_never_zero() -> None:
    x = np.random.default_rng(2).normal(0.8, 1, (1, 120))
    p = sign_flip_p(x)[0]
    assert 1e-20 < p < 1e-8
    all_one_way = sign_flip_p(np.abs(np.random.default_rng(3).normal(size=(1, 60))))[0]
    assert all_one_way == pytest.approx(2.0**-59)
    assert 0 < sign_flip_p(np.ones((1, 5000)))[0] < 1e-300


def test_nothing_different_is_one() -> None:
    found = flip_tests([units_of(np.zeros((3, 50))), units_of(np.zeros((1, 5)))])
    for test in found:
        np.testing.assert_array_equal(test.p, 1)
        np.testing.assert_array_equal(test.p_max, 1)


def test_p_values_of_nothing_are_uniform() -> None:
    x = np.random.default_rng(4).standard_t(3, (3000, 25))
    for p in (sign_flip_p(x, flips=999), wilcoxon_p(x, flips=999)):
        for level in (0.01, 0.05, 0.2):
            assert (p <= level).mean() == pytest.approx(level, abs=4 * np.sqrt(level / 3000))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 40), st.floats(1e-3, 1e3))
def test_sign_and_scale_do_not_matter(seed: int, n: int, scale: float) -> None:
    x = np.random.default_rng(seed).normal(0.3, 1, (4, n))
    for p_of in (sign_flip_p, wilcoxon_p):
        p = p_of(x, flips=199)
        np.testing.assert_array_equal(p_of(-x, flips=199), p)
        np.testing.assert_allclose(p_of(x * scale, flips=199), p, rtol=1e-6)


def test_images_of_a_group_are_flipped_together() -> None:
    x = np.random.default_rng(5).normal(0.4, 1, 11)
    copies = sign_flip_p(np.repeat(x, 30), groups=np.repeat(np.arange(11), 30).astype(str))[0]
    assert copies == pytest.approx(sign_flip_p(x)[0])
    assert sign_flip_p(np.repeat(x, 30))[0] < copies / 100


def test_max_t_of_few_units_by_hand() -> None:
    x = np.array([[1.0, 1, 1, 1], [2.0, -1, 1, 1]])
    found = flip_tests([units_of(x)])[0]
    z = x / np.sqrt((x**2).sum(axis=1, keepdims=True))
    flips = np.array(list(product([1, -1], repeat=4)))
    largest = np.abs(z @ flips.T).max(axis=0)
    expected = [(largest >= abs(row.sum()) - 1e-9).mean() for row in z]
    np.testing.assert_allclose(found.p_max, expected)
    assert (found.p_max >= found.p).all()


def test_max_t_controls_the_family_however_rows_depend() -> None:
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        common = rng.normal(size=40)
        x = 0.7 * common + rng.normal(size=(30, 40))
        hits += flip_tests([units_of(x)], flips=199, seed=seed)[0].p_max.min() < 0.05
    assert 0.02 <= hits / 200 <= 0.08


def test_max_t_is_kinder_than_bonferroni_to_rows_that_depend() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(0.2, 1, 60) + 0.05 * rng.normal(size=(40, 60))  # nearly one test, forty times
    found = flip_tests([units_of(x)])[0]
    assert 0.001 < found.p.min() <= found.p_max.min() < 3 * found.p.min()


def test_blocks_of_a_family_share_the_flips_of_their_units() -> None:
    """A row is adjusted alike in one block with another and in two."""
    x = np.random.default_rng(7).normal(0.2, 1, (2, 40))
    together = flip_tests([units_of(x)])[0]
    first, second = flip_tests([units_of(x[0]), units_of(x[1])])
    np.testing.assert_array_equal(together.p_max, [first.p_max[0], second.p_max[0]])
    np.testing.assert_array_equal(together.p, [first.p[0], second.p[0]])


def test_blocks_of_different_units() -> None:
    part = Units(np.ones((1, 3)), np.ones(3), np.array([5, 7, 9]))
    other = Units(np.ones((1, 4)), np.ones(4), np.array([1, 2, 3, 4]))
    first, second = flip_tests([part, other])
    assert (first.p[0], second.p[0]) == (2 / 8, 2 / 16)
    assert first.p_max[0] == pytest.approx(1 - (1 - 2 / 8) * (1 - 2 / 16))  # |z| is sqrt(3) or more in either
    assert flip_tests([]) == []


def test_same_seed_same_bytes_and_no_global_generator() -> None:
    state = repr(np.random.get_state())  # noqa: NPY002
    x = np.random.default_rng(8).normal(0.1, 1, (5, 50))
    one, two, other = (flip_tests([units_of(x)], seed=s)[0] for s in (1, 1, 2))
    assert one.p.tobytes() == two.p.tobytes() != other.p.tobytes()
    assert repr(np.random.get_state()) == state  # noqa: NPY002


def test_flips_in_blocks_are_the_same_law(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(9).normal(0.2, 1, (3, 30))
    whole = sign_flip_p(x)
    monkeypatch.setattr("salience.stats.tests._BLOCK", 1000)
    np.testing.assert_allclose(sign_flip_p(x), whole, atol=0.03)


def test_exact_tail_of_rows_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(10).normal(size=(9, 6))
    whole = exact_tail(x, 1e-9)
    monkeypatch.setattr("salience.stats.tails._BLOCK", 64)
    np.testing.assert_array_equal(exact_tail(x, 1e-9), whole)
    np.testing.assert_allclose(whole, [every_flip(row) for row in x])


def test_signed_ranks_by_hand() -> None:
    found = signed_ranks(units_of([[0.5, -0.5, 0.0, 3.0, -1.0], [0.0, 0.0, 0.0, 0.0, -2.0]]))
    np.testing.assert_array_equal(found.sums, [[1.5, -1.5, 0, 4, -3], [0, 0, 0, 0, -1]])


@pytest.mark.parametrize(
    ("first", "second", "p"), [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 2 / 32), (1, 6, 2 * 8 / 128), (6, 1, 2 * 8 / 128)]
)
def test_mcnemar_by_hand(first: int, second: int, p: float) -> None:
    assert mcnemar_exact(first, second) == pytest.approx(p)


def test_mcnemar_of_no_counts() -> None:
    with pytest.raises(ValueError, match="cannot be negative"):
        mcnemar_exact(-1, 2)


def test_d_z() -> None:
    x = np.random.default_rng(11).normal(0.5, 2, (1, 40))
    np.testing.assert_allclose(d_z(units_of(x)), x.mean() / x.std(ddof=1))
    np.testing.assert_array_equal(d_z(units_of(np.zeros((1, 9)))), 0)
    assert np.isnan(d_z(units_of([0.3] * 9)))
    assert np.isnan(d_z(units_of([2.0])))


def test_detectable_effect_is_found_with_its_power() -> None:
    rng = np.random.default_rng(12)
    effect = detectable_effect(units_of(np.r_[np.ones(20), -np.ones(20)]))[0]  # a spread of about 1 at 40 units
    p = sign_flip_p(rng.normal(effect, 1, (1500, 40)), flips=999)
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=0.035)
    assert np.isnan(detectable_effect(units_of([1.0])))
