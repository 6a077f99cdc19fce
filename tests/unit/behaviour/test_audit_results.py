"""From a view to tables, and from a run's tables to what is said."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from toy_views import ToyView

from salience.behaviour.audit import Audit, read_audit
from salience.behaviour.measures import MEASURES, STATISTICS, describe, headlines, parse_measures, statistic
from salience.behaviour.odd_run import find_odd_run, grubbs_p
from salience.behaviour.tables import AuditTables, audit_tables
from salience.behaviour.view import BACKGROUND, CLEAN, OBJECT, OUT_OF_SET, ConditionTraits
from salience.behaviour.wording import interval_words, sentences, singular
from salience.errors import MetricError, RunError, SettingsError
from salience.store.schema import DERIVED
from salience.store.writer import RunWriter

IMAGES, RUNS = 24, 5
TRAITS = {
    "out-of-set": (
        ConditionTraits("noise-weak", "noise", 0.1, published=True),
        ConditionTraits("noise-strong", "noise", 0.5, published=True),
        ConditionTraits("blur", "corruption", 1, published=False),
    ),
    "geometry": (
        ConditionTraits("flip", "geometry", 0, published=True),
        ConditionTraits("shift", "geometry", 0, published=False),
    ),
    "degradation": tuple(ConditionTraits(n, "guided", 0, published=True) for n in (BACKGROUND, OBJECT)),
}
UNDO = {"flip": lambda m: np.flip(m, -1), "shift": lambda m: np.roll(m, -1, -1)}
CHANGES = {"flip": lambda m: np.flip(m, -1), "shift": lambda m: np.roll(m, 1, -1)}


def world(runs: int = RUNS, noise: tuple[float, float] = (1.0, 0.2), seed: int = 0) -> ToyView:
    """Two recipes on the same images: the second's runs differ less from one another, and its maps move less."""
    rng = np.random.default_rng(seed)
    base = rng.random((IMAGES, 7, 7))
    clean, changed, answers, outputs = {}, {}, {}, {}
    for group, level in zip(("plain", "guided"), noise, strict=True):
        for run in range(runs):
            name = f"{group}-{run}"
            maps = base + level * rng.random((IMAGES, 7, 7)) * (1 + 0.05 * run)
            clean[name] = maps
            for measure, conditions in TRAITS.items():
                for condition in conditions:
                    moved = maps + 0.3 * level * rng.random(maps.shape)
                    changed[name, condition.name] = CHANGES.get(condition.name, lambda m: m)(moved)
                    if measure == "degradation":
                        kept = 0.9 if condition.name == BACKGROUND else 0.2
                        p = np.clip(kept - 0.1 * level + 0.02 * rng.normal(size=IMAGES), 0.01, 0.99)
                        outputs[name, condition.name] = np.log(np.stack([p, (1 - p) / 2, (1 - p) / 2], axis=1))
            outputs[name, CLEAN] = np.log(np.tile([0.98, 0.01, 0.01], (IMAGES, 1)))
            answers[name, CLEAN] = np.zeros(IMAGES, dtype=np.int64)
    return ToyView(
        clean,
        groups={g: tuple(f"{g}-{r}" for r in range(runs)) for g in ("plain", "guided")},
        changed=changed,
        answers=answers,
        outputs=outputs,
        traits=TRAITS,
        undo=UNDO,
        known=np.arange(IMAGES) % 3,
        measures=tuple(MEASURES),
    )


@pytest.fixture(scope="module")
def view() -> ToyView:
    other = world(seed=5)
    other = replace(
        other,
        clean={m: maps**3 for m, maps in other.clean.items()},
        outputs={k: v * 0.5 for k, v in other.outputs.items()},
        prefix="other",
    )
    return replace(world(), out_of_set=other)


@pytest.fixture(scope="module")
def tables(view: ToyView) -> AuditTables:
    return audit_tables(view, draws=400)


