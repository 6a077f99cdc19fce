"""Having work done: by this process, or by the workers of a crew, who are told what they need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from salience.engine.crew import Crew
from salience.engine.driver import Driver, Summary
from salience.engine.events import Listener, ignore
from salience.engine.here import Here
from salience.engine.lanes import Lanes
from salience.engine.processes import Processes
from salience.engine.work import OnRows, Work, shrinking
from salience.engine.worker import Assignment, Team
from salience.errors import ModelError, SettingsError
from salience.models.classifier import Classifier
from salience.models.origin import Origin
from salience.store.unit import Sink
from salience.store.writer import RunWriter


class Staff:
    """A crew at work: its workers go from one piece of work to the next, and keep the model while it is the same.

    They are started for the first piece, and end with the body of the ``with`` statement.
    """

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self._team: Team | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def assign(self, assignment: Assignment, device: str) -> Team:
        """Return workers that get ready for an assignment."""
        if self._team is None:
            self._team = self._start()
        self._team.assign(assignment, device)
        return self._team

    def _start(self) -> Team:
        if self.crew.engine == "local":
            return Processes(self.crew.workers)
        from salience.engine.ray_actors import Actors

        return Actors(self.crew)

    def close(self) -> None:
        """End the workers; others are started for what comes after."""
        team, self._team = self._team, None
        if team is not None:
            team.close()


def carry_out(work: Work, writer: Sink, crew: Crew | Staff | None, listen: Listener = ignore) -> Summary:
    """Have work done, by this process where there is no crew, and return what it came to.

    Units are numbered before the first is begun: who computes them changes no byte of the run.

    Raises
    ------
    SettingsError
        When there is a crew and the model is paid for: it is asked by one process, which counts. When there is a crew
        and no run directory.
    ModelError
        When there is a crew and the model was made in Python, so that a worker cannot load it.
    SalienceError
        When a worker cannot load the model, or the model or the disk fails; everything committed before is safe.
    """
    if crew is None:
        work = shrinking(work) if work.plan.lanes > 1 else work
        driver = Driver(work, writer, listen=listen)
        tasks = driver.number()
        if tasks:
            with _here(work, writer, driver.on_rows) as pool:
                driver.run(tasks, pool)
        return driver.finish()
    if not isinstance(writer, RunWriter):
        raise SettingsError("Several workers write into a run directory: name one (out=, --out).")
    assignment = _assignment(work, writer)
    with _engaged(crew) as staff:
        driver = Driver(work, writer, staff.crew.workers, listen)
        tasks = driver.number()
        if tasks:
            driver.run(tasks, staff.assign(assignment, str(work.classifier.device)))
    return driver.finish()


@contextmanager
def _here(work: Work, writer: Sink, on_rows: OnRows) -> Iterator[Here | Lanes]:
    """Have work done by this process: in lanes where the plan has some and the model has twins."""
    with ExitStack() as stack:
        pool: Here | Lanes | None = None
        if work.plan.lanes > 1:
            with suppress(ModelError):
                pool = stack.enter_context(Lanes(work, writer, on_rows))
        if pool is None:
            pool = stack.enter_context(Here(replace(work, plan=work.plan.alone()), writer, on_rows))
        yield pool


def check_crew(crew: Crew | Staff | None, classifiers: Iterable[Classifier], out: object) -> None:
    """Refuse what a crew cannot do before anything is done; where there is none, everything can be.

    Raises
    ------
    SettingsError
        When a model is paid for: it is asked by one process, which counts. When a cluster is to write into a folder
        that nobody named.
    ModelError
        When a model was made in Python, so that a worker cannot load it.
    """
    if crew is None:
        return
    settings = crew.crew if isinstance(crew, Staff) else crew
    if out is None and settings.engine == "ray":
        raise SettingsError(
            "The machines of a cluster write into a run directory that all of them see: name one (out=)."
        )
    for classifier in classifiers:
        _origin(classifier)


@contextmanager
def _engaged(crew: Crew | Staff) -> Iterator[Staff]:
    """Have a staff for one piece of work: its own, or the one that is there, which ends only where it fails."""
    staff = crew if isinstance(crew, Staff) else Staff(crew)
    try:
        yield staff
    except BaseException:
        staff.close()  # its workers are in the middle of something
        raise
    if staff is not crew:
        staff.close()


def workers_can_load(classifier: Classifier) -> bool:
    """Tell whether workers can have a model: neither paid for nor made in Python."""
    return classifier.origin is not None and not classifier.paid and classifier.account is None


def _origin(classifier: Classifier) -> Origin:
    """Return where a worker finds a model."""
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
    return classifier.origin


def _assignment(work: Work, writer: RunWriter) -> Assignment:
    """Return what workers are told."""
    classifier = work.classifier
    return Assignment(
        _origin(classifier),
        classifier.name,
        classifier.layer,
        classifier.fingerprint(),
        work.craft,
        work.plan,
        writer.folder.resolve(),
        writer.info,
        writer.claim,
        str(Path.cwd()),
    )
