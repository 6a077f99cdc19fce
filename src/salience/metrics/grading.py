"""Scoring as work that workers can do: units of images that lack the same scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from salience.cores import threads
from salience.data.base import ImageRef, ImageSource
from salience.data.decode import LoadedImage
from salience.engine.crew import Task as Unit
from salience.engine.halving import run_halving
from salience.engine.loader import load_now
from salience.engine.masked import Packer
from salience.engine.passes import Calls
from salience.engine.plan import Plan
from salience.engine.work import Compute, Computed, OnRows, unheard
from salience.metrics.scoring import Scorer, StoredCurves, Task
from salience.models.classifier import Classifier
from salience.store.maps import Failure
from salience.store.unit import Content, FailureRow, StageUnit

STAGE = "evaluate"


@dataclass(frozen=True)
class Lacking:
    """What some images lack: tasks, of which those in ``read`` are made of curves that are stored already."""

    tasks: tuple[Task, ...]
    read: frozenset[str]


class KnownCurves:
    """The curves of earlier calls."""

    def __init__(self, scorer: Scorer, curves: pa.Table) -> None:
        self._curves = curves
        first = curves.filter(pc.equal(curves["position"], 0))
        self._known = set(zip(first["recipe"].to_pylist(), first["image_id"].to_pylist(), strict=True))
        self._needs = {t.id: tuple(scorer.curves_of(t).values()) for t in scorer.tasks} if self._known else {}

    def enough(self, image_id: str, tasks: Sequence[Task], done: Set[str]) -> frozenset[str]:
        """Return the ids of the tasks that need no model: all their curves of an image are finished and stored."""
        needs = ((t.id, self._needs.get(t.id, ())) for t in tasks)
        return frozenset(
            task
            for task, recipes in needs
            if recipes and all(r in done and (r, image_id) in self._known for r in recipes)
        )

    def of(self, tasks: Set[str], image_ids: Sequence[str]) -> pa.Table:
        """Return the rows of the table ``curves`` that tasks read of images."""
        recipes = {r for task in tasks for r in self._needs.get(task, ())}
        return self._curves.filter(
            pc.and_(
                pc.is_in(self._curves["recipe"], pa.array(sorted(recipes), pa.string())),
                pc.is_in(self._curves["image_id"], pa.array(list(image_ids), pa.string())),
            )
        )


def read_curves(table: pa.Table, image_ids: Sequence[str]) -> StoredCurves:
    """Return the curves of images, off rows of the table ``curves``."""
    rows = table.filter(pc.is_in(table["image_id"], pa.array(list(image_ids), pa.string())))
    out: dict[tuple[str, str], dict[int, list[float]]] = {}
    columns = (rows[c].to_pylist() for c in ("recipe", "image_id", "position", "values"))
    for recipe, image_id, position, values in zip(*columns, strict=True):
        out.setdefault((recipe, image_id), {})[position] = values
    return out


@dataclass(frozen=True)
class ScoreCraft:
    """Scores units of images.

    Parameters
    ----------
    scorer
        Makes the scorer of the model.
    lacking
        What images may lack; a unit's one member is a place in here.
    curves
        Rows of the table ``curves`` that some of these tasks read.
    """

    scorer: Callable[[Classifier], Scorer]
    source: ImageSource
    lacking: tuple[Lacking, ...]
    curves: pa.Table

    @contextmanager
    def open(self, classifier: Classifier, plan: Plan, on_rows: OnRows = unheard) -> Iterator[Compute]:
        """Have the decoders ready."""
        with ThreadPoolExecutor(threads(plan.lanes), thread_name_prefix="decode") as decoders:
            yield _Grader(self, self.scorer(classifier), plan, decoders, on_rows).compute


@dataclass
class _Grader:
    """Scores unit after unit with one model; with smaller batches from where memory ran out."""

    craft: ScoreCraft
    scorer: Scorer
    plan: Plan
    decoders: ThreadPoolExecutor
    on_rows: OnRows
    _refs: dict[int, ImageRef] = field(init=False)

    def __post_init__(self) -> None:
        self._refs = {ref.index: ref for ref in self.craft.source.refs}

    def compute(self, unit: Unit) -> Computed:
        """Score the images of a unit."""
        refs = [self._refs[place] for place in unit.images]
        (member,) = unit.members
        score = partial(self._score, refs, self.craft.lacking[member])
        (made, calls), self.plan = run_halving(self.scorer.classifier, self.plan, score)
        return Computed(made, calls, self.plan)

    def _score(self, refs: Sequence[ImageRef], lacking: Lacking, plan: Plan) -> tuple[StageUnit, Calls]:
        begin = time.perf_counter()
        s, name = self.scorer, self.scorer.classifier.name
        packer = Packer(s.classifier, plan, self.on_rows)
        failures: list[FailureRow] = []
        loaded: list[tuple[Content, LoadedImage, Sequence[Any]]] = []
        read = partial(load_now, self.craft.source, preprocessing=s.classifier.preprocessing)
        for ref, image in zip(refs, self.decoders.map(read, refs), strict=True):
            if isinstance(image, tuple):
                loaded.append((*image, ref.boxes))
            else:
                failures.append(FailureRow(Failure(ref.image_id, "unreadable", str(image), name), None, ""))
        pictures = s.pictures(packer, loaded) if loaded else []
        whole = []
        for picture in pictures:
            if bool(picture.logits.isfinite().all()):
                whole.append(picture)
                continue
            message = "The model's output for this image is not finite (NaN or infinite)."
            failure = Failure(picture.image_id, "model", message, name)
            failures.append(FailureRow(failure, None, picture.content.content_hash))
        stored = read_curves(self.craft.curves, [p.image_id for p in whole]) if lacking.read else None
        found = s.score(packer, whole, lacking.tasks, stored, lacking.read)
        keys = {p.image_id: p.content.content_hash for p in whole}
        for image_id, method, task, kind, message in found.failures:
            failures.append(FailureRow(Failure(image_id, kind, message, name, method), task, keys[image_id]))
        unit = StageUnit(
            STAGE,
            name,
            tuple(t.id for t in lacking.tasks),
            [p.content for p in pictures],
            {"scores": found.scores, "curves": found.curves},
            failures,
            time.perf_counter() - begin,
        )
        return unit, packer.calls