def store(folder: Path, view: ToyView, tables: AuditTables, **settings: object) -> Path:
    """Write a run that holds the tables."""
    labels = [None if k < 0 else int(k) for k in view.labels]
    ids = list(view.image_ids)
    with RunWriter(folder, kind="explain", source="arrays") as writer:
        nothing = [None] * len(ids)
        writer.set_images(
            {
                "image_id": ids,
                "index": list(range(len(ids))),
                "path": nothing,
                "label": labels,
                "label_text": nothing,
                "group": nothing,
                "boxes": [[]] * len(ids),
            }
        )
        for name in DERIVED:
            if hasattr(tables, name):
                writer.put_derived(name, getattr(tables, name))
        models = {
            m: {"classes": ["ant", "bee", "cat"], "preprocessing": {"size": [28, 28]}}
            for g in view.groups.values()
            for m in g
        }
        asked = {
            "groups": {g: list(m) for g, m in view.groups.items()},
            "method": view.method,
            "measures": list(view.measures),
            "seed": 0,
        }
        writer.use_stage(
            "audit",
            "audit",
            {},
            **{
                "settings": asked,
                "statistics": describe(view.measures),
                "complete": True,
                "notes": list(tables.notes),
                **settings,
            },
        )
        writer.describe(models=models)
    return folder


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory, view: ToyView, tables: AuditTables) -> Audit:
    return read_audit(store(tmp_path_factory.mktemp("run") / "audit", view, tables))


def rows(table: pa.Table, **wanted: str | None) -> list[dict[str, Any]]:
    for column, value in wanted.items():
        table = table.filter(pc.is_null(table[column]) if value is None else pc.equal(table[column], value))
    return table.to_pylist()


# ---------------------------------------------------------------------- the registry


def test_every_statistic_says_what_it_is() -> None:
    for (measure, form, name), s in STATISTICS.items():
        assert (s.measure, s.form, s.name) == (measure, form, name)
        assert measure in MEASURES
        assert s.low < s.high
        assert all((s.summary, s.fools, s.reference, s.details))
        assert bool(s.more) == bool(s.less) == s.headline
        if s.headline:
            assert singular(s.more) != s.more


def test_every_measure_has_one_answer_in_each_form() -> None:
    for measure in MEASURES:
        for form in ("published", "corrected"):
            assert len(headlines(measure, form)) == 1


def test_names_are_looked_up_and_mistakes_are_told() -> None:
    assert statistic("entropy", "corrected", "gini").high == 1
    assert parse_measures(["stability", " entropy", "stability"]) == ("entropy", "stability")
    with pytest.raises(MetricError, match="Did you mean 'stability'"):
        parse_measures(["stabilty"])
    with pytest.raises(MetricError, match="No measure is named"):
        parse_measures([])
    with pytest.raises(MetricError, match="no statistic of corrected stability 'gini'"):
        statistic("stability", "corrected", "gini")
    with pytest.raises(MetricError, match="no form"):
        statistic("stability", "correct", "pearson")
    with pytest.raises(MetricError, match="no measure"):
        statistic("focus", "corrected", "gini")


def test_descriptions_are_plain_data() -> None:
    found = describe(["out-of-set"])
    corrected = next(d for d in found if d["name"] == "chance-corrected")
    assert (corrected["low"], corrected["high"], corrected["direction"]) == (None, 1.0, "higher")
    assert {d["measure"] for d in found} == {"out-of-set"}


# ---------------------------------------------------------------------- tables


def test_rows_are_those_of_the_format(tables: AuditTables, view: ToyView) -> None:
    assert tables.measures.schema == DERIVED["measures"]
    assert tables.run_pairs.schema == DERIVED["run_pairs"]
    assert tables.group_effects.schema == DERIVED["group_effects"]
    keys = tables.measures.select(["measure", "form", "statistic"]).to_pylist()
    asked = {tuple(k.values()) for k in keys}
    assert asked <= set(STATISTICS)
    without_scores = {k for k in STATISTICS if k[0] == "degradation" and k[1] == "corrected"}
    assert set(STATISTICS) - asked == without_scores
    assert not tables.measures["value"].is_null().to_numpy().any()
    assert np.isfinite(tables.measures["value"].to_numpy()).all()
    for s in STATISTICS.values():
        own = [r["value"] for r in rows(tables.measures, measure=s.measure, form=s.form, statistic=s.name)]
        assert all(s.low - 1e-9 <= v <= s.high + 1e-9 for v in own), s.key


