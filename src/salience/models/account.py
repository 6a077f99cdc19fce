"""What a model that costs something is asked: how many rows, how fast, and never one twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from salience.errors import ModelError
from salience.models.journal import Journal, Scores
from salience.models.rate import Rate


def _nothing() -> None:
    pass


class Account:
    """Counts the rows that are sent to one model, keeps the limits, and keeps the answers while a run is written.

    Several threads may charge it at a time.

    Parameters
    ----------
    name
        What is asked, for messages.
    limit
        Rows that may be sent at most, over all calls that write the same run; None for any number.
    rate
        Images a second at most, None for any.

    Attributes
    ----------
    sent
        Rows sent so far: in this run where one is written, else by this process. Repeated attempts count again.
    """

    def __init__(self, name: str, *, limit: int | None = None, rate: Rate | None = None) -> None:
        self.name = name
        self.limit = limit
        self.rate = rate
        self.sent = 0
        self._lock = Lock()
        self._journal: Journal | None = None
        self._begin_run: Callable[[], None] = _nothing

    # ------------------------------------------------------------------ spending

    def charge(self, rows: int) -> None:
        """Count rows that are about to be sent, and wait until the rate allows them.

        Raises
        ------
        ModelError
            When the limit would be exceeded; nothing is counted then.
        """
        with self._lock:  # also while it waits: whoever comes next must wait longer
            if self.limit is not None and self.sent + rows > self.limit:
                raise ModelError(
                    f"{self.name} was sent {self.sent} rows and may be sent {self.limit} (max_queries); {rows} more "
                    "are needed now. What is done is kept: raise max_queries and run the same command again to carry "
                    "on."
                )
            if self.rate is not None:
                self.rate.take(rows)
            self._count(rows)

    def refund(self, rows: int) -> None:
        """Take rows back that did not go out: nobody was there to take them."""
        with self._lock:
            self._count(-rows)

    def _count(self, rows: int) -> None:
        self.sent += rows
        if self._journal is not None:
            self._begin_run()
            self._begin_run = _nothing
            self._journal.write_sent(self.sent)

    # ------------------------------------------------------------------ answers

    @contextmanager
    def kept_in(self, folder: Path, fingerprint: str, begin_run: Callable[[], None]) -> Iterator[None]:
        """Keep answers and the count in ``folder`` while inside, beginning with those that are there.

        ``begin_run`` is called once before anything is written: the folder must be part of a run by then.
        """
        journal = Journal(folder, fingerprint)
        self.sent = journal.sent()
        self._journal, self._begin_run = journal, begin_run
        try:
            yield
        finally:
            self._journal, self._begin_run = None, _nothing
            journal.close()

    def find(self, keys: Iterable[bytes]) -> dict[bytes, Scores]:
        """Return the scores (C,) of those rows that were answered before and are still kept."""
        return {} if self._journal is None else self._journal.find(keys)

    def add(self, answers: Mapping[bytes, Scores]) -> None:
        """Keep scores by the key of their row."""
        if self._journal is not None and answers:
            self._journal.add(answers)

    def begin(self, unit: str) -> None:
        """Hear that a work unit begins; see :meth:`salience.models.journal.Journal.begin`."""
        if self._journal is not None:
            self._journal.begin(unit)

    def committed(self, unit: str) -> None:
        """Hear that a work unit's results are safe."""
        if self._journal is not None:
            self._journal.committed(unit)

    def finish(self, stage: str = "") -> None:
        """Hear that all work of a stage is done; see :meth:`salience.models.journal.Journal.finish`."""
        if self._journal is not None:
            self._journal.finish(stage)
