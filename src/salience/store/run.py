"""Reading a run directory. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from salience.errors import RunError, nearest
from salience.store.description import check_info
from salience.store.files import read_json, read_jsons, read_table, read_tables
from salience.store.maps import Failure, Maps
from salience.store.place import Place, place_of, storage
from salience.store.schema import DERIVED, FORMAT, IMAGES, NAMES, PARTS, STAGE_OF, VERSION
from salience.store.shards import MapArray


def open_run(path: str | Place) -> Run:
    """Open a run directory for reading: a path, or a URL such as ``s3://bucket/run``.

    Raises
    ------
    RunError
        When there is no run, or one of a newer format.
    """
    place = place_of(path)
    return Run(storage(place).under(place, ""))  # a reader has no claim


def read_info(folder: Place) -> dict[str, Any]:
    """Read and check ``run.json``."""
    path = folder / "run.json"
    if not path.is_file():
        raise RunError(
            f"{folder} is no run directory: there is no run.json in it. Give the --out of a salience command."
        )
    info = read_json(path)
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise RunError(f"{path} is not the description of a salience run.")
    version = info.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise RunError(
            f"{folder} has format version {version}; this salience reads up to {VERSION}. Upgrade salience to read it."
        )
    check_info(info, path)
    return info


def _part(unit: int) -> str:
    return f"{unit:06d}.parquet"


def _numbered(rows: pa.Table, keys: Sequence[str]) -> npt.NDArray[np.int64]:
    """Give rows with equal ``keys`` (null is a value too) an equal number from 0 on."""
    code = np.zeros(len(rows), dtype=np.int64)
    for key in keys:
        column = rows[key].combine_chunks().dictionary_encode()
        index = column.indices.fill_null(len(column.dictionary)).to_numpy()
        code = np.unique(code * (len(column.dictionary) + 1) + index, return_inverse=True)[1]
    return code


class Run:
    """A run directory: tables, maps and how they were made."""

    def __init__(self, folder: Place) -> None:
        self.folder = folder
        self.info: dict[str, Any] = read_info(folder)

    def __repr__(self) -> str:
        models, methods = ", ".join(self.models), ", ".join(self.methods)
        return f"Run({str(self.folder)!r}: {self.info['kind']}, {len(self.images)} images; {models}; {methods})"

    # ------------------------------------------------------------------ what is in it

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models."""
        return tuple(self.info["models"])

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, in the order in which they were asked for."""
        return tuple(dict.fromkeys(self.info["recipes"][r]["method"] for r in self.info["current"]))

    def recipe(self, method: str | None = None, model: str | None = None) -> tuple[str, dict[str, Any]]:
        """Return (id, description) of the one recipe that ``method`` and ``model`` name."""
        for what, value, known in (("method", method, self.methods), ("model", model, self.models)):
            if value is not None and value not in known:
                raise RunError(f"The run has no {what} {value!r}; it has {', '.join(known)}.{nearest(value, known)}")
        fitting = [
            (i, r)
            for i in self.info["current"]
            for r in [self.info["recipes"][i]]
            if method in (None, r["method"]) and model in (None, r["model"])
        ]
        if len(fitting) != 1:
            raise RunError(
                f"The run holds {len(fitting)} sets of maps that fit; name the method ({', '.join(self.methods)}) "
                f"and the model ({', '.join(self.models)})."
            )
        return fitting[0]

    @cached_property
    def images(self) -> pa.Table:
        """The images that the run is about: see ``IMAGES`` in :mod:`salience.store.schema`."""
        path = self.folder / "images.parquet"
        return read_table(path, IMAGES) if path.is_file() else IMAGES.empty_table()

    def table(self, name: str) -> pa.Table:
        """Return a table: ``images``, ``contents``, ``predictions``, ``maps``, ``failures`` or another of its tables.

        Rows of images or recipes that the run is no longer about are left out, and of rows that were computed again
        only the last is kept.
        """
        if name == "images":
            seen = self.table("contents")
            at = pc.index_in(self.images["image_id"], seen["image_id"].combine_chunks())
            table = self.images
            for column in ("content_hash", "width", "height"):
                table = table.append_column(seen.schema.field(column), seen[column].take(at))
            return table
        if name in DERIVED:
            path = self.folder / "derived" / f"{name}.parquet"
            return read_table(path, DERIVED[name]) if path.is_file() else DERIVED[name].empty_table()
        if name not in PARTS:
            known = ("images", *PARTS, *DERIVED)
            raise RunError(f"A run has no table {name!r}; it has {', '.join(known)}.{nearest(name, known)}")
        return self._current(name, self.parts(name)).drop_columns(["unit"])

    def parts(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return all rows ever committed to a table, oldest first, with the column ``unit`` added.

        ``columns`` names those to read; the others of a large table then cost nothing.
        """
        units = self.units()
        found = read_tables(self.folder / "tables" / name, [_part(u) for u in units], PARTS[name], columns)
        tables = [
            part.append_column("unit", pa.array(np.full(len(part), unit, dtype=np.int64)))
            for unit, part in zip(units, found, strict=True)
            if part is not None
        ]
        if not tables:
            empty = PARTS[name].append(pa.field("unit", pa.int64())).empty_table()
            return empty if columns is None else empty.select([*columns, "unit"])
        return pa.concat_tables(tables)

    def part(self, name: str, unit: int, columns: Sequence[str] | None = None) -> pa.Table | None:
        """Return the rows of a table that one unit committed, None where it has none."""
        path = self.folder / "tables" / name / _part(unit)
        return read_table(path, PARTS[name], columns) if path.is_file() else None

    def places(self, name: str) -> pa.Table:
        """Return recipe, image_id and unit of the rows of a stage's table: where they are, without reading them."""
        return self._current(name, self.parts(name, ("recipe", "image_id")))

    def units(self) -> list[int]:
        """Return the numbers of the committed work units, ascending."""
        return sorted(int(p.stem) for p in (self.folder / "units").glob("[0-9]*.json"))

    def current(self, stage: str | None = None) -> list[str]:
        """Return the recipes that the run is about, of the maps or of a stage."""
        if stage is None:
            return list(self.info["current"])
        return list(self.info.get("stages", {}).get(stage, {}).get("current", []))

    def finished(self, stage: str) -> dict[str, list[tuple[int, str, frozenset[str]]]]:
        """Return what a stage has finished of each image: units, the image's content in them, and their recipes."""
        out: dict[str, list[tuple[int, str, frozenset[str]]]] = {}
        units = self.units()
        records = read_jsons(self.folder / "units", [f"{unit:06d}.json" for unit in units])
        for unit, record in zip(units, records, strict=True):
            if record.get("stage") == stage:
                recipes = frozenset(record["recipes"])
                for image_id, content in record["contents"].items():
                    out.setdefault(image_id, []).append((unit, content, recipes))
        return out

    def _current(self, name: str, rows: pa.Table) -> pa.Table:
        if "recipe" in rows.column_names and name != "failures":
            current = self.current(STAGE_OF.get(name))
            rows = rows.filter(pc.is_in(rows["recipe"], pa.array(current, pa.string())))
        rows = rows.filter(pc.is_in(rows["image_id"], self.images["image_id"].combine_chunks()))
        if name == "predictions":
            rows = rows.filter(pa.array(self._of_these_weights(rows), pa.bool_()))
        if len(rows):
            group = _numbered(rows, NAMES[name])
            unit = rows["unit"].to_numpy()
            last = np.zeros(group.max() + 1, dtype=np.int64)
            np.maximum.at(last, group, unit)
            rows = rows.filter(pa.array(unit == last[group]))
        if name == "failures":
            rows = rows.take(pa.array(self._still_failed(rows), pa.int64()))
        elif name != "contents":
            rows = rows.filter(pa.array(self._of_these_contents(rows), pa.bool_()))
        order = pc.index_in(rows["image_id"], self.images["image_id"].combine_chunks()).to_numpy()
        second = rows["target"].to_numpy() if "target" in rows.column_names else np.zeros(len(rows))
        return rows.take(np.lexsort((second, order)))

    def _of_these_weights(self, rows: pa.Table) -> list[bool]:
        """Tell which predictions were made with the weights that each model has now."""
        now = {name: f"{model.get('fingerprint', '')}:" for name, model in self.info["models"].items()}
        keys, models = rows["key"].to_pylist(), rows["model"].to_pylist()
        return [k.startswith((now.get(m, ":"), ":")) for k, m in zip(keys, models, strict=True)]

    def _of_these_contents(self, rows: pa.Table) -> npt.NDArray[np.bool_]:
        """Tell which rows were made of what their images are now, as far as this run has seen."""
        contents = self.parts("contents").select(["image_id", "content_hash", "unit"]).to_pylist()
        then = {(r["image_id"], r["unit"]): r["content_hash"] for r in contents}
        now = {r["image_id"]: r["content_hash"] for r in contents}
        broken = {r["image_id"] for r in self.table("failures").to_pylist() if r["kind"] == "unreadable"}
        kept = np.ones(len(rows), dtype=np.bool_)
        if not broken and all(now[r["image_id"]] == r["content_hash"] for r in contents):
            return kept
        for i, key in enumerate(zip(rows["image_id"].to_pylist(), rows["unit"].to_pylist(), strict=True)):
            kept[i] = key[0] not in broken and then.get(key) == now.get(key[0])
        return kept

    def _still_failed(self, rows: pa.Table) -> list[int]:
        """Return the failures that no later result has made good."""

        def latest(name: str, *keys: str) -> dict[tuple[str, ...], int]:
            parts = self.parts(name).select([*keys, "unit"]).to_pylist()
            return {tuple(r[k] for k in keys): r["unit"] for r in parts}

        if not len(rows):
            return []
        mapped = latest("maps", "recipe", "image_id")
        answered = latest("predictions", "model", "image_id")
        read = latest("contents", "image_id")
        by_label = self.info.get("settings", {}).get("target", "label") in ("label", "given")
        stages = list(self.info.get("stages", {}))
        finished = [self.finished(stage) for stage in stages]
        current = {*self.info["current"], *(r for stage in stages for r in self.current(stage))}
        kept = []
        for i, row in enumerate(rows.to_pylist()):
            if row["recipe"] is not None:
                units = [u for f in finished for u, _, made in f.get(row["image_id"], []) if row["recipe"] in made]
                later = max([mapped.get((row["recipe"], row["image_id"]), -1), *units])
                counts = row["recipe"] in current
            elif row["kind"] == "unreadable":
                later, counts = read.get((row["image_id"],), -1), True
            else:
                later = answered.get((row["model"], row["image_id"]), -1)
                counts = row["kind"] != "label" or by_label
            if counts and later <= row["unit"]:
                kept.append(i)
        return kept

    # ------------------------------------------------------------------ maps

    def maps(self, method: str | None = None, model: str | None = None, images: Sequence[str] | None = None) -> Maps:
        """Read the maps of one method and model.

        Parameters
        ----------
        method, model
            May be left out where the run has only one.
        images
            Image ids to read; all by default.

        Raises
        ------
        RunError
            When method or model is unknown or not named, or a file is damaged.
        """
        recipe_id, recipe = self.recipe(method, model)
        rows = self._maps_table.filter(pc.equal(self._maps_table["recipe"], recipe_id))
        if images is not None:
            rows = rows.filter(pc.is_in(rows["image_id"], pa.array(list(images), pa.string())))
        where = rows["row"].to_numpy()
        array = self.folder / "maps" / recipe_id
        info = self.info["models"][recipe["model"]]
        values = (
            MapArray(array).read(where) * rows["scale"].to_numpy()[:, None, None]
            if len(where)
            else np.zeros((0, *recipe.get("grid", info["preprocessing"]["size"])), dtype=np.float32)
        )
        ids = tuple(rows["image_id"].to_pylist())
        return Maps(
            values=values.astype(np.float32, copy=False),
            image_ids=ids,
            targets=rows["target"].to_numpy().astype(np.int64),
            probabilities=self._probabilities(recipe["model"], ids, len(info["classes"])),
            scores=rows["score"].to_numpy(),
            labels=self._labels(ids),
            model=recipe["model"],
            method=recipe["method"],
            signed=recipe["signed"],
            input_size=tuple(info["preprocessing"]["size"]),
            class_names=tuple(info["classes"]),
            diagnostics=self._diagnostics(recipe_id, rows),
            failures=tuple(
                Failure(r["image_id"], r["kind"], r["message"], r["model"], r["method"])
                for r in self.table("failures").to_pylist()
                if r["model"] == recipe["model"] and r["method"] in (None, recipe["method"])
            ),
        )

    @cached_property
    def _maps_table(self) -> pa.Table:
        return self.table("maps")

    @cached_property
    def _predictions(self) -> pa.Table:
        return self.table("predictions")

    def _labels(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        known = dict(zip(self.images["image_id"].to_pylist(), self.images["label"].to_pylist(), strict=True))
        return np.array([-1 if known[i] is None else known[i] for i in ids], dtype=np.int64)

    def _probabilities(self, model: str, ids: Sequence[str], classes: int) -> npt.NDArray[np.float32]:
        rows = self._predictions.filter(pc.equal(self._predictions["model"], model))
        if not len(rows) or not ids:
            return np.zeros((len(ids), classes), dtype=np.float32)
        at = {name: i for i, name in enumerate(rows["image_id"].to_pylist())}
        logits = rows["logits"].combine_chunks().flatten().to_numpy().reshape(len(rows), -1)
        z = logits[[at[i] for i in ids]].astype(np.float64)
        z = np.exp(z - z.max(axis=1, keepdims=True))
        shares: npt.NDArray[np.float32] = (z / z.sum(axis=1, keepdims=True)).astype(np.float32)
        return shares

    def _diagnostics(self, recipe: str, rows: pa.Table) -> dict[str, npt.NDArray[np.float32]]:
        table = self.table("diagnostics")
        table = table.filter(pc.equal(table["recipe"], recipe))
        at = {
            key: i for i, key in enumerate(zip(rows["image_id"].to_pylist(), rows["target"].to_pylist(), strict=True))
        }
        out: dict[str, npt.NDArray[np.float32]] = {}
        for row in table.to_pylist():
            place = at.get((row["image_id"], row["target"]))
            if place is not None:
                values = out.setdefault(row["name"], np.full(len(at), np.nan, dtype=np.float32))
                values[place] = row["value"]
        return out
