"""A batch's results on their way to the host, and what has arrived of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

from torch import Tensor

from salience.data.base import ImageRef
from salience.data.decode import LoadedImage
from salience.engine.sweep import BatchResult
from salience.engine.transfer import Array, Download

Packed = tuple[Tensor, Tensor, Tensor]
"""Maps (N, T, h, w) in the stored type, their scales (N, T), and whether they are finite (N, T)."""


@dataclass
class Landed:
    """The results of a batch on the host: logits (N, C), targets (N, T), and by the method's position the rest."""

    logits: Array
    targets: Array
    maps: list[tuple[Array, Array, Array]] = field(default_factory=list)
    scores: list[Array] = field(default_factory=list)
    diagnostics: list[dict[str, Array]] = field(default_factory=list)


class Flight:
    """A batch whose results are on their way to the host."""

    def __init__(
        self, ready: list[tuple[ImageRef, LoadedImage]], result: BatchResult, packed: Sequence[Packed]
    ) -> None:
        self.ready = ready
        self._names = [list(m.diagnostics) for m in result.maps]
        numbers = [[m.scores.float(), *(v.float() for v in m.diagnostics.values())] for m in result.maps]
        by_method = chain.from_iterable((*maps, *rest) for maps, rest in zip(packed, numbers, strict=True))
        self._download = Download([result.logits.float(), result.targets, *by_method])

    def land(self) -> Landed:
        """Wait for the results."""
        arrays = iter(self._download.arrays())
        landed = Landed(next(arrays), next(arrays))
        for names in self._names:
            landed.maps.append((next(arrays), next(arrays), next(arrays)))
            landed.scores.append(next(arrays))
            landed.diagnostics.append({name: next(arrays) for name in names})
        return landed
