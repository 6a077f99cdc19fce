"""A sink that keeps results in memory: what ``salience.explain`` returns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from salience.store.maps import Failure, Maps
from salience.store.unit import ImageResult, Known, MapRows, Recipe, UnitResult


@dataclass
class MemorySink:
    """Collects unit after unit."""

    map_dtype: str = "float32"
    images: dict[str, ImageResult] = field(default_factory=dict)
    rows: dict[str, MapRows] = field(default_factory=dict)
    failures: list[tuple[Failure, str | None]] = field(default_factory=list)

    def known(self) -> Known:
        """Return nothing: memory begins empty."""
        return Known()

    def commit(self, unit: UnitResult) -> None:
        """Keep a unit's results."""
        self.images.update({i.image_id: i for i in unit.images})
        for recipe, rows in unit.maps.items():
            kept = self.rows.setdefault(recipe, MapRows())
            kept.values.extend(rows.values)
            kept.scales.extend(rows.scales)
            kept.owners.extend(rows.owners)
            kept.diagnostics.extend(rows.diagnostics)
        self.failures.extend((f.failure, f.recipe) for f in unit.failures)

    def maps(
        self,
        recipe: Recipe,
        *,
        signed: bool,
        labels: dict[str, int | None],
        input_size: tuple[int, int],
        class_names: Sequence[str],
    ) -> Maps:
        """Return the maps of a recipe, in the order of computation (that of the images)."""
        rows = self.rows.get(recipe.id, MapRows())
        ids = tuple(o[0] for o in rows.owners)
        place = {(image_id, target): i for i, (image_id, target, _, _) in enumerate(rows.owners)}
        diagnostics: dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]] = {}
        for image_id, target, name, value in rows.diagnostics:
            column = diagnostics.setdefault(name, np.full(len(ids), np.nan, dtype=np.float32))
            column[place[image_id, target]] = value
        logits = np.stack([self.images[i].logits for i in ids]) if ids else np.zeros((0, len(class_names)), np.float32)
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
            failures=tuple(f for f, of in self.failures if of in (None, recipe.id)),
        )
