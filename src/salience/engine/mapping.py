"""Explaining as work: the units of a runner."""

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


@dataclass(frozen=True)
class MapCraft:
    """Computes units of maps; what images lack are positions of methods."""

    source: ImageSource
    labels: tuple[int | None, ...]
    request: Request
    recipes: tuple[Recipe, ...]
    map_dtype: str
    decoders: int | None = None

    @contextmanager
    def open(self, classifier: Classifier, plan: Plan, on_rows: OnRows = unheard) -> Iterator[Compute]:
        """Have the model and the decoders ready, and leave all as it was found."""
        runner = self.runner(classifier, plan, on_rows)

        def compute(task: Task) -> Computed:
            return Computed(*runner.compute(task.images, task.members))

        with runner.ready():
            yield compute

    def runner(self, classifier: Classifier, plan: Plan, on_rows: OnRows = unheard) -> Runner:
        """Return what computes the units."""
        return Runner(
            classifier,
            self.source,
            self.labels,
            self.request,
            self.recipes,
            plan,
            self.map_dtype,
            on_rows,
            self.decoders,
        )


def map_work(craft: MapCraft, classifier: Classifier, plan: Plan, known: Known, unit_images: int) -> Work:
    """Return what there is to explain.

    Parameters
    ----------
    known
        What is there already.
    unit_images
        Images in a unit at most: what is lost when the process is killed.
    """
    runner = craft.runner(classifier, plan)
    name = classifier.name
    work = runner.missing(known)
    parts = []
    for refs, members in work:
        calls = runner.calls_per_image(members) if members else Calls()
        rows = max(1, calls.forward + calls.backward)
        least = min(runner.least(members), unit_images) if members else 1
        parts += [
            Part(tuple(ref.index for ref in refs[at : at + unit_images]), members, rows, least)
            for at in range(0, len(refs), unit_images)
        ]

    def lost(ref: ImageRef, members: tuple[int, ...], message: str) -> UnitResult:
        row = FailureRow(Failure(ref.image_id, "crash", message, name), None, runner.image_key(ref, None))
        return UnitResult(name, failures=[row])

    return Work(
        classifier=classifier,
        source=craft.source,
        verb="explain",
        craft=craft,
        plan=plan,
        parts=parts,
        reused=len(craft.source.refs) - sum(len(refs) for refs, _ in work),
        lost=lost,
        name=lambda task: runner.unit_name(task.images, task.members),
    )
