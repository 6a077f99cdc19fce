"""Figures and words of the page of an audit, from numbers alone."""

from __future__ import annotations

import numpy as np
import pytest

from salience.behaviour.conditions.registry import conditions
from salience.report.behaviour import wording
from salience.report.behaviour.figures import HEIGHT, WIDTH, Series, chart, dot, histogram, matrix, tails
from salience.report.trust.figures import axis

UNIT = axis([0.0, 1.0], 0.0, 1.0)


def test_a_dot_lies_where_its_value_is_and_ends_stay_on_the_axis() -> None:
    found = dot(UNIT, 0.25, -3.0, 1.4, 0.5)
    assert (found.at, found.low, found.high, found.floor) == (25.0, 0.0, 100.0, 50.0)
    assert dot(UNIT, 0.5, None, None).low is None
    assert dot(UNIT, 0.5, float("nan"), 1.0).low is None


def test_bars_count_values_and_the_tallest_is_full() -> None:
    bars = histogram(np.array([0.05, 0.05, 0.05, 0.95, np.nan]), UNIT, bins=10)
    assert bars == ((0.0, 10.0, 100.0), (90.0, 10.0, pytest.approx(33.3)))
    assert histogram(np.array([1.0]), UNIT, bins=10) == ((90.0, 10.0, 100.0),)
    assert histogram(np.array([np.nan]), UNIT) == ()


def test_curves_rise_upwards_and_bands_go_there_and_back() -> None:
    series = Series("plain", 0, ((0.0, 0.0, 0.0, 0.5), (1.0, 1.0, 0.5, 1.0)))
    found = chart("noise", [series], [(0.0, "weak"), (1.0, "strong")], UNIT, words="", zero=0.5)
    assert found.lines[0].dots == ((0.0, HEIGHT), (WIDTH, 0.0))
    assert found.lines[0].band == f"0,{HEIGHT / 2:g} {WIDTH:g},0 {WIDTH:g},{HEIGHT / 2:g} 0,{HEIGHT:g}"
    assert found.zero == HEIGHT / 2
    assert found.across == ((0.0, "weak"), (WIDTH, "strong"))


def test_curves_without_intervals_have_no_band_and_levels_beyond_the_axis_are_not_drawn() -> None:
    found = chart("", [Series("a", 0, ((0.0, 0.5, None, None), (1.0, 0.5, None, None)))], [], UNIT, words="", zero=-1.0)
    assert found.lines[0].band == ""
    assert found.zero is None


def test_a_matrix_has_no_diagonal_and_knows_the_odd_run() -> None:
    values = np.array([[np.nan, 0.5, -0.25], [0.5, np.nan, 0.0], [-0.25, 0.0, np.nan]])
    found = matrix("g", 1, ["g-1", "g-2", "g-3"], values, odd="g-3")
    assert found.names == ("1", "2", "3")
    assert [found.rows[i][i] for i in range(3)] == [None] * 3
    assert found.rows[0][1] is not None
    assert found.rows[0][1].shade == 50
    assert found.rows[0][2] is not None
    assert (found.rows[0][2].text, found.rows[0][2].shade) == (f"{wording.MINUS}0.25", 0)
    assert [found.is_odd(i) for i in range(3)] == [False, False, True]


def test_names_are_shortened_by_what_all_have_in_common_and_numbers_stay_whole() -> None:
    assert tails(["plain-10", "plain-12"]) == ["10", "12"]
    assert tails(["resnet20", "resnet56"]) == ["20", "56"]
    assert tails(["a", "ab"]) == ["a", "ab"]
    assert tails(["alone"]) == ["alone"]
    assert tails(["x", "y"]) == ["x", "y"]


def test_every_condition_has_its_own_words() -> None:
    names = list(conditions())
    titles = [wording.condition_title(n) for n in names]
    assert len(set(titles)) == len(names)
    assert wording.condition_title("rotate-90") == f"turn by {wording.MINUS}90°"
    assert wording.condition_title("shift16-up-left") == "shift 16 px up and left"
    assert wording.condition_title("salt-pepper-0.25") == "salt and pepper 0.25"
    assert wording.condition_title("jpeg-3") == "JPEG 3"


def test_conditions_of_one_kind_are_told_by_their_strength() -> None:
    assert {wording.kind_of(f"salt-pepper-{a}") for a in (0.01, 1)} == {"salt-pepper"}
    assert wording.kind_of("flip-lr") == "flip-lr"


def test_numbers_have_true_minus_signs_and_chances_no_false_zero() -> None:
    row = {"value": -0.5, "low": -0.75, "high": 0.25}
    assert wording.value_text(row) == (f"{wording.MINUS}0.50", f"[{wording.MINUS}0.75, 0.25]")
    assert wording.value_text({"value": 0.5, "low": None, "high": None}, sign=True) == ("+0.50", "")
    assert [wording.chance_text(v) for v in (0.0001, 0.0123, 0.4)] == ["< 0.001", "0.012", "0.40"]
    assert [wording.two_digits(v) for v in (-0.001, -0.5)] == ["0.00", f"{wording.MINUS}0.50"]
    assert wording.chance_text(None) == wording.chance_text(float("nan"))
