"""Joining runs: parts of the images, or other methods and models over the same ones, become one run directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from salience.errors import RunError
from salience.store.files import read_json, read_jsons
from salience.store.place import Place, place_of
from salience.store.run import Run, open_run
from salience.store.schema import PARTS
from salience.store.shards import Floats, MapArray
from salience.store.writer import RunWriter

Told = Callable[[int, int], None]


def merge_runs(runs: Sequence[str | Place], out: str | Place, told: Told = lambda done, of: None) -> Run:
    """Join runs into a new one, or carry on with joining them.

    The runs stay as they are. They are of the same images, or of parts of them (``--shard``), and where two have the
    same image, model and method, the later run counts. Units keep their contents and get new numbers. Derived tables
    are not joined: they are of a run as a whole, and the verb that made them makes them again.

    Parameters
    ----------
    runs
        Two run directories or more; they may be unfinished, and are then joined as far as they are.
    out
        An empty or missing folder, or what an interrupted call left.
    told
        Called with units done and units in all.

    Raises
    ------
    RunError
        When they do not belong together: other images, or models of one name with other weights.
    """
    parts = [open_run(path) for path in runs]
    _check(parts, place_of(out))
    first = parts[0].info
    source = first["images"]["source"]
    dtypes = {r["map_dtype"] for part in parts for r in part.info["recipes"].values()}
    with RunWriter(out, kind=first["kind"], source=source, map_dtype=min(dtypes, default="float16")) as writer:
        if writer.info.get("status") and "merged" not in writer.info:
            raise RunError(f"{out} holds a run of its own. Choose another --out for the runs together.")
        adopted = {tuple(record["merged"]) for record in _records(writer) if record.get("merged")}
        writer.set_images(_images(parts))
        writer.describe(**_described(parts), status="running")
        every = [(part, unit) for part in parts for unit in part.units()]
        for done, (part, unit) in enumerate(every):
            told(done, len(every))
            name = (str(part.folder.resolve()), unit)
            if name not in adopted:
                _adopt(writer, part, unit, name)
        told(len(every), len(every))
        complete = all(part.info.get("status") == "complete" for part in parts)
        writer.describe(status="complete" if complete else "interrupted")
    return open_run(out)


def _records(writer: RunWriter) -> list[dict[str, Any]]:
    """Return the records of the units that the new run has already."""
    if not (writer.folder / "run.json").exists():
        return []
    units = open_run(writer.folder).units()
    return list(read_jsons(writer.folder / "units", [f"{unit:06d}.json" for unit in units]))


# ---------------------------------------------------------------------- do they belong together


def _check(parts: Sequence[Run], out: Place) -> None:
    if len(parts) < 2:
        raise RunError("Two runs or more are needed to join them.")
    folders = [part.folder.resolve() for part in parts]
    if len(set(folders)) < len(folders):
        raise RunError("A run is named twice.")
    if out.resolve() in folders:
        raise RunError(f"{out} is one of the runs. Choose another --out: the runs stay as they are.")
    first = parts[0]
    for part in parts[1:]:
        for what, a, b in (
            ("kind", first.info["kind"], part.info["kind"]),
            ("images", first.info["images"]["source"], part.info["images"]["source"]),
            ("labels of the model", first.info.get("labels_of"), part.info.get("labels_of")),
        ):
            if a != b:
                raise RunError(f"{first.folder} and {part.folder} do not belong together: their {what}: {a} and {b}.")
        for name in set(first.info["models"]) & set(part.info["models"]):
            if first.info["models"][name]["fingerprint"] != part.info["models"][name]["fingerprint"]:
                raise RunError(
                    f"Model {name!r} has other weights or another preprocessing in {part.folder} than in "
                    f"{first.folder}. Explain the images of one of them again, or name the models apart."
                )
    _check_current(parts)


def _check_current(parts: Sequence[Run]) -> None:
    """Refuse two settings of one method and model: a run is about one of them."""
    known: dict[tuple[str, str], tuple[str, Place]] = {}
    for part in parts:
        for recipe in part.info["current"]:
            entry = part.info["recipes"][recipe]
            name = (entry["model"], entry["method"])
            before, folder = known.setdefault(name, (recipe, part.folder))
            if before != recipe:
                raise RunError(
                    f"The maps of {name[1]!r} of model {name[0]!r} were made with other settings in {part.folder} "
                    f"than in {folder} (target, output, seed or another). Make them alike first."
                )
    for stage in {s for part in parts for s in part.info.get("stages", {})}:
        asked = {frozenset(part.current(stage)): part.folder for part in parts if part.current(stage)}
        if len(asked) > 1:
            raise RunError(
                f"{' and '.join(map(str, asked.values()))} differ in what '{stage}' was asked for. Run it with the "
                "same options in each of them, or once over the runs together."
            )


# ---------------------------------------------------------------------- what the new run is about


def _images(parts: Sequence[Run]) -> dict[str, list[Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for part in parts:
        rows.update({row["image_id"]: row for row in part.images.to_pylist()})
    ordered = sorted(rows.values(), key=lambda row: (row["index"], row["image_id"]))
    return {name: [row[name] for row in ordered] for name in parts[0].images.column_names}


def _described(parts: Sequence[Run]) -> dict[str, Any]:
    first = parts[0].info
    models: dict[str, Any] = {}
    recipes: dict[str, Any] = {}
    for part in parts:
        for name, entry in part.info["models"].items():
            before = models.setdefault(name, dict(entry))
            if before is not entry and "queries" in entry and part is not parts[0]:
                before["queries"] = before.get("queries", 0) + entry["queries"]
        for name, entry in part.info["recipes"].items():
            before = recipes.setdefault(name, dict(entry))
            before["per_shard"] = max(before["per_shard"], entry["per_shard"])
            before.setdefault("grid", entry.get("grid"))
            if before["grid"] is None:
                del before["grid"]
    count = len({i for part in parts for i in part.images["image_id"].to_pylist()})
    return {
        "images": {**first["images"], "count": count, "shard": None},
        "labels_of": first.get("labels_of"),
        "models": models,
        "recipes": recipes,
        "current": list(dict.fromkeys(r for part in parts for r in part.info["current"])),
        "stages": _stages(parts),
        "settings": first.get("settings", {}),
        "environment": first.get("environment", {}),
        "seconds": round(sum(part.info.get("seconds", 0.0) for part in parts), 3),
        "merged": [str(part.folder.resolve()) for part in parts],
    }


def _stages(parts: Sequence[Run]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for part in parts:
        for name, entry in part.info.get("stages", {}).items():
            joined.setdefault(name, entry)
    return joined


# ---------------------------------------------------------------------- units


def _adopt(writer: RunWriter, part: Run, unit: int, name: tuple[str, int]) -> None:
    """Write a unit of another run as the next one of this run."""
    record = read_json(part.folder / "units" / f"{unit:06d}.json")
    found = {table: part.part(table, unit) for table in PARTS}
    tables: dict[str, pa.Table] = {table: rows for table, rows in found.items() if rows is not None}
    maps: dict[str, Floats] = {}
    if "maps" in tables:
        rows = tables["maps"]
        for recipe in rows["recipe"].unique().to_pylist():
            places = rows.filter(pc.equal(rows["recipe"], recipe))["row"].to_numpy()
            maps[recipe] = MapArray(part.folder / "maps" / recipe).read(places)
    writer.adopt(tables, maps, {**record, "merged": list(name)})
