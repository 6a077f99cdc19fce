"""Small figures for the page, as numbers that its templates draw in SVG."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

BINS = 10


@dataclass(frozen=True)
class Bin:
    """One bar of the confidence histogram: a share of confidences, and how many images in it are what."""

    low: int
    high: int
    right: int
    wrong: int
    unknown: int

    @property
    def total(self) -> int:
        """Return the number of images."""
        return self.right + self.wrong + self.unknown


def histogram(confidences: Iterable[tuple[float, bool | None]]) -> list[Bin]:
    """Count (probability of the predicted class, right or wrong or unknown) in ten equal bins from 0 to 1."""
    counts = [[0, 0, 0] for _ in range(BINS)]
    for probability, right in confidences:
        if probability == probability:
            place = 2 if right is None else 0 if right else 1
            counts[min(BINS - 1, max(0, int(probability * BINS)))][place] += 1
    step = 100 // BINS
    return [Bin(i * step, (i + 1) * step, *found) for i, found in enumerate(counts)]
