"""Explaining as work that workers can do: the units of a runner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from salience.data.base import ImageRef, ImageSource
from salience.engine.crew import Task
from salience.engine.passes import Calls
from salience.engine.plan import Plan
from salience.engine.runner import Request, Runner
from salience.engine.work import Compute, Computed, OnRows, Part, Work, unheard
from salience.models.classifier import Classifier
from salience.store.maps import Failure
from salience.store.unit import FailureRow, Known, Recipe, UnitResult


@dataclass
class _Kept:
    """A sink that knows nothing: what is to be done was decided before."""

    map_dtype: str

    def known(self) -> Known:
        return Known()

    def commit(self, unit: UnitResult) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class MapCraft:
    """Computes units of maps; what images lack are positions of methods."""

    source: ImageSource
    labels: tuple[int | None, ...]
    request: Request
    recipes: tuple[Recipe, ...]
    unit_images: int
    map_dtype: str

    @contextmanager
    def open(self, classifier: Classifier, plan: Plan, on_rows: OnRows = unheard) -> Iterator[Compute]:
        """Have the model and the decoders ready, and leave all as it was found."""
        runner = Runner(
            classifier,
            self.source,
            self.labels,
            self.request,
            self.recipes,
            plan,
            _Kept(self.map_dtype),
            unit_images=self.unit_images,
        )

        def compute(task: Task) -> Computed:
            return Computed(*runner.compute(task.images, task.members))

        with runner.ready():
            yield compute


def map_work(runner: Runner) -> Work:
    """Return what a runner has to do, for workers."""
    name = runner.classifier.name
    work = runner.missing(runner.sink.known())
    size = runner.unit_images
    parts = []
    for refs, members in work:
        calls = runner.calls_per_image(members) if members else Calls()
        rows = max(1, calls.forward + calls.backward)
        parts += [
            Part(tuple(ref.index for ref in refs[at : at + size]), members, rows) for at in range(0, len(refs), size)
        ]

    def lost(ref: ImageRef, members: tuple[int, ...], message: str) -> UnitResult:
        row = FailureRow(Failure(ref.image_id, "crash", message, name), None, runner.image_key(ref, None))
        return UnitResult(name, failures=[row])

    craft = MapCraft(
        runner.source,
        tuple(runner.labels),
        runner.request,
        tuple(runner.recipes),
        runner.unit_images,
        runner.sink.map_dtype,
    )
    reused = len(runner.source.refs) - sum(len(refs) for refs, _ in work)
    return Work(
        classifier=runner.classifier,
        source=runner.source,
        verb="explain",
        craft=craft,
        plan=runner.plan,
        parts=parts,
        reused=reused,
        lost=lost,
    )
