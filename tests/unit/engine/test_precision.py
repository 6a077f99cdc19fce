"""Mixed precision: what it may change, what decides on it, and what stays as it was found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from salience import explain
from salience.auditing import audit
from salience.comparing import compare
from salience.data.base import Shard
from salience.data.source import open_images
from salience.engine import settling
from salience.engine.fidelity import DEVIATION, PROBABILITY, RANK_CORRELATION, Agreement, Fidelity, agreement
from salience.engine.passes import call_model, forward
from salience.engine.plan import Plan
from salience.engine.precision import convolution_gain, single, why_not
from salience.engine.targets import Target
from salience.engine.tune import climb, make_plan, rows_are_independent, running
from salience.errors import ModelError, RunError, SettingsError
from salience.evaluating import evaluate
from salience.explaining import RunSettings, explain_run
from salience.methods.registry import parse_method
from salience.models.classifier import Classifier
from salience.store.merge import merge_runs
from salience.store.run import open_run
from salience.testing.models import linear_classifier, small_classifier, small_vit

HALF = 2.0**-8
"""Half a unit in the last place of bfloat16: eight bits behind the leading one, rounded."""


def images_of(classifier: Classifier, count: int = 6, seed: int = 0) -> np.ndarray:
    size = classifier.preprocessing.size
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


class Cancels(nn.Module):
    """Logits are small differences of large numbers: single precision has them, bfloat16 does not."""

    def __init__(self, size: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        weights = torch.randn(4, 3 * size * size, generator=generator)
        self.up = nn.Linear(3 * size * size, 4)
        self.down = nn.Linear(3 * size * size, 4)
        with torch.no_grad():
            self.up.weight.copy_(weights + 1000)
            self.down.weight.copy_(weights * 0.5 + 1000)
            self.up.bias.zero_()
            self.down.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, 4)."""
        x = x.flatten(1)
        out: Tensor = self.up(x) - self.down(x)
        return out


