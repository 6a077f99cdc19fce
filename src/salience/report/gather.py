"""What the page needs of a run, read once: small tables in plain Python, the maps themselves left on disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from salience.data.preprocessing import Preprocessing
from salience.report.colour import Scale, scale_of
from salience.report.words import without_path
from salience.store.run import Run

TOP = 5
"""Classes whose probabilities are shown for an image."""

MOST_TARGETS = 10
"""Explained classes shown for an image: the most probable ones, and always the true one."""


@dataclass(frozen=True)
class Picture:
    """An image of the run: its row in the table ``images``."""

    index: int
    image_id: str
    path: str | None
    label: int | None
    label_text: str | None
    content_hash: str | None


@dataclass(frozen=True)
class Column:
    """One method of one model: what its maps are and how they are coloured."""

    recipe: str
    method: str
    summary: str
    reference: str
    signed: bool
    grid: tuple[int, int]
    enlarged: bool
    target: str
    output: str
    settings: Mapping[str, Any]
    layer: str | None

    @property
    def scale(self) -> Scale:
        """Return which of the two colour scales its maps take."""
        return scale_of(self.signed)


@dataclass(frozen=True)
class Cell:
    """One map: where it is stored, and what was noted beside it."""

    target: int
    row: int
    factor: float
    score: float
    diagnostics: Mapping[str, float]


@dataclass(frozen=True)
class Lost:
    """A failure, its message free of absolute paths."""

    image: int
    model: str
    method: str | None
    kind: str
    message: str


@dataclass
class Entry:
    """One image as one model saw it."""

    image: int
    predicted: int | None = None
    probability: float = float("nan")
    label: int | None = None
    top: tuple[tuple[int, float], ...] = ()
    cells: dict[int, list[Cell]] = field(default_factory=dict)
    """Column number -> maps, one for each explained class."""
    dropped: int = 0
    failures: list[Lost] = field(default_factory=list)

    @property
    def right(self) -> bool | None:
        """Whether the prediction is the true class; None where either is unknown."""
        return None if self.predicted is None or self.label is None else self.predicted == self.label


@dataclass
class Part:
    """One model: its columns, and an entry for each image."""

    name: str
    info: Mapping[str, Any]
    preprocessing: Preprocessing
    classes: Sequence[str]
    columns: list[Column]
    entries: list[Entry]

    def class_name(self, index: int) -> str:
        """Return a class's name, or its number where it has none."""
        return self.classes[index] if 0 <= index < len(self.classes) else f"class {index}"

    @property
    def size(self) -> tuple[int, int]:
        """Return the model's input size, (height, width)."""
        return self.preprocessing.size

    @property
    def accuracy(self) -> float | None:
        """Return the share of right predictions among the labelled images."""
        known = [e.right for e in self.entries if e.right is not None]
        return sum(known) / len(known) if known else None


@dataclass
class Material:
    """A run, ready to be shown."""

    run: Run
    images: list[Picture]
    parts: list[Part]
    failures: list[Lost]


def gather(run: Run) -> Material:
    """Read everything but the maps of a run."""
    images = [
        Picture(i, r["image_id"], r["path"], r["label"], r["label_text"], r["content_hash"])
        for i, r in enumerate(
            run.table("images").select(["image_id", "path", "label", "label_text", "content_hash"]).to_pylist()
        )
    ]
    places = {image.image_id: image.index for image in images}
    failures = [
        Lost(
            places[r["image_id"]],
            r["model"],
            r["method"],
            r["kind"],
            without_path(r["message"], images[places[r["image_id"]]].path, r["image_id"]),
        )
        for r in run.table("failures").to_pylist()
    ]
    shown = dict.fromkeys(run.info["recipes"][r]["model"] for r in run.info["current"])
    parts = [_part(run, name, images, places, failures) for name in shown]
    return Material(run, images, parts, failures)


def _part(run: Run, name: str, images: list[Picture], places: Mapping[str, int], failures: list[Lost]) -> Part:
    info = run.info["models"].get(name, {})
    columns = [_column(run, recipe) for recipe in run.info["current"] if run.info["recipes"][recipe]["model"] == name]
    see = preprocessing_of(info, columns[0].grid if columns else (224, 224))
    part = Part(name, info, see, tuple(info.get("classes", ())), columns, [])
    known = _labels(run, part)
    part.entries = [Entry(image.index, label=known(image)) for image in images]
    for lost in failures:
        if lost.model in (name, "", None):
            part.entries[lost.image].failures.append(lost)
    _add_maps(run, part, places, _add_predictions(run, part, places))
    return part


