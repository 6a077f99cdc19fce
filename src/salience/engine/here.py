"""Work that this process does itself, unit by unit."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from salience.engine.crew import Died, Done, Pool, Task
from salience.engine.work import OnRows, Work, put, unheard
from salience.store.unit import Sink


class Here(Pool):
    """A single worker, which is this process: it does a task when it is waited for; use it as a context manager.

    What a paid model answers is kept under the name of the unit until that is safe.
    """

    def __init__(self, work: Work, writer: Sink, on_rows: OnRows = unheard) -> None:
        self._work, self._writer = work, writer
        self._account = work.classifier.account
        self._task: Task | None = None
        self._open = ExitStack()
        self._on_rows = on_rows

    def __enter__(self) -> Self:
        work = self._work
        self._compute = self._open.enter_context(work.craft.open(work.classifier, work.plan, self._on_rows))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def idle(self) -> int:
        """Return 1 where there is no task, else 0."""
        return int(self._task is None)

    def give(self, task: Task) -> None:
        """Keep a task until it is waited for."""
        self._task = task

    def wait(self) -> list[Done | Died]:
        """Do the task."""
        task, self._task = self._task, None
        if task is None:
            return []
        name = self._work.name(task)
        if self._account is not None:
            self._account.begin(name)
        done = put(self._writer, task.number, self._compute(task))
        if self._account is not None:
            self._account.committed(name)
        return [done]