def test_a_row_for_each_image_run_and_condition(tables: AuditTables) -> None:
    found = rows(tables.measures, measure="geometry", form="corrected", statistic="equivariance", condition="flip")
    assert len(found) == IMAGES * 2 * RUNS
    assert {r["group"] for r in found if r["model"].startswith("guided")} == {"guided"}
    spread = rows(tables.measures, measure="stability", statistic="ssim-sd")
    assert len(spread) == IMAGES * 2
    assert {r["model"] for r in spread} == {None}


def test_images_of_the_second_dataset_have_rows_of_their_own(tables: AuditTables) -> None:
    found = rows(tables.measures, measure="out-of-set", statistic="confidence", model="plain-0")
    assert {r["image_id"].split()[0] for r in found if r["condition"] == OUT_OF_SET} == {"other"}
    assert {r["image_id"].split()[0] for r in found if r["condition"] == CLEAN} == {"image"}
    shift = rows(tables.measures, statistic="confidence-shift")
    assert len(shift) == 2 * RUNS
    assert {r["image_id"] for r in shift} == {None}
    assert {r["value"] for r in shift} == {-1.0}  # always less sure
    (effect,) = rows(tables.group_effects, statistic="confidence-shift", group="plain", reference=None)
    assert effect["value"] == -1
    assert effect["p"] < 1e-6
    assert effect["q"] < 1e-5


def test_group_means_are_means_of_runs(tables: AuditTables) -> None:
    own = rows(tables.measures, measure="entropy", form="corrected", statistic="gini", group="guided")
    by_run = [np.mean([r["value"] for r in own if r["model"] == f"guided-{k}"]) for k in range(RUNS)]
    (effect,) = rows(
        tables.group_effects, measure="entropy", form="corrected", statistic="gini", group="guided", reference=None
    )
    assert effect["value"] == pytest.approx(np.mean(by_run))
    assert (effect["runs"], effect["reference_runs"], effect["images"], effect["p"]) == (RUNS, None, IMAGES, None)
    assert effect["low"] < effect["value"] < effect["high"]


def test_intervals_of_means_stay_in_the_range_of_the_statistic() -> None:
    """Three runs that differ widely: Student's interval alone would leave it."""
    maps = {f"m{k}": np.full((8, 7, 7), 0.0) for k in range(3)}
    for k, values in enumerate(maps.values()):
        values[:, : 1 + 3 * k] = 1
    found = audit_tables(ToyView(maps), draws=50)
    for effect in rows(found.group_effects, form="corrected", reference=None):
        s = statistic("entropy", "corrected", effect["statistic"])
        assert s.low <= effect["low"] <= effect["value"] <= effect["high"] <= s.high
    (effect,) = rows(found.group_effects, statistic="half-mass-area")
    assert effect["high"] == 0.5


def test_stability_of_a_group_is_the_mean_over_pairs(tables: AuditTables) -> None:
    pairs = rows(tables.run_pairs, group="plain", form="corrected", statistic="pearson")
    assert len(pairs) == RUNS * (RUNS - 1) / 2
    (effect,) = rows(tables.group_effects, group="plain", form="corrected", measure="stability", statistic="pearson")
    assert effect["value"] == pytest.approx(np.mean([p["value"] for p in pairs]))


def test_conditions_weigh_the_same(tables: AuditTables) -> None:
    found = rows(
        tables.group_effects, measure="out-of-set", form="corrected", statistic="pearson", group="plain", reference=None
    )
    values = {r["condition"]: r["value"] for r in found}
    assert set(values) == {"noise-weak", "noise-strong", "blur", "all"}
    assert values["all"] == pytest.approx(np.mean([v for c, v in values.items() if c != "all"]))
    conditions = {r["condition"] for r in rows(tables.group_effects, form="published", statistic="score-after")}
    assert conditions == {BACKGROUND, OBJECT}  # their mean has no meaning


def test_differences_are_paired_and_adjusted(tables: AuditTables) -> None:
    (gap,) = rows(
        tables.group_effects, measure="stability", form="corrected", statistic="chance-corrected", reference="plain"
    )
    assert gap["group"] == "guided"
    assert gap["value"] > 0.1
    assert gap["low"] > 0
    assert gap["p"] == pytest.approx(2 / 252)  # five runs against five: the most that dealing can show
    assert gap["p"] <= gap["q"] < 0.05
    assert gap["effect_size"] > 2
    (spread,) = rows(tables.group_effects, statistic="ssim-sd", reference="plain")
    assert (spread["runs"], spread["reference_runs"], spread["p"], spread["low"]) == (RUNS, RUNS, None, None)


