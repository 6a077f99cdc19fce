"""Arrays in cells of tables: back as they were, read unit by unit, from several writing threads."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from salience.errors import RunError
from salience.store.packed import Embeddings, LabelMaps, StageRows, pack, unpack
from salience.store.run import open_run
from salience.store.unit import Content, StageUnit
from salience.store.writer import RunWriter


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.uint16).reshape(3, 4),
        np.linspace(-1, 1, 10, dtype=np.float16).reshape(5, 2),
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.zeros((0, 4), dtype=np.float16),
        np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
    ],
)
def test_back_as_it_was(array: np.ndarray) -> None:
    found = unpack(pack(array), array.dtype, array.shape)
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


def test_label_maps_are_small() -> None:
    labels = np.arange(224)[:, None] // 32 * 7 + np.arange(224)[None] // 32
    assert len(pack(labels.astype(np.uint16))) < 0.02 * labels.size * 2


def test_equal_arrays_have_equal_bytes() -> None:
    assert pack(np.arange(100)) == pack(np.arange(100))


@pytest.mark.parametrize("broken", [b"", b"no frame", pack(np.zeros(3, np.uint16))])
def test_damage_is_told(broken: bytes) -> None:
    with pytest.raises(RunError, match="packed array of shape \\(2, 4\\) in the run is damaged"):
        unpack(broken, np.uint16, (2, 4))


# ------------------------------------------------------------------ in a run

NAMES = [f"{i:03d}" for i in range(24)]


def row(image_id: str, recipe: str, value: int, names: list[str] | None = None) -> dict[str, Any]:
    labels = np.full((2, 3), value, dtype=np.uint16)
    what = {"recipe": recipe, "image_id": image_id, "height": 2, "width": 3, "segments": 1}
    return {**what, "names": names, "labels": pack(labels)}


def commit(writer: RunWriter, recipe: str, rows: list[dict[str, Any]], content: str = "a") -> None:
    columns = {key: [r[key] for r in rows] for key in rows[0]}
    images = [Content(r["image_id"], content, 1, 1, 4, 4) for r in rows]
    writer.commit_stage(StageUnit("compare", "segments", (recipe,), images, {"partitions": columns}))


@pytest.fixture
def writer(tmp_path: Path) -> Any:
    with RunWriter(tmp_path / "run", kind="explain", source="s") as opened:
        columns = {c: [None] * len(NAMES) for c in ("path", "label", "label_text", "group")}
        index = list(range(len(NAMES)))
        opened.set_images({"image_id": NAMES, "index": index, "boxes": [[]] * len(NAMES), **columns})
        opened.use_stage("compare", "segments", {"p": {"model": "segments"}, "q": {"model": "segments"}})
        opened.describe()
        yield opened


def test_the_last_row_of_an_image_counts(writer: RunWriter) -> None:
    commit(writer, "p", [row("000", "p", 1), row("001", "p", 2, ["eye"])])
    commit(writer, "p", [row("000", "p", 3)])
    commit(writer, "q", [row("001", "q", 9)])
    found = LabelMaps(open_run(writer.folder), "p")
    assert found.read("000").tolist() == [[3] * 3] * 2
    assert found.read("000").dtype == np.int32
    assert found.read("001")[0, 0] == 2
    assert found.names("001") == ("eye",)
    assert found.names("000") is None
    assert "002" not in found
    with pytest.raises(RunError, match="no rows of image '002'"):
        found.read("002")


def test_rows_of_another_content_do_not_count(writer: RunWriter) -> None:
    commit(writer, "p", [row("000", "p", 1)], content="a")
    commit(writer, "q", [row("000", "q", 1)], content="b")
    assert "000" not in LabelMaps(open_run(writer.folder), "p")
    assert "000" in LabelMaps(open_run(writer.folder), "q")


def test_only_some_units_are_held_however_images_are_asked_for(writer: RunWriter) -> None:
    for i, name in enumerate(NAMES):
        commit(writer, "p", [row(name, "p", i)])
    found = StageRows(open_run(writer.folder), "partitions", "p")
    assert len(found) == len(NAMES)
    maps = LabelMaps(open_run(writer.folder), "p")
    for i in [*range(24), 3, 20, 3]:
        assert maps.read(NAMES[i])[0, 0] == i
        found.rows(NAMES[i])
        assert len(found._held) <= 4


def test_embeddings(writer: RunWriter) -> None:
    values = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float16)
    columns = {
        "recipe": ["p"],
        "image_id": ["000"],
        "segments": [5],
        "dimensions": [7],
        "values": [pack(values)],
    }
    images = [Content("000", "a", 1, 1, 4, 4)]
    writer.commit_stage(StageUnit("compare", "segments", ("p",), images, {"embeddings": columns}))
    found = Embeddings(open_run(writer.folder), "p")
    assert "000" in found
    (block,) = found.blocks(["000"])
    assert block.dtype == np.float32
    assert np.array_equal(block, values.astype(np.float32))


def test_units_from_several_threads_each_count(writer: RunWriter) -> None:
    def work(start: int) -> None:
        for i in range(start, 24, 3):
            commit(writer, "p", [row(NAMES[i], "p", i)])
            writer.describe(note=i)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run = open_run(writer.folder)
    assert run.units() == list(range(24))
    found = LabelMaps(run, "p")
    assert [int(found.read(name)[0, 0]) for name in NAMES] == list(range(24))
