"""Writing a run directory: one writer at a time, every unit all or nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import IO, Any

import numpy as np
import pyarrow as pa

from salience.errors import RunError
from salience.store.files import write_json, write_table
from salience.store.run import Run, read_info
from salience.store.schema import DERIVED, FORMAT, IMAGES, PARTS, VERSION, table
from salience.store.shards import Floats, MapArray
from salience.store.unit import Content, FailureRow, Known, Recipe, StageUnit, UnitResult


class RunWriter:
    """A run directory opened for writing; use it as a context manager.

    Parameters
    ----------
    folder
        An empty or missing folder, or a run of the same kind over the same images, which is then carried on.
    kind
        The command: ``explain``, ...
    source
        Where the images come from; another source needs another folder.

    Raises
    ------
    RunError
        When the folder holds something else, a run of another kind, of other images or of a newer format, or when
        another process is writing it.
    """

    def __init__(self, folder: str | Path, *, kind: str, source: str, map_dtype: str = "float16") -> None:
        self.folder = Path(folder)
        self.kind = kind
        self.source = source
        self.map_dtype = map_dtype
        self.info: dict[str, Any] = {}
        self.per_unit: dict[str, int] = {}
        self._lock: IO[str] | None = None
        self._turn = RLock()  # units of several stages may come from several threads
        self._made: list[Path] = []
        self._arrays: dict[str, MapArray] = {}

    # ------------------------------------------------------------------ opening and closing

    def __enter__(self) -> RunWriter:
        exists = (self.folder / "run.json").exists()
        if self.folder.exists() and not self.folder.is_dir():
            raise RunError(f"{self.folder} is a file; --out needs a folder.")
        if not exists and self.folder.is_dir() and any(not p.name.startswith(".") for p in self.folder.iterdir()):
            raise RunError(f"{self.folder} is not empty and holds no run. Choose another --out, or empty it.")
        if exists:
            self._check(read_info(self.folder))
        absent = [p for p in (self.folder, *self.folder.parents) if not p.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._made = absent
            self._lock = (self.folder / ".lock").open("w")
        except OSError as error:
            raise RunError(f"Cannot write {self.folder}: {error.strerror}. Choose another --out.") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(self._lock.fileno()), (self.folder / ".lock").stat()):
                raise FileNotFoundError  # its last holder has just taken it away
        except OSError as error:
            self._lock.close()
            raise RunError(
                f"Another process is writing {self.folder}. Wait for it, or choose another --out."
            ) from error
        for partial in self.folder.rglob(".*.partial"):
            partial.unlink(missing_ok=True)
        if exists:
            self.info = read_info(self.folder)
        else:
            self.info = {
                "format": FORMAT,
                "version": VERSION,
                "kind": self.kind,
                "created": _now(),
                "images": {"source": self.source},
                "models": {},
                "recipes": {},
                "current": [],
            }
        self._unit = max(Run(self.folder).units(), default=-1) + 1 if exists else 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is None:
            return
        if not (self.folder / "run.json").exists():  # refused before anything was written: leave the place as it was
            with contextlib.suppress(OSError):
                (self.folder / ".lock").unlink()
                for folder in self._made:
                    folder.rmdir()
        self._lock.close()

    def _check(self, info: dict[str, Any]) -> None:
        if info["kind"] != self.kind:
            raise RunError(
                f"{self.folder} holds a run of 'salience {info['kind']}', not of '{self.kind}'. Choose another --out."
            )
        if info["images"]["source"] != self.source:
            raise RunError(
                f"{self.folder} holds a run over other images: {info['images']['source']}, not {self.source}. "
                "Choose another --out."
            )

    # ------------------------------------------------------------------ what the run is about

    def describe(self, **entries: Any) -> None:
        """Set entries of ``run.json`` and write it."""
        with self._turn:
            self.info.update(entries, updated=_now())
            write_json(self.folder / "run.json", self.info)

    def set_images(self, columns: dict[str, list[Any]]) -> None:
        """Write the table of the images that the run is about."""
        write_table(self.folder / "images.parquet", pa.table(columns, schema=IMAGES))

    def use_recipes(self, model: str, recipes: list[Recipe], unit_images: int) -> None:
        """Make ``recipes`` the current ones of their model and method labels; others stay as they are."""
        known = self.info["recipes"]
        for recipe in recipes:
            known.setdefault(recipe.id, {"per_shard": unit_images * recipe.columns, **recipe.description})
        fresh = {r.id for r in recipes}
        labels = {r.label for r in recipes}
        kept = [
            i
            for i in self.info["current"]
            if i not in fresh and not (known[i]["model"] == model and known[i]["method"] in labels)
        ]
        self.info["current"] = kept + [r.id for r in recipes]

    def use_stage(self, stage: str, model: str, recipes: dict[str, dict[str, Any]], **entries: Any) -> None:
        """Make ``recipes`` (by id) those that the run is about in a stage and for a model; set its other entries."""
        stages = self.info.setdefault("stages", {})
        before = stages.get(stage, {})
        known = {**before.get("recipes", {}), **recipes}
        others = [i for i in before.get("current", []) if known[i]["model"] != model]
        stages[stage] = {**before, **entries, "current": [*others, *recipes], "recipes": known}

    def known(self) -> Known:
        """Return what is finished, read from the committed units."""
        if not (self.folder / "run.json").exists():
            return Known()
        run = Run(self.folder)
        unreadable = {r["image_id"]: r["unit"] for r in run.parts("failures").to_pylist() if r["kind"] == "unreadable"}
        contents = {
            r["image_id"]: (r["content_hash"], r["bytes"], r["mtime_ns"])
            for r in run.parts("contents").to_pylist()
            if r["unit"] > unreadable.get(r["image_id"], -1)  # an image that was broken since is looked at again
        }
        done = {(r["recipe"], r["image_id"]): r["key"] for r in run.parts("maps").to_pylist()}
        failed = {
            (r["recipe"] or r["model"], r["image_id"]): r["key"]
            for r in run.parts("failures").to_pylist()
            if r["kind"] != "memory"
        }
        return Known(contents, done, failed)

    # ------------------------------------------------------------------ results

    def commit(self, unit: UnitResult) -> None:
        """Write a unit: arrays, then tables, then the record that makes them count.

        Raises
        ------
        RunError
            When something cannot be written; the unit then does not count, all earlier ones do.
        """
        with self._turn:
            self._commit(unit)

    def _commit(self, unit: UnitResult) -> None:
        number = self._unit
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
        self._finish(
            tables,
            {
                "model": unit.model,
                "recipes": sorted(r for r, rows in unit.maps.items() if rows.values),
                "images": len(unit.images),
                "failures": len(unit.failures),
                "seconds": round(unit.seconds, 3),
            },
        )

    def commit_stage(self, unit: StageUnit) -> None:
        """Write a unit of another stage: its tables, then the record that names what is finished.

        Raises
        ------
        RunError
            When something cannot be written; the unit then does not count, all earlier ones do.
        """
        tables = {
            "contents": _content_columns(unit.images),
            "failures": _failure_columns(unit.failures),
            **unit.tables,
        }
        self._finish(
            tables,
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

    def adopt(self, tables: Mapping[str, pa.Table], maps: Mapping[str, Floats], record: Mapping[str, Any]) -> None:
        """Write a unit of another run as the next one of this run: its maps, its tables, its record.

        ``maps`` holds the stored values (rows, h, w) of each recipe, in the order of their rows in the table ``maps``.

        Raises
        ------
        RunError
            When something cannot be written; the unit then does not count.
        """
        number = self._unit
        tables = dict(tables)
        if maps:
            place = {}
            for recipe, values in maps.items():
                array = self._array(recipe, values.shape[1:])
                array.write(number, values)
                place[recipe] = number * array.per_shard
            tables["maps"] = _placed(tables["maps"], place)
        self._write(tables, record)

    def put_derived(self, name: str, rows: pa.Table | dict[str, Any]) -> None:
        """Write a table of the run as a whole, in the place of an earlier one; null where a float is NaN.

        Raises
        ------
        RunError
            When it cannot be written; the earlier one then stays.
        """
        schema = DERIVED[name]
        columns = rows if isinstance(rows, dict) else {c: rows[c] for c in schema.names}
        made = [
            pa.array(v, f.type, from_pandas=True) if isinstance(v, (list, np.ndarray)) else v.cast(f.type)
            for f, v in ((f, columns[f.name]) for f in schema)
        ]
        write_table(self.folder / "derived" / f"{name}.parquet", pa.table(made, schema=schema))

    def _finish(self, tables: Mapping[str, dict[str, list[Any]]], record: Mapping[str, Any]) -> None:
        """Write a unit's parts from columns, then its record."""
        made = {name: table(name, columns) for name, columns in tables.items() if columns.get("image_id")}
        with self._turn:
            self._write(made, record)

    def _write(self, tables: Mapping[str, pa.Table], record: Mapping[str, Any]) -> None:
        """Write a unit's parts, then the record that makes them count."""
        number = self._unit
        for name in PARTS:
            path = self.folder / "tables" / name / f"{number:06d}.parquet"
            if name in tables:
                write_table(path, tables[name])
            else:
                path.unlink(missing_ok=True)  # of a unit that was killed before it counted
        write_json(self.folder / "units" / f"{number:06d}.json", {**record, "unit": number})
        self._unit = number + 1

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
                entry["grid"] = [int(v) for v in grid]
                self.describe()
            self._arrays[recipe] = MapArray.create(
                self.folder / "maps" / recipe,
                int(entry["per_shard"]),
                (int(grid[0]), int(grid[1])),
                entry["map_dtype"],
                {k: entry[k] for k in ("model", "method", "signed", "target", "output")},
            )
        return self._arrays[recipe]


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


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def free_space(folder: Path) -> int:
    """Return the bytes that are free where ``folder`` is or will be."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    with contextlib.suppress(OSError):
        stats = os.statvfs(place)
        return stats.f_bavail * stats.f_frsize
    return 2**62
