"""P-values adjusted for their number and for the number of families."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salience.stats import benjamini_bogomolov, benjamini_hochberg

P = st.floats(0, 1) | st.just(float("nan"))


def test_benjamini_hochberg_by_hand() -> None:
    q = benjamini_hochberg([0.01, 0.04, 0.03, 0.5])
    np.testing.assert_allclose(q, [0.04, 0.04 * 4 / 3, 0.04 * 4 / 3, 0.5])
    assert benjamini_hochberg([]).shape == (0,)


def test_untested_do_not_count() -> None:
    np.testing.assert_array_equal(benjamini_hochberg([np.nan, 0.02, np.nan, 0.04]), [np.nan, 0.04, np.nan, 0.04])


@pytest.mark.parametrize("p", [[-0.1], [1.5], [[0.1]]])
def test_what_is_no_p_value(p: object) -> None:
    with pytest.raises(ValueError, match="p-values in"):
        benjamini_hochberg(p)


def test_one_family_is_benjamini_hochberg() -> None:
    p = np.random.default_rng(0).random(20) ** 3
    np.testing.assert_allclose(benjamini_bogomolov([p, [np.nan]])[0], benjamini_hochberg(p))
    assert np.isnan(benjamini_bogomolov([[np.nan], []])[0]).all()


def test_families_with_findings_cost_nothing_and_lone_ones_their_number() -> None:
    found, none = np.array([1e-6, 0.5]), np.array([0.6, 0.9])
    both = benjamini_bogomolov([found, found])
    np.testing.assert_allclose(both[0][0], 2e-6)
    alone = benjamini_bogomolov([found, none, none])
    np.testing.assert_allclose(alone[0][0], 6e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(P, max_size=4), min_size=1, max_size=4), st.floats(0.001, 0.999))
def test_findings_are_those_of_the_two_step_procedure(families: list[list[float]], level: float) -> None:
    """Select families by Benjamini-Hochberg, then findings within them at the level they leave."""
    within = [benjamini_hochberg(p) for p in families]
    tested = [i for i, q in enumerate(within) if not np.isnan(q).all()]
    smallest = benjamini_hochberg([np.nanmin(within[i]) for i in tested])
    chosen = [i for i, q in zip(tested, smallest, strict=True) if q <= level]
    limit = level * len(chosen) / max(len(tested), 1)
    for i, q in enumerate(benjamini_bogomolov(families)):
        expected = (within[i] <= limit) if i in chosen else np.zeros(len(within[i]), dtype=bool)
        on_the_edge = np.isclose(within[i], limit) | np.isclose(q, level)
        np.testing.assert_array_equal((q <= level)[~on_the_edge], expected[~on_the_edge])


def test_false_findings_are_as_rare_as_promised() -> None:
    rng = np.random.default_rng(1)
    hits = [any((q < 0.05).any() for q in benjamini_bogomolov(rng.random((3, 30)))) for _ in range(1000)]
    assert np.mean(hits) == pytest.approx(0.05, abs=0.02)