def cancelling() -> Classifier:
    return Classifier(Cancels(8).eval(), size=8, name="cancels")


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Times of model calls by precision, in the place of measured ones."""
    times = {"float32": 1.0, "bfloat16": 0.5}
    monkeypatch.setattr(settling, "seconds_per_row", lambda classifier, plan, gradients: times[plan.precision])
    return times


# ---------------------------------------------------------------------- model calls


def test_logits_of_a_linear_model_are_those_of_rounded_factors_in_single_precision() -> None:
    classifier, _ = linear_classifier(size=4, classes=3)
    pixels = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    module = classifier.module
    logits = call_model(classifier, pixels, Plan(5, precision="bfloat16"))
    rounded = [t.bfloat16().double() for t in (pixels.flatten(1), module.weight.flatten(1), module.bias)]
    expected = rounded[0] @ rounded[1].T + rounded[2]
    assert logits.dtype == torch.float32
    assert torch.equal(logits, logits.bfloat16().float()), "the product itself is in bfloat16"
    bound = HALF * expected.abs() + 1e-5 * rounded[0].abs() @ rounded[1].abs().T
    assert ((logits - expected).abs() <= bound).all()
    assert not torch.equal(logits, call_model(classifier, pixels, Plan(5)))


def test_gradients_by_pixels_are_single_precision_sums_of_rounded_weights() -> None:
    classifier, weights = linear_classifier(size=4, classes=3)
    plan = Plan(4, precision="bfloat16")
    with running(classifier, plan):
        leaf = torch.full((4, 3, 4, 4), 0.3).requires_grad_()
        (slope,) = torch.autograd.grad(call_model(classifier, leaf, plan)[:, 1].sum(), leaf)
    assert slope.dtype == torch.float32
    assert torch.equal(slope[0], torch.from_numpy(weights[1]).float().bfloat16().float())


def test_the_plan_decides_and_not_the_callers_autocast() -> None:
    classifier = small_classifier()
    pixels = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    plain = Plan(4, "contiguous")
    with running(classifier, plain):
        expected = forward(classifier, pixels, plain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with running(classifier, plain):
            found = forward(classifier, pixels, plain)
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(found, expected)


def test_autocast_is_left_as_found_also_after_an_exception() -> None:
    classifier = small_classifier()
    state = (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), torch.is_autocast_cache_enabled())
    plan = Plan(2, precision="bfloat16")
    with running(classifier, plan), pytest.raises(ModelError, match="batch of shape"):
        call_model(classifier, torch.zeros(2, 5, 16, 16), plan)  # no such channels
    explain(classifier, images_of(classifier), "gradcam", precision="bfloat16")
    assert state == (
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_cache_enabled(),
    )


@pytest.mark.parametrize("allowed", [True, False])
def test_single_precision_is_no_tf32_and_the_setting_is_left_as_found(
    allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "allow_tf32", allowed)
    with running(small_classifier(), Plan(2)):
        assert not cudnn.allow_tf32
    assert cudnn.allow_tf32 is allowed


def test_single_leaves_double_alone() -> None:
    assert single(torch.ones(1, dtype=torch.float64)).dtype == torch.float64
    assert single(torch.ones(1, dtype=torch.bfloat16)).dtype == torch.float32


def test_a_search_for_the_batch_keeps_the_precision() -> None:
    best, _ = climb(Plan(8, precision="bfloat16"), 1.0, lambda plan: 1.0 / plan.batch, largest=64)
    assert (best.batch, best.precision) == (64, "bfloat16")


def test_a_plan_of_an_unknown_precision_is_refused() -> None:
    with pytest.raises(SettingsError, match="float32 or bfloat16"):
        Plan(1, precision="float8")  # type: ignore[arg-type]


def test_the_gain_of_this_machine_is_a_ratio() -> None:
    gain = convolution_gain(torch.device("cpu"), calls=1)
    assert gain is not None
    assert gain > 0
    assert convolution_gain(torch.device("meta")) is None


# ---------------------------------------------------------------------- batch invariance


@pytest.mark.parametrize("make", [small_classifier, small_vit])
def test_rows_are_independent_of_their_place(make: Any) -> None:
    classifier = make()
    plan = make_plan(classifier, batch=8, precision="bfloat16", remember=False)
    assert plan.precision == "bfloat16"
    assert plan.exact
    assert rows_are_independent(classifier, plan)


METHODS = ("gradient", "active", "ig:steps=4", "gradcam", "layercam", "occlusion:window=8:stride=4", "rise:budget=17")


def half(classifier: Classifier, methods: tuple[str, ...]) -> RunSettings:
    """Return settings in bfloat16 that pass for checked: these tests are about bytes, whatever maps are like."""
    found = Fidelity(2, 0.0, 2.0, {m: Agreement(1.0, 0.0, 0.0) for m in methods})
    return RunSettings(batch=4, memory_format="contiguous", unit_images=4, precision="bfloat16", fidelity=found)


def test_maps_of_an_image_are_the_same_bytes_in_any_company(tmp_path: Path) -> None:
    classifier = small_classifier()
    images = images_of(classifier, 6)
    how = half(classifier, METHODS)
    whole = explain_run([classifier], images, METHODS, tmp_path / "all", map_dtype="float32", settings=how).run
    explain_run([classifier], images, METHODS, tmp_path / "some", map_dtype="float32", settings=how, limit=3)
    some = open_run(tmp_path / "some")
    for method in METHODS:
        a, b = whole.maps(method), some.maps(method)
        assert b.image_ids == a.image_ids[:3]
        assert a.values.dtype == np.float32
        assert np.array_equal(a.values[:3], b.values), method
        plain = explain(classifier, images, method, batch_size=4)
        assert not np.array_equal(plain.values, a.values), f"{method} is the same in both precisions"


# ---------------------------------------------------------------------- figures


def test_agreement_of_known_maps() -> None:
    single_maps = torch.tensor([[[1.0, 2.0], [3.0, -4.0]], [[0.0, 1.0], [2.0, 4.0]]])
    half_maps = torch.tensor([[[1.0, 2.0], [3.0, -3.0]], [[1.0, 0.0], [2.0, 4.0]]])
    found = agreement(single_maps, half_maps)
    assert found.rank_correlation == pytest.approx((1.0 + 0.8) / 2)  # one swap of neighbours: 1 - 6 * 2 / (4 * 15)
    assert found.deviation == pytest.approx(0.25)
    assert found.worst == pytest.approx(0.25)


def test_agreement_of_constant_maps() -> None:
    flat, steep = torch.zeros(1, 2, 2), torch.arange(4.0).view(1, 2, 2)
    assert agreement(flat, flat) == Agreement(1.0, 0.0, 0.0)
    assert agreement(flat, steep) == Agreement(0.0, float("inf"), float("inf"))
    assert agreement(steep, flat).rank_correlation == 0.0


def test_a_map_that_fails_anyway_does_not_count_and_one_that_bfloat16_breaks_does() -> None:
    good, broken = torch.arange(9.0).view(1, 3, 3), torch.full((1, 3, 3), float("nan"))
    assert agreement(torch.cat([good, broken]), torch.cat([good, good])).within
    assert not agreement(torch.cat([good, good]), torch.cat([good, broken])).within
    assert not agreement(broken, broken).within


@pytest.mark.parametrize(
    ("figures", "within"),
    [
        ((RANK_CORRELATION, DEVIATION, PROBABILITY), True),
        ((RANK_CORRELATION - 1e-6, DEVIATION, PROBABILITY), False),
        ((RANK_CORRELATION, DEVIATION + 1e-6, PROBABILITY), False),
        ((RANK_CORRELATION, DEVIATION, PROBABILITY + 1e-6), False),
        ((RANK_CORRELATION, DEVIATION, float("nan")), False),
    ],
)
def test_tolerances_are_bounds(figures: tuple[float, float, float], within: bool) -> None:
    rank, deviation, probability = figures
    assert Fidelity(4, probability, 1.0, {"gradcam": Agreement(rank, deviation, deviation)}).within is within


def test_figures_survive_json() -> None:
    found = Fidelity(4, float("nan"), 1.5, {"a": Agreement(0.5, float("inf"), 2.0)})
    again = Fidelity.read(json.loads(json.dumps(found.to_dict())))
    assert again is not None
    assert not again.within
    assert again.speedup == 1.5
    assert again.methods["a"].rank_correlation == 0.5
    assert Fidelity.read({"images": "many"}) is None
    assert Fidelity.read(None) is None


# ---------------------------------------------------------------------- deciding


def test_bfloat16_outside_the_tolerance_is_refused_with_its_figures(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        explain_run(
            [cancelling()],
            images_of(cancelling()),
            ["gradient"],
            tmp_path / "run",
            settings=RunSettings(batch=4, precision="bfloat16"),
        )
    told = str(refused.value)
    assert "gradient: rank correlation" in told
    assert f"at least {RANK_CORRELATION}" in told
    assert "Take float32" in told


def test_auto_takes_bfloat16_inside_the_tolerance_where_it_is_faster(tmp_path: Path, speed: dict[str, float]) -> None:
    classifier = small_classifier()
    how = RunSettings(batch=4, precision="auto")
    outcome = explain_run([classifier], images_of(classifier), ["gradcam"], tmp_path / "run", settings=how)
    entry = outcome.run.info["models"]["small"]
    assert outcome.notes == (
        "small: model calls are in bfloat16; bfloat16 is 2 times as fast and keeps results within the tolerances.",
    )
    assert entry["plan"]["precision"] == "bfloat16"
    assert entry["fidelity"]["within"] is True
    assert entry["fidelity"]["speedup"] == 2.0
    assert entry["fidelity"]["methods"]["gradcam"]["rank_correlation"] > RANK_CORRELATION
    assert entry["fidelity"]["images"] == 6


@pytest.mark.parametrize(
    ("make", "method", "within"), [(small_classifier, "gradcam", True), (cancelling, "gradient", False)]
)
def test_auto_takes_float32_otherwise_and_records_why(
    make: Any, method: str, within: bool, tmp_path: Path, speed: dict[str, float]
) -> None:
    classifier = make()
    speed["bfloat16"] = 0.99 if within else 0.5  # either not worth it, or not good enough
    images = images_of(classifier)
    how = RunSettings(batch=4, precision="auto")
    run = explain_run([classifier], images, [method], tmp_path / "run", settings=how).run
    entry = run.info["models"][classifier.name]
    assert entry["plan"]["precision"] == "float32"
    assert entry["fidelity"]["within"] is within
    plain = explain_run([classifier], images, [method], tmp_path / "plain", settings=RunSettings(4)).run
    assert plain.info["current"] == run.info["current"], "a recipe in float32 is named as it always was"
    assert "fidelity" not in plain.info["models"][classifier.name]


class Particular(nn.Module):
    """Has a kernel of its own that was not written for bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, 4)."""
        z: Tensor = self.linear(x.flatten(1))
        if z.dtype == torch.bfloat16:
            raise RuntimeError("not implemented for 'BFloat16'")
        return z


def test_a_model_that_bfloat16_breaks_is_run_in_float32_by_auto_and_refused_by_name(speed: dict[str, float]) -> None:
    classifier = Classifier(Particular().eval(), size=8, name="particular")
    images = images_of(classifier)
    plain = explain(classifier, images, "gradient", batch_size=4)
    assert np.array_equal(explain(classifier, images, "gradient", batch_size=4, precision="auto").values, plain.values)
    with pytest.raises(ModelError, match="'particular' fails"):
        explain(classifier, images, "gradient", batch_size=4, precision="bfloat16")


def test_methods_that_are_not_asked_for_do_not_count(tmp_path: Path, speed: dict[str, float]) -> None:
    classifier = small_classifier()
    bad = Fidelity(4, 0.0, 2.0, {"gradient": Agreement(0.5, 0.5, 0.5)})
    check = replace(_check(classifier, open_images(images_of(classifier))), target=Target("predicted"))
    plan, found = settling.settle(check, "bfloat16", lambda p: Plan(4, "contiguous", precision=p), known=bad)
    assert plan.precision == "bfloat16"
    assert found is not None
    assert set(found.methods) == {"gradient", "gradcam"}
    assert not found.within


def test_models_without_gradients_are_not_cast() -> None:
    box = Classifier.from_callable(lambda x: x.mean((2, 3)), size=8)
    assert why_not(box) is not None
    found = explain(box, images_of(box), "occlusion", precision="auto")
    assert len(found.values) == 6
    with pytest.raises(SettingsError, match="cannot be run in bfloat16"):
        explain(box, images_of(box), "occlusion", precision="bfloat16")
    double, _ = linear_classifier(dtype=torch.float64)
    assert "float64" in str(why_not(double))
    assert why_not(small_classifier()) is None


def test_images_that_cannot_be_used_are_passed_over(tmp_path: Path, speed: dict[str, float]) -> None:
    classifier = small_classifier()
    images = images_of(classifier, 4)
    labels = [None, 1, None, 2]
    how = RunSettings(batch=4, precision="auto")
    source = open_images(images, labels=labels)
    run = explain_run([classifier], source, ["gradcam"], tmp_path / "run", target="label", settings=how).run
    assert run.info["models"]["small"]["fidelity"]["images"] == 2
    none = open_images(images, labels=[None, None, None, 2])
    with pytest.raises(SettingsError, match="cannot be checked"):
        settling.settle(
            replace(_check(classifier, none), classes=(None,) * 4), "bfloat16", lambda p: Plan(4, precision=p)
        )


def _check(classifier: Classifier, source: Any) -> settling.Check:
    return settling.Check(
        classifier, [parse_method("gradcam")], Target("label"), None, 0, None, source, (None,) * 4, False
    )


def test_models_of_one_run_are_run_alike(tmp_path: Path, speed: dict[str, float]) -> None:
    good, bad = small_classifier(size=8, name="good"), cancelling()
    how = RunSettings(batch=4, precision="auto")
    run = explain_run([good, bad], images_of(good), ["gradient"], tmp_path / "run", settings=how).run
    assert {entry["plan"]["precision"] for entry in run.info["models"].values()} == {"float32"}


# ---------------------------------------------------------------------- runs


def test_carrying_on_keeps_the_precision_and_reuses_everything(tmp_path: Path, speed: dict[str, float]) -> None:
    classifier = small_classifier()
    images = images_of(classifier, 6)
    how = RunSettings(batch=4, precision="auto", unit_images=4)
    explain_run([classifier], images, ["gradcam"], tmp_path / "run", limit=4, settings=how)
    speed["bfloat16"] = 2.0  # now slower: a run that has begun stays what it is
    outcome = explain_run([classifier], images, ["gradcam"], tmp_path / "run", settings=how)
    assert (outcome.summaries["small"].reused, outcome.summaries["small"].computed) == (4, 2)
    whole = explain_run(
        [classifier], images, ["gradcam"], tmp_path / "whole", settings=replace(how, precision="bfloat16")
    )
    assert np.array_equal(outcome.run.maps("gradcam").values, whole.run.maps("gradcam").values)
    assert outcome.run.info["models"]["small"]["fidelity"]["images"] == 4


def test_another_precision_computes_everything_again_under_another_recipe(tmp_path: Path) -> None:
    classifier = small_classifier()
    images = images_of(classifier)
    plain, mixed = RunSettings(batch=4), RunSettings(batch=4, precision="bfloat16")
    first = explain_run([classifier], images, ["gradcam"], tmp_path / "run", settings=plain)
    second = explain_run([classifier], images, ["gradcam"], tmp_path / "run", settings=mixed)
    assert second.summaries["small"].computed == len(images)
    before, now = (o.run.info["recipes"][o.run.info["current"][0]] for o in (first, second))
    assert before["identity"] != now["identity"]
    assert "precision" not in before
    assert now["precision"] == "bfloat16"
    assert not np.array_equal(first.run.maps("gradcam").values, second.run.maps("gradcam").values)
    third = explain_run([classifier], images, ["gradcam"], tmp_path / "run", settings=plain)
    assert third.summaries["small"].reused == len(images)


def test_a_method_that_is_added_is_checked(tmp_path: Path, speed: dict[str, float]) -> None:
    classifier = small_classifier()
    images = images_of(classifier)
    how = RunSettings(batch=4, precision="auto")
    explain_run([classifier], images, ["gradcam"], tmp_path / "run", settings=how)
    both = explain_run([classifier], images, ["gradcam", "layercam"], tmp_path / "run", settings=how)
    entry = both.run.info["models"]["small"]
    assert set(entry["fidelity"]["methods"]) == {"gradcam", "layercam"}
    assert both.summaries["small"].computed == len(images)


def test_parts_do_not_choose_for_themselves_and_do_not_mix(tmp_path: Path) -> None:
    classifier = small_classifier()
    images = images_of(classifier)
    for k, precision in ((1, "float32"), (2, "bfloat16")):
        how = RunSettings(batch=4, precision=precision)  # type: ignore[arg-type]
        part = Shard(k, 2)
        explain_run([classifier], images, ["gradcam"], tmp_path / str(k), shard=part, settings=how)
    with pytest.raises(RunError):
        merge_runs([tmp_path / "1", tmp_path / "2"], tmp_path / "both")
    how = RunSettings(batch=4, precision="auto")
    with pytest.raises(SettingsError, match="Name one"):
        explain_run([classifier], images, ["gradcam"], tmp_path / "3", shard=Shard(1, 2), settings=how)


def test_scores_are_in_the_precision_of_the_maps(tmp_path: Path) -> None:
    classifier = small_classifier()
    images = images_of(classifier, 4)
    found = {}
    for precision in ("float32", "bfloat16"):
        how = RunSettings(batch=8, precision=precision)  # type: ignore[arg-type]
        scores = evaluate(
            classifier, images, "gradcam", metrics="deletion", labels="predicted", out=tmp_path / "run", settings=how
        )
        assert scores.run is not None
        stage = scores.run.info["stages"]["evaluate"]
        assert stage["plans"]["small"]["precision"] == precision
        found[precision] = set(stage["current"])
    assert not found["float32"] & found["bfloat16"]


def precisions(folder: Path) -> set[str]:
    """Return the precisions of all plans in a run directory and the runs within it."""
    runs = [json.loads(path.read_text()) for path in folder.rglob("run.json")]
    plans = [entry["plan"] for run in runs for entry in run["models"].values()]
    plans += [p for run in runs for stage in run.get("stages", {}).values() for p in stage.get("plans", {}).values()]
    return {plan["precision"] for plan in plans}


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Methods of every check that is made."""
    made: list[list[str]] = []
    run = settling.Check.run

    def counted(self: settling.Check, single: Plan, half: Plan) -> Fidelity | None:
        made.append([m.label for m in self.methods])
        return run(self, single, half)

    monkeypatch.setattr(settling.Check, "run", counted)
    return made


