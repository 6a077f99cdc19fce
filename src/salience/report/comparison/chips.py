"""How good a concept is: its measures of quality, with their meaning in plain words."""

from __future__ import annotations

from dataclasses import dataclass

from salience.report import words
from salience.report.comparison.material import Material
from salience.report.comparison.wording import fixed

MEANINGS = {
    "stability": "How much of it is found again when concepts are sought anew in resampled segments: 1 is always the "
    "same, below 0.5 it hardly holds together.",
    "cohesion": "How alike its segments are: mean cosine with its centre, 1 is all the same.",
    "separation": "How much nearer its segments are to its own centre than to the next concept's: near 0 the two run "
    "into each other.",
    "class_entropy": "How its images are spread over classes: 0 is one class, 1 all alike.",
    "position_entropy": "How its segments are spread over the image: near 0 it is always in one place, as watermarks, "
    "captions and logos are.",
}

WEAK = {"stability": 0.5, "separation": 0.02}
"""Below it a measure should make one careful."""

FEW_IMAGES = 10


@dataclass(frozen=True)
class Chip:
    """A measure of a concept's quality with its meaning in plain words; ``weak`` where it should make one careful."""

    name: str
    value: str
    meaning: str
    weak: bool


def chips(material: Material, concept: int) -> tuple[Chip, ...]:
    """Return the measures of a concept's quality."""
    row, images = material.concepts[concept], len(material.pictures)
    found = [
        Chip(name.replace("_", " "), fixed(row[name], 2), meaning, row[name] < WEAK.get(name, row[name]))
        for name, meaning in MEANINGS.items()
        if row[name] is not None
    ]
    having = (
        f"It is in {row['images']:,} of {words.count(images, 'image')}, with {words.count(row['segments'], 'segment')}."
    )
    share = f"{words.percent(row['images'] / max(1, images))} of images"
    area = "The share of the image that one of its segments covers."
    return (
        *found,
        Chip("coverage", share, having, row["images"] < FEW_IMAGES),
        Chip("median area", words.percent(row["median_area"], 1), area, False),
    )
