"""Committing units in a thread of its own, while the model computes the next one."""

from __future__ import annotations

import queue
import threading

from salience.engine.events import Committed, Listener
from salience.models.classifier import Classifier
from salience.store.unit import Sink, UnitResult


class Committer:
    """Commits units in a thread of its own, in order; at most two wait."""

    def __init__(self, sink: Sink, listen: Listener, classifier: Classifier) -> None:
        self._sink, self._listen = sink, listen
        self._model, self._account = classifier.name, classifier.account
        self._queue: queue.Queue[tuple[UnitResult, str] | None] = queue.Queue(maxsize=2)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)

    def __enter__(self) -> Committer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def put(self, unit: UnitResult, name: str) -> None:
        """Hand over a unit, under the name that a paid model's account has for it; waits while two are waiting."""
        self._raise()
        self._queue.put((unit, name))

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                continue
            unit, name = item
            try:
                self._sink.commit(unit)
                if self._account is not None:
                    self._account.committed(name)
                self._listen(Committed(self._model, len(unit.images)))
            except BaseException as error:  # handed to the thread that computes
                self._error = error
