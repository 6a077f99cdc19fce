"""What an audit's run directories hold, as the measures read it. Nothing here imports torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from salience.behaviour.view import CLEAN, Array, ConditionTraits, Numbers
from salience.errors import RunError
from salience.store.place import Place
from salience.store.run import Run, open_run
from salience.store.shards import MapArray

STAGE = "audit"
CONDITIONS, CHANGED, OUT_OF_SET_RUN = "conditions", "changed", "out-of-set"
"""Folders in a run: a run for each model of all changed images, the same class explained as of the clean ones; of those
that the model puts into another class, that class explained; a run of the second dataset."""
SIGN = "@"
"""Stands between an image's id and the name of its condition."""
_UNITS = 4
"""Units whose logits are held at a time."""


def changed_id(image_id: str, condition: str) -> str:
    """Return the id of an image under a condition."""
    return f"{image_id}{SIGN}{condition}"


class StoredResults:
    """Maps and answers of one model in a run, for a list of images: NaN and -1 where there are none.

    Parameters
    ----------
    image_ids
        The images, told by their place in this list from here on.
    grid
        Of the maps, where the run has none to tell it; the size of the input where that is not known either.
    """

    def __init__(
        self, run: Run, model: str, method: str, image_ids: Sequence[str], grid: tuple[int, int] | None = None
    ) -> None:
        self._run = run
        self._count = len(image_ids)
        ids = pa.array(image_ids, pa.string())
        recipe, entry = run.recipe(method, model)
        info = run.info["models"][model]
        self.identity: str = entry["identity"]
        size = info["preprocessing"]["size"]
        self.input_size: tuple[int, int] = (size[0], size[1])
        rows, columns = entry.get("grid") or grid or size
        self.grid: tuple[int, int] = (rows, columns)
        self.classes = len(info["classes"])
        self._read_maps(run, recipe, ids)
        self._read_predictions(run, model, info.get("fingerprint", ""), ids)
        self._held: dict[int, Array] = {}

    def _read_maps(self, run: Run, recipe: str, ids: pa.Array) -> None:
        table = run.table("maps")
        table = table.filter(pc.equal(table["recipe"], recipe))
        at, known = _places(table, ids)
        self._row = np.full(self._count, -1, dtype=np.int64)
        self._scale = np.zeros(self._count, dtype=np.float32)
        self._row[at] = table["row"].to_numpy()[known]
        self._scale[at] = table["scale"].to_numpy()[known]
        self._array = MapArray(run.folder / "maps" / recipe) if len(at) else None

    def _read_predictions(self, run: Run, model: str, fingerprint: str, ids: pa.Array) -> None:
        rows = run.parts("predictions", ("image_id", "model", "predicted", "key"))
        units = rows["unit"].to_numpy()
        first = np.searchsorted(units, units)  # units come in rising order: where each row's begins
        within = np.arange(len(units)) - first
        of_model = pc.and_(pc.equal(rows["model"], model), pc.starts_with(rows["key"], f"{fingerprint}:"))
        chosen = np.flatnonzero(of_model.to_numpy(zero_copy_only=False))
        rows = rows.take(pa.array(chosen))
        at, known = _places(rows, ids)
        self.predicted = np.full(self._count, -1, dtype=np.int64)
        self._unit = np.full(self._count, -1, dtype=np.int64)
        self._within = np.full(self._count, -1, dtype=np.int64)
        # of rows of one image, the last written holds: it is assigned last
        self.predicted[at] = rows["predicted"].to_numpy()[known]
        self._unit[at] = units[chosen][known]
        self._within[at] = within[chosen][known]

    def absent(self, count: int) -> StoredResults:
        """Return what there is of ``count`` images of which the model explained none."""
        nothing = copy.copy(self)
        nothing._count, nothing._array = count, None
        nothing._row, nothing._unit, nothing._within, nothing.predicted = np.full((4, count), -1, dtype=np.int64)
        return nothing

    def has_maps(self) -> npt.NDArray[np.bool_]:
        """Return which images have a map (N,)."""
        found: npt.NDArray[np.bool_] = self._row >= 0
        return found

    def maps(self, images: Numbers) -> Array:
        """Return raw native maps (n, h, w) of images (n,), NaN where there is none."""
        out = np.full((len(images), *self.grid), np.nan, dtype=np.float32)
        rows = self._row[images]
        known = rows >= 0
        if self._array is not None and known.any():
            out[known] = self._array.read(rows[known]) * self._scale[images][known][:, None, None]
        return out

    def logits(self, images: Numbers) -> Array:
        """Return logits (n, C) of images (n,), NaN where the model gave no answer."""
        out = np.full((len(images), self.classes), np.nan, dtype=np.float32)
        units, within = self._unit[images], self._within[images]
        for unit in np.unique(units[units >= 0]):
            here = units == unit
            out[here] = self._logits(int(unit))[within[here]]
        return out

    def _logits(self, unit: int) -> Array:
        """Return the logits of a unit's rows; those of the last few units are held."""
        if unit not in self._held:
            while len(self._held) >= _UNITS:
                self._held.pop(next(iter(self._held)))
            self._held[unit] = self._read_logits(unit)
        return self._held[unit]

    def _read_logits(self, unit: int) -> Array:
        part = self._run.part("predictions", unit, ("logits",))
        if part is None:
            raise RunError(f"Unit {unit} of {self._run.folder} has lost its predictions: restore it, or start anew.")
        values: Array = part["logits"].combine_chunks().flatten().to_numpy().reshape(len(part), -1)
        return values


