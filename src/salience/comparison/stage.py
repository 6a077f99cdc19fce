"""The work of a comparison that goes image by image: in units, resumed where it was, told of as it goes."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from salience.comparison.result import STAGE
from salience.cores import threads
from salience.data.base import ImageRef, ImageSource
from salience.engine.events import Committed, Failed, Finished, Listener, Progress, Started
from salience.store.maps import Failure
from salience.store.run import Run, open_run
from salience.store.unit import Content, FailureRow, StageUnit
from salience.store.writer import RunWriter

SEGMENTS = "segments"
"""Who does the work that needs no compared model, in events and records: partitions and embeddings."""


def identify(description: dict[str, Any]) -> str:
    """Return the id of a recipe of this stage: who, what, and the hash of all that decides."""
    text = json.dumps(description, sort_keys=True)
    return f"{description['model']}.{description['what']}.{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def lacking(run: Run, source: ImageSource, recipe: str, skipped: Set[str] = frozenset()) -> list[ImageRef]:
    """Return the images for which a recipe of the stage is not finished, or was before they changed."""
    contents = {r["image_id"]: r for r in run.parts("contents").to_pylist()}
    finished = run.finished(STAGE)
    found = []
    for ref in source.refs:
        if ref.image_id in skipped:
            continue
        row = contents.get(ref.image_id)
        before = None if row is None else (str(row["content_hash"]), int(row["bytes"]), int(row["mtime_ns"]))
        content = source.hash_since(ref, before)
        done = False
        for _, then, recipes in finished.get(ref.image_id, []):
            if recipe in recipes:
                done = then == content
        if not done:
            found.append(ref)
    return found


@dataclass
class Made:
    """What some images gave: their contents, rows by table, and failures."""

    images: list[Content] = field(default_factory=list)
    tables: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    failures: list[FailureRow] = field(default_factory=list)
    forward: int = 0

    def add(self, table: str, row: dict[str, Any]) -> None:
        """Add a row to a table."""
        columns = self.tables.setdefault(table, {name: [] for name in row})
        for name, value in row.items():
            columns[name].append(value)

    def fail(self, image_id: str, model: str, recipe: str, message: str, content_hash: str = "") -> None:
        """Add a failure of an image under a recipe."""
        self.failures.append(FailureRow(Failure(image_id, "map", message, model), recipe, content_hash))

    def unit(self, who: str, recipe: str, seconds: float) -> StageUnit:
        """Return the unit that finishes a recipe for these images."""
        return StageUnit(STAGE, who, (recipe,), self.images, self.tables, self.failures, seconds)


@dataclass
class Units:
    """Cuts images into units, computes each in the threads of this process and commits it: work that needs no model.

    Parameters
    ----------
    who, verb
        What events call the work, e.g. ``segments`` and ``partition``.
    recipe
        What the units finish.
    size
        Images in a unit, which is lost at most when the process is killed.
    """

    writer: RunWriter
    listen: Listener
    who: str
    verb: str
    recipe: str
    size: int

    def run(
        self,
        refs: Sequence[ImageRef],
        reused: int,
        compute: Callable[[Sequence[ImageRef]], Made],
        stopped: Callable[[], bool] = lambda: False,
    ) -> int:
        """Compute and commit the images' units in order, until ``stopped``; return the number of failures."""
        begin = time.perf_counter()
        self.listen(Started(self.who, len(refs), reused, 1, "contiguous", 1, "cpu", 0, self.verb))
        done = failures = 0
        for at in range(0, len(refs), self.size):
            if stopped():
                return failures
            some = refs[at : at + self.size]
            start = time.perf_counter()
            made = compute(some)
            for row in made.failures:
                f = row.failure
                self.listen(Failed(self.who, f.image_id, f.method, f.kind, f.message))
            self.writer.commit_stage(made.unit(self.who, self.recipe, time.perf_counter() - start))
            done, failures = done + len(some), failures + len(made.failures)
            self.listen(Committed(self.who, len(made.images)))
            elapsed = time.perf_counter() - begin
            left = elapsed * (len(refs) - done) / done
            self.listen(Progress(self.who, done, len(refs), done / len(refs), done / elapsed, left))
        seconds = time.perf_counter() - begin
        rate = done / max(1e-9, seconds)
        self.listen(Finished(self.who, done, reused, failures, round(seconds, 3), round(rate, 3), 0, 0, self.verb))
        return failures


def unit_name(recipe: str, image_ids: Sequence[str]) -> str:
    """Name a unit by what is in it: begun again after a kill, it finds the answers that were paid for."""
    what = (recipe, list(image_ids))
    return f"{STAGE}.{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]}"


def unreadable(folder: Run) -> set[str]:
    """Return the ids of images that could not be read."""
    return {r["image_id"] for r in folder.table("failures").to_pylist() if r["kind"] == "unreadable"}


@contextmanager
def in_thread(work: Callable[[Callable[[], bool]], None]) -> Iterator[None]:
    """Do ``work(stopped)`` in a thread beside the body; wait for it at the end, or stop it where the body fails.

    What the work raises is raised here.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="segments") as pool:
        task = pool.submit(work, stop.is_set)
        try:
            yield
        except BaseException:
            stop.set()
            raise
        task.result()


def workers() -> int:
    """Return how many threads decode and partition: enough to feed a device, few beside a model on the CPU."""
    return threads(2)


def opened(writer: RunWriter) -> Run:
    """Return the run that a writer writes, as it is now."""
    return open_run(writer.folder)
