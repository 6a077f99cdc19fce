"""How far a whole audit is: the phases of all models as one piece of work, with one estimate of what is left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from salience.engine.events import Event, Finished, Listener, Progress, Started

WHO = "audit"
"""Whose the events of the whole are."""
_COST = {"clean": 1.0, "out-of-set": 1.0, "conditions": 1.0, "changed": 1.0, "degradation": 60.0}
"""What an image of each phase takes, in images that are explained: a guess until one was measured."""


@dataclass
class Phase:
    """One model's work of one kind: so many images, as far as is known before it begins."""

    model: str
    kind: str
    images: int
    reused: int = 0
    done: int = 0
    seconds: float = 0.0
    finished: bool = False

    @property
    def left(self) -> int:
        """Images that are still to be done."""
        return 0 if self.finished else max(0, self.images - self.reused - self.done)


@dataclass
class Pace:
    """Listens to phases, one after another, and tells of the whole.

    What is left is what each kind of phase took for an image, once one of its kind was seen, times the images left.
    """

    phases: Sequence[Phase]
    listen: Listener
    forward: int = 0
    backward: int = 0
    failures: int = 0

    def start(self) -> None:
        """Tell that the audit begins."""
        self._begin = time.perf_counter()
        self.listen(Started(WHO, self._images, 0, 0, "", 0, "", 0, verb=WHO))

    def of(self, phase: Phase) -> Listener:
        """Return who listens to a phase's work."""
        begin = time.perf_counter()

        def hear(event: Event) -> None:
            if isinstance(event, Started):
                phase.images, phase.reused = event.images + event.reused, event.reused
            elif isinstance(event, Progress):
                phase.done, phase.seconds = event.done, time.perf_counter() - begin
                self._tell(event.eta_s)
            elif isinstance(event, Finished):
                phase.done, phase.seconds = event.computed, time.perf_counter() - begin
                self.failures += event.failures
                self.forward += event.forward_calls
                self.backward += event.backward_calls
                self.listen(replace(event, model=f"{event.model}, {phase.kind}"))
            else:
                self.listen(event)

        return hear

    def end(self, phase: Phase) -> None:
        """Tell that a phase is over, or that there was nothing to do in it."""
        phase.finished = True
        self._tell(0.0)

    def finish(self) -> None:
        """Tell that the audit is done."""
        seconds = time.perf_counter() - self._begin
        computed, reused = sum(p.done for p in self.phases), sum(p.reused for p in self.phases)
        rate = round(computed / max(1e-9, seconds), 3)
        self.listen(
            Finished(
                WHO, computed, reused, self.failures, round(seconds, 3), rate, self.forward, self.backward, verb=WHO
            )
        )

    # ------------------------------------------------------------------ what is left

    @property
    def _images(self) -> int:
        return sum(p.reused + p.done if p.finished else p.images for p in self.phases)

    def _tell(self, current: float) -> None:
        """Tell how far all is; ``current`` seconds are left of the phase that is under way."""
        waiting = [p for p in self.phases if not p.finished and not p.seconds]
        left = current + sum(p.left * self._seconds_per_image(p.kind) for p in waiting if p.left)
        elapsed = time.perf_counter() - self._begin
        done = sum(p.reused + p.done for p in self.phases)
        share = elapsed / (elapsed + left) if left < float("inf") else 0.0
        computed = sum(p.done for p in self.phases)
        self.listen(Progress(WHO, done, self._images, share, computed / max(1e-9, elapsed), left))

    def _seconds_per_image(self, kind: str) -> float:
        """Return what an image of a kind of phase takes: measured there, else from the other kinds."""
        same = [p for p in self.phases if p.done and p.kind == kind]
        known = same or [p for p in self.phases if p.done]
        if not known:
            return float("inf")
        cost = sum(p.done * _COST[p.kind] for p in known)
        return sum(p.seconds for p in known) * _COST[kind] / cost
