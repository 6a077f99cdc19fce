"""The verb audit: which work it does, what it keeps, and that the measures read what was computed."""

from __future__ import annotations

import math
import subprocess
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from PIL import Image

import salience
from salience.auditing import audit
from salience.behaviour.aligned import AlignedView
from salience.behaviour.conditions.geometry import HalfCellShift
from salience.behaviour.conditions.registry import conditions, find_condition
from salience.behaviour.members import Member, parse_models
from salience.behaviour.pace import WHO, Pace, Phase
from salience.behaviour.reading import audit_failures
from salience.behaviour.resampling import enlarge
from salience.engine.events import Event, Failed, Finished, Progress, Started
from salience.errors import MetricError, ModelError, RunError, SettingsError
from salience.explaining import RunSettings
from salience.models.classifier import Classifier
from salience.store.run import open_run
from salience.testing.models import small_classifier

FAST = RunSettings(batch=8, memory_format="contiguous", threads=1)
SIDE = 32


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """These nets are too small for more."""


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Four pictures with a bright patch each."""
    rng = np.random.default_rng(5)
    made = rng.integers(0, 90, (4, 40, 40, 3), dtype=np.uint8)
    for i in range(4):
        made[i, 8 * i : 8 * i + 12, 6 : 6 + 9 * (i + 1)] += 120
    return made


def net(seed: int, name: str = "net", size: int | tuple[int, int] = SIDE) -> Classifier:
    made = small_classifier(seed=seed, name=name)
    return Classifier(made.module, size=size, mean=(0.4, 0.45, 0.5), std=(0.2, 0.25, 0.3), name=name)


GROUPS = {"plain": (0, 1), "guided": (2, 3)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, images: np.ndarray) -> Iterator[salience.Audit]:
    """An audit of two groups with everything in it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    models = {group: [net(s, f"net{s}") for s in seeds] for group, seeds in GROUPS.items()}
    out = tmp_path_factory.mktemp("audit") / "run"
    yield audit(models, images, out_of_set=images[::2] // 2, out=out, settings=FAST, background="blur")
    torch.set_num_threads(threads)


# ---------------------------------------------------------------------- who is audited


def names(found: tuple[Member, ...]) -> list[tuple[str, str]]:
    return [(member.group, member.name) for member in found]


def test_models_are_named_after_group_and_file() -> None:
    given = {"plain": ["runs/plain_0.toml", "runs/seed1.toml"], "guided": ["best=x.toml", "timm:resnet18?pretrained=1"]}
    assert names(parse_models(given)) == [
        ("plain", "plain_0"),
        ("plain", "plain-seed1"),
        ("guided", "guided-best"),
        ("guided", "guided-resnet18"),
    ]


def test_files_of_one_name_are_told_apart_by_their_folders_or_numbered() -> None:
    same = {"plain": ["a/run/card.toml", "b/run/card.toml"]}
    assert names(parse_models(same)) == [("plain", "plain-a-run-card"), ("plain", "plain-b-run-card")]
    assert [n for _, n in names(parse_models({"g": ["pkg.nets:make", "pkg.nets:make", "pkg.nets:make"]}))] == [
        *("g-make", "g-make-2", "g-make-3")
    ]


def test_twins_are_scored_once_and_told_twice(images: np.ndarray) -> None:
    """Models of the same weights: the curves are computed for one of them."""
    models = {"same": [net(1, "a"), net(1, "b")]}
    found = audit(models, images[:2], measures="degradation", settings=FAST, background="blur")
    scores = AlignedView(found.run).scores
    assert scores is not None
    by_model = {m: scores.filter(pc.equal(scores["model"], m)).drop_columns(["model"]) for m in found.models}
    assert len(by_model["same-a"])
    assert by_model["same-a"] == by_model["same-b"]


def test_models_without_groups_are_groups_of_one() -> None:
    assert names(parse_models("cards/a.toml")) == [("a", "a")]
    assert names(parse_models([Path("cards/a.toml"), "mine=b.toml"])) == [("a", "a"), ("mine", "mine")]
    assert names(parse_models(net(0, "this"))) == [("this", "this")]


def test_what_cannot_be_audited_is_refused() -> None:
    with pytest.raises(SettingsError, match="'plain' has no models"):
        parse_models({"plain": []})
    with pytest.raises(SettingsError, match="There are no models"):
        parse_models([])
    with pytest.raises(SettingsError, match="Two models are called 'net'"):
        parse_models({"n": [net(0)], "ne": [net(1)]})
    with pytest.raises(ModelError):
        parse_models({"a/b": ["x.toml"]})


# ---------------------------------------------------------------------- what is asked


def test_stability_alone_needs_two_runs(images: np.ndarray) -> None:
    with pytest.raises(MetricError, match="needs a group of two runs"):
        audit(net(0), images, measures="stability")


def test_a_single_model_has_everything_but_stability(images: np.ndarray) -> None:
    found = audit(net(0), images, measures="entropy,stability", settings=FAST)
    assert found.asked == ("entropy",)
    assert any("Stability compares training runs" in note for note in found.notes)
    assert set(found.measures["measure"].to_pylist()) == {"entropy"}
    folder = found.run.folder
    assert folder.exists()
    assert not (folder / "conditions").exists()
    del found
    assert not folder.exists()  # a temporary run goes with its result


def test_mistakes_are_told_before_anything_is_computed(tmp_path: Path, images: np.ndarray) -> None:
    out = tmp_path / "run"
    with pytest.raises(SettingsError, match="second dataset"):
        audit(net(0), images, measures="entropy", out_of_set=images, out=out)
    with pytest.raises(MetricError, match="entropi"):
        audit(net(0), images, measures=["entropi"], out=out)
    with pytest.raises(SettingsError, match="limit is 0"):
        audit(net(0), images, limit=0, out=out)
    with pytest.raises(MetricError, match="Background 'blurry'"):
        audit(net(0), images, background="blurry", out=out)
    assert not out.exists()


def test_only_conditions_of_the_chosen_measures_are_computed(tmp_path: Path, images: np.ndarray) -> None:
    found = audit(net(0), images, measures=["geometry"], out=tmp_path / "run", settings=FAST)
    ids = open_run(found.run.folder / "conditions" / "net").images["image_id"].to_pylist()
    assert {i.rpartition("@")[2] for i in ids} == set(conditions(["geometry"]))
    assert len(ids) == len(images) * len(conditions(["geometry"]))
    assert "evaluate" not in found.run.info["stages"]


# ---------------------------------------------------------------------- what comes of it


def test_all_measures_of_all_models(whole: salience.Audit) -> None:
    assert whole.groups == {"plain": ("plain-net0", "plain-net1"), "guided": ("guided-net2", "guided-net3")}
    assert whole.asked == ("entropy", "out-of-set", "geometry", "stability", "degradation")
    rows = whole.measures
    assert set(rows["measure"].to_pylist()) == set(whole.asked)
    assert set(rows["form"].to_pylist()) == {"published", "corrected"}
    assert set(rows["method"].to_pylist()) == {"gradcam"}
    under = set(rows["condition"].to_pylist())
    assert under >= {*conditions(), "clean", "out-of-set", "blur"}
    assert {r["group"] for r in whole.effects.to_pylist()} == {"plain", "guided"}
    assert len(whole.run_pairs)
    assert whole.run.info["status"] == "complete"
    stage = whole.run.info["stages"]["audit"]
    assert stage["complete"]
    assert stage["settings"]["conditions"]["shift16-up"]["published"]
    assert {s["measure"] for s in stage["statistics"]} == set(whole.asked)
    assert set(whole.run.info["stages"]["evaluate"]["methods"]) == {"gradcam", "random-blurred"}
    assert audit_failures(whole.run) == []
    assert any("No difference" in s for s in whole.sentences())


def test_the_view_reads_maps_and_answers_of_the_changed_images(whole: salience.Audit, images: np.ndarray) -> None:
    view = AlignedView(whole.run)
    model, every = "guided-net3", np.arange(len(images))
    clean = view.predicted(model)
    classifier = net(3)
    pixels = torch.from_numpy(np.stack([_fitted(image) for image in images])).permute(0, 3, 1, 2) / 255
    maps = salience.explain(classifier, pixels, "gradcam", batch_size=8)
    np.testing.assert_array_equal(clean, maps.targets)
    _close(view.maps(model, every), maps.values)
    for name in ("flip-tb", "rotate+30", "brightness-5", "shift32-left"):
        condition = find_condition(name)
        moved = condition.change(pixels, [f"{i:06d}" for i in every], 0)  # type: ignore[attr-defined]
        for i in every:
            own = salience.explain(classifier, moved[i : i + 1], "gradcam", target=int(clean[i]), batch_size=8)
            _close(view.maps(model, every[i : i + 1], name), own.values)
        with torch.no_grad():
            logits = classifier.logits(moved).numpy()
        np.testing.assert_allclose(view.logits(model, every, name), logits, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(view.predicted(model, name), logits.argmax(1))
    assert len(view.maps(model, every[:0], "flip-tb")) == 0


def test_where_the_prediction_changed_the_published_form_has_the_map_of_the_new_one(whole: salience.Audit) -> None:
    view = AlignedView(whole.run)
    told = 0
    for model in whole.models:
        for name in (n for n, c in conditions().items() if c.published):
            before, after = view.predicted(model), view.predicted(model, name)
            other = np.flatnonzero(before != after)
            same = np.flatnonzero(before == after)
            np.testing.assert_array_equal(view.maps(model, same, name, fixed=False), view.maps(model, same, name))
            if len(other):
                told += len(other)
                fixed, free = (view.maps(model, other, name, fixed=f) for f in (True, False))
                assert np.isfinite(free).all()
                assert (fixed != free).any(axis=(1, 2)).all()
    assert told


def test_maps_are_brought_onto_one_grid(whole: salience.Audit) -> None:
    view = AlignedView(whole.run)
    model, every = whole.models[0], np.arange(4)
    clean = view.maps(model, every)
    flipped = view.align(model, "flip-lr", clean, clean[..., ::-1])
    np.testing.assert_array_equal(flipped.after, clean)
    np.testing.assert_array_equal(flipped.static, clean[..., ::-1])
    assert flipped.valid.all()
    noisy = view.align(model, "blur-1", clean, clean)
    assert noisy.before.shape == clean.shape
    moved = view.align(model, "shift16-up", clean, clean)
    np.testing.assert_array_equal(moved.before, enlarge(clean, (SIDE, SIDE)))
    wanted, valid = HalfCellShift("up").undo(enlarge(clean, (SIDE, SIDE)))
    np.testing.assert_array_equal(moved.after, wanted)
    np.testing.assert_array_equal(moved.static, wanted)
    np.testing.assert_array_equal(moved.valid, valid)
    led = view.align(model, "object", clean, 2 * clean)
    np.testing.assert_array_equal(led.static, led.before)
    np.testing.assert_allclose(led.after, 2 * led.before, rtol=1e-6)


def test_the_second_dataset_is_read_by_the_same_models(whole: salience.Audit) -> None:
    other = AlignedView(whole.run).out_of_set
    assert other is not None
    assert len(other.image_ids) == 2
    assert other.out_of_set is None
    for model in whole.models:
        assert np.isfinite(other.maps(model, np.arange(2))).all()
        assert (other.predicted(model) >= 0).all()


def test_a_run_without_an_audit_says_so(tmp_path: Path, images: np.ndarray) -> None:
    salience.explain_run([net(0)], images, ["gradcam"], tmp_path, settings=FAST)
    with pytest.raises(RunError, match="holds no audit"):
        AlignedView(tmp_path)


def test_reading_an_audit_needs_no_torch() -> None:
    code = "import sys, salience.behaviour.reading; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("method", ["rise:budget=8", "gradient"])
def test_any_method_of_any_model(images: np.ndarray, method: str) -> None:
    module = net(1).module

    def answer(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(x)).numpy()  # type: ignore[no-any-return]

    black_box = Classifier.from_callable(answer, size=SIDE, name="box")
    model = black_box if method.startswith("rise") else net(1)
    found = audit(model, images[:2], method=method, measures="geometry", settings=FAST)
    assert found.method == method
    assert set(found.measures["condition"].to_pylist()) == set(conditions(["geometry"]))
    assert audit_failures(found.run) == []


# ---------------------------------------------------------------------- carrying on


def _bytes(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / "derived").glob("*.parquet"))}


