"""The verb on small nets: properties that hold whatever is found, resuming, failures, label spaces, masks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image

from salience.comparing import METHOD, compare
from salience.comparison.partition import Grid
from salience.comparison.result import Comparison, read_comparison
from salience.comparison.strata import QUADRANTS
from salience.data.source import open_images
from salience.errors import ImagesError, ModelError, RunError, SettingsError
from salience.explaining import RunSettings
from salience.models.classifier import Classifier
from salience.store.run import open_run
from salience.store.writer import RunWriter
from salience.testing.models import SmallNet, small_classifier

HOW = RunSettings(batch=16, memory_format="contiguous", threads=1)
SIDE = 20
COUNT = 72
CLASSES = ("ant", "bee")
SETTINGS: dict[str, Any] = {
    "method": "ig:steps=8:baseline=black+white",
    "segments": "grid:rows=3:columns=3",
    "concepts": 4,
    "confirm": 2,
    "settings": HOW,
}
TABLES = ("segments", "attributions", "concepts", "effects", "interventions")


@pytest.fixture(autouse=True)
def _small(one_thread: None) -> None:
    """The nets of these tests are small."""


def pixels(count: int = COUNT, side: int = SIDE) -> np.ndarray:
    """Smooth coloured noise: cells of a grid look like each other here and there."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 3, 3, 3)).astype(np.uint8)
    return small.repeat(-(-side // 3), axis=1).repeat(-(-side // 3), axis=2)[:, :side, :side]


LABELS = [i % 2 for i in range(COUNT)]


def net(seed: int, name: str, size: int = 16, classes: tuple[str, ...] | None = CLASSES) -> Classifier:
    made = small_classifier(size, len(classes) if classes else 2, seed=seed, name=name)
    made.classes = classes
    return made


def differ(a: Classifier, others: Any, images: Any = None, **more: Any) -> Comparison:
    given = open_images(pixels(), labels=LABELS) if images is None else images
    return compare(a, others, given, **{**SETTINGS, **more})


def digests(folder: Path) -> dict[str, str]:
    return {t: hashlib.sha256((folder / "derived" / f"{t}.parquet").read_bytes()).hexdigest() for t in TABLES}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return differ(net(1, "a"), net(2, "b"), out=tmp_path_factory.mktemp("pair") / "run")


# ------------------------------------------------------------------ properties


def test_every_table_is_written_and_read_again(pair: Comparison) -> None:
    again = read_comparison(pair.run.folder)
    for name in TABLES:
        assert getattr(again, name).equals(getattr(pair, name))
        assert len(getattr(pair, name))
    assert (pair.models, pair.reference, pair.others) == (("a", "b"), "a", ("b",))
    assert len(pair.segments) == 9 * COUNT
    assert len(pair.attributions) == 2 * 9 * COUNT
    assert pair.concepts["concept"].to_pylist() == list(range(len(pair.concepts)))
    assert len(pair.concepts) <= 4
    assert set(pair.effects["family"].to_pylist()) == {"direction", "use", "ledger"}
    assert set(pair.effects["stratum"].to_pylist()) <= {"all", "class:ant", "class:bee", *QUADRANTS}


def test_totals_of_segments_add_up_to_the_map_and_the_ledger_to_the_change(pair: Comparison) -> None:
    for model in pair.models:
        gap = pair.diagnostic(model, "completeness_gap")
        change = pair.diagnostic(model, "output_change")
        assert np.isfinite(gap).all()
        # float16 maps are off by 2^-11 of each value at most
        size = np.array([np.abs(pair.heatmap(model, i)).sum() for i in pair.images])
        assert (np.abs(pair.totals(model).sum(1) - change - gap) <= size * 2**-11 + 1e-5).all()
    for where in ("all", "class:ant", *QUADRANTS, pair.images[3]):
        book = pair.ledger(where)
        assert book.images == len(pair.slice(where))
        assert book.difference.sum() == pytest.approx(book.change + book.gap, abs=1e-9)
    stored = pair.gap("b", pair.images[3]) - pair.gap("a", pair.images[3])
    assert pair.ledger(pair.images[3]).gap == pytest.approx(stored, abs=2e-3)


def test_shares_are_totals_over_the_whole_map(pair: Comparison) -> None:
    image_id = pair.images[5]
    rows = pair.segments_of(image_id)
    for model in pair.models:
        heat = pair.heatmap(model, image_id)
        labels = pair.label_map(image_id)
        for row in rows:
            inside = heat[labels == row["segment"]].sum()
            assert row["totals"][model] == pytest.approx(inside, abs=1e-5)
        whole = sum(abs(v) for v in np.nditer(pair._readers[model].read(image_id, [int(pair.targets[5])])))
        assert row["shares"][model] == pytest.approx(row["totals"][model] / whole, rel=1e-5)


def test_a_model_against_itself_differs_by_exactly_nothing() -> None:
    found = differ(net(1, "a"), net(1, "again"))
    assert set(found.effects["effect"].to_pylist()) == {0.0}
    assert set(found.interventions["effect"].to_pylist()) <= {0.0}
    assert all(p in (None, 1.0) for p in found.effects["p"].to_pylist())
    assert len(found.confirmed) == 0
    assert found.mcnemar() == 1.0
    assert found.claims() == [
        f"No difference of again from a can be shown on these {COUNT} images: every effect is exactly zero."
    ]
    assert found.ledger().difference.tolist() == [0.0] * len(found.concepts)


def test_swapping_the_models_negates_every_effect(pair: Comparison) -> None:
    swapped = differ(net(2, "b"), net(1, "a"))
    other = {"only-reference": "only-model", "only-model": "only-reference"}

    def rows(c: Comparison, turn: bool) -> dict[Any, Any]:
        keys = ("family", "stratum", "concept")
        return {
            (r["family"], other.get(r["stratum"], r["stratum"]) if turn else r["stratum"], r["concept"]): r
            for r in c.effects.select([*keys, "effect", "low", "high", "p", "q", "confirmed"]).to_pylist()
        }

    first, second = rows(pair, False), rows(swapped, True)
    assert first.keys() == second.keys()
    for key, a in first.items():
        b = second[key]
        assert b["effect"] == -a["effect"]
        assert (b["p"], b["confirmed"]) == (a["p"], a["confirmed"])
        assert b["q"] == pytest.approx(a["q"])
        if a["low"] is not None:
            assert (b["low"], b["high"]) == pytest.approx((-a["high"], -a["low"]), abs=1e-12)


def test_the_same_seed_gives_the_same_bytes_in_another_place(pair: Comparison, tmp_path: Path) -> None:
    differ(net(1, "a"), net(2, "b"), out=tmp_path / "run")
    assert digests(tmp_path / "run") == digests(pair.run.folder)


# ------------------------------------------------------------------ one model, many models, targets


def test_one_model_alone() -> None:
    found = differ(net(1, "only"), None)
    assert found.alone
    assert found.others == ("only",)
    assert found.quadrants() == {}
    assert found.mcnemar() is None
    assert set(found.effects["model"].to_pylist()) == {"only"}
    assert found.interventions["reference_drop"].null_count == len(found.interventions)
    assert found.ledger().change == pytest.approx(found.diagnostic("only", "output_change").sum())
    assert found.claims()


def test_many_models_against_the_first() -> None:
    found = differ(net(1, "a"), [net(2, "b"), net(3, "c")])
    assert set(found.effects["model"].to_pylist()) == {"b", "c"}
    with pytest.raises(RunError, match="Name the model: b, c are compared with 'a'"):
        found.ledger()
    assert found.ledger("all", "c").images == COUNT
    alone = differ(net(1, "a"), net(3, "c"))
    # the other model changes which segments concepts are found from, never what a pair's maps say
    assert np.allclose(found.totals("c").sum(1), alone.totals("c").sum(1), atol=1e-12)


def test_what_the_reference_predicts_is_explained_in_both() -> None:
    found = differ(net(1, "a"), net(2, "b"), open_images(pixels()))
    assert found.settings["target"] == "predicted"
    assert np.array_equal(found.targets, found.predicted("a"))
    rows = found.attributions.filter(pc.equal(found.attributions["model"], "b"))
    of = dict(zip(rows["image_id"].to_pylist(), rows["target"].to_pylist(), strict=True))
    assert [of[i] for i in found.images] == found.targets.tolist()
    assert (found.predicted("b") != found.predicted("a")).any()  # so it is not what each predicts itself
    assert found.accuracy() == {"a": None, "b": None}
    assert found.quadrants() == {}
    assert set(found.effects["stratum"].to_pylist()) <= {"all", "class:ant", "class:bee"}


def test_some_labels_are_not_enough_for_labels_as_targets() -> None:
    labels = [None, *LABELS[1:]]
    found = differ(net(1, "a"), net(2, "b"), open_images(pixels(), labels=labels))
    assert found.settings["target"] == "predicted"
    assert any("1 of 72 images have no label" in note for note in found.notes)
    assert len(found.quadrants()) == COUNT - 1


def test_one_class_of_all_images() -> None:
    found = differ(net(1, "a"), net(2, "b"), target="class:bee", confirm=0)
    assert set(found.targets.tolist()) == {1}
    assert len(found.interventions) == 0
    assert set(found.effects["confirmed"].to_pylist()) == {None}


def test_another_method_has_no_ledger() -> None:
    found = differ(net(1, "a"), net(2, "b"), method="gradcam", confirm=1)
    assert not found.has_ledger
    assert set(found.effects["family"].to_pylist()) == {"direction", "use"}
    assert any("there is no ledger" in note for note in found.notes)
    with pytest.raises(RunError, match="There is no ledger: maps of 'gradcam' do not add up"):
        found.ledger()


def test_the_default_method_is_complete_to_a_few_percent() -> None:
    found = differ(net(1, "a"), net(2, "b"), method=METHOD, confirm=0)
    gap, change = (found.diagnostic("a", name) for name in ("completeness_gap", "output_change"))
    assert np.median(np.abs(gap) / np.abs(change)) < 0.05


# ------------------------------------------------------------------ inputs and label spaces


def test_models_of_different_input_sizes_and_crops() -> None:
    wide = Classifier(SmallNet(2, False, True).eval(), size=32, crop=0.5, classes=CLASSES, name="wide")
    found = differ(net(1, "a"), wide, open_images(pixels(side=40), labels=LABELS))
    image_id = found.images[0]
    assert found.heatmap("a", image_id).shape == found.heatmap("wide", image_id).shape == (224, 224)
    edge = found.heatmap("wide", image_id)
    assert not edge[:50].any()  # outside of its crop
    assert edge[60:160, 60:160].any()
    change = found.diagnostic("wide", "output_change") + found.diagnostic("wide", "completeness_gap")
    assert np.allclose(found.totals("wide").sum(1), change, atol=1e-3)


def test_floats_are_whole_inputs() -> None:
    floats = pixels(side=16).astype(np.float32).transpose(0, 3, 1, 2) / 255
    a = Classifier(small_classifier(16, 2, seed=1).module, size=16, crop=0.5, classes=CLASSES, name="a")
    found = differ(a, net(2, "b"), open_images(floats, labels=LABELS))
    assert found.heatmap("a", found.images[0])[:20].any()  # nothing was cropped


def test_classes_in_another_order_are_matched_by_name() -> None:
    turned = net(2, "b", classes=("bee", "ant"))
    found = differ(net(1, "a"), turned)
    plain = net(2, "b").logits
    assert found.classes == CLASSES
    with_turned = turned.logits  # what the model itself says has not changed
    assert with_turned is not plain
    assert found.run.info["models"]["b"]["classes"] == list(CLASSES)
    straight = differ(net(1, "a"), net(2, "b"))
    assert (found.predicted("b") == 1 - straight.predicted("b")).all()


def test_a_class_map_joins_finer_classes(tmp_path: Path) -> None:
    fine = net(2, "fine", classes=("worker ant", "queen ant", "bee"))
    (tmp_path / "map.csv").write_text("model,from,to\nfine,worker ant,ant\nfine,queen ant,ant\nfine,bee,bee\n")
    found = differ(net(1, "a"), fine, class_map=tmp_path / "map.csv")
    assert found.run.info["models"]["fine"]["classes"] == list(CLASSES)
    assert set(found.predicted("fine").tolist()) <= {0, 1}
    (tmp_path / "other.csv").write_text("model,from,to\nfin,bee,bee\n")
    with pytest.raises(SettingsError, match=r"class map is of 'fin'; the models .* are 'fine'"):
        differ(net(1, "a"), fine, class_map=tmp_path / "other.csv")


def test_images_of_a_class_that_a_model_lacks_are_left_out_and_told() -> None:
    poorer = net(2, "poorer", classes=("ant", "wasp"))
    found = differ(net(1, "a"), poorer, class_map={"poorer": {"ant": "ant"}}, confirm=1)
    assert len(found.images) == COUNT / 2
    assert set(found.targets.tolist()) == {0}
    assert len(found.failures) == COUNT / 2
    assert "the model no such class" in found.failures[0]["message"]
    assert any("36 of 72 images could not be compared" in note for note in found.notes)
    with pytest.raises(SettingsError, match="'poorer' has no class 'bee'"):
        differ(net(1, "a"), poorer, class_map={"poorer": {"ant": "ant"}}, target="class:bee")


def test_masks_of_the_user_are_the_concepts(tmp_path: Path) -> None:
    source = open_images(pixels(), labels=LABELS)
    (tmp_path / "masks").mkdir()
    for ref in source.refs:
        mask = np.zeros((10, 10), np.uint8)
        mask[:4, :4] = 1
        mask[6:, 6:] = 2 if ref.index % 2 else 0
        Image.fromarray(mask).save(tmp_path / "masks" / f"{ref.image_id}.png")
    (tmp_path / "masks" / "names.csv").write_text("value,name\n1,head\n2,wing\n")
    found = differ(net(1, "a"), net(2, "b"), source, segments=f"masks:{tmp_path / 'masks'}")
    rows = {r["name"]: r for r in found.concepts.to_pylist()}
    assert set(rows) == {"head", "wing", "rest"}
    assert rows["wing"]["images"] == COUNT / 2
    assert rows["head"]["images"] == COUNT
    assert rows["head"]["median_area"] == pytest.approx(0.16, abs=0.01)
    assert found.settings["named"]
    assert found.concept_name(rows["head"]["concept"]) == "head"
    assert set(found.slice(concept=rows["wing"]["concept"])) == {r.image_id for r in source.refs if r.index % 2}
    (tmp_path / "masks" / "000004.png").unlink()
    fewer = differ(net(1, "a"), net(2, "b"), source, segments=f"masks:{tmp_path / 'masks'}", out=tmp_path / "run")
    assert "000004" not in fewer.images
    assert [r["image_id"] for r in fewer.failures] == ["000004"]


def test_groups_are_the_units(tmp_path: Path) -> None:
    for i, image in enumerate(pixels()):
        Image.fromarray(image).save(tmp_path / f"{i:03d}.png")
    lines = [f"{i:03d}.png,{CLASSES[i % 2]},p{i // 2}" for i in range(COUNT)]
    (tmp_path / "labels.csv").write_text("file,label,patient\n" + "\n".join(lines))
    found = differ(net(1, "a"), net(2, "b"), str(tmp_path / "labels.csv"), group_by="patient")
    (row,) = [r for r in found.effects.to_pylist() if (r["family"], r["concept"]) == ("use", 0)]
    assert row["n"] == COUNT / 2
    assert found.groups[0] == "group p0"
    with pytest.raises(ImagesError, match="nobody"):
        differ(net(1, "a"), net(2, "b"), str(tmp_path / "labels.csv"), group_by="nobody")


def test_an_encoder_of_ones_own() -> None:
    def encode(images: Any) -> Any:
        return images[:, :, ::16, ::16]

    found = differ(net(1, "a"), net(2, "b"), encoder=encode)
    assert found.settings["encoder"] == "encode"
    assert not any("no encoder was given" in note for note in found.notes)
    assert len(found.segments) == 9 * COUNT
    with pytest.raises(SettingsError, match="encoder is model 'b' itself"):
        differ(net(1, "a"), net(2, "b"), encoder=net(2, "other name"))


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"concepts": "many"}, SettingsError, "concepts is 'many'; give 'auto' or a number"),
        ({"concepts": 0}, SettingsError, "concepts is 0"),
        ({"confirm": -1}, SettingsError, "confirm is -1"),
        ({"target": "all"}, SettingsError, "label, predicted or class:K"),
        ({"segments": "felsenzwalb"}, SettingsError, "no partition 'felsenzwalb'.*felzenszwalb"),
        ({"encoder": 7}, ModelError, "The encoder is int"),
        ({"output": "entropy"}, SettingsError, "Output 'entropy' is unknown"),
    ],
)
def test_mistakes_are_told_before_any_work(
    more: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        differ(net(1, "a"), net(2, "b"), out=tmp_path / "run", **more)
    assert not (tmp_path / "run").exists()


def test_names_must_differ() -> None:
    with pytest.raises(SettingsError, match="Two models are called 'a'"):
        differ(net(1, "a"), net(2, "a"))
    with pytest.raises(SettingsError, match="called 'segments'"):
        differ(net(1, "a"), net(2, "segments"))


def test_without_a_folder_the_run_goes_with_the_result() -> None:
    found = differ(net(1, "a"), net(2, "b"), confirm=0)
    folder = found.run.folder
    assert folder.exists()
    del found
    assert not folder.exists()


# ------------------------------------------------------------------ again, after a kill, with failures


class Killed(BaseException):
    """As a signal that cannot be caught."""


def dying(after: int, what: str) -> type[RunWriter]:
    """A writer that dies at the commit of a unit that has a table, or before a derived table is put."""
    left = [after]

    class Writer(RunWriter):
        def _die(self, here: bool) -> None:
            left[0] -= here
            if here and left[0] < 0:
                raise Killed

        def write(self, number: int, unit: Any) -> None:
            self._die(what == "maps")
            super().write(number, unit)

        def write_stage(self, number: int, unit: Any) -> None:
            self._die(what in unit.tables)
            super().write_stage(number, unit)

        def put_derived(self, name: str, rows: Any) -> None:
            self._die(what == "derived")
            super().put_derived(name, rows)

    return Writer


@pytest.mark.parametrize(
    ("what", "after"),
    [("maps", 0), ("maps", 5), ("partitions", 1), ("embeddings", 2), ("drops", 0), ("drops", 3), ("derived", 2)],
)
def test_killed_and_run_again_it_comes_to_the_same_bytes(
    pair: Comparison, tmp_path: Path, what: str, after: int
) -> None:
    out = tmp_path / "run"
    how = RunSettings(batch=16, memory_format="contiguous", threads=1, unit_images=16)
    with pytest.raises(Killed):
        differ(net(1, "a"), net(2, "b"), out=out, settings=how, writer_type=dying(after, what))
    with pytest.raises(RunError, match=r"not finished|has no comparison"):
        read_comparison(out)
    kept = {p.name: p.read_bytes() for p in (out / "units").glob("*.json")}
    differ(net(1, "a"), net(2, "b"), out=out, settings=how)
    assert digests(out) == digests(pair.run.folder)
    assert {name: (out / "units" / name).read_bytes() for name in kept} == kept


def test_a_second_run_does_nothing_again(pair: Comparison, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[str] = []
    plain = Grid.label_map

    def spy(self: Grid, image: np.ndarray, image_id: str) -> Any:
        calls.append(image_id)
        return plain(self, image, image_id)

    monkeypatch.setattr(Grid, "label_map", spy)
    a, b = net(1, "a"), net(2, "b")
    differ(a, b, out=tmp_path / "run")
    assert sorted(calls) == sorted(pair.images)  # once, for both models
    units = open_run(tmp_path / "run").units()
    rows: list[int] = []
    a.module.register_forward_hook(lambda *_: rows.append(1))
    b.module.register_forward_hook(lambda *_: rows.append(1))
    before = digests(tmp_path / "run")
    differ(a, b, out=tmp_path / "run")
    assert len(calls) == len(pair.images)
    assert open_run(tmp_path / "run").units() == units
    assert digests(tmp_path / "run") == before
    differ(a, [b, net(3, "c")], out=tmp_path / "run", confirm=0)  # another model: segments stay
    assert len(calls) == len(pair.images)


def test_an_image_that_changed_is_done_again(tmp_path: Path) -> None:
    for i, image in enumerate(pixels()):
        (tmp_path / CLASSES[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / CLASSES[i % 2] / f"{i:03d}.png")
    images = str(tmp_path)
    out = tmp_path.parent / f"{tmp_path.name}-run"
    differ(net(1, "a"), net(2, "b"), images, out=out)
    Image.fromarray(255 - pixels()[0]).save(tmp_path / "ant" / "000.png")
    changed = differ(net(1, "a"), net(2, "b"), images, out=out)
    fresh = differ(net(1, "a"), net(2, "b"), images, out=tmp_path.parent / f"{tmp_path.name}-fresh")
    assert digests(out) == digests(fresh.run.folder)
    assert len(changed.images) == COUNT


def test_failures_are_rows_and_the_others_are_compared(tmp_path: Path) -> None:
    for i, image in enumerate(pixels()):
        (tmp_path / CLASSES[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / CLASSES[i % 2] / f"{i:03d}.png")
    (tmp_path / "ant" / "000.png").write_bytes(b"no image")
    found = differ(net(1, "a"), net(2, "b"), str(tmp_path))
    assert len(found.images) == COUNT - 1
    assert {(r["image_id"], r["kind"]) for r in found.failures} == {("ant/000.png", "unreadable")}
    assert any("1 of 72 images could not be compared" in note for note in found.notes)


def test_nothing_left_to_compare(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(ImagesError, match="None of the 1 images could be compared"):
        differ(net(1, "a"), net(2, "b"), str(tmp_path), target="class:0")


def test_what_an_earlier_call_asked_for_does_not_count(tmp_path: Path) -> None:
    differ(net(1, "a"), [net(2, "b"), net(3, "c")], out=tmp_path / "run")
    differ(net(1, "a"), net(2, "b"), out=tmp_path / "run", confirm=0)
    stage = open_run(tmp_path / "run").info["stages"]["compare"]
    assert sorted(stage["recipes"][i]["what"] for i in stage["current"]) == ["embedding", "partition"]
    assert read_comparison(tmp_path / "run").models == ("a", "b")
