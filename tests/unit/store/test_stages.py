"""Tables of the stages after explain: units, what is finished, which rows count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from salience.store.maps import Failure
from salience.store.run import open_run
from salience.store.unit import Content, FailureRow, StageUnit
from salience.store.writer import RunWriter


def content(image_id: str, content_hash: str) -> Content:
    return Content(image_id, content_hash, 1, 1, 2, 2)


def scores(recipe: str, values: dict[str, float]) -> dict[str, dict[str, list[Any]]]:
    count = len(values)
    return {
        "scores": {
            "recipe": [recipe] * count,
            "image_id": list(values),
            "model": ["net"] * count,
            "method": ["m"] * count,
            "label": [None] * count,
            "position": [None] * count,
            "metric": ["srg"] * count,
            "background": ["blur"] * count,
            "smooth": [0.0] * count,
            "value": list(values.values()),
        }
    }


def commit(writer: RunWriter, recipe: str, values: dict[str, float], content_hash: str = "a", **how: Any) -> None:
    images = [content(i, content_hash) for i in values]
    writer.commit_stage(StageUnit("evaluate", "net", (recipe,), images, scores(recipe, values), **how))


@pytest.fixture
def writer(tmp_path: Path) -> RunWriter:
    with RunWriter(tmp_path / "run", kind="explain", source="s") as opened:
        names = ["x", "y"]
        columns = {c: [None] * 2 for c in ("path", "label", "label_text", "group")}
        opened.set_images({"image_id": names, "index": [0, 1], "boxes": [[], []], **columns})
        opened.use_stage("evaluate", "net", {"r1": {"model": "net"}}, metrics={})
        opened.describe()
        yield opened


def found(writer: RunWriter) -> dict[str, float]:
    return {r["image_id"]: r["value"] for r in open_run(writer.folder).table("scores").to_pylist()}


def test_rows_and_what_is_finished(writer: RunWriter) -> None:
    commit(writer, "r1", {"x": 0.5, "y": 0.25, "not of this run": 9.0})
    assert found(writer) == {"x": 0.5, "y": 0.25}
    assert open_run(writer.folder).finished("evaluate")["x"] == [(0, "a", frozenset({"r1"}))]
    assert open_run(writer.folder).finished("audit") == {}


def test_the_last_unit_counts_and_only_current_recipes(writer: RunWriter) -> None:
    commit(writer, "r1", {"x": 0.5, "y": 0.25})
    commit(writer, "r1", {"x": 0.75})
    commit(writer, "r2", {"x": 9.0})
    assert found(writer) == {"x": 0.75, "y": 0.25}
    writer.use_stage("evaluate", "net", {"r2": {"model": "net"}})
    writer.use_stage("evaluate", "other", {"r3": {"model": "other"}})
    writer.describe()
    assert open_run(writer.folder).current("evaluate") == ["r2", "r3"]  # another model's stay
    assert found(writer) == {"x": 9.0}
    assert open_run(writer.folder).info["stages"]["evaluate"]["metrics"] == {}  # other entries stay


def test_rows_of_what_an_image_was_before_do_not_count(writer: RunWriter) -> None:
    commit(writer, "r1", {"x": 0.5, "y": 0.25})
    commit(writer, "r2", {"x": 0.0}, content_hash="b")
    assert found(writer) == {"y": 0.25}


def test_a_unit_without_a_record_does_not_count(writer: RunWriter) -> None:
    commit(writer, "r1", {"x": 0.5})
    commit(writer, "r1", {"x": 0.75})
    (writer.folder / "units" / "000001.json").unlink()
    assert found(writer) == {"x": 0.5}


def test_a_failure_is_made_good_by_a_later_unit(writer: RunWriter) -> None:
    failure = FailureRow(Failure("x", "map", "not finite", "net", "m"), "r1", "a")
    commit(writer, "r1", {"x": 0.5}, failures=[failure])
    assert [f["message"] for f in open_run(writer.folder).table("failures").to_pylist()] == ["not finite"]
    commit(writer, "r1", {"x": 0.5})
    assert open_run(writer.folder).table("failures").to_pylist() == []
