"""What a measure and its statistics are: which question, which direction, what fools the number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from salience.behaviour.view import CLEAN, AuditView, ConditionTraits, Floats, Numbers, blocks

Direction = Literal["higher", "lower", "neither"]
Form = Literal["published", "corrected"]

CRUM = "Crum et al., IEEE TAI 2023 (arXiv 2303.11969)"
OURS = "this project"

_OTHER: dict[Direction, Direction] = {"higher": "lower", "lower": "higher", "neither": "neither"}


@dataclass(frozen=True)
class Measure:
    """One of the questions that are asked of a model.

    Attributes
    ----------
    question
        What it asks, in words.
    topic
        What a sentence says that groups do, or do not, differ in.
    """

    name: str
    question: str
    topic: str


@dataclass(frozen=True)
class Statistic:
    """One number of a measure, in one form.

    Attributes
    ----------
    direction
        Which values are better; ``neither`` where the number describes and does not judge.
    low, high
        The range that values are in; infinite where there is no bound.
    summary
        What the number is, in plain words.
    fools
        What it cannot see: how a value may look good, or alike, without being so.
    reference
        Where it comes from.
    details
        What is published, what is inferred, what is this project's own.
    headline
        Whether it answers the measure's question in its form: overviews and sentences tell these.
    more, less
        What a group does that has higher, or lower, values than another: the middle of a sentence.
    averaged
        Whether the mean over conditions means something; else each condition stands alone.
    paired
        Whether a run's number is its mean over pairs with the other runs of its group.
    turned
        Conditions under which the other direction is better.
    """

    measure: str
    form: Form
    name: str
    direction: Direction
    low: float
    high: float
    summary: str
    fools: str
    reference: str
    details: str
    headline: bool = False
    more: str = ""
    less: str = ""
    averaged: bool = True
    paired: bool = False
    turned: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """Measure, form and name: what tells it from the others."""
        return (self.measure, self.form, self.name)

    def better(self, condition: str) -> Direction:
        """Return which values are better under a condition."""
        return _OTHER[self.direction] if condition in self.turned else self.direction


@dataclass(frozen=True, eq=False)
class Column:
    """Numbers of one statistic under one condition.

    Attributes
    ----------
    model
        The run; ``None`` where the numbers are of a group's runs together.
    values
        A number for each image (N,), NaN where there is none.
    """

    statistic: Statistic
    model: str | None
    values: Floats
    condition: str = CLEAN


def empty_maps(measure: str, form: Form) -> Statistic:
    """Return the flag that stands beside the numbers of maps: 1 where a map says nothing."""
    what = "has one value everywhere once negative values are cut off" if form == "published" else "is zero everywhere"
    return Statistic(
        measure,
        form,
        "zero",
        "neither",
        0.0,
        1.0,
        summary=f"1 where the map {what}: its other numbers are defined, but of a map that says nothing",
        fools="A map of tiny values is not empty, and says as little.",
        reference=OURS,
        details="Ours: no empty map is dropped; it is flagged.",
    )


def nothing(count: int) -> Floats:
    """Return values (N,) of which none is known yet."""
    return np.full(count, np.nan)


Found = Iterable[tuple[Statistic, Floats]]
"""Statistics with a number for each image of a block."""


def by_condition(
    view: AuditView, model: str, measure: str, found: Callable[[AuditView, str, Numbers, ConditionTraits], Found]
) -> Iterator[Column]:
    """Yield the columns of a measure that looks at one condition at a time, at maps as large as the input.

    ``found`` returns the statistics of a block of images under a condition.
    """
    count = len(view.image_ids)
    h, w = view.input_size(model)
    for condition in view.conditions(measure):
        out: dict[Statistic, Floats] = {}
        for images in blocks(np.arange(count), h * w):
            for statistic, values in found(view, model, images, condition):
                out.setdefault(statistic, nothing(count))[images] = values
        for statistic, values in out.items():
            yield Column(statistic, model, values, condition.name)
