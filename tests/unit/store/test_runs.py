"""Run directories: who may write one, and what reading one gives."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest
import zarr

import salience
from salience.data.base import hash_content
from salience.errors import RunError
from salience.explaining import RunSettings, explain_run
from salience.models.classifier import Classifier
from salience.store.memory import MemorySink
from salience.store.run import Run, open_run
from salience.store.schema import PARTS
from salience.store.unit import ImageResult, MapRows, Recipe, UnitResult
from salience.store.writer import RunWriter, free_space
from salience.testing.contracts import example_images
from salience.testing.models import small_classifier

SETTINGS = RunSettings(batch=4, memory_format="contiguous", unit_images=4, threads=1)
METHODS = ["gradient", "contrast", "gradcam", "ig:steps=2"]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return small_classifier()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, classifier: Classifier) -> Path:
    path = tmp_path_factory.mktemp("source") / "images.npz"
    np.savez(path, images=example_images(classifier, 6), labels=np.array([0, 1, 2, 3, 4, 0]))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, classifier: Classifier, source: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    explain_run([classifier], source, METHODS, out, settings=SETTINGS)
    return out


# ---------------------------------------------------------------------- reading


def test_float16_keeps_to_its_bound(folder: Path, classifier: Classifier, source: Path) -> None:
    raw = salience.explain(classifier, str(source), METHODS, batch_size=4)
    run = open_run(folder)
    for method in METHODS:
        stored = run.maps(method)
        assert stored.values.dtype == np.float32
        top = np.abs(raw[method].values).max((1, 2))
        off = np.abs(stored.values - raw[method].values).max((1, 2))
        assert (off <= 2.0**-11 * top).all()
        assert off.max() > 0
        assert stored.image_ids == raw[method].image_ids
        assert stored.targets.tolist() == raw[method].targets.tolist()
        assert stored.labels.tolist() == [0, 1, 2, 3, 4, 0]
        assert stored.signed == raw[method].signed
        np.testing.assert_allclose(stored.probabilities, raw[method].probabilities, rtol=1e-6)
        np.testing.assert_allclose(stored.scores, raw[method].scores, rtol=1e-6)  # another memory format
        for name, values in raw[method].diagnostics.items():
            np.testing.assert_allclose(stored.diagnostics[name], values, rtol=1e-4, atol=1e-6)


def test_float32_is_exact(classifier: Classifier, source: Path, tmp_path: Path) -> None:
    explain_run([classifier], source, ["contrast"], tmp_path / "run", settings=SETTINGS, map_dtype="float32")
    raw = salience.explain(classifier, str(source), "contrast", batch_size=4)
    # the settings of both differ in the memory format alone, so compare with a run under the very same plan
    again = explain_run([classifier], source, ["contrast"], tmp_path / "two", settings=SETTINGS, map_dtype="float32")
    stored = open_run(tmp_path / "run").maps()
    assert stored.values.tobytes() == again.run.maps().values.tobytes()
    np.testing.assert_allclose(stored.values, raw.values, rtol=1e-4, atol=1e-7)


def test_the_zarr_library_reads_the_maps(folder: Path) -> None:
    run = open_run(folder)
    recipe, description = run.recipe("gradcam")
    array = zarr.open_array(folder / "maps" / recipe, mode="r")
    assert array.dtype == np.float16
    assert array.attrs["method"] == "gradcam"
    rows = run.table("maps").to_pylist()
    values = run.maps("gradcam").values
    mine = [r for r in rows if r["recipe"] == recipe]
    assert description["grid"] == list(values.shape[1:])
    for row, value in zip(mine, values, strict=True):
        np.testing.assert_array_equal(array[row["row"]].astype(np.float32) * np.float32(row["scale"]), value)


def test_duckdb_queries_the_parts(folder: Path) -> None:
    found = duckdb.sql(
        f"""
        select m.image_id, m.score, p.probability, i.label
        from read_parquet('{folder}/tables/maps/*.parquet') m
        join read_parquet('{folder}/tables/predictions/*.parquet') p using (image_id)
        join read_parquet('{folder}/images.parquet') i using (image_id)
        where m.recipe like '%gradcam%' order by m.image_id
        """
    ).fetchall()
    maps = open_run(folder).maps("gradcam")
    assert [r[0] for r in found] == list(maps.image_ids)
    np.testing.assert_allclose([r[1] for r in found], maps.scores)
    np.testing.assert_allclose([r[2] for r in found], maps.probabilities.max(1), rtol=1e-6)
    assert [r[3] for r in found] == maps.labels.tolist()


def test_every_column_tells_its_meaning(folder: Path) -> None:
    run = open_run(folder)
    for name in ("contents", "predictions", "maps", "diagnostics", "failures"):
        assert run.table(name).schema.names == PARTS[name].names
        for column in PARTS[name]:
            assert column.metadata[b"meaning"]


def test_reading_imports_no_torch(folder: Path) -> None:
    code = (
        "import sys, salience\n"
        f"run = salience.open_run({str(folder)!r})\n"
        "assert len(run.maps('gradient')) == 6\n"
        "run.maps('gradcam').upsampled()\n"
        "[run.table(n) for n in ('images', 'contents', 'predictions', 'maps', 'diagnostics', 'failures')]\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_some_images(folder: Path) -> None:
    run = open_run(folder)
    some = run.maps("gradient", images=["000004", "000001", "nowhere"])
    assert some.image_ids == ("000001", "000004")
    np.testing.assert_array_equal(some.values, run.maps("gradient").values[[1, 4]])
    assert len(run.maps("gradient", images=[])) == 0


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"method": "gradiant"}, "Did you mean 'gradient'"),
        ({"model": "big"}, "has no model 'big'"),
        ({}, "holds 4 sets of maps"),
    ],
)
def test_questions_that_have_no_answer(ask: dict[str, str], message: str, folder: Path) -> None:
    with pytest.raises(RunError, match=message):
        open_run(folder).maps(**ask)
    with pytest.raises(RunError, match=r"no table 'map'.*Did you mean 'maps'"):
        open_run(folder).table("map")


def test_a_damaged_shard_is_mended_as_the_message_says(classifier: Classifier, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    explain_run([classifier], source, ["gradient"], out, settings=SETTINGS)
    before = open_run(out).maps().values
    shard = next((out / "maps").rglob("c/0/0/0"))
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(raw)
    with pytest.raises(RunError, match=r"units/000000\.json"):
        open_run(out).maps()
    (out / "units" / "000000.json").unlink()
    outcome = explain_run([classifier], source, ["gradient"], out, settings=SETTINGS)
    assert outcome.summaries["small"].computed == 4
    np.testing.assert_array_equal(outcome.run.maps().values, before)


def test_a_run_without_results_has_empty_tables(classifier: Classifier, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(b"junk")
    outcome = explain_run([classifier], images, ["gradient"], tmp_path / "run", settings=SETTINGS)
    assert outcome.failures == 1
    run = outcome.run
    assert [len(run.table(n)) for n in ("contents", "predictions", "maps", "diagnostics")] == [0, 0, 0, 0]
    assert run.table("images")["content_hash"].to_pylist() == [None]
    assert len(run.maps()) == 0
    assert run.maps().failures[0].kind == "unreadable"


# ---------------------------------------------------------------------- rows that no longer count


def result(image_id: str, value: float, target: int, key: str) -> tuple[ImageResult, tuple[str, int, float, str]]:
    logits = np.array([0.0, value], dtype=np.float32)
    image = ImageResult(image_id, key, 1, 1, 2, 2, logits)
    return image, (image_id, target, value, key)


def written(folder: Path, units: list[list[tuple[str, float, int, str]]]) -> Run:
    """A run of one recipe with these units of (image id, value of all its pixels, target, content)."""
    recipe = Recipe("gradient", "m", "0" * 64, {"model": "m", "method": "gradient", "signed": False}, 1)
    recipe.description.update(map_dtype="float32", target="predicted", output="logit")
    with RunWriter(folder, kind="explain", source="s", map_dtype="float32") as writer:
        writer.use_recipes("m", [recipe], 4)
        ids = sorted({row[0] for unit in units for row in unit})
        blank = {"path": None, "label": None, "label_text": None, "group": None, "boxes": []}
        writer.set_images(
            {"image_id": ids, "index": list(range(len(ids))), **{k: [v] * len(ids) for k, v in blank.items()}}
        )
        writer.describe(models={"m": {"classes": ["a", "b"], "preprocessing": {"size": [2, 2]}}})
        for rows in units:
            unit = UnitResult("m", maps={recipe.id: MapRows()})
            for image_id, value, target, key in rows:
                image, owner = result(image_id, value, target, key)
                unit.images.append(image)
                maps = unit.maps[recipe.id]
                maps.values.append(np.full((2, 2), value, np.float32))
                maps.scales.append(1.0)
                maps.owners.append(owner)
                maps.diagnostics.append((image_id, target, "gap", value))
            writer.write(writer.reserve(1), unit)
    return open_run(folder)


def test_the_last_unit_counts(tmp_path: Path) -> None:
    """Also where the image's class, and with it the row's target, is another now."""
    run = written(
        tmp_path / "run",
        [[("a", 1.0, 0, "x"), ("b", 2.0, 0, "x")], [("a", 3.0, 1, "y")], [("a", 4.0, 1, "z"), ("c", 5.0, 0, "x")]],
    )
    maps = run.maps()
    assert maps.image_ids == ("a", "b", "c")
    assert maps.values[:, 0, 0].tolist() == [4, 2, 5]
    assert maps.targets.tolist() == [1, 0, 0]
    assert maps.diagnostics["gap"].tolist() == [4, 2, 5]
    assert maps.probabilities[0, 1] == pytest.approx(1 / (1 + np.exp(-4.0)))
    assert [len(run.table(n)) for n in ("images", "contents", "predictions", "maps", "diagnostics")] == [3] * 5
    assert len(run.parts("maps")) == 5


def test_units_without_a_record_do_not_count(tmp_path: Path) -> None:
    run = written(tmp_path / "run", [[("a", 1.0, 0, "x")], [("a", 3.0, 0, "y")]])
    (run.folder / "units" / "000001.json").unlink()
    assert open_run(run.folder).maps().values[0, 0, 0] == 1


def test_more_units_than_six_digits_sort(tmp_path: Path) -> None:
    run = written(tmp_path / "run", [[("a", 1.0, 0, "x")]])
    (run.folder / "units" / "1000000.json").write_text("{}")
    assert open_run(run.folder).units() == [0, 1000000]


# ---------------------------------------------------------------------- writing


def opened(folder: Path, kind: str = "explain", source: str = "s") -> RunWriter:
    return RunWriter(folder, kind=kind, source=source)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"kind": "audit"}, "holds a run of 'salience explain', not of 'audit'"),
        ({"source": "elsewhere"}, "over other images: s, not elsewhere"),
    ],
)
def test_another_question_needs_another_folder(how: dict[str, str], message: str, tmp_path: Path) -> None:
    written(tmp_path / "run", [[("a", 1.0, 0, "x")]])
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(RunError, match=message), opened(tmp_path / "run", **how):
        pass
    assert (tmp_path / "run" / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "reads up to 1. Upgrade"),
        ({"version": "new"}, "Upgrade"),
        ({"format": "other"}, "no description|not the description"),
    ],
)
def test_a_newer_or_foreign_format(change: dict[str, object], message: str, tmp_path: Path) -> None:
    run = written(tmp_path / "run", [[("a", 1.0, 0, "x")]])
    (run.folder / "run.json").write_text(json.dumps({**run.info, **change}))
    with pytest.raises(RunError, match=message):
        open_run(run.folder)
    with pytest.raises(RunError, match=message), opened(run.folder):
        pass


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty and holds no run"), opened(tmp_path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(RunError, match="is a file"), opened(tmp_path / "notes.txt"):
        pass
    with pytest.raises(RunError, match=r"no run\.json"):
        open_run(tmp_path)
    with pytest.raises(RunError, match=r"no run\.json"):
        open_run(tmp_path / "nowhere")


def _hold(folder: str, ready, leave) -> None:
    with RunWriter(folder, kind="explain", source="s"):
        ready.set()
        leave.wait(30)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(tmp_path / "run"), ready, leave))
    process.start()
    try:
        assert ready.wait(60)
        with pytest.raises(RunError, match="Another process is writing"), opened(tmp_path / "run"):
            pass
    finally:
        leave.set()
        process.join(30)
    with opened(tmp_path / "run"):
        pass  # free again


def test_the_lock_dies_with_its_holder(tmp_path: Path) -> None:
    with opened(tmp_path / "run"), pytest.raises(RunError, match="Another process"), opened(tmp_path / "run"):
        pass
    with opened(tmp_path / "run"):
        pass


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    run = written(tmp_path / "run", [[("a", 1.0, 0, "x")]])
    left = run.folder / "tables" / "maps" / ".000001.parquet.99.partial"
    left.write_bytes(b"half")
    with opened(run.folder):
        assert not left.exists()


def test_a_full_disk_keeps_what_was_committed(
    classifier: Classifier, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    out, real, calls = tmp_path / "run", os.fsync, []

    def fills_up(descriptor: int) -> None:
        if list((out / "units").glob("*.json")):
            calls.append(1)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fills_up)
    with pytest.raises(RunError, match="No space is left"):
        explain_run([classifier], source, ["gradient"], out, settings=SETTINGS)
    assert calls
    monkeypatch.undo()
    assert not list(out.rglob("*.partial"))
    assert len(open_run(out).maps()) == 4
    outcome = explain_run([classifier], source, ["gradient"], out, settings=SETTINGS)
    assert (outcome.summaries["small"].computed, outcome.summaries["small"].reused) == (2, 4)
    explain_run([classifier], source, ["gradient"], tmp_path / "smooth", settings=SETTINGS)
    assert outcome.run.maps().values.tobytes() == open_run(tmp_path / "smooth").maps().values.tobytes()


def test_free_space(tmp_path: Path) -> None:
    assert 0 < free_space(tmp_path / "not" / "yet") < 2**62


def test_memory_sink_is_empty_at_first() -> None:
    sink = MemorySink()
    recipe = Recipe("gradient", "m", "0" * 64, {}, 1)
    maps = sink.maps(recipe, signed=False, labels={}, input_size=(4, 4), class_names=("a", "b"))
    assert (len(maps), maps.values.shape, maps.probabilities.shape) == (0, (0, 4, 4), (0, 2))
    assert "0 maps" in repr(maps)
    assert hash_content(b"") == hash_content(b"")
