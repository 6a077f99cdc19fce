"""One model's work on the images of a source: who gives out the units and hears what became of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from salience.data.base import ImageRef
from salience.engine.crew import Done, Pool, Task, distribute
from salience.engine.events import Committed, Failed, Finished, Listener, PlanChanged, Progress, Started, ignore
from salience.engine.passes import Calls
from salience.engine.plan import Plan
from salience.engine.work import Computed, Work, put
from salience.store.unit import FailureRow, Sink

_TELL_EVERY_S = 0.1


@dataclass
class Summary:
    """What a model's work came to."""

    computed: int = 0
    reused: int = 0
    failures: int = 0
    seconds: float = 0.0
    calls: Calls = field(default_factory=Calls)
    plan: Plan | None = None


@dataclass
class Driver:
    """Has the units of some work computed by a pool, and tells of it.

    Parameters
    ----------
    writer
        The run, or memory, which gives out the numbers of units.
    workers
        How many workers there are, to be told.
    """

    work: Work
    writer: Sink
    workers: int = 1
    listen: Listener = ignore

    def __post_init__(self) -> None:
        work = self.work
        self._begin = time.perf_counter()
        self._refs: dict[int, ImageRef] = {ref.index: ref for ref in work.source.refs}
        self._images = sum(len(part.images) for part in work.parts)
        self._rows = sum(len(part.images) * part.rows for part in work.parts)
        self._rows_of: dict[int, int] = {}
        """Rows that an image needs, by the number of its unit."""
        self._sizes: dict[int, int] = {}
        self._settled = self._spent = self._inside = 0
        self._most = max((part.rows for part in work.parts), default=0)
        self._told = 0.0
        self.summary = Summary(plan=work.plan, reused=work.reused)

    def number(self) -> list[Task]:
        """Tell that the work begins, and number its units."""
        parts = self.work.parts
        first = self.writer.reserve(len(parts))
        tasks = [Task(first + i, part.images, part.members) for i, part in enumerate(parts)]
        self._sizes = {task.number: len(task.images) for task in tasks}
        self._rows_of = {task.number: part.rows for task, part in zip(tasks, parts, strict=True)}
        self._started()
        return tasks

    def run(self, tasks: Sequence[Task], pool: Pool) -> None:
        """Have a pool compute all units.

        Raises
        ------
        SalienceError
            When a worker cannot load the model, or the model or the disk fails; everything committed before is safe.
        """
        distribute(tasks, pool, self._reserve, self._done, self._lost)

    def finish(self) -> Summary:
        """Tell that the work is done, and return what it came to."""
        s, work = self.summary, self.work
        s.seconds = time.perf_counter() - self._begin
        rate = round(s.computed / max(1e-9, s.seconds), 3)
        calls = (s.calls.forward, s.calls.backward)
        name, seconds = work.who, round(s.seconds, 3)
        self.listen(Finished(name, s.computed, s.reused, s.failures, seconds, rate, *calls, work.verb))
        return s

    def on_rows(self, rows: int) -> None:
        """Hear of rows that the model was given in the units that this process computes."""
        self._inside += rows
        now = time.perf_counter()
        if now - self._told >= _TELL_EVERY_S:  # passes of a small model come by the thousand
            self._told = now
            self._tell()

    # ------------------------------------------------------------------ what is heard

    def _reserve(self, task: Task) -> int:
        """Set numbers aside for the images of a unit that is taken apart."""
        first = self.writer.reserve(len(task.images))
        numbers = range(first, first + len(task.images))
        self._sizes.update(dict.fromkeys(numbers, 1))
        self._rows_of.update(dict.fromkeys(numbers, self._rows_of[task.number]))
        return first

    def _done(self, done: Done) -> None:
        self.writer.take(done.number, done.grids)
        s, work = self.summary, self.work
        s.computed += done.computed
        s.calls += Calls(done.forward, done.backward)
        if s.plan is not None and done.batch < s.plan.batch:  # there was no memory for more
            s.plan = replace(s.plan, batch=done.batch)
            work.halved(s.plan)
            self.listen(PlanChanged(work.who, done.batch))
        self._settle(done.number, done.failures)
        self.listen(Committed(work.who, done.computed))
        self._tell()

    def _lost(self, task: Task, how: str) -> None:
        """Make a failure of an image that no worker survived."""
        (image,) = task.images
        work, plan = self.work, self.work.plan
        message = f"The worker did not survive this image, alone and on a second try: {how}."
        unit = work.lost(self._refs[image], task.members, message)
        put(self.writer, task.number, Computed(unit, Calls(), plan))
        self._settle(task.number, tuple(unit.failures))
        self._tell()

    def _settle(self, number: int, failures: tuple[FailureRow, ...]) -> None:
        """Count a unit that is written, and tell of what failed in it."""
        size = self._sizes[number]
        self._settled += size
        rows = size * self._rows_of[number]
        self._spent += rows
        self._inside = max(0, self._inside - rows)  # images that fail need fewer
        self.summary.failures += len(failures)
        for row in failures:
            f = row.failure
            self.listen(Failed(f.model, f.image_id, f.method, f.kind, f.message))

    # ------------------------------------------------------------------ what is told

    def _started(self) -> None:
        work, plan = self.work, self.work.plan
        self.listen(
            Started(
                work.who,
                self._images,
                work.reused,
                plan.batch,
                plan.memory_format,
                plan.threads * plan.lanes,
                str(work.classifier.device),
                self._most,
                work.verb,
                self.workers,
            )
        )

    def _tell(self) -> None:
        elapsed = time.perf_counter() - self._begin
        share = 1.0
        if self._settled < self._images:
            share = min(1.0, (self._spent + self._inside) / max(1, self._rows))
        eta = elapsed * (1 - share) / share if share > 0 else float("inf")
        done = min(self._images, self._settled + self._inside // max(1, self._most))
        rate = done / max(1e-9, elapsed)
        self.listen(Progress(self.work.who, done, self._images, share, rate, eta))
