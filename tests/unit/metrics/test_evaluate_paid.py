"""Models that cost something: what evaluate asks them is counted, limited, and never asked twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import salience
from salience.errors import ModelError
from salience.evaluating import evaluate
from salience.explaining import RunSettings
from salience.models.classifier import Classifier
from salience.models.journal import row_keys

SIZE = 12
HOW = RunSettings(batch=8, memory_format="contiguous", threads=1, unit_images=2)


class Far:
    """A paid function that remembers every row it was sent."""

    def __init__(self) -> None:
        self.rows: list[bytes] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.rows += row_keys(images)
        weights = np.random.default_rng(0).standard_normal((3 * SIZE * SIZE, 4)).astype(np.float32)
        return images.reshape(len(images), -1) @ weights / 20


def scored(far: Far, folder: Path, out: str, limit: int | None = None) -> salience.Scores:
    model = Classifier.from_callable(far, size=SIZE, paid=True, max_queries=limit, name="far")
    images = folder / "images.npz"
    if not images.exists():
        np.savez(images, images=np.random.default_rng(1).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8))
    return evaluate(
        model,
        images,
        ["occlusion:budget=9"],
        metrics=["complete-sound:points=4", "average-drop", "adversarial-reach:queries=16"],
        background=["black", "mean"],
        labels="predicted+1",
        out=folder / out,
        settings=HOW,
    )


def test_a_run_that_was_cut_off_pays_for_nothing_twice(tmp_path: Path) -> None:
    whole = Far()
    first = scored(whole, tmp_path, "whole")
    total = len(whole.rows)
    assert salience.open_run(tmp_path / "whole").info["models"]["far"]["queries"] == total
    assert sorted(p.name for p in (tmp_path / "whole" / "queries" / "far").glob("*.rows")) in ([], ["probes.rows"])

    cut = Far()
    for share in (0.3, 0.55, 0.8):  # in the maps, and twice in the scores
        with pytest.raises(ModelError, match="max_queries"):
            scored(cut, tmp_path, "cut", limit=round(total * share))
        info = salience.open_run(tmp_path / "cut").info
        assert (info["status"], info["models"]["far"]["queries"]) == ("failed", len(cut.rows))
    again = scored(cut, tmp_path, "cut")
    assert len(cut.rows) == total
    assert again.table.equals(first.table)
    assert salience.open_run(tmp_path / "cut").info["models"]["far"]["queries"] == total


def test_a_finished_run_asks_nothing(tmp_path: Path) -> None:
    far = Far()
    first = scored(far, tmp_path, "run")
    asked = len(far.rows)
    assert scored(far, tmp_path, "run").table.equals(first.table)
    assert len(far.rows) == asked