def test_same_view_same_tables(view: ToyView, tables: AuditTables) -> None:
    again = audit_tables(view, draws=400)
    for name in ("measures", "run_pairs", "group_effects"):
        assert getattr(again, name).equals(getattr(tables, name))


def test_progress_ends_at_its_total(view: ToyView) -> None:
    seen: list[tuple[int, int]] = []
    audit_tables(
        replace(view, measures=("entropy",)), draws=50, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (10, 10)
    assert [done for done, _ in seen] == list(range(11))


def test_what_cannot_be_measured_is_told() -> None:
    rng = np.random.default_rng(0)
    toy = ToyView(
        {f"m{k}": rng.random((6, 4, 4)) for k in range(3)},
        groups={"one": ("m0",), "two": ("m1", "m2")},
        answers={("m1", CLEAN): np.array([0, 0, -1, 0, -1, 0])},
        measures=("stability",),
    )
    found = audit_tables(toy, draws=50)
    told = "\n".join(found.notes)
    assert "Maps of m0, m1 and m2 are 4x4: the published SSIM has a window of 7x7" in told
    assert "group 'one' has one: it has no stability" in told
    assert "Group 'two' has 2 runs: its intervals are over images and hold for these runs" in told
    assert "With 4 runs or more in each of two groups" in told
    assert "m1 has no answer for 2 of 6 images" in told
    assert rows(found.measures, form="published", statistic="ssim") == []
    assert len(rows(found.measures, form="corrected", statistic="spearman", group="two")) == 12


# ---------------------------------------------------------------------- reading


def test_reading_a_run_never_needs_torch(audit: Audit) -> None:
    code = (
        "import sys; from salience.behaviour.audit import read_audit; "
        f"a = read_audit({str(audit.run.folder)!r}); a.sentences(); a.overview(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_tables_survive_the_disk(audit: Audit, tables: AuditTables) -> None:
    assert audit.measures.to_pylist() == tables.measures.to_pylist()
    assert audit.effects.equals(tables.group_effects)
    assert audit.run_pairs.equals(tables.run_pairs)
    assert repr(audit).startswith("Audit(plain (5), guided (5); entropy, out-of-set, geometry, stability, degradation;")
    assert audit.models[:2] == ("plain-0", "plain-1")
    assert audit.method == "gradcam"


def test_what_is_said(audit: Audit) -> None:
    said = audit.sentences()
    text = "\n".join(said)
    assert "guided models are more stable across runs than plain models (+0." in text
    assert "guided models are more stable across runs (SSIM as published) than plain models (+0." in text
    assert "guided models keep more of their score than plain models when the background is blurred (+0.0" in text
    (worse,) = (s for s in said if "when salient regions are blurred" in s)
    assert worse.endswith("]; lower is better).")
    assert all(s.endswith(".") for s in said)
    assert len(said) == len(set(said))
    silent = [s.startswith("No difference") for s in said]
    assert silent == sorted(silent)  # what is shown comes first


def test_runs_without_a_number_are_too_few(tmp_path: Path) -> None:
    """Three runs of five have no maps: of their recipe nothing can be said."""
    toy = replace(world(), measures=("entropy",))
    missing = {f"guided-{k}": np.full((IMAGES, 7, 7), np.nan) for k in range(3)}
    toy = replace(toy, clean={**toy.clean, **missing})
    found = read_audit(store(tmp_path / "run", toy, audit_tables(toy, draws=200)))
    none = "No difference between guided and plain models can be shown in focus"
    assert any(s.startswith(f"{none}: too few runs or images have a number (") for s in found.sentences())
    assert {r["verdict"] for r in found.overview() if r["group"] == "guided"} == {"cannot be shown"}


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (0.12, 0.08, 0.16, "+0.12 [0.08, 0.16]"),
        (-0.00012, -0.00049, 0.00024, "-0.0001 [-0.0005, 0.0002]"),
        (-0.001, -0.3, 0.3, "+0.00 [-0.30, 0.30]"),
        (0.0123, 0.0101, 0.0148, "+0.012 [0.010, 0.015]"),
        (0.5, 0.5, 0.5, "+0.50 [0.50, 0.50]"),
        (0.25, None, None, "+0.25"),
    ],
)
def test_numbers_have_the_digits_that_their_interval_needs(
    value: float, low: float | None, high: float | None, words: str
) -> None:
    assert interval_words({"value": value, "low": low, "high": high}, sign=True) == words


