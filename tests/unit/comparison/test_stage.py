"""Work in units: what is lacking, what a thread beside raises, how recipes are named."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from salience.comparison.stage import SEGMENTS, Made, Units, identify, in_thread, lacking
from salience.data.source import open_images
from salience.engine.events import Committed, Failed, Finished, Progress, Started
from salience.store.run import open_run
from salience.store.unit import Content
from salience.store.writer import RunWriter

SOURCE = open_images(np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), dtype=np.uint8))


def test_recipes_are_named_by_all_that_decides() -> None:
    first = identify({"model": "a", "what": "drops", "seed": 0})
    assert first.startswith("a.drops.")
    assert first == identify({"seed": 0, "what": "drops", "model": "a"})
    assert first != identify({"model": "a", "what": "drops", "seed": 1})


# ------------------------------------------------------------------ beside


def test_the_body_waits_for_what_is_beside() -> None:
    done: list[int] = []

    def work(stopped: Callable[[], bool]) -> None:
        time.sleep(0.05)
        done.append(threading.get_ident())

    with in_thread(work):
        assert not done
    assert done
    assert done[0] != threading.get_ident()


def test_what_the_thread_raises_is_raised_after_the_body() -> None:
    body: list[int] = []
    begun = threading.Event()

    def work(stopped: Callable[[], bool]) -> None:
        begun.set()
        raise ValueError("beside")

    with pytest.raises(ValueError, match="beside"), in_thread(work):
        body.append(begun.wait(10))
    assert body == [True]


def test_a_body_that_fails_stops_the_thread_and_its_own_error_counts() -> None:
    ended: list[bool] = []

    def work(stopped: Callable[[], bool]) -> None:
        while not stopped():
            time.sleep(0.001)
        ended.append(True)
        raise ValueError("beside")

    with pytest.raises(KeyboardInterrupt), in_thread(work):
        raise KeyboardInterrupt
    assert ended == [True]


# ------------------------------------------------------------------ units


@pytest.fixture
def writer(tmp_path: Path) -> Any:
    with RunWriter(tmp_path / "run", kind="explain", source="s") as opened:
        ids = [r.image_id for r in SOURCE.refs]
        columns = {c: [None] * len(ids) for c in ("path", "label", "label_text", "group")}
        opened.set_images({"image_id": ids, "index": list(range(len(ids))), "boxes": [[]] * len(ids), **columns})
        opened.use_stage("compare", SEGMENTS, {"r": {"model": SEGMENTS}})
        opened.describe()
        yield opened


def content(ref: Any) -> Content:
    return Content(ref.image_id, SOURCE.content_hash(ref), *SOURCE.stamp(ref), 4, 4)


def compute(refs: Any) -> Made:
    made = Made()
    for ref in refs:
        if ref.index == 7:
            made.fail(ref.image_id, "a", "r", "it is the seventh")
        else:
            made.images.append(content(ref))
    return made


def test_units_are_committed_told_of_and_not_done_again(writer: RunWriter) -> None:
    told: list[Any] = []
    units = Units(writer, told.append, SEGMENTS, "partition", "r", 4)
    left = lacking(open_run(writer.folder), SOURCE, "r")
    assert left == list(SOURCE.refs)
    assert units.run(left, 0, compute) == 1
    assert isinstance(told[0], Started)
    assert (told[0].images, told[0].verb) == (10, "partition")
    assert [e.images for e in told if isinstance(e, Committed)] == [4, 3, 2]
    assert [e.share for e in told if isinstance(e, Progress)] == [0.4, 0.8, 1.0]
    assert [e.image_id for e in told if isinstance(e, Failed)] == ["000007"]
    assert isinstance(told[-1], Finished)
    assert (told[-1].computed, told[-1].failures) == (10, 1)
    assert [r.index for r in lacking(open_run(writer.folder), SOURCE, "r")] == [7]
    assert lacking(open_run(writer.folder), SOURCE, "r", {"000007"}) == []
    (failure,) = open_run(writer.folder).table("failures").to_pylist()
    assert (failure["message"], failure["recipe"], failure["kind"]) == ("it is the seventh", "r", "map")


def test_a_later_success_takes_the_failure_back(writer: RunWriter) -> None:
    units = Units(writer, lambda event: None, SEGMENTS, "partition", "r", 4)
    units.run(list(SOURCE.refs), 0, compute)
    units.run([SOURCE.refs[7]], 9, lambda refs: Made(images=[content(r) for r in refs]))
    assert len(open_run(writer.folder).table("failures")) == 0


def test_an_image_of_another_content_is_lacking(writer: RunWriter) -> None:
    units = Units(writer, lambda event: None, SEGMENTS, "partition", "r", 4)
    units.run(list(SOURCE.refs), 0, compute)
    other = open_images(np.random.default_rng(1).integers(0, 256, (10, 4, 4, 3), dtype=np.uint8))
    assert len(lacking(open_run(writer.folder), other, "r")) == 10


def test_stopped_after_a_unit_it_keeps_what_is_done(writer: RunWriter) -> None:
    asked: list[int] = []

    def stopped() -> bool:
        asked.append(1)
        return len(asked) > 2

    Units(writer, lambda event: None, SEGMENTS, "partition", "r", 3).run(list(SOURCE.refs), 0, compute, stopped)
    assert [r.index for r in lacking(open_run(writer.folder), SOURCE, "r")] == [6, 7, 8, 9]
