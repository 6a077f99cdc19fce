"""Writing the work units of a run directory: arrays, then tables, then the record that makes them count.

Any process may write units, each under a number of its own; who writes the run as a whole gives the numbers out, see
:class:`~salience.store.writer.RunWriter`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from salience.errors import RunError
from salience.store.files import json_bytes, write_table
from salience.store.place import Place, place_of, storage
from salience.store.schema import PARTS, table
from salience.store.shards import Floats, MapArray
from salience.store.unit import Content, FailureRow, StageUnit, UnitResult

Record = Mapping[str, Any]


class UnitWriter:
    """Writes units into a run directory that another process holds.

    Parameters
    ----------
    folder
        The run directory.
    info
        What its ``run.json`` says: the recipes that maps belong to.
    token
        What names the process that holds the run in ``.lock``. When it is gone, so is that process, and a unit that is
        still under way must not be written beside those of the next one. None: this process holds the run.
    """

    grows = False
    """Whether arrays are told of their length as units come; who gives out numbers tells it where several write."""

    def __init__(self, folder: str | Place, info: dict[str, Any] | None = None, token: str | None = None) -> None:
        self.folder = place_of(folder)
        self.token = token
        if token is not None:
            self.folder = storage(self.folder).under(self.folder, token)
        self.info: dict[str, Any] = info or {}
        self._arrays: dict[str, MapArray] = {}

    def learn(self, recipe: str, grid: tuple[int, int]) -> None:
        """Take note of the grid of a recipe's maps, when its first ones come."""
        self.info["recipes"][recipe]["grid"] = list(grid)

    def write(self, number: int, unit: UnitResult) -> None:
        """Write a unit of maps.

        Raises
        ------
        RunError
            When something cannot be written; the unit then does not count.
        """
        maps: dict[str, list[Any]] = {c: [] for c in ("recipe", "image_id", "target", "row", "scale", "score", "key")}
        diagnostics: dict[str, list[Any]] = {c: [] for c in ("recipe", "image_id", "target", "name", "value")}
        for recipe, rows in unit.maps.items():
            if not rows.values:
                continue
            array = self._array(recipe, rows.values[0].shape)
            array.write(number, np.stack(rows.values))
            first = number * array.per_shard
            ids, targets, scores, keys = zip(*rows.owners, strict=True)
            maps["recipe"] += [recipe] * len(ids)
            maps["image_id"] += ids
            maps["target"] += targets
            maps["row"] += range(first, first + len(ids))
            maps["scale"] += rows.scales
            maps["score"] += scores
            maps["key"] += keys
            for row in rows.diagnostics:
                for column, value in zip(diagnostics, (recipe, *row), strict=True):
                    diagnostics[column].append(value)
        tables: dict[str, dict[str, list[Any]]] = {
            "contents": _content_columns([*unit.images, *unit.unanswered]),
            "predictions": self._predictions(unit),
            "maps": maps,
            "diagnostics": diagnostics,
            "failures": _failure_columns(unit.failures),
        }
        self._record(
            number,
            _made(tables),
            {
                "model": unit.model,
                "recipes": sorted(r for r, rows in unit.maps.items() if rows.values),
                "images": len(unit.images),
                "failures": len(unit.failures),
                "seconds": round(unit.seconds, 3),
            },
        )

    def write_stage(self, number: int, unit: StageUnit) -> None:
        """Write a unit of another stage.

        Raises
        ------
        RunError
            When something cannot be written; the unit then does not count.
        """
        tables = {
            "contents": _content_columns(unit.images),
            "failures": _failure_columns(unit.failures),
            **unit.tables,
        }
        self._record(
            number,
            _made(tables),
            {
                "stage": unit.stage,
                "model": unit.model,
                "recipes": sorted(unit.recipes),
                "images": len(unit.images),
                "contents": {i.image_id: i.content_hash for i in unit.images},
                "failures": len(unit.failures),
                "seconds": round(unit.seconds, 3),
            },
        )

    def copy(self, number: int, tables: Mapping[str, pa.Table], maps: Mapping[str, Floats], record: Record) -> None:
        """Write a unit of another run: its maps, its tables, its record.

        ``maps`` holds the stored values (rows, h, w) of each recipe, in the order of their rows in the table ``maps``.

        Raises
        ------
        RunError
            When something cannot be written; the unit then does not count.
        """
        tables = dict(tables)
        if maps:
            place = {}
            for recipe, values in maps.items():
                array = self._array(recipe, values.shape[1:])
                array.write(number, values)
                place[recipe] = number * array.per_shard
            tables["maps"] = _placed(tables["maps"], place)
        self._record(number, tables, record)

    def _record(self, number: int, tables: Mapping[str, pa.Table], record: Record) -> None:
        """Write a unit's parts, then the record that makes them count."""
        self._check_token()
        place, name = storage(self.folder), f"{number:06d}"
        paths = {part: self.folder / "tables" / part / f"{name}.parquet" for part in PARTS}
        deque(place.each(lambda part: write_table(paths[part], tables[part]), list(tables)), maxlen=0)
        # of a unit that was killed before it counted
        place.discard([path for part, path in paths.items() if part not in tables])
        self._check_token()
        place.record(self.folder / "units" / f"{name}.json", json_bytes({**record, "unit": number}))

    def _check_token(self) -> None:
        if self.token is not None and storage(self.folder).holder(self.folder) != self.token:
            raise RunError(f"Another command writes {self.folder} now, so this worker ends.")

    def _predictions(self, unit: UnitResult) -> dict[str, list[Any]]:
        if not unit.images:
            return {c: [] for c in ("image_id", "model", "predicted", "probability", "logits", "key")}
        logits = np.stack([i.logits for i in unit.images]).astype(np.float64)
        best = logits.argmax(axis=1)
        weights = next((self.info["recipes"][r].get("weights", "") for r in unit.maps), "")
        tops = 1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)
        return {
            "image_id": [i.image_id for i in unit.images],
            "model": [unit.model] * len(unit.images),
            "predicted": best,
            "probability": tops.astype(np.float32),
            "logits": [i.logits for i in unit.images],
            "key": [f"{weights}:{i.content_hash}" for i in unit.images],
        }

    def _array(self, recipe: str, grid: tuple[int, ...]) -> MapArray:
        if recipe not in self._arrays:
            entry = self.info["recipes"][recipe]
            if tuple(entry.get("grid") or grid) != tuple(grid):
                raise RunError(
                    f"The maps of {recipe} have the grid {tuple(grid)} now and {tuple(entry['grid'])} before. "
                    "Choose another --out."
                )
            if "grid" not in entry:
                self.learn(recipe, (int(grid[0]), int(grid[1])))
            self._arrays[recipe] = MapArray.create(
                self.folder / "maps" / recipe,
                int(entry["per_shard"]),
                (int(grid[0]), int(grid[1])),
                entry["map_dtype"],
                {k: entry[k] for k in ("model", "method", "signed", "target", "output")},
                grows=self.grows,
            )
        return self._arrays[recipe]


