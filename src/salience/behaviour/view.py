"""What the measures read: maps and answers of models, of clean and of changed images. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]

CLEAN = "clean"
"""The condition of images that were not changed."""
OUT_OF_SET = "out-of-set"
"""The condition of the images of the second dataset."""
BACKGROUND, OBJECT = "background", "object"
"""The published degradations: everything but the salient regions is blurred, or they are."""

_BLOCK = 2_000_000
"""Cells of maps held at once, for each array of a pair."""


@dataclass(frozen=True)
class ConditionTraits:
    """What a change of images is, for tables and pages.

    Attributes
    ----------
    name
        As in the column ``condition``.
    family
        ``noise``, ``corruption``, ``geometry`` or ``guided``.
    severity
        How strong it is: rises within the conditions of one kind.
    published
        Whether the measure's published form has it.
    """

    name: str
    family: str
    severity: float
    published: bool


@dataclass(frozen=True, eq=False)
class Aligned:
    """Maps on the one grid on which those of an image and of its changed version can be compared.

    Attributes
    ----------
    before
        Of the images as they are, (n, H, W).
    after
        Of the changed images, the change undone, (n, H, W).
    static
        Those of the images as they are, treated as if they were of the changed images: what ``after`` would be if the
        maps ignored the change, (n, H, W).
    valid
        Cells that the changed image still shows, (H, W).
    """

    before: Array
    after: Array
    static: Array
    valid: npt.NDArray[np.bool_]


class AuditView(Protocol):
    """Everything that the measures need of a set of images and models.

    Images are told by their place in ``image_ids``. What is missing (an image that could not be read, a map that
    failed) is NaN in maps and logits, and -1 among predictions.

    Attributes
    ----------
    groups
        Names of the models, each one training run, by training recipe. The first group is the reference.
    method
        The saliency method, as tables name it.
    image_ids
        The N images.
    units
        The user's group (patient, scene) of each image, ``None`` where images are independent.
    labels
        True classes (N,), -1 where unknown.
    measures
        Those that are asked for, in the order of :data:`salience.behaviour.measures.MEASURES`.
    scores
        Rows of the table ``scores`` for the corrected degradation, ``None`` where there are none.
    out_of_set
        The second dataset, seen by the same models: clean images only. ``None`` where there is none.
    seed
        Of the statistics' draws.
    """

    @property
    def groups(self) -> Mapping[str, Sequence[str]]: ...  # noqa: D102
    @property
    def method(self) -> str: ...  # noqa: D102
    @property
    def image_ids(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def units(self) -> Sequence[str] | None: ...  # noqa: D102
    @property
    def labels(self) -> Numbers: ...  # noqa: D102
    @property
    def measures(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def scores(self) -> pa.Table | None: ...  # noqa: D102
    @property
    def out_of_set(self) -> AuditView | None: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102

    def conditions(self, measure: str) -> Sequence[ConditionTraits]:
        """Return the changes of images that a measure reads, without the clean image."""
        ...

    def grid(self, model: str) -> tuple[int, int]:
        """Return the native size of a model's maps."""
        ...

    def input_size(self, model: str) -> tuple[int, int]:
        """Return the size (height, width) of a model's input."""
        ...

    def maps(self, model: str, images: Numbers, condition: str = CLEAN, *, fixed: bool = True) -> Array:
        """Return raw native maps (n, h, w) of images (n,) under a condition.

        They explain the class that the model predicts for the clean image where ``fixed``, else the class that it
        predicts for the image as it was changed.
        """
        ...

    def predicted(self, model: str, condition: str = CLEAN) -> Numbers:
        """Return the predicted class of all images (N,)."""
        ...

    def logits(self, model: str, images: Numbers, condition: str = CLEAN) -> Array:
        """Return all logits (n, C) of images (n,)."""
        ...

    def align(self, model: str, condition: str, clean: Array, changed: Array) -> Aligned:
        """Bring native maps (n, h, w) of clean and changed images onto one grid, and undo the change.

        Flips and right angles are undone exactly, on the native grid. Other changes of geometry are undone on maps
        that are enlarged to the input (bicubic). Maps under a ``guided`` condition are enlarged; nothing is undone.
        """
        ...


def blocks(images: Numbers, cells: int) -> Iterator[Numbers]:
    """Yield images (n,) in blocks, so that maps of so many cells an image stay small."""
    step = max(1, _BLOCK // max(1, cells))
    for at in range(0, len(images), step):
        yield images[at : at + step]


def probabilities(logits: Array) -> Floats:
    """Return the softmax (n, C) of logits (n, C); NaN where they are."""
    x = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):
        share = np.exp(x - x.max(axis=1, keepdims=True))
    found: Floats = share / share.sum(axis=1, keepdims=True)
    return found