def test_no_difference_says_so(tmp_path: Path) -> None:
    toy = replace(world(noise=(0.5, 0.5), seed=3), measures=("entropy", "stability"))
    said = read_audit(store(tmp_path / "run", toy, audit_tables(toy, draws=400))).sentences()
    none = "No difference between guided and plain models is shown in"
    assert any(s.startswith(f"{none} stability across runs (") for s in said)
    assert any(s.startswith(f"{none} focus as published (") for s in said)


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        (
            2,
            "No difference between guided and plain models can be shown with 2 runs a group: the smallest p-value that "
            "dealing them anew can give is 0.33; 4 runs a group can give 0.029.",
        ),
        (
            3,
            "With 3 runs a group p-values rest on the bootstrap and Student's t: dealing so few runs anew cannot give "
            "less than 0.1.",
        ),
        (
            1,
            "guided and plain are one model each: what is said of them comes from their images and holds for these two "
            "models, not for their recipes.",
        ),
    ],
)
def test_few_runs_are_told_of(runs: int, words: str, tmp_path: Path) -> None:
    toy = replace(world(runs=runs), measures=("entropy", "out-of-set"))
    found = read_audit(store(tmp_path / "run", toy, audit_tables(toy, draws=200)))
    assert words in found.sentences()
    verdicts = {r["verdict"] for r in found.overview() if r["group"] == "guided"}
    assert ("cannot be shown" in verdicts) == (runs == 2)
    if runs == 1:
        text = "\n".join(found.sentences())
        assert "guided keeps its maps better under noise and corruption (beyond chance) than plain (+0." in text


def test_groups_that_differ_in_the_same_are_told_of_together() -> None:
    groups = {name: [f"{name}-{k}" for k in range(5)] for name in ("plain", "a", "b", "c")}

    def row(group: str, measure: str, statistic: str, value: float, q: float) -> dict[str, Any]:
        return {
            **{"measure": measure, "form": "corrected", "statistic": statistic, "condition": "all", "group": group},
            **{"reference": "plain", "runs": 5, "reference_runs": 5, "value": value, "q": q},
            **{"low": value - 0.05, "high": value + 0.05},
        }

    rows = [
        *(row(group, "geometry", "gain", value, 0.01) for group, value in (("a", 0.2), ("b", -0.3))),
        *(row(group, "stability", "chance-corrected", value, 0.01) for group, value in (("a", 0.2), ("b", 0.3))),
        row("c", "geometry", "gain", 0.01, 0.8),
        row("c", "stability", "chance-corrected", 0.2, 0.2),
    ]
    geometry = "geometric changes {} (beyond maps that do not move) than plain models"
    assert [s.split(" in ")[0] if s.startswith("No ") else s for s in sentences(rows, groups)] == [
        f"a models follow {geometry.format('better')} (+0.20 [0.15, 0.25]).",
        "a and b models are more stable across runs than plain models (+0.20 [0.15, 0.25], +0.30 [0.25, 0.35]).",
        f"b models follow {geometry.format('less')} (-0.30 [-0.35, -0.25]).",
        "Nothing that was measured shows a difference between c and plain models.",
        "No difference between c and plain models is shown",
        "No difference between c and plain models is shown",
    ]


def test_one_group_is_described(tmp_path: Path) -> None:
    toy = replace(world(), groups={"plain": ("plain-0",)}, measures=("geometry",))
    said = read_audit(store(tmp_path / "run", toy, audit_tables(toy, draws=200))).sentences()
    assert len(said) == 2
    assert said[1].startswith("plain: corrected geometry (gain) is 0.")
    assert said[1].endswith("] (of this run, not of its recipe).")


