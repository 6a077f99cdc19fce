"""Writing a run directory: one writer at a time, every unit all or nothing."""

from __future__ import annotations

import contextlib
import copy
import os
import time
from collections.abc import Mapping
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from salience.errors import RunError
from salience.store.files import write_json, write_table
from salience.store.place import Claim, Place, storage
from salience.store.run import Run, read_info
from salience.store.schema import DERIVED, FORMAT, IMAGES, VERSION
from salience.store.shards import Floats
from salience.store.unit import Known, Recipe, StageUnit
from salience.store.unit_writer import Record, UnitWriter


class RunWriter(UnitWriter):
    """A run directory opened for writing; use it as a context manager.

    Parameters
    ----------
    folder
        An empty or missing folder, or a run of the same kind over the same images, which is then carried on; a path or
        a URL.
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

    grows = True

    def __init__(self, folder: str | Place, *, kind: str, source: str, map_dtype: str = "float16") -> None:
        super().__init__(folder)
        self.kind = kind
        self.source = source
        self.map_dtype = map_dtype
        self._held: Claim | None = None
        self.claim = ""
        self._described = False
        self._turn = RLock()  # units of several stages may come from several threads

    # ------------------------------------------------------------------ opening and closing

    def __enter__(self) -> RunWriter:
        place = storage(self.folder)
        exists = self._exists()
        if exists:
            self._check(read_info(self.folder))
        else:
            place.vacant(self.folder)
        held = self._held = place.claim(self.folder)
        self.claim = held.token
        self.folder = place.under(self.folder, held.token)
        try:
            if not exists and (exists := self._exists()):  # of a command that was quicker
                self._check(read_info(self.folder))
            self._described = exists
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
        except BaseException:
            held.release(keep=exists)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._held is not None:
            # refused before anything was written: the place stays as it was
            self._held.release(keep=self._described)

    def _exists(self) -> bool:
        return (self.folder / "run.json").is_file()

    def _check_token(self) -> None:
        if self._held is not None:
            self._held.check()

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
            self._check_token()
            self.info.update(entries, updated=_now())
            write_json(self.folder / "run.json", self.info)
            self._described = True

    def set_images(self, columns: dict[str, list[Any]]) -> None:
        """Write the table of the images that the run is about."""
        self._check_token()
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
        if not self._exists():
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

    def commit_stage(self, unit: StageUnit) -> None:
        """Write a unit of another stage as the next one.

        Raises
        ------
        RunError
            When something cannot be written; the unit then does not count, all earlier ones do.
        """
        with self._turn:
            self.write_stage(self._unit, unit)
            self._unit += 1

    def adopt(self, tables: Mapping[str, pa.Table], maps: Mapping[str, Floats], record: Record) -> None:
        """Write a unit of another run as the next one; see :meth:`UnitWriter.copy`.

        Raises
        ------
        RunError
            When something cannot be written; the unit then does not count.
        """
        with self._turn:
            self.copy(self._unit, tables, maps, record)
            self._unit += 1

    def reserve(self, count: int) -> int:
        """Set numbers aside for units; return the first."""
        with self._turn:
            first = self._unit
            self._unit += count
            return first

    def take(self, number: int, grids: Mapping[str, tuple[int, int]]) -> None:
        """Take note of a unit that was written, and of the grids of its maps by recipe."""
        with self._turn:
            for recipe, grid in grids.items():
                array = self._array(recipe, grid)
                array.grow((number + 1) * array.per_shard)

    def beside(self) -> UnitWriter:
        """Return a writer of units for another thread, which shares nothing with this one but the folder."""
        return UnitWriter(self.folder, copy.deepcopy(self.info), self.claim)

    def learn(self, recipe: str, grid: tuple[int, int]) -> None:
        """Take note of the grid of a recipe's maps, in ``run.json`` too."""
        super().learn(recipe, grid)
        self.describe()

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
        self._check_token()
        write_table(self.folder / "derived" / f"{name}.parquet", pa.table(made, schema=schema))


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
