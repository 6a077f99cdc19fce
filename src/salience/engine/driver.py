"""One model over a source of images, by several workers: who gives out the units and hears what became of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from salience.engine.crew import Done, Pool, Task, distribute
from salience.engine.events import Committed, Failed, Finished, Listener, Progress, Started, ignore
from salience.engine.passes import Calls
from salience.engine.runner import Runner, Summary
from salience.store.maps import Failure
from salience.store.unit import FailureRow, UnitResult
from salience.store.writer import RunWriter


@dataclass
class Driver:
    """Has the images that lack something explained by a pool of workers.

    Parameters
    ----------
    runner
        The job; its own model only tells what is to be done.
    writer
        The run, which gives out the numbers of units.
    start
        Starts the pool.
    workers
        How many workers it has, to be told.
    """

    runner: Runner
    writer: RunWriter
    start: Callable[[], Pool]
    workers: int
    listen: Listener = ignore

    def run(self) -> Summary:
        """Compute what is missing.

        Raises
        ------
        SalienceError
            When a worker cannot load the model, or the model or the disk fails; everything committed before is safe.
        """
        runner, self._begin = self.runner, time.perf_counter()
        work = runner.missing(self.writer.known())
        size = runner.unit_images
        units = [
            (tuple(ref.index for ref in refs[at : at + size]), members)
            for refs, members in work
            for at in range(0, len(refs), size)
        ]
        self._images = sum(len(refs) for refs, _ in work)
        self._summary = Summary(plan=runner.plan, reused=len(runner.source.refs) - self._images)
        self._settled = 0
        first = self.writer.reserve(len(units))
        tasks = [Task(first + i, images, members) for i, (images, members) in enumerate(units)]
        self._sizes = {task.number: len(task.images) for task in tasks}
        self._started(work[0][1] if work else ())
        if tasks:
            pool = self.start()
            try:
                distribute(tasks, pool, self._reserve, self._done, self._lost)
            finally:
                pool.close()
        s = self._summary
        s.seconds = time.perf_counter() - self._begin
        rate = round(s.computed / max(1e-9, s.seconds), 3)
        name = runner.classifier.name
        self.listen(
            Finished(
                name, s.computed, s.reused, s.failures, round(s.seconds, 3), rate, s.calls.forward, s.calls.backward
            )
        )
        return s

    def _started(self, members: tuple[int, ...]) -> None:
        runner, plan = self.runner, self.runner.plan
        calls = runner.calls_per_image(members) if members else Calls()
        self.listen(
            Started(
                runner.classifier.name,
                self._images,
                self._summary.reused,
                plan.batch,
                plan.memory_format,
                plan.threads,
                str(runner.classifier.device),
                calls.forward + calls.backward,
                workers=self.workers,
            )
        )

    def _reserve(self, count: int) -> int:
        """Set numbers aside for the images of a unit that is taken apart."""
        first = self.writer.reserve(count)
        self._sizes.update({first + i: 1 for i in range(count)})
        return first

    def _done(self, done: Done) -> None:
        self.writer.take(done.number, done.grids)
        s = self._summary
        s.computed += done.computed
        s.failures += len(done.failures)
        s.calls += Calls(done.forward, done.backward)
        if s.plan is not None and done.batch < s.plan.batch:  # there was no memory for more
            s.plan = replace(s.plan, batch=done.batch)
        self._tell_failures(done.failures)
        self.listen(Committed(self.runner.classifier.name, done.computed))
        self._tell(self._sizes[done.number])

    def _lost(self, image: int, how: str) -> None:
        """Make a failure of an image that no worker survived."""
        runner, name = self.runner, self.runner.classifier.name
        ref = next(r for r in runner.source.refs if r.index == image)
        message = f"The worker did not survive this image, alone and on a second try: {how}."
        row = FailureRow(Failure(ref.image_id, "crash", message, name), None, runner.image_key(ref, None))
        self.writer.commit(UnitResult(name, failures=[row]))
        self._summary.failures += 1
        self._tell_failures((row,))
        self._tell(1)

    def _tell_failures(self, rows: tuple[FailureRow, ...]) -> None:
        for row in rows:
            f = row.failure
            self.listen(Failed(f.model, f.image_id, f.method, f.kind, f.message))

    def _tell(self, settled: int) -> None:
        self._settled += settled
        elapsed = time.perf_counter() - self._begin
        share = min(1.0, self._settled / self._images) if self._images else 1.0
        eta = elapsed * (1 - share) / share if share > 0 else float("inf")
        rate = self._settled / max(1e-9, elapsed)
        self.listen(Progress(self.runner.classifier.name, self._settled, self._images, share, rate, eta))
