"""A view that a test fills by hand: maps and answers in arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from salience.behaviour.traits import Column
from salience.behaviour.view import CLEAN, Aligned, ConditionTraits

Undo = Callable[[np.ndarray], np.ndarray]


@dataclass
class ToyView:
    """Maps (N, h, w) by model, of clean images, and by model and condition; what is not given is as for clean images.

    ``own`` are maps of the changed images' own predictions, ``answers`` and ``outputs`` predictions and logits by model
    and condition, ``undo`` how a condition's maps are turned back, ``valid`` where.
    """

    clean: Mapping[str, np.ndarray]
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    changed: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict)
    own: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict)
    answers: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict)
    outputs: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict)
    traits: Mapping[str, Sequence[ConditionTraits]] = field(default_factory=dict)
    undo: Mapping[str, Undo] = field(default_factory=dict)
    valid: Mapping[str, np.ndarray] = field(default_factory=dict)
    units: Sequence[str] | None = None
    known: np.ndarray | None = None
    measures: Sequence[str] = ("entropy",)
    scores: pa.Table | None = None
    out_of_set: ToyView | None = None
    method: str = "gradcam"
    seed: int = 0
    prefix: str = "image"

    def __post_init__(self) -> None:
        if not self.groups:
            self.groups = {"plain": tuple(self.clean)}

    @property
    def image_ids(self) -> Sequence[str]:
        return tuple(f"{self.prefix} {i}" for i in range(len(next(iter(self.clean.values())))))

    @property
    def labels(self) -> np.ndarray:
        return np.full(len(self.image_ids), -1) if self.known is None else self.known

    def conditions(self, measure: str) -> Sequence[ConditionTraits]:
        return self.traits.get(measure, ())

    def grid(self, model: str) -> tuple[int, int]:
        return self.clean[model].shape[1:]

    def input_size(self, model: str) -> tuple[int, int]:
        h, w = self.grid(model)
        return 4 * h, 4 * w

    def maps(self, model: str, images: np.ndarray, condition: str = CLEAN, *, fixed: bool = True) -> np.ndarray:
        found = self.clean[model] if condition == CLEAN else self.changed.get((model, condition), self.clean[model])
        if condition != CLEAN and not fixed:
            found = self.own.get((model, condition), found)
        return found[images].astype(np.float32)

    def predicted(self, model: str, condition: str = CLEAN) -> np.ndarray:
        clean = self.answers.get((model, CLEAN), np.zeros(len(self.image_ids), dtype=np.int64))
        return self.answers.get((model, condition), clean)

    def logits(self, model: str, images: np.ndarray, condition: str = CLEAN) -> np.ndarray:
        clean = self.outputs.get((model, CLEAN), np.eye(3, dtype=np.float32)[self.predicted(model)])
        return self.outputs.get((model, condition), clean)[images].astype(np.float32)

    def align(self, model: str, condition: str, clean: np.ndarray, changed: np.ndarray) -> Aligned:
        undo = self.undo.get(condition, lambda maps: maps)
        valid = self.valid.get(condition, np.ones(clean.shape[1:], dtype=bool))
        return Aligned(clean, undo(changed), undo(clean), valid)


def by_name(columns: Sequence[Column], form: str, condition: str = CLEAN) -> dict[str, np.ndarray]:
    """The values of columns of one form and condition."""
    return {c.statistic.name: c.values for c in columns if c.statistic.form == form and c.condition == condition}
