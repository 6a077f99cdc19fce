"""Effects of a comparison: the acceptance properties, on simulated tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from worlds import World, share, swapped_at_random, watermark, world

from salience.comparison.cells import Procedure
from salience.comparison.effects import FAMILIES, Slices, effects
from salience.comparison.strata import QUADRANTS
from salience.errors import SettingsError
from salience.stats import bca_interval, sign_flip_p
from salience.store.schema import DERIVED

QUICK = Procedure(draws=400, flips=499)
NUMBERS = ("effect", "low", "high", "d_z", "p", "q", "p_max", "detectable")


def told(made: World, groups: Sequence[object] | None = None, procedure: Procedure = QUICK) -> pa.Table:
    return effects(made.shares, made.totals, Slices(made.classes, {"b": made.quadrants}, groups), procedure=procedure)


def cell(rows: pa.Table, **where: object) -> dict[str, float]:
    for name, value in where.items():
        rows = rows.filter(pc.equal(rows[name], value))
    (row,) = rows.to_pylist()
    return row


def column(rows: pa.Table, name: str) -> np.ndarray:
    return rows[name].to_numpy(zero_copy_only=False)


# ------------------------------------------------------------------ what the numbers are


def test_table_has_the_documented_columns_and_strata() -> None:
    made = world()
    rows = told(made)
    assert rows.schema == DERIVED["effects"]
    strata = {f: set(rows.filter(pc.equal(rows["family"], f))["stratum"].to_pylist()) for f in FAMILIES}
    classes = {f"class:c{c}" for c in range(4)}
    assert strata == {"direction": classes, "use": {"all"}, "ledger": {"all", *classes, *QUADRANTS}}
    assert set(rows["model"].to_pylist()) == {"b"}
    assert rows["confirmed"].null_count == len(rows)


def test_effects_are_means_over_images_of_the_stratum() -> None:
    made = world()
    rows = told(made)
    of = np.array(made.classes) == "c1"
    a, b = made.shares["a"], made.shares["b"]
    x = (b - a)[of, 3]
    found = cell(rows, family="direction", stratum="class:c1", concept=3)
    interval = bca_interval(x, draws=400)
    assert found["n"] == of.sum() == 60
    assert found["effect"] == pytest.approx(x.mean())
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))
    assert found["d_z"] == pytest.approx(x.mean() / x.std(ddof=1))
    assert found["detectable"] == pytest.approx(2.849 * x.std(ddof=1) / np.sqrt(60), rel=0.001)
    assert found["p"] == pytest.approx(sign_flip_p(x, flips=4999)[0], abs=0.05)
    used = cell(rows, family="use", stratum="all", concept=3)
    assert used["effect"] == pytest.approx((np.abs(b) - np.abs(a))[:, 3].mean())
    place = np.array(made.quadrants) == "only-model"
    booked = cell(rows, family="ledger", stratum="only-model", concept=3)
    assert booked["effect"] == pytest.approx((made.b - made.a)[place, 3].mean())
    assert booked["n"] == place.sum()
    everywhere = cell(rows, family="ledger", stratum="all", concept=3)
    assert everywhere["effect"] == pytest.approx((made.b - made.a)[:, 3].mean())


def test_small_cells_have_an_effect_but_no_p() -> None:
    made = world(images=100)  # 25 of each class
    rows = told(made)
    small = rows.filter(pc.equal(rows["family"], "direction"))
    assert set(small["n"].to_pylist()) == {25}
    for name in ("low", "high", "p", "q", "p_max"):
        assert small[name].null_count == len(small)
    for name in ("effect", "d_z", "detectable"):
        assert small[name].null_count == 0
    enough = told(made, procedure=replace(QUICK, minimum=25))
    assert enough["p"].null_count < rows["p"].null_count


def test_single_images_and_empty_strata() -> None:
    made = world(images=40)
    made = replace(made, classes=["lone"] + ["c0"] * 39, quadrants=["both-wrong"] + ["both-right"] * 39)
    rows = told(made)
    lone = cell(rows, family="direction", stratum="class:lone", concept=0)
    assert lone["n"] == 1
    assert lone["effect"] == pytest.approx((made.shares["b"] - made.shares["a"])[0, 0])
    assert lone["d_z"] is lone["detectable"] is lone["p"] is None
    assert "only-model" not in rows["stratum"].to_pylist()


def test_concepts_that_no_image_of_a_stratum_has_have_no_row() -> None:
    made = world()
    absent = np.array(made.classes) == "c2"
    made.a[absent, 5] = made.b[absent, 5] = 0
    rows = told(made)
    found = rows.filter(pc.equal(rows["concept"], 5))["stratum"].to_pylist()
    assert "class:c2" not in found
    assert {"all", "class:c1"} <= set(found)


def test_images_of_no_class_count_for_all_only() -> None:
    made = world()
    rows = told(replace(made, classes=[None] * 120 + made.classes[120:]))
    assert cell(rows, family="direction", stratum="class:c0", concept=0)["n"] == 30
    assert cell(rows, family="use", stratum="all", concept=0)["n"] == 240


def test_failed_images_are_left_out_of_their_pair() -> None:
    made = world()
    keep = np.arange(240) % 6 != 5
    made.b[~keep] = np.nan
    rows = told(made)
    kept = World(made.a[keep], made.b[keep], [c for c, k in zip(made.classes, keep, strict=True) if k], [])
    kept = replace(kept, quadrants=[q for q, k in zip(made.quadrants, keep, strict=True) if k])
    assert rows.equals(told(kept)) or np.allclose(column(rows, "effect"), column(told(kept), "effect"))
    assert cell(rows, family="use", stratum="all", concept=0)["n"] == keep.sum()


def test_without_totals_there_is_no_ledger() -> None:
    made = world()
    rows = effects(made.shares, None, Slices(made.classes), procedure=QUICK)
    assert set(rows["family"].to_pylist()) == {"direction", "use"}


# ------------------------------------------------------------------ acceptance


@pytest.mark.parametrize("test", ["sign-flip", "wilcoxon"])
def test_a_model_against_itself_is_exactly_nothing(test: str) -> None:
    made = world()
    rows = told(replace(made, b=made.a), procedure=replace(QUICK, test=test))
    assert len(rows) > 50
    for name in ("effect", "low", "high", "d_z", "detectable"):
        np.testing.assert_array_equal(column(rows.filter(pc.is_valid(rows["p"])), name), 0)
    tested = rows.filter(pc.is_valid(rows["p"]))
    assert len(tested) > 50
    for name in ("p", "q", "p_max"):
        np.testing.assert_array_equal(column(tested, name), 1)
    assert all(rows[name].is_valid().to_pylist() == [True] * len(rows) for name in ("effect", "d_z", "detectable"))


@pytest.mark.parametrize("test", ["sign-flip", "wilcoxon"])
def test_swapped_models_negate_effects_and_keep_p(test: str) -> None:
    made = watermark(images=400)
    procedure = replace(QUICK, test=test)
    one = told(made, procedure=procedure)
    other_side = {"only-reference": "only-model", "only-model": "only-reference"}
    slices = Slices(made.classes, {"a": [other_side.get(q, q) for q in made.quadrants]})
    two = effects(made.shares, made.totals, slices, reference="b", procedure=procedure)
    strata = pa.array([other_side.get(s, s) for s in two["stratum"].to_pylist()])
    two = two.set_column(two.schema.get_field_index("stratum"), "stratum", strata)
    order = [("family", "ascending"), ("stratum", "ascending"), ("concept", "ascending")]
    one, two = one.sort_by(order), two.sort_by(order)
    assert one["concept"].equals(two["concept"])
    for name in ("effect", "d_z"):
        np.testing.assert_array_equal(column(one, name), -column(two, name))
    np.testing.assert_array_equal(column(one, "low"), -column(two, "high"))
    for name in ("n", "p", "q", "p_max", "detectable"):
        np.testing.assert_array_equal(column(one, name), column(two, name))
    assert column(one, "q").min() < 1e-10


def test_logits_times_three_keep_shares_and_scale_the_ledger() -> None:
    made = world(3)
    one, three = told(made), told(replace(made, a=3 * made.a, b=3 * made.b))
    for name in ("concept", "family", "stratum", "n"):
        assert one[name].equals(three[name])
    for name in ("p", "q", "p_max", "d_z"):
        np.testing.assert_allclose(column(three, name), column(one, name), rtol=1e-9)
    ledger = column(one, "family") == "ledger"
    for name in ("effect", "low", "high", "detectable"):
        scale = np.where(ledger, 3.0, 1.0)
        np.testing.assert_allclose(column(three, name), scale * column(one, name), rtol=1e-9, atol=1e-12)


def test_only_the_second_model_times_three_keeps_shares_too() -> None:
    made = world(3)
    one, three = (told(replace(made, b=factor * made.b)) for factor in (1, 3))
    unit_free = pc.not_equal(one["family"], "ledger")
    for name in ("effect", "low", "high", "p", "p_max"):
        left, right = column(one.filter(unit_free), name), column(three.filter(unit_free), name)
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-12)


def test_shortcut_of_one_class_is_found_where_the_average_over_classes_hides_it() -> None:
    made = watermark()
    difference = (made.shares["b"] - made.shares["a"])[:, 0]
    assert sign_flip_p(difference)[0] > 0.1  # the mean toward the true class, over all images
    rows = told(made)
    found = cell(rows, family="direction", stratum="class:c0", concept=0)
    assert found["q"] < 1e-20
    assert found["effect"] > 0.2
    assert found["p_max"] < 0.01
    direction = rows.filter(pc.equal(rows["family"], "direction"))
    assert np.abs(column(direction, "effect")).argmax() == direction["concept"].to_pylist().index(0)
    # Shares of the other concepts are of what the mark leaves; what they add to the scalar is unchanged.
    others = rows.filter(pc.and_(pc.equal(rows["family"], "ledger"), pc.not_equal(rows["concept"], 0)))
    assert np.nanmin(column(others, "q")) > 0.05


@pytest.mark.parametrize("test", ["sign-flip", "wilcoxon"])
def test_random_swaps_are_no_findings(test: str) -> None:
    """Where which model is which was drawn for each image, any finding in any family is as rare as promised."""
    procedure = Procedure(test=test, draws=100, flips=499)
    any_finding = dict.fromkeys((*FAMILIES, "some"), 0)
    p = []
    for seed in range(200):
        rows = told(swapped_at_random(seed), procedure=procedure)
        families, q = column(rows, "family"), column(rows, "q")
        p.append(column(rows, "p"))
        for family in FAMILIES:
            any_finding[family] += bool((q[families == family] < 0.05).any())
        any_finding["some"] += bool((q < 0.05).any())
    assert max(any_finding.values()) <= 0.07 * 200
    assert np.nanmean(np.concatenate(p) < 0.05) == pytest.approx(0.05, abs=0.01)


def test_copies_of_images_within_groups_do_not_shrink_the_interval() -> None:
    made = world(4)
    again = np.repeat(np.arange(240), 3)
    copies = World(made.a[again], made.b[again], [made.classes[i] for i in again], [made.quadrants[i] for i in again])
    one = told(made, [f"scene {i:03d}" for i in range(240)])
    grouped = told(copies, [f"scene {i:03d}" for i in again])
    for name in ("concept", "stratum", "n"):
        assert one[name].equals(grouped[name])
    for name in NUMBERS:
        np.testing.assert_allclose(column(grouped, name), column(one, name), atol=1e-9)
    careless = told(copies)
    assert np.nanmean(column(careless, "high") - column(careless, "low")) < 0.7 * np.nanmean(
        column(one, "high") - column(one, "low")
    )


def test_same_seed_same_bytes() -> None:
    made = world(5)
    one, two = told(made), told(made)
    assert one.equals(two)
    for name in NUMBERS:
        assert column(one, name).tobytes() == column(two, name).tobytes()
    assert not told(made, procedure=replace(QUICK, seed=1)).equals(one)


def test_order_of_images_does_not_matter() -> None:
    made = world(6)
    mixed = np.random.default_rng(0).permutation(240)
    other = World(made.a[mixed], made.b[mixed], [made.classes[i] for i in mixed], [made.quadrants[i] for i in mixed])
    one, two = told(made, [f"{i:03d}" for i in range(240)]), told(other, [f"{i:03d}" for i in mixed])
    for name in NUMBERS:
        np.testing.assert_allclose(column(two, name), column(one, name), atol=1e-9)


# ------------------------------------------------------------------ one model, and several


def test_one_model_alone_is_tested_against_nothing() -> None:
    made = world()
    rows = effects({"only": share(made.a)}, {"only": made.a}, Slices(made.classes), procedure=QUICK)
    found = cell(rows, family="direction", stratum="class:c1", concept=2)
    of = np.array(made.classes) == "c1"
    assert found["effect"] == pytest.approx(share(made.a)[of, 2].mean())
    assert found["p"] == pytest.approx(sign_flip_p(share(made.a)[of, 2], flips=4999)[0], abs=0.05)
    used = rows.filter(pc.equal(rows["family"], "use"))
    assert used["p"].null_count == used["q"].null_count == len(used) > 0  # a size is never below zero
    assert used["low"].null_count == 0
    assert set(rows["model"].to_pylist()) == {"only"}


def test_several_models_are_each_compared_with_the_reference() -> None:
    made, third = world(), world(9)
    shares = {**made.shares, "c": share(third.b)}
    totals = {**made.totals, "c": third.b}
    slices = Slices(made.classes, {"b": made.quadrants})
    rows = effects(shares, totals, slices, procedure=QUICK)
    assert rows["model"].unique().to_pylist() == ["b", "c"]
    third_rows = rows.filter(pc.equal(rows["model"], "c"))
    assert not set(third_rows["stratum"].to_pylist()) & set(QUADRANTS)  # it has no quadrants here
    alone = told(made)
    same = rows.filter(pc.equal(rows["model"], "b"))
    np.testing.assert_array_equal(column(same, "q"), column(alone, "q"))
    other = effects(shares, totals, slices, reference="c", procedure=QUICK)
    assert other["model"].unique().to_pylist() == ["a", "b"]


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("shares", "totals", "reference", "message"),
    [
        ({}, None, None, "must be"),
        ({"a": np.zeros((4, 2)), "b": np.zeros((4, 3))}, None, None, r"a: \(4, 2\), b: \(4, 3\)"),
        ({"a": np.zeros((5, 2))}, None, None, "the same 4 images"),
        ({"a": np.zeros((4, 2))}, {"b": np.zeros((4, 2))}, None, "Shares are of a, totals of b"),
        ({"old": np.zeros((4, 2))}, None, "odl", "'odl' is none of the models old.*Did you mean 'old'"),
    ],
)
def test_what_cannot_be_compared(
    shares: Mapping[str, np.ndarray], totals: Mapping[str, np.ndarray] | None, reference: str | None, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        effects(shares, totals, Slices(["x"] * 4), reference=reference)


def test_slices_are_of_as_many_images() -> None:
    with pytest.raises(SettingsError, match="3 images have 2 entries of 'groups'"):
        Slices(["a"] * 3, groups=["x", "y"])
    with pytest.raises(SettingsError, match="3 images have 1 entries of 'new'"):
        Slices(["a"] * 3, {"new": [None]})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"test": "t"}, "'t' is unknown"),
        ({"level": 95}, "coverage 95"),
        ({"draws": 10}, "draws is 10; at least 100"),
        ({"minimum": 1}, "minimum is 1; at least 2"),
        ({"seed": -1}, "seed is -1; at least 0"),
    ],
)
def test_procedures_that_make_no_sense(given: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Procedure(**given)