def test_the_overview_tells_better_from_worse(audit: Audit) -> None:
    found = {(r["measure"], r["form"], r["condition"], r["group"]): r for r in audit.overview()}
    guided = found["stability", "corrected", CLEAN, "guided"]
    assert (guided["verdict"], guided["direction"]) == ("better", "higher")
    plain = found["stability", "corrected", CLEAN, "plain"]
    assert guided["difference"] == pytest.approx(guided["value"] - plain["value"])
    assert plain["verdict"] is None
    # the same rise of the score is good where the background goes, and bad where the object goes
    assert found["degradation", "published", BACKGROUND, "guided"]["verdict"] == "better"
    assert found["degradation", "published", OBJECT, "guided"]["verdict"] == "worse"
    assert found["entropy", "corrected", CLEAN, "guided"]["verdict"] in ("different", "not shown")


# ---------------------------------------------------------------------- images, classes, runs


def test_extreme_images(audit: Audit) -> None:
    worst = audit.extremes("stability", 4, group="plain")
    assert [w["value"] for w in worst] == sorted(w["value"] for w in worst)
    own = rows(audit.measures, measure="stability", form="corrected", statistic="pearson", group="plain")
    means: dict[str, list[float]] = {}
    for r in own:
        means.setdefault(r["image_id"], []).append(r["value"])
    expected = sorted((float(np.mean(v)), i) for i, v in means.items())[:4]
    assert [w["image_id"] for w in worst] == [i for _, i in expected]
    assert worst[0]["numbers"] == RUNS
    best = audit.extremes("stability", 4, group="plain", lowest=False)
    assert best[0]["value"] == pytest.approx(max(np.mean(v) for v in means.values()))
    flip = audit.extremes("geometry", 3, condition="flip")
    assert flip[0]["numbers"] == 2 * RUNS
    under = audit.extremes("degradation", 3, form="published", name="score-after", condition=OBJECT)
    assert under[0]["value"] >= under[-1]["value"]  # a high score is the worse one there
    for measure in MEASURES:
        assert len(audit.extremes(measure, 100)) == IMAGES


def test_numbers_that_are_not_there(audit: Audit) -> None:
    with pytest.raises(SettingsError, match=r"no group 'guide'.*Did you mean 'guided'"):
        audit.extremes("stability", group="guide")
    with pytest.raises(SettingsError, match="no group 'guide'"):
        audit.odd_run("guide")
    with pytest.raises(SettingsError, match="no numbers of corrected degradation/gain"):
        audit.extremes("degradation", form="corrected", name="gain")
    with pytest.raises(MetricError, match="no measure 'focus'"):
        audit.extremes("focus")


def test_classes(audit: Audit) -> None:
    found = audit.by_class("entropy", "corrected", "gini", group="guided")
    assert [(r["class"], r["index"], r["images"]) for r in found] == [("ant", 0, 8), ("bee", 1, 8), ("cat", 2, 8)]
    own = rows(audit.measures, measure="entropy", form="corrected", statistic="gini", group="guided")
    ants = [r["value"] for r in own if int(r["image_id"].split()[1]) % 3 == 0]
    assert found[0]["value"] == pytest.approx(np.mean(ants))
    assert found[0]["low"] < found[0]["value"] < found[0]["high"]


