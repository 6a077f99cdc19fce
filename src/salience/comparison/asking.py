"""Asking about filled images as work that workers can do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from salience.comparison.interventions import Intervener
from salience.comparison.result import STAGE
from salience.comparison.stage import unit_name
from salience.data.base import ImageRef
from salience.engine.crew import Task
from salience.engine.passes import Calls
from salience.engine.plan import Plan
from salience.engine.work import Compute, Computed, OnRows, Part, Work, crash_unit, recorded_content, unheard
from salience.models.classifier import Classifier
from salience.store.run import Run
from salience.store.unit import StageUnit

Asking = Callable[[Classifier, Plan], Intervener]


@dataclass(frozen=True)
class AskCraft:
    """Asks about units of images, which all lack the same.

    Parameters
    ----------
    asking
        Makes the intervener of a model under a plan.
    """

    asking: Asking

    @contextmanager
    def open(self, classifier: Classifier, plan: Plan, on_rows: OnRows = unheard) -> Iterator[Compute]:
        """Return what asks about the images of a unit."""
        intervener = self.asking(classifier, plan)
        intervener.on_rows = on_rows
        refs = {ref.index: ref for ref in intervener.source.refs}

        def compute(task: Task) -> Computed:
            begin = time.perf_counter()
            made = intervener.compute([refs[place] for place in task.images])
            unit = made.unit(classifier.name, intervener.recipe, time.perf_counter() - begin)
            return Computed(unit, Calls(made.forward), intervener.plan)

        yield compute


def ask_work(
    asking: Asking,
    intervener: Intervener,
    run: Run,
    refs: Sequence[ImageRef],
    unit_images: int | None,
    halved: Callable[[Plan], None],
) -> Work:
    """Return what there is to ask a model.

    Parameters
    ----------
    asking
        Makes the intervener in a worker.
    intervener
        The one that it makes here.
    run
        Tells what the images are.
    refs
        The images whose trials are not answered yet.
    unit_images
        Images in a unit; chosen where None.
    halved
        Hears of the plan where memory ran out.
    """
    name, recipe, source = intervener.classifier.name, intervener.recipe, intervener.source
    size = unit_images or intervener.unit_images()
    rows = intervener.calls_per_image()
    places = [ref.index for ref in refs]
    ids = {ref.index: ref.image_id for ref in refs}
    contents = {r["image_id"]: r for r in run.parts("contents").to_pylist() if r["image_id"] in intervener.trials}

    def lost(ref: ImageRef, members: tuple[int, ...], message: str) -> StageUnit:
        content = recorded_content(contents, source, ref)
        return crash_unit(STAGE, name, [recipe], ref, content, message)

    return Work(
        classifier=intervener.classifier,
        source=source,
        verb="change",
        craft=AskCraft(asking),
        plan=intervener.plan,
        parts=[Part(tuple(places[at : at + size]), (), rows) for at in range(0, len(places), size)],
        reused=len(intervener.trials) - len(refs),
        lost=lost,
        halved=halved,
        name=lambda task: unit_name(recipe, [ids[place] for place in task.images]),
    )