def test_a_second_call_computes_nothing_and_gives_the_same_bytes(
    whole: salience.Audit, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _bytes(whole.run.folder)
    models = {group: [net(s, f"net{s}") for s in seeds] for group, seeds in GROUPS.items()}
    monkeypatch.setattr("salience.explaining.make_plan", lambda *_, **__: pytest.fail("the plan is known"))
    heard: list[Event] = []
    audit(
        models, images, out_of_set=images[::2] // 2, out=whole.run.folder, settings=FAST, background="blur",
        listen=heard.append,
    )  # fmt: skip
    assert _bytes(whole.run.folder) == before
    last = heard[-1]
    assert isinstance(last, Finished)
    assert (last.model, last.computed, last.forward_calls, last.backward_calls) == (WHO, 0, 0, 0)
    assert last.reused > len(images) * len(conditions())


@pytest.mark.parametrize("where", ["conditions", "changed", "derived"])
def test_what_is_lost_is_made_again(tmp_path: Path, images: np.ndarray, where: str) -> None:
    def ask() -> salience.Audit:
        return audit(net(3), images, measures=["geometry"], out=tmp_path / "run", settings=FAST)

    first = _bytes(ask().run.folder)
    for record in sorted((tmp_path / "run").glob(f"{where}/net/units/*.json"))[-1:]:
        record.unlink()
    for table in (tmp_path / "run" / "derived").glob("*"):
        table.unlink()
    assert _bytes(ask().run.folder) == first


def test_how_work_is_cut_into_units_changes_no_byte(tmp_path: Path, images: np.ndarray) -> None:
    found = []
    for name, size in (("few", 64), ("many", 7)):
        how = replace(FAST, unit_images=size)
        made = audit(net(3), images, measures="geometry", out=tmp_path / name, settings=how)
        found.append(_bytes(made.run.folder))
    assert len(open_run(tmp_path / "many" / "conditions" / "net").units()) > 10
    assert found[0] == found[1]


def test_more_measures_are_added_to_what_is_there(tmp_path: Path, images: np.ndarray) -> None:
    audit(net(1), images, measures="degradation", out=tmp_path / "run", settings=FAST, background="blur")
    heard: list[Event] = []
    found = audit(
        net(1), images, measures="entropy,degradation,geometry", out=tmp_path / "run", settings=FAST,
        background="blur", listen=heard.append,
    )  # fmt: skip
    done = {e.model: e for e in heard if isinstance(e, Finished) and e.computed}
    assert done["net, conditions"].computed == len(images) * len(conditions(["geometry"]))
    assert done["net, conditions"].reused == len(images) * 2
    assert "net, clean" not in done
    assert "net, degradation" not in done
    assert found.asked == ("entropy", "geometry", "degradation")


def test_other_noise_under_another_seed(tmp_path: Path, images: np.ndarray) -> None:
    def noisy(seed: int) -> np.ndarray:
        found = audit(net(1), images, measures="out-of-set", out=tmp_path / "run", settings=FAST, seed=seed)
        return AlignedView(found.run).maps("net", np.arange(4), "gaussian-noise-5")

    first = noisy(0)
    assert (noisy(1) != first).any()
    np.testing.assert_array_equal(noisy(0), first)


# ---------------------------------------------------------------------- what goes wrong


def test_a_broken_image_is_left_out_and_told(tmp_path: Path, images: np.ndarray) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    (folder / "2.png").write_bytes(b"broken")
    heard: list[Event] = []
    found = audit(
        net(2), folder, measures="geometry,degradation", out=tmp_path / "run", settings=FAST, background="blur",
        listen=heard.append,
    )  # fmt: skip
    assert {row["image_id"] for row in audit_failures(found.run)} == {"2.png"}
    assert any(isinstance(e, Failed) and e.image_id == "2.png" for e in heard)
    view = AlignedView(found.run)
    assert view.predicted("net").tolist().count(-1) == 1
    assert np.isnan(view.maps("net", np.array([2]), "flip-lr")).all()
    assert np.isnan(view.logits("net", np.array([2]), "flip-lr")).all()
    assert set(found.measures["image_id"].to_pylist()) == {"0.png", "1.png", "3.png"}
    assert any("no answer for 1 of 4 images" in note for note in found.notes)


def test_a_run_that_diverged_is_told_and_the_others_are_measured(tmp_path: Path, images: np.ndarray) -> None:
    broken = net(1)
    with torch.no_grad():
        broken.module.fc.bias.fill_(math.nan)  # type: ignore[union-attr, operator]
    models = {"plain": [net(0, "good"), Classifier(broken.module, size=SIDE, name="bad"), net(2, "fine")]}
    found = audit(models, images, out=tmp_path / "run", settings=FAST, background="blur")
    assert {row["model"] for row in audit_failures(found.run)} == {"plain-bad"}
    rows = found.measures
    single = set(rows.filter(pc.is_valid(rows["model"]))["model"].to_pylist())
    assert single == {"plain-good", "plain-fine"}
    assert set(rows["measure"].to_pylist()) == set(found.asked)
    assert any("plain-bad has no answer for 4 of 4 images" in note for note in found.notes)


def test_only_baselines_that_there_are(tmp_path: Path, images: np.ndarray) -> None:
    with pytest.raises(MetricError, match=r"no baseline 'randon'.*Did you mean 'random'"):
        salience.evaluate(net(0), images, ["gradcam"], baselines=["randon"], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_inputs_that_are_not_square_are_not_turned(images: np.ndarray) -> None:
    found = audit(net(0, size=(32, 24)), images, measures="geometry", settings=FAST)
    under = set(found.measures["condition"].to_pylist())
    assert under == set(conditions(["geometry"])) - {"rotate+90", "rotate-90"}
    assert any("32x24: rotate+90, rotate-90 cannot be made" in note for note in found.notes)


def test_an_interrupted_audit_says_so_and_leaves_no_tables_of_another(tmp_path: Path, images: np.ndarray) -> None:
    audit(net(0), images, measures="entropy", out=tmp_path / "run", settings=FAST)

    def interrupt(event: Event) -> None:
        if isinstance(event, Progress) and event.done > len(images) + 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(net(0), images, measures="geometry", out=tmp_path / "run", settings=FAST, listen=interrupt)
    assert open_run(tmp_path / "run").info["status"] == "interrupted"
    found = audit(net(0), images, measures="geometry", out=tmp_path / "run", settings=FAST)
    assert set(found.measures["measure"].to_pylist()) == {"geometry"}


# ---------------------------------------------------------------------- models, one at a time


def test_models_are_loaded_one_after_another_and_let_go(images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[torch.nn.Module]] = []
    most = []

    def load(spec: str, *, name: str, **_: object) -> Classifier:
        most.append(sum(ref() is not None for ref in alive))
        made = net(int(spec[-1]), name)
        alive.append(weakref.ref(made.module))
        return made

    monkeypatch.setattr("salience.behaviour.members.load_model", load)
    found = audit({"plain": ["n:0", "n:1", "n:2"]}, images, measures="geometry,stability", settings=FAST)
    assert most == [0, 0, 0]
    assert found.groups == {"plain": ("plain-0", "plain-1", "plain-2")}


def test_a_model_that_was_given_keeps_its_name_and_is_hashed_once(
    images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = net(0, "mine")
    hashed = []
    plain = Classifier.fingerprint
    monkeypatch.setattr(Classifier, "fingerprint", lambda self: hashed.append(1) or plain(self))
    found = audit({"plain": [model, net(1, "other")]}, images, measures="geometry,stability", settings=FAST)
    assert found.models == ("plain-mine", "plain-other")
    assert len(hashed) == 2
    assert model.name == "mine"
    assert "fingerprint" not in vars(model)


def test_models_of_one_architecture_are_measured_once(images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    plain = salience.engine.tune._measure
    monkeypatch.setattr("salience.engine.tune._measure", lambda *a: measured.append(1) or plain(*a))
    audit({"plain": [net(91, "a"), net(92, "b")]}, images, measures="entropy,geometry")
    assert len(measured) == 1


# ---------------------------------------------------------------------- how far it is


def test_the_whole_is_told_of_as_one_piece_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("salience.behaviour.pace.time.perf_counter", lambda: clock[0])
    heard: list[Event] = []
    phases = [Phase(m, kind, n) for m in ("a", "b") for kind, n in (("clean", 10), ("conditions", 100))]
    pace = Pace(phases, heard.append)
    pace.start()
    assert isinstance(heard[-1], Started)
    assert (heard[-1].images, heard[-1].calls_per_image) == (220, 0)

    def work(phase: Phase, done: int, reused: int, seconds: float) -> None:
        hear = pace.of(phase)
        hear(Started(phase.model, done, reused, 1, "contiguous", 1, "cpu", 2))
        clock[0] += seconds
        hear(Progress(phase.model, done, done, 1.0, 1.0, 0.0))
        hear(Finished(phase.model, done, reused, 0, seconds, 1.0, done, done))
        pace.end(phase)

    def last() -> Progress:
        return [e for e in heard if isinstance(e, Progress)][-1]

    work(phases[0], 10, 0, 5.0)  # half a second an image
    assert last().eta_s == pytest.approx(0.5 * 210)
    assert last().share == pytest.approx(5 / 110)
    work(phases[1], 100, 0, 10.0)  # these are faster
    assert last().eta_s == pytest.approx(0.5 * 10 + 0.1 * 100)
    work(phases[2], 4, 6, 2.0)  # six were there already
    assert last().eta_s == pytest.approx(0.1 * 100)
    work(phases[3], 100, 0, 10.0)
    assert last().eta_s == 0
    assert last().share == 1
    assert (last().done, last().images) == (220, 220)
    pace.finish()
    end = heard[-1]
    assert isinstance(end, Finished)
    assert (end.model, end.computed, end.reused, end.forward_calls) == (WHO, 214, 6, 214)
    assert [e.model for e in heard if isinstance(e, Finished)][:2] == ["a, clean", "a, conditions"]


def test_nothing_is_known_of_the_time_at_first() -> None:
    heard: list[Event] = []
    pace = Pace([Phase("a", "clean", 3), Phase("b", "clean", 3)], heard.append)
    pace.start()
    hear = pace.of(pace.phases[0])
    hear(Started("a", 3, 0, 1, "contiguous", 1, "cpu", 2))
    hear(Progress("a", 0, 3, 0.0, 0.0, math.inf))
    assert isinstance(heard[-1], Progress)
    assert (heard[-1].eta_s, heard[-1].share) == (math.inf, 0.0)


def _fitted(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _close(found: np.ndarray, wanted: np.ndarray) -> None:
    """Maps are stored in half precision, scaled to their largest value."""
    np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max() + 1e-12)
