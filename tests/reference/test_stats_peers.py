"""The statistics beside SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from salience.stats import (
    bca_interval,
    benjamini_hochberg,
    d_z,
    detectable_effect,
    mcnemar_exact,
    sign_flip_p,
    units_of,
    wilcoxon_p,
)


@pytest.mark.parametrize("seed", range(3))
def test_bca(seed: int) -> None:
    x = np.random.default_rng(seed).exponential(size=50) - 0.8
    theirs = stats.bootstrap(
        (x,), np.mean, n_resamples=40000, method="BCa", rng=np.random.default_rng(seed)
    ).confidence_interval
    ours = bca_interval(x, draws=40000, seed=seed)
    width = ours.high - ours.low
    assert ours.value == pytest.approx(x.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02 * width)


def test_bca_of_groups_is_that_of_a_ratio_of_sums() -> None:
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 6, 40)
    groups = np.repeat(np.arange(40), sizes)
    x = np.repeat(rng.exponential(size=40), sizes) + 0.3 * rng.normal(size=len(groups))
    sums = np.bincount(groups, x)

    def ratio(s: np.ndarray, n: np.ndarray, axis: int = -1) -> np.ndarray:
        return s.sum(axis=axis) / n.sum(axis=axis)

    theirs = stats.bootstrap(
        (sums, sizes), ratio, paired=True, n_resamples=40000, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    ours = bca_interval(x, groups=[f"{g:02d}" for g in groups], draws=40000)
    width = ours.high - ours.low
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02 * width)


@pytest.mark.parametrize(("b", "c"), [(0, 1), (3, 9), (9, 3), (40, 61), (500, 440)])
def test_mcnemar(b: int, c: int) -> None:
    assert mcnemar_exact(b, c) == pytest.approx(stats.binomtest(b, b + c, 0.5).pvalue)


def test_false_discovery_rate() -> None:
    p = np.random.default_rng(4).random(200) ** 2
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p))


@pytest.mark.parametrize("n", [5, 8, 12])
def test_wilcoxon_of_few_exactly(n: int) -> None:
    x = np.random.default_rng(n).normal(0.3, 1, (10, n))
    theirs = stats.wilcoxon(x, axis=1, method="exact").pvalue
    np.testing.assert_allclose(wilcoxon_p(x), theirs)


def test_wilcoxon_of_many() -> None:
    """By their exact distribution, from p of 0.5 down to 1e-7, where random flips hand over to the tail."""
    x = np.random.default_rng(5).normal(0, 1, (8, 40)) + np.linspace(0.1, 0.9, 8)[:, None]
    theirs = stats.wilcoxon(x, axis=1, method="exact").pvalue
    assert theirs.min() < 1e-5
    np.testing.assert_allclose(np.log10(wilcoxon_p(x, flips=20000)), np.log10(theirs), atol=0.1)


def test_wilcoxon_with_ties_and_zeros() -> None:
    x = np.round(np.random.default_rng(6).normal(0.4, 2, (5, 60)))
    theirs = stats.wilcoxon(x, axis=1, zero_method="wilcox", method="asymptotic").pvalue
    np.testing.assert_allclose(wilcoxon_p(x, flips=20000), theirs, atol=0.02)


@pytest.mark.parametrize("n", [10, 14])
def test_sign_flips(n: int) -> None:
    """Against a permutation test of paired samples, which goes through all swaps."""
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=n), rng.normal(0.6, 1, n)
    theirs = stats.permutation_test(
        (b, a), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples", n_resamples=2**n
    ).pvalue
    assert sign_flip_p(b - a, flips=40000)[0] == pytest.approx(theirs, abs=1e-9 if n <= 12 else 0.01)


def test_sign_flips_of_many_normal_values_are_a_t_test() -> None:
    x = np.random.default_rng(7).normal(0, 1, (6, 400)) + np.linspace(0, 0.35, 6)[:, None]
    theirs = stats.ttest_1samp(x, 0, axis=1).pvalue
    assert theirs.min() < 1e-8
    np.testing.assert_allclose(np.log10(sign_flip_p(x, flips=20000)), np.log10(theirs), rtol=0.03, atol=0.06)


@pytest.mark.parametrize("n", [10, 30, 200])
def test_power_of_the_detectable_effect_by_the_noncentral_t(n: int) -> None:
    units = units_of(np.random.default_rng(n).normal(size=n))
    shift = detectable_effect(units)[0] / units.spread[0] * np.sqrt(n)
    bound = stats.t.ppf(0.975, n - 1)
    power = stats.nct.sf(bound, n - 1, shift) + stats.nct.cdf(-bound, n - 1, shift)
    assert power == pytest.approx(0.8, abs=0.002)


def test_d_z_is_t_over_the_root_of_n() -> None:
    x = np.random.default_rng(8).normal(0.2, 1, (3, 25))
    np.testing.assert_allclose(d_z(units_of(x)), stats.ttest_1samp(x, 0, axis=1).statistic / 5)
