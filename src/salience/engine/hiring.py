"""Finding workers for a job: what they are told, and who starts them."""

from __future__ import annotations

from pathlib import Path

from salience.engine.crew import Crew, Pool
from salience.engine.driver import Driver
from salience.engine.events import Listener, ignore
from salience.engine.processes import Processes
from salience.engine.runner import Runner
from salience.engine.worker import Assignment
from salience.errors import ModelError, SettingsError
from salience.store.writer import RunWriter


def hire(crew: Crew, runner: Runner, writer: RunWriter, listen: Listener = ignore) -> Driver:
    """Return a driver of the job with workers of its own; they start when it runs.

    Raises
    ------
    SettingsError
        When the model is paid for: it is asked by one process, which counts.
    ModelError
        When the model was made in Python, so that a worker cannot load it.
    """
    classifier = runner.classifier
    if classifier.paid or classifier.account is not None:
        raise SettingsError(
            f"Model {classifier.name!r} is behind a URL: one process asks it and counts. Leave the workers out; its "
            "answers do not come faster by them."
        )
    if classifier.origin is None:
        raise ModelError(
            f"Model {classifier.name!r} was made in Python, and a worker has to load it again: write a function that "
            "returns it, and load that: load_model('package.module:function')."
        )
    device = str(classifier.device)
    assignment = Assignment(
        classifier.origin,
        classifier.fingerprint(),
        runner.source,
        tuple(runner.labels),
        runner.request,
        tuple(runner.recipes),
        runner.plan,
        runner.unit_images,
        writer.map_dtype,
        writer.folder.resolve(),
        writer.info,
        writer.claim,
        str(Path.cwd()),
    )

    def start() -> Pool:
        if crew.engine == "local":
            return Processes(assignment, crew.workers, device)
        from salience.engine.ray_actors import Actors

        return Actors(assignment, crew, device)

    return Driver(runner, writer, start, crew.workers, listen)
