"""What one work unit hands to a sink: arrays and table columns, on the host, ready to be written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from salience.store.maps import Failure


@dataclass(frozen=True)
class Recipe:
    """All that decides the maps of one method and model, but for the image: their content key.

    ``identity`` hashes (weights, preprocessing, method, settings, numeric version, target, output, seed where the
    method draws, stored type).
    """

    label: str
    model: str
    identity: str
    description: dict[str, Any]
    columns: int

    @property
    def id(self) -> str:
        """Folder of the array: model, method and the beginning of the identity."""
        safe = "".join(c if c.isalnum() or c in "-+" else "-" for c in self.label)
        return f"{self.model}.{safe}.{self.identity[:10]}"


@dataclass
class Content:
    """What an image's file or array was when it was read."""

    image_id: str
    content_hash: str
    bytes: int
    mtime_ns: int
    width: int
    height: int


@dataclass
class ImageResult(Content):
    """One image through one model: its content and logits."""

    logits: npt.NDArray[np.float32]


@dataclass
class MapRows:
    """Maps of one recipe within a unit: stored values (rows, h, w), their scales, and whose they are."""

    values: list[npt.NDArray[np.floating[Any]]] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    owners: list[tuple[str, int, float, str]] = field(default_factory=list)
    """(image id, target, score, key) for each row."""
    diagnostics: list[tuple[str, int, str, float]] = field(default_factory=list)
    """(image id, target, name, value)."""


@dataclass
class FailureRow:
    """A failure with the key under which it need not be tried again."""

    failure: Failure
    recipe: str | None
    key: str


@dataclass
class UnitResult:
    """Everything that one work unit computed."""

    model: str
    images: list[ImageResult] = field(default_factory=list)
    maps: dict[str, MapRows] = field(default_factory=dict)
    failures: list[FailureRow] = field(default_factory=list)
    unanswered: list[Content] = field(default_factory=list)
    """Images that were read, but that the model has no usable answer for."""
    seconds: float = 0.0


@dataclass
class StageUnit:
    """What one work unit of a stage after ``explain`` computed: its images are finished for all its recipes.

    ``tables`` holds columns by table name, see ``STAGES`` in :mod:`salience.store.schema`.
    """

    stage: str
    model: str
    recipes: tuple[str, ...]
    images: list[Content]
    tables: dict[str, dict[str, list[Any]]]
    failures: list[FailureRow] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Known:
    """What a sink already holds: contents of images, finished keys, and failures not worth another try."""

    contents: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    """image id -> (content hash, bytes, mtime_ns)."""
    done: dict[tuple[str, str], str] = field(default_factory=dict)
    """(recipe id, image id) -> key."""
    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    """(model name, or recipe id, image id) -> key."""


class UnitSink(Protocol):
    """Where units go, each under a number that it has from before; all or nothing."""

    def write(self, number: int, unit: UnitResult) -> None:
        """Take a unit of maps."""
        ...

    def write_stage(self, number: int, unit: StageUnit) -> None:
        """Take a unit of another stage."""
        ...


class Sink(UnitSink, Protocol):
    """Where results go: a run directory, or memory."""

    map_dtype: str

    def known(self) -> Known:
        """Return what is there already."""
        ...

    def reserve(self, count: int) -> int:
        """Set numbers aside for units; return the first."""
        ...

    def take(self, number: int, grids: Mapping[str, tuple[int, int]]) -> None:
        """Take note of a unit that was written, and of the grids of its maps by recipe."""
        ...

    def beside(self) -> UnitSink:
        """Return where another thread of this process puts its units."""
        ...