def test_an_audit_is_in_one_precision_and_checked_once_a_model(tmp_path: Path, checks: list[list[str]]) -> None:
    first, second = (small_classifier(seed=k, name=f"m{k}") for k in (0, 1))
    how = RunSettings(batch=8, precision="bfloat16")
    audit([first, second], images_of(first, 4), measures=["entropy", "geometry"], out=tmp_path / "run", settings=how)
    assert (tmp_path / "run" / "conditions" / "m0" / "run.json").exists()
    assert precisions(tmp_path / "run") == {"bfloat16"}
    assert checks == [["gradcam"], ["gradcam"]]


def test_a_comparison_asks_about_changed_images_in_the_precision_of_the_maps(tmp_path: Path) -> None:
    first, second = (small_classifier(seed=k, name=f"m{k}") for k in (0, 1))
    how = RunSettings(batch=8, precision="bfloat16")
    grid = "grid:rows=2:columns=2"
    images = images_of(first, 12)
    found = compare(
        first, second, images, method="gradcam", output="logit", segments=grid, out=tmp_path / "run", settings=how
    )
    assert found.run is not None
    stage = found.run.info["stages"]["compare"]
    assert set(stage["plans"]) == {"m0", "m1"}
    assert precisions(tmp_path / "run") == {"bfloat16"}
    drops = [r for r in stage["recipes"].values() if r["what"] == "drops"]
    assert [r["precision"] for r in drops] == ["bfloat16"] * len(drops)
    assert drops
