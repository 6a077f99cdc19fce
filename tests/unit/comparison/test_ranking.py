"""Which effects and concepts come first."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from salience.comparison.ranking import order_concepts, quality_of, sizes, worth_testing
from salience.store.schema import DERIVED


def effects(*rows: dict[str, Any]) -> pa.Table:
    plain = {"model": "b", "family": "direction", "stratum": "all", "n": 40, "effect": 0.0}
    schema = DERIVED["effects"]
    made = [{**dict.fromkeys(schema.names), **plain, "p": 0.5, "q": 0.5, **row} for row in rows]
    return pa.Table.from_pylist(made, schema=schema)


def test_quality_is_cohesion_times_stability_as_far_as_known() -> None:
    assert quality_of(0.5, 0.8) == pytest.approx(0.4)
    assert quality_of(0.5, None) == 0.5
    assert quality_of(None, None) == 1.0
    assert quality_of(float("nan"), 0.25) == 0.25
    assert quality_of(-0.5, 0.5) == 0.0


def test_families_of_different_units_are_made_comparable() -> None:
    rows = effects(
        {"concept": 0, "effect": -0.2},
        {"concept": 1, "effect": 0.1},
        {"concept": 0, "family": "ledger", "effect": 30.0},
        {"concept": 1, "family": "ledger", "effect": -60.0},
        {"concept": 1, "family": "ledger", "effect": 6.0, "model": "c"},
    )
    found = sizes(rows, {0: 1.0, 1: 0.5})
    assert found == pytest.approx([1.0, 0.25, 0.5, 0.5, 0.5])


def test_untested_effects_do_not_set_the_scale() -> None:
    rows = effects({"concept": 0, "effect": 5.0, "p": None, "q": None}, {"concept": 1, "effect": 0.5})
    assert sizes(rows, {0: 1.0, 1: 1.0}).tolist() == [1.0, 1.0]
    none = effects({"concept": 0, "effect": 5.0, "p": None, "q": None}, {"concept": 1, "effect": 1.0, "p": None})
    assert sizes(none, {0: 1.0, 1: 1.0}) == pytest.approx([1.0, 0.2])


def test_no_effect_at_all_has_no_size() -> None:
    assert sizes(effects({"concept": 0}), {0: 1.0}).tolist() == [0.0]
    assert sizes(effects(), {}).tolist() == []


def test_concepts_with_an_effect_beyond_chance_come_first_then_tested_ones() -> None:
    rows = effects(
        {"concept": 0, "effect": 0.9},
        {"concept": 1, "effect": 0.2, "q": 0.001},
        {"concept": 2, "effect": 0.3, "q": 0.04},
        {"concept": 3, "effect": 2.0, "p": None, "q": None},
        {"concept": 2, "effect": 0.7, "q": 0.5},
    )
    quality = dict.fromkeys(range(5), 1.0)
    assert order_concepts(rows, quality) == [2, 1, 0, 3, 4]
    assert order_concepts(rows, {**quality, 2: 0.1}) == [1, 2, 0, 3, 4]


def test_what_is_worth_testing() -> None:
    rows = effects({"concept": 0, "effect": 0.1}, {"concept": 1, "effect": 0.0}, {"concept": 2, "effect": -0.5})
    quality = dict.fromkeys(range(4), 1.0)
    assert worth_testing(rows, quality, 12) == [2, 0]
    assert worth_testing(rows, quality, 1) == [2]
    assert worth_testing(rows, quality, 0) == []
