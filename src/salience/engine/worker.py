"""What one worker does: load the model once, then compute and write the units that it is given."""

from __future__ import annotations

import gc
import os
from abc import abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from salience.engine.allocator import keep_freed_memory
from salience.engine.crew import Done, Pool, Task
from salience.engine.plan import Plan
from salience.engine.work import Compute, Craft, put
from salience.errors import ModelError
from salience.models.classifier import Classifier
from salience.models.loading import load_model
from salience.models.origin import Origin
from salience.store.place import Place
from salience.store.unit_writer import UnitWriter


@dataclass(frozen=True)
class Assignment:
    """One model's work as a worker is given it: everything but the model itself, which it loads.

    ``name`` and ``layer`` are those that the model has now, whatever it was loaded with.
    """

    origin: Origin
    name: str
    layer: str | None
    fingerprint: str
    craft: Craft
    plan: Plan
    folder: Place
    info: dict[str, Any]
    claim: str
    directory: str


class Team(Pool):
    """Workers that are given one assignment after another."""

    @abstractmethod
    def assign(self, assignment: Assignment, device: str) -> None:
        """Have the workers get ready for an assignment; they have no task meanwhile.

        Parameters
        ----------
        device
            The device of the command.
        """

    @abstractmethod
    def close(self) -> None:
        """End the workers."""


class Worker:
    """Does the tasks of one assignment after another; a model stays loaded as long as they are of it."""

    def __init__(self) -> None:
        keep_freed_memory()
        self._open = ExitStack()
        self._loaded: tuple[object, Classifier] | None = None
        self._compute: Compute
        self._writer: UnitWriter

    def begin(self, assignment: Assignment, device: str, threads: int) -> None:
        """Get ready for the tasks of an assignment; those of the one before are done.

        Parameters
        ----------
        device
            Where the model runs.
        threads
            Of the CPU; 0 leaves it to torch.

        Raises
        ------
        ModelError
            When the model cannot be loaded here, or is another one here.
        """
        self.close()
        if Path(assignment.directory).is_dir():
            os.chdir(assignment.directory)  # paths are relative to where the command was typed
        classifier = self._model(assignment, device)
        plan = replace(assignment.plan, device=str(classifier.device), threads=threads, lanes=1)
        self._writer = UnitWriter(assignment.folder, assignment.info, assignment.claim)
        self._compute = self._open.enter_context(assignment.craft.open(classifier, plan))

    def _model(self, assignment: Assignment, device: str) -> Classifier:
        wanted = (assignment.origin, assignment.name, assignment.layer, assignment.fingerprint, device)
        if self._loaded is not None and self._loaded[0] == wanted:
            return self._loaded[1]
        if self._loaded is not None:
            self._loaded = None
            gc.collect()  # modules and hooks refer to one another
            torch.cuda.empty_cache()
        origin = assignment.origin
        classifier = load_model(origin.spec, name=origin.name, device=device, layer=origin.layer, card=origin.card)
        if origin.then is not None:
            classifier = origin.then(classifier)
        classifier.name, classifier.layer = assignment.name, assignment.layer
        if classifier.fingerprint() != assignment.fingerprint:
            raise ModelError(
                f"A worker loads other weights for {assignment.name!r} than the command did. Give every machine the "
                "same files, or put them where all of them read."
            )
        self._loaded = (wanted, classifier)
        return classifier

    def do(self, task: Task) -> Done:
        """Compute a unit and write it.

        Raises
        ------
        SalienceError
            When the model or the disk fails.
        """
        return put(self._writer, task.number, self._compute(task))

    def close(self) -> None:
        """Leave the model as it was found."""
        self._open.close()