def _made(tables: Mapping[str, dict[str, list[Any]]]) -> dict[str, pa.Table]:
    """Build the parts that have rows from their columns."""
    return {name: table(name, columns) for name, columns in tables.items() if columns.get("image_id")}


def _placed(rows: pa.Table, first: Mapping[str, int]) -> pa.Table:
    """Give rows of the table ``maps`` their places in other arrays: those of a recipe from ``first`` on, in turn."""
    place = dict(first)
    out = np.empty(len(rows), dtype=np.int64)
    for i, recipe in enumerate(rows["recipe"].to_pylist()):
        out[i] = place[recipe]
        place[recipe] += 1
    at = rows.schema.get_field_index("row")
    return rows.set_column(at, rows.schema.field(at), pa.array(out))


def _content_columns(contents: Sequence[Content]) -> dict[str, list[Any]]:
    return {name: [getattr(i, name) for i in contents] for name in PARTS["contents"].names}


def _failure_columns(failures: Sequence[FailureRow]) -> dict[str, list[Any]]:
    return {
        "image_id": [f.failure.image_id for f in failures],
        "model": [f.failure.model for f in failures],
        "method": [f.failure.method for f in failures],
        "recipe": [f.recipe for f in failures],
        "kind": [f.failure.kind for f in failures],
        "message": [f.failure.message for f in failures],
        "key": [f.key for f in failures],
    }
