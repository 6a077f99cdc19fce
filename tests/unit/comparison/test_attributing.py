"""Sums of maps over segments: against masks, over more than one block, conserved, in order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from salience.comparison.attributing import Attributions, Side, attribute
from salience.data.preprocessing import Preprocessing
from salience.errors import RunError
from salience.explaining import RunSettings, explain_run
from salience.store.reader import StoredMaps
from salience.store.run import Run
from salience.testing.models import small_classifier

FRAME = (24, 24)
VIEW = Preprocessing(size=(12, 12), fit="squash")


class MemoryMaps:
    """Maps in memory, read as those of a run."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def read_block(self, image_ids: Sequence[str], targets: Sequence[int]) -> np.ndarray:
        return np.stack([self.values[int(i)] * (t + 1) for i, t in zip(image_ids, targets, strict=True)])


class MemoryLabels:
    """Label maps in memory; names where there are some."""

    def __init__(self, maps: np.ndarray, names: bool = False) -> None:
        self.maps = maps
        self._names = names

    def read(self, image_id: str) -> np.ndarray:
        return self.maps[int(image_id)]

    def names(self, image_id: str) -> tuple[str, ...] | None:
        return tuple(f"n{s}" for s in range(self.maps[int(image_id)].max() + 1)) if self._names else None


def partitions(count: int) -> np.ndarray:
    """Label maps of two to five stripes."""
    at = np.arange(FRAME[0])
    return np.stack([np.broadcast_to((at * (2 + i % 4) // FRAME[0])[:, None], FRAME) for i in range(count)]).astype(
        np.int32
    )


def made(count: int = 150, names: bool = False) -> tuple[Attributions, np.ndarray, np.ndarray]:
    values = np.random.default_rng(0).normal(size=(2, count, 12, 12)).astype(np.float32)
    values[1, 3] = 0  # a map of nothing
    labels = partitions(count)
    ids = [str(i) for i in range(count)]
    sides = [Side("a", MemoryMaps(values[0]), VIEW), Side("b", MemoryMaps(values[1]), VIEW)]  # type: ignore[arg-type]
    targets = [i % 3 for i in range(count)]
    sizes = dict.fromkeys(ids, (40, 60))
    done: list[int] = []
    found = attribute(ids, targets, sides, MemoryLabels(labels, names), sizes, FRAME, 2, done.append)  # type: ignore[arg-type]
    assert done == [64, 128, 150]
    return found, values, labels


def test_totals_and_shares_are_sums_over_masks() -> None:
    found, values, labels = made()
    for i in (0, 1, 63, 64, 149):
        part = slice(found.starts[i], found.starts[i + 1])
        for m, name in enumerate("ab"):
            whole = values[m, i].astype(np.float64) * (i % 3 + 1)
            frame = whole.repeat(2, 0).repeat(2, 1) / 4
            expected = [frame[labels[i] == s].sum() for s in range(labels[i].max() + 1)]
            assert found.totals[name][part] == pytest.approx(expected, abs=1e-5)
            assert found.shares[name][part] == pytest.approx(np.array(expected) / np.abs(whole).sum(), abs=1e-6)
        areas = [(labels[i] == s).mean() for s in range(labels[i].max() + 1)]
        assert found.area[part] == pytest.approx(areas)
        assert found.column[part] == pytest.approx(0.5)


def test_a_map_of_nothing_has_shares_of_nothing() -> None:
    found, _, _ = made()
    assert not found.shares["b"][found.starts[3] : found.starts[4]].any()
    assert np.isfinite(found.shares["b"]).all()


def test_sums_over_concepts_keep_the_total() -> None:
    found, _, _ = made()
    concept = found.segment % 3
    cells = found.by_concept(found.totals["a"], concept, 4)
    assert cells.shape == (150, 4)
    assert not cells[:, 3].any()
    whole = np.add.reduceat(found.totals["a"], found.starts[:-1])
    assert cells.sum(1) == pytest.approx(whole)


def test_rows_stand_model_after_model_image_after_image() -> None:
    found, _, _ = made(names=True)
    assert found.names is not None
    assert found.names[:4] == ("n0", "n1", "n0", "n1")
    rows = found.table([i % 3 for i in range(150)])
    count = len(found.area)
    assert rows["model"].to_pylist() == ["a"] * count + ["b"] * count
    assert rows["image_id"].to_pylist()[:5] == ["0", "0", "1", "1", "1"]
    assert rows["segment"][:5].tolist() == [0, 1, 0, 1, 2]
    assert rows["target"][2:5].tolist() == [1, 1, 1]
    assert np.array_equal(rows["total"][count:], found.totals["b"])


def test_without_images_there_is_nothing() -> None:
    found = attribute(
        [], [], [Side("a", MemoryMaps(np.zeros((0, 2, 2))), VIEW)], MemoryLabels(np.zeros((0, 2, 2))), {}, FRAME, 1
    )  # type: ignore[arg-type]
    assert found.starts.tolist() == [0]
    assert len(found.totals["a"]) == 0


def test_blocks_of_stored_maps_are_those_read_one_by_one(tmp_path: Path, one_thread: None) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    how = RunSettings(batch=4, memory_format="contiguous", threads=1, unit_images=4)
    run: Run = explain_run([small_classifier()], images, ["gradient"], tmp_path / "run", target="all", settings=how).run
    maps = StoredMaps(run, run.recipe("gradient")[0])
    ids, targets = ["000019", "000002", "000003", "000002"], [4, 0, 1, 3]
    found = maps.read_block(ids, targets)
    for values, image_id, target in zip(found, ids, targets, strict=True):
        alone = maps.read(image_id, [target])
        assert alone is not None
        assert np.array_equal(values, alone[0])
    with pytest.raises(RunError, match="no map of 'gradient' for image 'nowhere' and class 0"):
        maps.read_block(["nowhere"], [0])
