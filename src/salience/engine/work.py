"""Work that is cut into units: what there is to do with one model, and how a unit is computed, wherever that is.

Explaining, scoring and asking about changed images are such work. A unit is computed by a :class:`Craft` and a model.
The craft can be pickled, so that a worker needs nothing else: it loads the model, computes the units that it is given,
and writes each under the number that it had from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

from salience.data.base import ImageRef, ImageSource
from salience.engine.crew import Done, Task
from salience.engine.passes import Calls
from salience.engine.plan import Plan
from salience.models.classifier import Classifier
from salience.store.maps import Failure
from salience.store.unit import Content, FailureRow, MapRows, StageUnit, UnitResult, UnitSink

OnRows = Callable[[int], None]


def unheard(rows: int) -> None:
    """Hear of model calls, and keep nothing."""


@dataclass(frozen=True)
class Computed:
    """What a unit came to, the model calls, and the plan that held in the end."""

    unit: UnitResult | StageUnit
    calls: Calls
    plan: Plan


Compute = Callable[[Task], Computed]


class Craft(Protocol):
    """How the units of a piece of work are computed: all that a worker is told of it besides the model."""

    def open(self, classifier: Classifier, plan: Plan, on_rows: OnRows = unheard) -> AbstractContextManager[Compute]:
        """Get ready, and return what computes a unit; ``on_rows`` hears of rows that the model was given, if any."""
        ...


@dataclass(frozen=True)
class Part:
    """A unit that has no number yet.

    Attributes
    ----------
    images
        Places of its images in the source.
    members
        What they lack, as the work numbers it.
    rows
        What the model is given for one of them, forward and backward.
    least
        Images that keep the model busy: of so many, or a multiple, a unit consists that is made smaller.
    """

    images: tuple[int, ...]
    members: tuple[int, ...]
    rows: int = 1
    least: int = 1


Lost = Callable[[ImageRef, tuple[int, ...], str], UnitResult | StageUnit]


@dataclass(frozen=True)
class Work:
    """What one model has to do with the images of a source.

    Attributes
    ----------
    verb
        What events call it.
    plan
        How the model is run.
    parts
        The units, in order.
    reused
        Images that lack nothing.
    lost
        Makes a unit of an image that no worker survived, of what it lacked and what there is to say.
    halved
        Hears of the plan where memory ran out.
    name
        Names a unit by what is in it: begun again after a kill, it finds the answers that were paid for.
    called
        Who does it, in events; the model by default.
    """

    classifier: Classifier
    source: ImageSource
    verb: str
    craft: Craft
    plan: Plan
    parts: Sequence[Part]
    reused: int
    lost: Lost
    halved: Callable[[Plan], None] = lambda plan: None
    name: Callable[[Task], str] = lambda task: str(task.number)
    called: str = ""

    @property
    def who(self) -> str:
        """What events call whoever does it."""
        return self.called or self.classifier.name


def shrinking(work: Work) -> Work:
    """Return work for lanes: each unit is at most a share of the images that are left, so that all lanes end together.

    The share is a multiple of ``part.least`` images.
    """
    left = sum(len(part.images) for part in work.parts)
    parts = []
    for part in work.parts:
        at = 0
        while at < len(part.images):
            shares = 2 * work.plan.lanes * part.least
            some = part.images[at : at + part.least * -(-left // shares)]
            parts.append(replace(part, images=some))
            at += len(some)
            left -= len(some)
    return replace(work, parts=parts)


def put(writer: UnitSink, number: int, computed: Computed) -> Done:
    """Write a unit under its number, and return what there is to tell of it.

    Raises
    ------
    RunError
        When it cannot be written; it then does not count.
    """
    unit = computed.unit
    grids = {}
    if isinstance(unit, StageUnit):
        writer.write_stage(number, unit)
    else:
        writer.write(number, unit)
        grids = {recipe: grid_of(rows) for recipe, rows in unit.maps.items() if rows.values}
    calls = computed.calls
    return Done(
        number, len(unit.images), tuple(unit.failures), calls.forward, calls.backward, computed.plan.batch, grids
    )


def grid_of(rows: MapRows) -> tuple[int, int]:
    """Return the grid of maps of which there is one at least."""
    height, width = rows.values[0].shape
    return int(height), int(width)


def recorded_content(rows: Mapping[str, Mapping[str, Any]], source: ImageSource, ref: ImageRef) -> Content | None:
    """Return what rows of the table ``contents``, by image id, say of an image; None where it is no longer that."""
    row = rows.get(ref.image_id)
    if row is None:
        return None
    before = (str(row["content_hash"]), int(row["bytes"]), int(row["mtime_ns"]))
    if source.hash_since(ref, before) != before[0]:
        return None
    return Content(**{f.name: row[f.name] for f in fields(Content)})


def crash_unit(
    stage: str,
    model: str,
    recipes: Sequence[str],
    ref: ImageRef,
    content: Content | None,
    message: str,
    blame: str | None = None,
) -> StageUnit:
    """Return the unit of a stage for an image that no worker survived; the failure may bear another model's name.

    Where it is known what the image is, it is not tried again until it changes.
    """
    key = "" if content is None else content.content_hash
    row = FailureRow(Failure(ref.image_id, "crash", message, blame or model), recipes[0], key)
    return StageUnit(stage, model, tuple(recipes), [] if content is None else [content], {}, [row])
