"""What a comparison says, and how much of it lies on what was planted: Markdown for the tables of these studies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

import salience

Planted = npt.NDArray[np.bool_]
SHOWN = 8
"""Concepts in a table, the first ones in the page's order."""
CONFIRMED = {True: "yes", False: "no", None: "not tested"}


def told(comparison: salience.Comparison, planted: Callable[[str], Planted] | None = None) -> list[str]:
    """Return the accuracies, the claims, and the first concepts with their strongest effects.

    ``planted`` returns where something was planted in an image (the frame's rows and columns), all False where nothing.
    """
    accuracy = ", ".join(f"{m} {'unknown' if a is None else f'{a:.3f}'}" for m, a in comparison.accuracy().items())
    lines = [f"{len(comparison.images)} images; accuracy: {accuracy}.", "", "What the page says first:", ""]
    lines += [f"- {claim}" for claim in comparison.claims()]
    on = {} if planted is None else overlap(comparison, planted)
    head = ["concept", "strongest effect", "q", "confirmed", "images"]
    head += ["of it planted", "of the planted in it"] if planted is not None else []
    lines += ["", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for concept, row in strongest(comparison).items():
        q = "" if row["q"] is None else f"{row['q']:.2g}"
        cells = [comparison.concept_name(concept), effect(row), q, CONFIRMED[row["confirmed"]], str(row["n"])]
        if planted is not None:
            purity, recall = on.get(concept, (0.0, 0.0))
            cells += [f"{purity:.0%}", f"{recall:.0%}"]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def strongest(comparison: salience.Comparison) -> dict[int, dict[str, Any]]:
    """Return, for each of the first concepts, its most certain effect; of equally certain ones the largest."""
    rows = comparison.effects.to_pylist()
    sizes = comparison.sizes.tolist()
    found: dict[int, dict[str, Any]] = {}
    for concept in range(SHOWN):
        own = [(row, size) for row, size in zip(rows, sizes, strict=True) if row["concept"] == concept]
        tested = [(row, size) for row, size in own if row["q"] is not None] or own
        if tested:
            found[concept] = min(tested, key=lambda pair: (not pair[0]["confirmed"], pair[0]["q"] or 0, -pair[1]))[0]
    return found


def effect(row: Mapping[str, Any]) -> str:
    """Return an effect in words: its family, stratum, value and interval."""
    low, high = (_number(row[k]) for k in ("low", "high"))
    return f"{row['family']}, {row['stratum']}: {_number(row['effect'])} [{low}, {high}]"


def overlap(comparison: salience.Comparison, planted: Callable[[str], Planted]) -> dict[int, tuple[float, float]]:
    """Return, by concept, which share of its area was planted, and which share of the planted area it covers."""
    inside: dict[int, int] = {}
    area: dict[int, int] = {}
    everything = 0
    for image_id in comparison.images:
        labels, where = comparison.label_map(image_id), planted(image_id)
        everything += int(where.sum())
        for segment in comparison.segments_of(image_id):
            own = labels == segment["segment"]
            concept = segment["concept"]
            area[concept] = area.get(concept, 0) + int(own.sum())
            inside[concept] = inside.get(concept, 0) + int((own & where).sum())
    return {c: (inside[c] / max(1, area[c]), inside[c] / max(1, everything)) for c in area}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}" if value < 0 or value > 0.0001 else f"{value:.1g}"
