"""Work that several threads of this process do side by side, each with a twin of the model.

A model call by all cores makes them wait for one another at every layer, and stand still while images are decoded and
results are written. Two calls by one core each do not.
"""

from __future__ import annotations

import queue
import threading
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import torch

from salience.engine.crew import Died, Done, Pool, Task
from salience.engine.tune import running
from salience.engine.work import OnRows, Work, put, unheard
from salience.models.classifier import Classifier
from salience.models.twin import twin
from salience.store.unit import Sink, UnitSink


class _Stopped(BaseException):
    """Ends a thread at its next model call; no ``except Exception`` of a method's keeps it."""


class Lanes(Pool):
    """So many threads as the plan has lanes, each of which does one task at a time; use it as a context manager.

    All that is told is told in the thread that waits. Entering it raises a ModelError where the model has no twins, see
    :func:`salience.models.twin.twin`.
    """

    def __init__(self, work: Work, writer: Sink, on_rows: OnRows = unheard) -> None:
        self._work, self._writer, self._on_rows = work, writer, on_rows
        self._free = work.plan.lanes
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._news: queue.SimpleQueue[int | Done | BaseException] = queue.SimpleQueue()
        self._stopping = False
        self._open = ExitStack()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        work = self._work
        # what is set for the whole process is set here, once; what each thread sets is the same
        self._open.enter_context(running(work.classifier, work.plan))
        try:
            models = [twin(work.classifier) for _ in range(work.plan.lanes)]
        except BaseException:
            self._open.close()
            raise
        for i, model in enumerate(models):
            writer = self._writer.beside()  # here: what it copies may change once tasks are done
            thread = threading.Thread(target=self._lane, args=(model, writer), name=f"lane-{i}", daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = kind is not None
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()
        self._open.__exit__(kind, error, trace)

    def idle(self) -> int:
        """Return how many threads have no task."""
        return self._free

    def give(self, task: Task) -> None:
        """Give a task to whichever thread is free."""
        self._free -= 1
        self._tasks.put(task)

    def wait(self) -> list[Done | Died]:
        """Wait until a task is done."""
        while True:
            news = self._news.get()
            if isinstance(news, int):
                self._on_rows(news)
            elif isinstance(news, Done):
                self._free += 1
                return [news]
            else:
                raise news

    def _lane(self, model: Classifier, writer: UnitSink) -> None:
        work = self._work
        try:
            torch.set_num_threads(work.plan.threads)
            with work.craft.open(model, work.plan, self._heard) as compute:
                while (task := self._tasks.get()) is not None and not self._stopping:
                    self._news.put(put(writer, task.number, compute(task)))
        except _Stopped:
            return
        except BaseException as error:  # for the thread that waits
            self._news.put(error)

    def _heard(self, rows: int) -> None:
        if self._stopping:
            raise _Stopped
        self._news.put(rows)