def test_without_labels_classes_are_those_that_each_run_predicts(
    tmp_path: Path, view: ToyView, tables: AuditTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = replace(view, known=np.full(IMAGES, -1))
    found = read_audit(store(tmp_path / "run", blind, tables))
    answers = [
        {"model": m, "image_id": i, "predicted": (k + r) % 2}
        for r, m in enumerate(view.groups["plain"])
        for k, i in enumerate(view.image_ids)
    ]
    table = found.run.table
    monkeypatch.setattr(
        found.run, "table", lambda name: pa.Table.from_pylist(answers) if name == "predictions" else table(name)
    )
    classes = found.by_class("entropy", "corrected", "gini", group="plain")
    assert [(c["class"], c["images"]) for c in classes] == [("ant", IMAGES), ("bee", IMAGES)]
    own = rows(tables.measures, measure="entropy", form="corrected", statistic="gini", group="plain")
    told = {(a["model"], a["image_id"]): a["predicted"] for a in answers}
    by_image: dict[str, list[float]] = {}
    for r in own:
        if told[r["model"], r["image_id"]] == 1:
            by_image.setdefault(r["image_id"], []).append(r["value"])
    assert classes[1]["value"] == pytest.approx(np.mean([np.mean(v) for v in by_image.values()]))


def test_the_matrix_of_runs(audit: Audit) -> None:
    models, matrix = audit.similarity("guided")
    assert models == tuple(f"guided-{k}" for k in range(RUNS))
    assert np.isnan(np.diag(matrix)).all()
    assert (matrix == matrix.T)[~np.eye(RUNS, dtype=bool)].all()
    odd = audit.odd_run("guided")
    assert odd is not None
    assert odd.value == pytest.approx(np.nanmean(matrix, axis=1).min())
    assert odd.value < odd.others


def test_an_odd_run_stands_out() -> None:
    matrix = np.full((6, 6), 0.8) + 0.01 * np.random.default_rng(0).random((6, 6))
    matrix = (matrix + matrix.T) / 2
    matrix[2, :] = matrix[:, 2] = 0.3
    found = find_odd_run("plain", [f"m{k}" for k in range(6)], matrix)
    assert found is not None
    assert (found.model, found.value) == ("m2", pytest.approx(0.3))
    assert found.others == pytest.approx(0.805, abs=0.01)
    assert found.stands_out
    assert str(found).startswith("m2 is the odd one out of plain: its maps correlate 0.30 with those of the other runs")
    calm = find_odd_run("plain", ["a", "b", "c", "d"], np.full((4, 4), 0.5))
    assert calm is not None
    assert not calm.stands_out
    assert find_odd_run("plain", ["a", "b"], np.full((2, 2), 0.5)) is None


def test_chance_makes_few_runs_odd() -> None:
    rng = np.random.default_rng(0)
    p = [grubbs_p(rng.normal(size=8)) for _ in range(2000)]
    assert 0.03 < np.mean(np.array(p) < 0.05) < 0.07


# ---------------------------------------------------------------------- other tools


def test_without_pandas_the_cure_is_told(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(RunError, match="'pip install pandas' cures it"):
        audit.to_pandas()


def test_effects_as_a_data_frame(audit: Audit) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = audit.to_pandas()
    assert len(frame) == len(audit.effects)
    assert list(frame.columns) == DERIVED["group_effects"].names


def test_runs_without_an_audit(tmp_path: Path, view: ToyView, tables: AuditTables) -> None:
    with pytest.raises(RunError, match="no run directory"):
        read_audit(tmp_path / "nothing")
    with pytest.raises(RunError, match="was not finished"):
        read_audit(store(tmp_path / "unfinished", view, tables, complete=False))
    with RunWriter(tmp_path / "explained", kind="explain", source="arrays") as writer:
        writer.describe(models={})
    with pytest.raises(RunError, match="holds no audit: 'salience audit"):
        read_audit(tmp_path / "explained")


def test_a_description_from_elsewhere_is_checked(tmp_path: Path, view: ToyView, tables: AuditTables) -> None:
    whole = {"groups": {"plain": ["plain-0"]}, "method": "gradcam", "measures": ["entropy"]}
    broken = [{k: v for k, v in whole.items() if k != gone} for gone in whole]
    wrong = [
        {**whole, "groups": {}},
        {**whole, "groups": {"plain": ["other"]}},
        {**whole, "groups": {"plain": []}},
        {**whole, "measures": ["focus"]},
        {**whole, "method": 3},
    ]
    folder = store(tmp_path / "run", view, tables, settings=whole)
    assert read_audit(folder).groups == {"plain": ("plain-0",)}
    for settings in (*broken, *wrong):
        with RunWriter(folder, kind="explain", source="arrays") as writer:
            writer.use_stage("audit", "audit", {}, settings=settings)
            writer.describe()
        with pytest.raises(RunError, match="does not describe an audit"):
            read_audit(folder)


def test_notes_are_kept(tmp_path: Path) -> None:
    toy = replace(world(runs=2), measures=("entropy",))
    found = read_audit(store(tmp_path / "run", toy, audit_tables(toy, draws=50)), notes=["and this"])
    assert any("Group 'plain' has 2 runs" in note for note in found.notes)
    assert found.notes[-1] == "and this"


def test_filtering_large_tables_by_name_works(audit: Audit) -> None:
    """Names are dictionaries: they compare with plain strings."""
    kept = audit.measures.filter(pc.equal(audit.measures["statistic"], "gini"))
    assert len(kept) == 2 * RUNS * IMAGES
