"""How far a training is, told as events: what is done, how fast, and how long the rest will take."""

from __future__ import annotations

import time

import torch

from salience.engine.events import Finished, Listener, Progress, Started

_TELL_EVERY_S = 0.1


class Meter:
    """Counts images that were worked on; those of several passes count each time.

    Parameters
    ----------
    listen
        Who is told.
    what
        What is worked on: the name of a group or of a model.
    total
        How many images there will be.
    verb, batch, device, calls
        What is done to them, in what batches, where, with how many calls of the model an image.
    """

    def __init__(
        self, listen: Listener, what: str, total: int, *, verb: str, batch: int, device: str, calls: int = 2
    ) -> None:
        self._listen, self._what, self._total, self._verb, self._calls = listen, what, total, verb, calls
        self._batch, self._device = batch, device
        self._done = self._worked = self._end = 0
        self._began = self._told = time.monotonic()
        self._started = False

    def reached(self, done: int) -> None:
        """Say how many are done in all."""
        self._start()
        self._worked += done - self._done
        self._done = done
        self._tell()

    def begin(self, images: int) -> None:
        """Begin a run of so many images."""
        self._start()
        self._end = self._done + images

    def add(self, images: int) -> None:
        """Say how many more are done."""
        self._done += images
        self._worked += images
        self._tell()

    def end(self) -> None:
        """End a run, though it may have stopped early."""
        self._done = self._end
        self._tell(now=True)

    def finish(self) -> None:
        """Say that all is done; nothing is said where there was nothing to do."""
        if self._started:
            seconds = max(time.monotonic() - self._began, 1e-9)
            rate = self._worked / seconds
            forward, backward = self._worked * bool(self._calls), self._worked * (self._calls > 1)
            self._listen(Finished(self._what, self._worked, 0, 0, seconds, rate, forward, backward, self._verb))

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._began = self._told = time.monotonic()
            threads = torch.get_num_threads()
            self._listen(
                Started(
                    self._what,
                    self._total,
                    0,
                    self._batch,
                    "contiguous",
                    threads,
                    self._device,
                    self._calls,
                    self._verb,
                )
            )

    def _tell(self, *, now: bool = False) -> None:
        moment = time.monotonic()
        if not now and moment - self._told < _TELL_EVERY_S:
            return
        self._told = moment
        rate = self._worked / max(moment - self._began, 1e-9)
        left = (self._total - self._done) / rate if rate else float("inf")
        share = self._done / max(1, self._total)
        self._listen(Progress(self._what, self._done, self._total, share, rate, left))
