"""What a running job tells: small records that a command line, a log or a test can listen to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Event:
    """Base of all events."""

    kind: ClassVar[str] = "event"

    def to_dict(self) -> dict[str, Any]:
        """Return the event as plain values for a log line."""
        return {"event": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Started(Event):
    """A model's work was planned: images to do, images that need nothing, and how the model will be run."""

    kind: ClassVar[str] = "started"
    model: str
    images: int
    reused: int
    batch: int
    memory_format: str
    threads: int
    device: str
    calls_per_image: int
    verb: str = "explain"
    workers: int = 1


@dataclass(frozen=True)
class Progress(Event):
    """How far a model's work is; ``share`` counts model calls, so it moves within slow images too."""

    kind: ClassVar[str] = "progress"
    model: str
    done: int
    images: int
    share: float
    images_per_second: float
    eta_s: float


@dataclass(frozen=True)
class Failed(Event):
    """An image, or one method on it, could not be computed; the run goes on."""

    kind: ClassVar[str] = "failure"
    model: str
    image_id: str
    method: str | None
    why: str
    message: str


@dataclass(frozen=True)
class Committed(Event):
    """A work unit is safe."""

    kind: ClassVar[str] = "unit"
    model: str
    images: int


@dataclass(frozen=True)
class PlanChanged(Event):
    """Memory ran out and the batch was halved; from here on sums may be taken in another order."""

    kind: ClassVar[str] = "plan"
    model: str
    batch: int


@dataclass(frozen=True)
class Finished(Event):
    """A model's work is done."""

    kind: ClassVar[str] = "finished"
    model: str
    computed: int
    reused: int
    failures: int
    seconds: float
    images_per_second: float
    forward_calls: int
    backward_calls: int
    verb: str = "explain"


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing."""