def _column(run: Run, recipe_id: str) -> Column:
    recipe = run.info["recipes"][recipe_id]
    size = tuple(run.info["models"].get(recipe["model"], {}).get("preprocessing", {}).get("size", (224, 224)))
    grid = tuple(recipe.get("grid") or size)
    return Column(
        recipe=recipe_id,
        method=recipe["method"],
        summary=recipe.get("summary", ""),
        reference=recipe.get("reference", ""),
        signed=bool(recipe.get("signed")),
        grid=(int(grid[0]), int(grid[1])),
        enlarged=grid != size,
        target=str(recipe.get("target", "predicted")),
        output=str(recipe.get("output", "logit")),
        settings={k: v for k, v in (recipe.get("settings") or {}).items() if v is not None},
        layer=recipe.get("layer"),
    )


def preprocessing_of(info: Mapping[str, Any], size: tuple[int, int]) -> Preprocessing:
    """Return a model's preprocessing as ``run.json`` has it; ``size`` where it does not say."""
    given: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in info.get("preprocessing", {}).items()
    }
    known: dict[str, Any] = {k: v for k, v in given.items() if k in Preprocessing.__dataclass_fields__}
    known.setdefault("size", size)
    return Preprocessing(**known)


def _labels(run: Run, part: Part) -> Callable[[Picture], int | None]:
    """Return a function that gives an image's true class among this model's classes, None where it has none.

    The table holds indices into the classes of one model, ``labels_of``; another list of classes is matched by name.
    """
    models = run.info["models"]
    first = run.info.get("labels_of", part.name)
    reference = tuple(models.get(first, {}).get("classes", ()))
    if reference == tuple(part.classes):
        return lambda image: image.label
    at = {name: i for i, name in enumerate(part.classes)}

    def find(image: Picture) -> int | None:
        known = image.label is not None and 0 <= image.label < len(reference)
        return at.get(reference[image.label]) if known and image.label is not None else None

    return find


def _add_predictions(run: Run, part: Part, places: Mapping[str, int]) -> dict[int, npt.NDArray[np.float64]]:
    """Fill in what the model predicted; return the probabilities (C,) of each image."""
    table = run.table("predictions")
    table = table.filter(pc.equal(table["model"], part.name))
    if not len(table):
        return {}
    logits = table["logits"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
    found: dict[int, npt.NDArray[np.float64]] = {}
    for row, chances in zip(table.drop_columns(["logits"]).to_pylist(), softmax(logits), strict=True):
        entry = part.entries[places[row["image_id"]]]
        entry.predicted, entry.probability = row["predicted"], row["probability"]
        best = np.argsort(-chances, kind="stable")[:TOP].tolist()
        if entry.label is not None and entry.label not in best and 0 <= entry.label < len(chances):
            best.append(entry.label)
        entry.top = tuple((int(c), float(chances[c])) for c in best)
        found[entry.image] = chances
    return found


def softmax(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Return the probabilities (N, C) of logits (N, C)."""
    z = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    chances: npt.NDArray[np.float64] = z / z.sum(axis=1, keepdims=True)
    return chances


def _add_maps(run: Run, part: Part, places: Mapping[str, int], chances: Mapping[int, npt.NDArray[np.float64]]) -> None:
    """Fill in where the maps are; of many classes, those that say most about the image."""
    measured: dict[tuple[str, str, int], dict[str, float]] = defaultdict(dict)
    for r in run.table("diagnostics").to_pylist():
        measured[r["recipe"], r["image_id"], r["target"]][r["name"]] = r["value"]
    numbers = {column.recipe: i for i, column in enumerate(part.columns)}
    for r in run.table("maps").to_pylist():
        column = numbers.get(r["recipe"])
        if column is not None:
            found = measured.get((r["recipe"], r["image_id"], r["target"]), {})
            cell = Cell(r["target"], r["row"], r["scale"], r["score"], found)
            part.entries[places[r["image_id"]]].cells.setdefault(column, []).append(cell)
    for entry in part.entries:
        for number, cells in entry.cells.items():
            if len(cells) > MOST_TARGETS:
                known = chances.get(entry.image, np.zeros(0))
                keep = {*np.argsort(-known, kind="stable")[:MOST_TARGETS].tolist(), entry.label}
                entry.cells[number] = [c for c in cells if c.target in keep] or cells[:MOST_TARGETS]
                entry.dropped = max(entry.dropped, len(cells) - len(entry.cells[number]))
