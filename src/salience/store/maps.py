"""Maps in memory, as every part of the system hands them on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from salience.store.views import upsample


@dataclass(frozen=True)
class Failure:
    """Something that could not be computed, and why.

    ``kind`` is ``unreadable`` (the image), ``label`` (unknown, but asked for), ``model`` (its answer), ``map`` (the
    method's answer), ``memory``, or ``crash`` (the process did not survive it).
    ``method`` is None where the image failed for all methods.
    """

    image_id: str
    kind: str
    message: str
    model: str = ""
    method: str | None = None


@dataclass(frozen=True)
class Maps:
    """Saliency maps of one model and method.

    Attributes
    ----------
    values
        float32 (N, h, w): raw, at the method's native grid, signed where :attr:`signed` is true.
    image_ids
        N names, in the order of the images (and of the classes within an image).
    targets
        int64 (N,): the class that each map explains.
    probabilities
        float32 (N, C): the model's softmax probabilities for each map's image.
    scores
        float32 (N,): the explained scalar (logit, probability, ...) at the clean image.
    labels
        int64 (N,): true classes, -1 where unknown.
    diagnostics
        What the method measured beside each map, e.g. ``completeness_gap``: float32 (N,).
    failures
        The images that have no map here, and why.
    """

    values: npt.NDArray[np.float32]
    image_ids: tuple[str, ...]
    targets: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    model: str
    method: str
    signed: bool
    input_size: tuple[int, int]
    class_names: tuple[str, ...] = ()
    diagnostics: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()

    def __len__(self) -> int:
        return len(self.image_ids)

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        return iter(self.values)

    def __repr__(self) -> str:
        n, h, w = self.values.shape
        sign = "signed" if self.signed else "non-negative"
        lost = f", {len(self.failures)} failures" if self.failures else ""
        return f"Maps({self.method!r} of {self.model!r}: {n} maps of {h}x{w}, {sign}{lost})"

    def upsampled(self, size: tuple[int, int] | None = None) -> npt.NDArray[np.float32]:
        """Return the maps at ``size`` (default: the model's input), bilinear, half-pixel centres: (N, H, W)."""
        return upsample(self.values, size or self.input_size)