def _places(table: pa.Table, ids: pa.Array) -> tuple[Numbers, npt.NDArray[np.bool_]]:
    """Return where in ``ids`` the rows of a table are, of those that are there, and which these are."""
    found = pc.index_in(table["image_id"], ids)
    known = found.is_valid().to_numpy()
    return found.drop_null().to_numpy().astype(np.int64), known


@dataclass(frozen=True)
class ByImage:
    """A model's clean maps by image id, to lead guided conditions."""

    results: StoredResults
    place: Mapping[str, int]

    @property
    def identity(self) -> str:
        """Names all that decides the maps, but for the image."""
        return self.results.identity

    def of(self, image_ids: Sequence[str]) -> Array:
        """Return the raw native maps (n, h, w) of images."""
        return self.results.maps(np.array([self.place[i] for i in image_ids], dtype=np.int64))


class RunView:
    """An audit's run directory, as the measures read it; see :class:`~salience.behaviour.view.AuditView`.

    Parameters
    ----------
    run
        The directory: its stage ``audit`` tells groups, method, measures and conditions.

    Raises
    ------
    RunError
        When nothing in it was audited.
    """

    def __init__(self, run: Run | str | Place, second: RunView | None = None) -> None:
        self.run = run if isinstance(run, Run) else open_run(run)
        if second is None:
            stage = self.run.info.get("stages", {}).get(STAGE)
            if stage is None:
                raise RunError(
                    f"{self.run.folder} holds no audit: 'salience audit ... --out {self.run.folder}' makes one."
                )
            self._settings: Mapping[str, Any] = stage["settings"]
        else:
            self._settings = {**second._settings, "conditions": {}, "out_of_set": None, "measures": ["entropy"]}
        self.groups: Mapping[str, Sequence[str]] = {g: tuple(m) for g, m in self._settings["groups"].items()}
        self.method: str = self._settings["method"]
        self.measures: Sequence[str] = tuple(self._settings["measures"])
        self.seed: int = self._settings["seed"]
        self.image_ids: Sequence[str] = tuple(self.run.images["image_id"].to_pylist())
        self._traits = {
            name: ConditionTraits(name, c["family"], float(c["severity"]), bool(c["published"]))
            for name, c in self._settings["conditions"].items()
        }
        self._place = {name: k for k, name in enumerate(self._traits)}
        self._clean: dict[str, StoredResults] = {}
        self._last: dict[tuple[str, str], StoredResults] = {}

    # ------------------------------------------------------------------ images

    @cached_property
    def units(self) -> Sequence[str] | None:
        """The user's group of each image, its own id where it has none; None where no image has one."""
        groups = self.run.images["group"].to_pylist()
        if all(g is None for g in groups):
            return None
        return tuple(f"image {i}" if g is None else f"group {g}" for i, g in zip(self.image_ids, groups, strict=True))

    @cached_property
    def labels(self) -> Numbers:
        """True classes (N,), -1 where unknown."""
        return np.array(self.run.images["label"].fill_null(-1).to_numpy(), dtype=np.int64)

    @cached_property
    def scores(self) -> pa.Table | None:
        """Scores of the models' maps and of baselines; None where the degradation is not asked for."""
        if "degradation" not in self.measures or "evaluate" not in self.run.info.get("stages", {}):
            return None
        table = self.run.table("scores")
        weights = {m: self.run.info["models"][m]["fingerprint"] for members in self.groups.values() for m in members}
        parts: dict[str, pa.Table] = {}
        for model, own in weights.items():
            rows = table.filter(pc.equal(table["model"], model))
            twin = next((m for m in parts if weights[m] == own), None)
            if not len(rows) and twin is not None:  # what has the same weights is scored once, under the first name
                rows = parts[twin].set_column(
                    table.column_names.index("model"), table.schema.field("model"), pa.array([model] * len(parts[twin]))
                )
            parts[model] = rows
        return pa.concat_tables(parts.values())

    @cached_property
    def out_of_set(self) -> Self | None:
        """The second dataset, seen by the same models."""
        if self._settings["out_of_set"] is None:
            return None
        return type(self)(self.run.folder / OUT_OF_SET_RUN, self)

    def conditions(self, measure: str) -> Sequence[ConditionTraits]:
        """Return the changes of images that a measure reads, without the clean image."""
        of = {name: c["measure"] for name, c in self._settings["conditions"].items()}
        return tuple(traits for name, traits in self._traits.items() if of[name] == measure)

    # ------------------------------------------------------------------ models

    def grid(self, model: str) -> tuple[int, int]:
        """Return the native size of a model's maps."""
        return self.clean(model).grid

    def input_size(self, model: str) -> tuple[int, int]:
        """Return the size (height, width) of a model's input."""
        return self.clean(model).input_size

    def maps(self, model: str, images: Numbers, condition: str = CLEAN, *, fixed: bool = True) -> Array:
        """Return raw native maps (n, h, w) of images (n,) under a condition.

        Of the class that is predicted for the clean image where ``fixed``, else for the changed one.
        """
        if condition == CLEAN:
            return self.clean(model).maps(images)
        rows = self._rows(condition, images)
        found = self._changed(CONDITIONS, model).maps(rows)
        if not fixed:
            now, before = self.predicted(model, condition)[images], self.predicted(model)[images]
            other = np.flatnonzero((now != before) & (now >= 0) & (before >= 0))
            if len(other):
                found[other] = self._changed(CHANGED, model).maps(rows[other])
        return found

    def predicted(self, model: str, condition: str = CLEAN) -> Numbers:
        """Return the predicted class of all images (N,), -1 where there is none."""
        if condition == CLEAN:
            return self.clean(model).predicted
        every = self._rows(condition, np.arange(len(self.image_ids)))
        return self._changed(CONDITIONS, model).predicted[every]

    def logits(self, model: str, images: Numbers, condition: str = CLEAN) -> Array:
        """Return all logits (n, C) of images (n,)."""
        if condition == CLEAN:
            return self.clean(model).logits(images)
        return self._changed(CONDITIONS, model).logits(self._rows(condition, images))

    def clean(self, model: str) -> StoredResults:
        """Return what a model gave for the unchanged images."""
        if model not in self._clean:
            self._clean[model] = StoredResults(self.run, model, self.method, self.image_ids, self._usual_grid(model))
        return self._clean[model]

    def _usual_grid(self, model: str) -> tuple[int, int] | None:
        """Return the grid that runs of a model's group have, None where none of them has a map."""
        (members,) = (m for m in self.groups.values() if model in m)
        grids = (self.run.recipe(self.method, member)[1].get("grid") for member in members)
        found = next((grid for grid in grids if grid), None)
        return None if found is None else (found[0], found[1])

    def _rows(self, condition: str, images: Numbers) -> Numbers:
        return self._place[condition] * len(self.image_ids) + images

    def _changed(self, kind: str, model: str) -> StoredResults:
        """Return what a model gave for changed images; only one model's is held."""
        if (kind, model) not in self._last:
            self._last = {key: found for key, found in self._last.items() if key[1] == model}
            ids = [changed_id(i, c) for c in self._traits for i in self.image_ids]
            folder = self.run.folder / kind / model
            self._last[kind, model] = (
                StoredResults(open_run(folder), model, self.method, ids, self.clean(model).grid)
                if (folder / "run.json").exists()
                else self.clean(model).absent(len(ids))
            )
        return self._last[kind, model]


def audit_failures(run: Run) -> list[dict[str, Any]]:
    """Return what could not be computed for an audit: failures of the audited models, in all of its runs."""
    settings = run.info["stages"][STAGE]["settings"]
    models = {model for members in settings["groups"].values() for model in members}
    folders = [run.folder]
    if settings["out_of_set"] is not None:
        folders.append(run.folder / OUT_OF_SET_RUN)
    folders += [run.folder / kind / model for kind in (CONDITIONS, CHANGED) for model in sorted(models)]
    rows = [r for f in folders if (f / "run.json").exists() for r in open_run(f).table("failures").to_pylist()]
    return [row for row in rows if row["model"] in models]
