"""A sink that keeps results in memory: what ``salience.explain`` returns from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from salience.errors import RunError
from salience.store.maps import Maps
from salience.store.unit import Known, MapRows, Recipe, StageUnit, UnitResult


@dataclass
class MemorySink:
    """Collects unit after unit."""

    map_dtype: str = "float32"
    units: dict[int, UnitResult] = field(default_factory=dict)
    _next: int = 0

    def known(self) -> Known:
        """Return nothing: memory begins empty."""
        return Known()

    def reserve(self, count: int) -> int:
        """Set numbers aside for units; return the first."""
        first, self._next = self._next, self._next + count
        return first

    def take(self, number: int, grids: Mapping[str, tuple[int, int]]) -> None:
        """Nothing is to be noted."""

    def beside(self) -> MemorySink:
        """Return this one: units of several threads are told apart by their numbers."""
        return self

    def write(self, number: int, unit: UnitResult) -> None:
        """Keep a unit's results."""
        self.units[number] = unit

    def write_stage(self, number: int, unit: StageUnit) -> None:
        """Refuse: what is made of maps reads them from a run directory.

        Raises
        ------
        RunError
            Always.
        """
        raise RunError(f"Units of {unit.stage!r} are kept in run directories alone.")

    def maps(
        self,
        recipe: Recipe,
        *,
        signed: bool,
        labels: dict[str, int | None],
        input_size: tuple[int, int],
        class_names: Sequence[str],
    ) -> Maps:
        """Return the maps of a recipe, in the order of the units (that of the images)."""
        units = [unit for _, unit in sorted(self.units.items())]
        rows = _joined([unit.maps[recipe.id] for unit in units if recipe.id in unit.maps])
        images = {image.image_id: image for unit in units for image in unit.images}
        failures = [(f.failure, f.recipe) for unit in units for f in unit.failures]
        ids = tuple(o[0] for o in rows.owners)
        place = {(image_id, target): i for i, (image_id, target, _, _) in enumerate(rows.owners)}
        diagnostics: dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]] = {}
        for image_id, target, name, value in rows.diagnostics:
            column = diagnostics.setdefault(name, np.full(len(ids), np.nan, dtype=np.float32))
            column[place[image_id, target]] = value
        logits = np.stack([images[i].logits for i in ids]) if ids else np.zeros((0, len(class_names)), np.float32)
        z = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True)) if ids else logits
        known = [labels.get(i) for i in ids]
        return Maps(
            values=np.stack(rows.values).astype(np.float32, copy=False)
            if ids
            else np.zeros((0, *input_size), np.float32),
            image_ids=ids,
            targets=np.array([o[1] for o in rows.owners], dtype=np.int64),
            probabilities=(z / z.sum(axis=1, keepdims=True)).astype(np.float32) if ids else logits,
            scores=np.array([o[2] for o in rows.owners], dtype=np.float32),
            labels=np.array([-1 if v is None else v for v in known], dtype=np.int64),
            model=recipe.model,
            method=recipe.label,
            signed=signed,
            input_size=input_size,
            class_names=tuple(class_names),
            diagnostics=diagnostics,
            failures=tuple(f for f, of in failures if of in (None, recipe.id)),
        )


def _joined(parts: Sequence[MapRows]) -> MapRows:
    whole = MapRows()
    for part in parts:
        whole.values.extend(part.values)
        whole.scales.extend(part.scales)
        whole.owners.extend(part.owners)
        whole.diagnostics.extend(part.diagnostics)
    return whole
