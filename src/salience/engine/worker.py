"""What one worker does: load the model once, then compute and write the units that it is given."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from salience.data.base import ImageSource
from salience.engine.allocator import keep_freed_memory
from salience.engine.crew import Done, Task
from salience.engine.plan import Plan
from salience.engine.runner import Request, Runner
from salience.errors import ModelError
from salience.models.loading import load_model
from salience.models.origin import Origin
from salience.store.unit import Known, MapRows, Recipe, UnitResult
from salience.store.unit_writer import UnitWriter


@dataclass(frozen=True)
class Assignment:
    """One model's job as a worker is given it: everything but the model itself, which it loads."""

    origin: Origin
    fingerprint: str
    source: ImageSource
    labels: tuple[int | None, ...]
    request: Request
    recipes: tuple[Recipe, ...]
    plan: Plan
    unit_images: int
    map_dtype: str
    folder: Path
    info: dict[str, Any]
    claim: str
    directory: str


@dataclass
class _Kept:
    """A sink that knows nothing: what is to be done was decided before."""

    map_dtype: str

    def known(self) -> Known:
        return Known()

    def commit(self, unit: UnitResult) -> None:
        raise NotImplementedError


class Worker:
    """Does tasks of one assignment; use it as a context manager.

    Parameters
    ----------
    device
        Where its model runs.
    threads
        Of the CPU; 0 leaves it to torch.

    Raises
    ------
    ModelError
        When the model cannot be loaded here, or is another one here.
    """

    def __init__(self, assignment: Assignment, device: str, threads: int) -> None:
        keep_freed_memory()
        if Path(assignment.directory).is_dir():
            os.chdir(assignment.directory)  # paths are relative to where the command was typed
        origin = assignment.origin
        classifier = load_model(origin.spec, name=origin.name, device=device, layer=origin.layer, card=origin.card)
        if classifier.fingerprint() != assignment.fingerprint:
            raise ModelError(
                f"A worker loads other weights for {origin.name!r} than the command did. Give every machine the same "
                "files, or put them where all of them read."
            )
        plan = replace(assignment.plan, device=str(classifier.device), threads=threads)
        self.writer = UnitWriter(assignment.folder, assignment.info, assignment.claim)
        self.runner = Runner(
            classifier,
            assignment.source,
            assignment.labels,
            assignment.request,
            assignment.recipes,
            plan,
            _Kept(assignment.map_dtype),
            unit_images=assignment.unit_images,
        )
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._open.enter_context(self.runner.ready())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def do(self, task: Task) -> Done:
        """Compute a unit and write it.

        Raises
        ------
        SalienceError
            When the model or the disk fails.
        """
        unit, calls, plan = self.runner.compute(task.images, task.members)
        self.writer.write(task.number, unit)
        return Done(
            task.number,
            len(unit.images),
            tuple(unit.failures),
            calls.forward,
            calls.backward,
            plan.batch,
            {recipe: grid_of(rows) for recipe, rows in unit.maps.items() if rows.values},
        )


def grid_of(rows: MapRows) -> tuple[int, int]:
    """Return the grid of maps of which there is one at least."""
    height, width = rows.values[0].shape
    return int(height), int(width)
