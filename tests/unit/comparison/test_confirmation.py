"""Effects of interventions, and which effects they confirm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from worlds import World, watermark, world

from salience.comparison.cells import Procedure
from salience.comparison.confirmation import Drops, Interventions, confirm, decided_on, intervention_effects
from salience.comparison.effects import Slices, effects
from salience.errors import SettingsError
from salience.stats import bca_interval, benjamini_hochberg, sign_flip_p
from salience.store.schema import DERIVED

QUICK = Procedure(draws=400, flips=499)


def tried(
    made: World, concepts: tuple[int, ...] = (0, 1), sign: float = 1.0, seed: int = 0
) -> dict[str, dict[str, Drops]]:
    """Drops of the scalar by as much as the maps say, on images that have the concept, with noise and controls."""
    rng = np.random.default_rng(seed)

    def drops(totals: np.ndarray) -> Drops:
        real, control = rng.normal(0, 0.3, (2, *totals.shape))
        missing = np.ones(totals.shape, dtype=bool)
        missing[:, list(concepts)] = (made.a == 0)[:, list(concepts)]
        return Drops(np.where(missing, np.nan, sign * totals + real), np.where(missing, np.nan, control))

    return {fill: {m: drops(x) for m, x in made.totals.items()} for fill in ("blur", "mean")}


def slices(made: World) -> Slices:
    return Slices(made.classes, {"b": made.quadrants})


def verdicts(made: World, drops: dict[str, dict[str, Drops]]) -> pa.Table:
    rows = effects(made.shares, made.totals, slices(made), procedure=QUICK)
    return confirm(rows, intervention_effects(drops, slices(made), procedure=QUICK))


def cell(rows: pa.Table, **where: object) -> dict[str, object]:
    for name, value in where.items():
        rows = rows.filter(pc.equal(rows[name], value))
    (row,) = rows.to_pylist()
    return row


# ------------------------------------------------------------------ numbers


def test_effect_is_the_difference_of_drops_beyond_controls() -> None:
    made = world()
    drops = tried(made)
    table = intervention_effects(drops, slices(made), procedure=QUICK).table
    assert table.schema == DERIVED["interventions"]
    found = cell(table, concept=1, fill="mean", stratum="class:c2")
    has = (np.array(made.classes) == "c2") & (made.a[:, 1] != 0)
    b, a = drops["mean"]["b"].net[has, 1], drops["mean"]["a"].net[has, 1]
    assert found["n"] == has.sum()
    assert found["effect"] == pytest.approx((b - a).mean())
    assert (found["model_drop"], found["reference_drop"]) == pytest.approx((b.mean(), a.mean()))
    interval = bca_interval(b - a, draws=400)
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))
    assert found["p"] == pytest.approx(sign_flip_p(b - a)[0], abs=0.06)
    q = table["q"].to_numpy(zero_copy_only=False)
    np.testing.assert_allclose(q, benjamini_hochberg(table["p"].to_numpy(zero_copy_only=False)))
    assert set(table["concept"].to_pylist()) == {0, 1}  # the others were not tried
    assert {"all", "only-model"} <= set(table["stratum"].to_pylist())


def test_a_model_against_itself_and_swapped() -> None:
    made = world()
    drops = tried(made)
    same = {fill: {"a": of["a"], "b": of["a"]} for fill, of in drops.items()}
    nothing = intervention_effects(same, slices(made), procedure=QUICK).table
    assert set(nothing["effect"].to_pylist()) == {0.0}
    assert set(nothing["p"].drop_null().to_pylist()) == {1.0}
    one = intervention_effects(drops, Slices(made.classes), procedure=QUICK).table
    two = intervention_effects(drops, Slices(made.classes), reference="b", procedure=QUICK).table
    for name, sign in (("effect", -1), ("p", 1), ("q", 1)):
        left, right = (t[name].to_numpy(zero_copy_only=False) for t in (one, two))
        np.testing.assert_array_equal(left, sign * right)
    assert one["model_drop"].equals(two["reference_drop"])


def test_one_model_alone() -> None:
    made = world()
    drops = {fill: {"a": of["a"]} for fill, of in tried(made).items()}
    found = intervention_effects(drops, Slices(made.classes), procedure=QUICK)
    assert found.table["reference_drop"].null_count == len(found.table) > 0
    effect, drop = (found.table[name].to_numpy() for name in ("effect", "model_drop"))
    np.testing.assert_allclose(effect, drop, atol=1e-12)
    assert len(found.magnitudes) == 0


# ------------------------------------------------------------------ verdicts


def test_shortcut_is_confirmed_where_pixels_do_what_maps_say() -> None:
    made = watermark()
    rows = verdicts(made, tried(made))
    assert cell(rows, family="direction", stratum="class:c0", concept=0)["confirmed"] is True
    assert cell(rows, family="direction", stratum="class:c1", concept=0)["confirmed"] is True  # there it speaks against
    assert cell(rows, family="ledger", stratum="class:c0", concept=0)["confirmed"] is True
    assert cell(rows, family="use", stratum="all", concept=0)["confirmed"] is True
    assert cell(rows, family="direction", stratum="class:c0", concept=1)["confirmed"] is False  # it has no effect
    assert cell(rows, family="direction", stratum="class:c0", concept=2)["confirmed"] is None  # it was not tried


def test_use_is_confirmed_by_sizes_although_signs_cancel() -> None:
    """The mark speaks for one class and against the others: the mean drop over all images says nothing."""
    made = watermark()
    found = intervention_effects(tried(made), slices(made), procedure=QUICK)
    signed = cell(found.table, fill="blur", stratum="all", concept=0)
    sized = cell(found.magnitudes, fill="blur", stratum="all", concept=0)
    assert signed["p"] > 0.05
    assert sized["q"] < 1e-10


def test_opposite_or_missing_interventions_confirm_nothing() -> None:
    made = watermark()
    against = verdicts(made, tried(made, sign=-1.0))
    assert cell(against, family="direction", stratum="class:c0", concept=0)["confirmed"] is False
    nothing = verdicts(made, tried(made, sign=0.0))
    assert cell(nothing, family="direction", stratum="class:c0", concept=0)["confirmed"] is False


def test_one_fill_is_enough_unless_another_contradicts() -> None:
    made = watermark()
    agree, silent, contradict = (tried(made, sign=s) for s in (1.0, 0.0, -1.0))
    for second, verdict in ((silent, True), (contradict, False)):
        rows = verdicts(made, {"blur": agree["blur"], "mean": second["mean"]})
        assert cell(rows, family="direction", stratum="class:c0", concept=0)["confirmed"] is verdict


def test_strata_of_too_few_images_fall_back_to_all() -> None:
    made = watermark()
    first = np.array([c == "c0" for c in made.classes])
    few = first.copy()
    few[np.flatnonzero(first)[:12]] = False  # 12 of that class, and none of the others, were tried
    drops = {
        fill: {m: replace(d, real=np.where((few | ~first)[:, None], np.nan, d.real)) for m, d in of.items()}
        for fill, of in tried(made).items()
    }
    rows = effects(made.shares, made.totals, slices(made), procedure=QUICK)
    found = intervention_effects(drops, slices(made), procedure=QUICK)
    assert cell(found.table, fill="blur", stratum="class:c0", concept=0)["q"] is None
    assert set(decided_on(rows, found.table)) == {None}
    assert confirm(rows, found)["confirmed"].null_count == len(rows)
    enough = replace(QUICK, minimum=5)
    found = intervention_effects(drops, slices(made), procedure=enough)
    where = dict(
        zip(
            zip(*(rows[c].to_pylist() for c in ("family", "stratum", "concept")), strict=True),
            decided_on(rows, found.table),
            strict=True,
        )
    )
    assert where["direction", "class:c0", 0] == "class:c0"
    assert where["direction", "class:c1", 0] == "all"  # none of that class was tried
    told = confirm(rows, found)
    assert cell(told, family="direction", stratum="class:c0", concept=0)["confirmed"] is True
    assert cell(told, family="direction", stratum="class:c1", concept=0)["confirmed"] is None  # all cannot say


def test_untested_effects_stay_open() -> None:
    made = watermark(images=100)  # 25 of each class
    rows = verdicts(made, tried(made))
    direction = rows.filter(pc.equal(rows["family"], "direction"))
    assert direction["confirmed"].null_count == len(direction) > 0
    assert cell(rows, family="ledger", stratum="all", concept=0)["confirmed"] is not None


def test_one_model_is_confirmed_by_its_own_drops() -> None:
    made = watermark()
    own = Slices(made.classes)
    rows = effects({"b": made.shares["b"]}, {"b": made.b}, own, procedure=QUICK)
    drops = {fill: {"b": of["b"]} for fill, of in tried(made).items()}
    told = confirm(rows, intervention_effects(drops, own, procedure=QUICK))
    assert cell(told, family="direction", stratum="class:c0", concept=0)["confirmed"] is True
    assert cell(told, family="use", stratum="all", concept=0)["confirmed"] is None


def test_confirming_changes_nothing_else() -> None:
    made = watermark(images=200)
    rows = effects(made.shares, made.totals, slices(made), procedure=QUICK)
    empty = DERIVED["interventions"].empty_table()
    told = confirm(rows, Interventions(empty, empty))
    assert told.equals(rows)
    assert told.schema.equals(rows.schema, check_metadata=True)


@pytest.mark.parametrize(
    ("drops", "message"),
    [
        ({}, "No fill was tried"),
        ({"blur": {"a": Drops(np.zeros((3, 1)), 0)}}, "the same 4 images"),
        ({"blur": {"a": Drops(np.zeros((4, 1)), 0)}, "mean": {"b": Drops(np.zeros((4, 1)), 0)}}, "the same models"),
        ({"blur": {"a": Drops(np.zeros((4, 1)), 0)}, "mean": {"a": Drops(np.zeros((4, 2)), 0)}}, r"\(4, 1\), \(4, 2\)"),
    ],
)
def test_drops_that_do_not_fit(drops: dict[str, dict[str, Drops]], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        intervention_effects(drops, Slices(["x"] * 4))
