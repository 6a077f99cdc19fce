"""What a comparison came to, as ``salience.compare`` returns it and a run holds it. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from salience.comparison.frame import to_frame
from salience.comparison.ledger import Ledger, ledger
from salience.comparison.ranking import quality_of, sizes
from salience.comparison.strata import ALL, QUADRANTS, mcnemar, quadrants
from salience.data.preprocessing import Preprocessing
from salience.errors import RunError, nearest
from salience.store.packed import LabelMaps
from salience.store.place import Place
from salience.store.reader import StoredMaps
from salience.store.run import Run, open_run

STAGE = "compare"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Comparison:
    """How models differ from a reference on a set of images; of one model alone, what carries its classes.

    Attributes
    ----------
    run
        The run directory: maps, predictions, label maps and all tables.
    reference
        The model that the others are compared with: the first one given.
    models
        Names of all models, the reference first. One alone is compared with nothing.
    settings
        What was asked and assumed: ``method``, ``target``, ``output``, ``ledger`` (whether the maps add up to the
        change of the scalar), ``partition``, ``frame`` [h, w], ``encoder`` (``color``: descriptors of colour and
        texture), ``concepts``, ``group_by``, ``fills``, ``seed``, ... See FORMAT.md.
    segments
        A row for each segment of each compared image: which concept it belongs to, where it lies.
    attributions
        A row for each model and segment: the sum of the map over it, and its share of the map.
    concepts
        A row for each concept, the ones that differ most first, with its quality.
    effects
        A row for each concept, model, family and stratum: effect, interval, p, q, whether it is confirmed.
    interventions
        A row for each concept whose pixels were changed, by model, fill and stratum.
    notes
        What a reader must know: gaps, images that were left out, concepts that were not tested.
    """

    run: Run
    reference: str
    models: tuple[str, ...]
    settings: Mapping[str, Any]
    segments: pa.Table
    attributions: pa.Table
    concepts: pa.Table
    effects: pa.Table
    interventions: pa.Table
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        names = ", ".join(self.models)
        return f"Comparison({names}: {len(self.images)} images, {len(self.concepts)} concepts)"

    # ------------------------------------------------------------------ who and what is compared

    @property
    def others(self) -> tuple[str, ...]:
        """The models that are compared with the reference; the only model where it is alone."""
        return self.models[1:] or self.models

    @property
    def alone(self) -> bool:
        """Whether there is one model only."""
        return len(self.models) == 1

    @property
    def has_ledger(self) -> bool:
        """Whether maps add up to the change of the explained scalar, so that concepts can be booked."""
        return bool(self.settings["ledger"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the reference, into which labels, targets and predictions are indices."""
        return tuple(self.run.info["models"][self.reference]["classes"])

    @cached_property
    def images(self) -> tuple[str, ...]:
        """Ids of the images that are compared: those with a map of every model, in the order of the run."""
        return tuple(self.segments["image_id"].unique().to_pylist())

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """True class of each compared image, (I,), -1 where unknown."""
        rows = self.run.images
        known = dict(zip(rows["image_id"].to_pylist(), rows["label"].to_pylist(), strict=True))
        return np.array([-1 if known[i] is None else known[i] for i in self.images], dtype=np.int64)

    @cached_property
    def targets(self) -> npt.NDArray[np.int64]:
        """The class that was explained of each compared image, (I,): the same one for all models."""
        return np.array([self._maps[self.reference][i]["target"] for i in self.images], dtype=np.int64)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The independent unit that each compared image belongs to: its group, or itself."""
        rows = self.run.images
        known = dict(zip(rows["image_id"].to_pylist(), rows["group"].to_pylist(), strict=True))
        return tuple(f"image {i}" if known[i] is None else f"group {known[i]}" for i in self.images)

    @property
    def failures(self) -> list[dict[str, Any]]:
        """What could not be computed: rows of ``failures``; an image that no model can read is one of them."""
        rows: dict[Any, dict[str, Any]] = {}
        for row in self.run.table("failures").to_pylist():
            whole = row["kind"] == "unreadable"
            rows.setdefault((row["image_id"], None if whole else (row["model"], row["method"], row["recipe"])), row)
        return list(rows.values())

    # ------------------------------------------------------------------ predictions

    def predicted(self, model: str) -> npt.NDArray[np.int64]:
        """Return the class that a model predicts for each compared image, (I,)."""
        rows = self._predictions.filter(pc.equal(self._predictions["model"], self._known(model)))
        found = dict(zip(rows["image_id"].to_pylist(), rows["predicted"].to_pylist(), strict=True))
        return np.array([found[i] for i in self.images], dtype=np.int64)

    def scores(self, model: str) -> Floats:
        """Return the explained scalar of each compared image as it is, (I,)."""
        maps = self._maps[self._known(model)]
        return np.array([maps[i]["score"] for i in self.images], dtype=np.float64)

    def accuracy(self) -> dict[str, float | None]:
        """Return each model's share of right predictions among compared images with a label, None without any."""
        known = self.labels >= 0
        return {
            m: float((self.predicted(m) == self.labels)[known].mean()) if known.any() else None for m in self.models
        }

    def quadrants(self, model: str | None = None) -> dict[str, str]:
        """Return the quadrant of each compared image with a label: who is right, the reference or a model.

        ``both-right``, ``only-reference``, ``only-model`` or ``both-wrong``; empty for one model alone.
        """
        if self.alone or not (self.labels >= 0).any():
            return {}
        other = self._other(model)
        names = quadrants(self.labels, self.predicted(self.reference), self.predicted(other))
        return {i: q for i, q in zip(self.images, names, strict=True) if q is not None}

    def mcnemar(self, model: str | None = None) -> float | None:
        """Return McNemar's exact p-value of equal accuracy, None without labels or a second model."""
        found = list(self.quadrants(model).values())
        return mcnemar(found.count("only-reference"), found.count("only-model")) if found else None

    # ------------------------------------------------------------------ attributions by concept

    def totals(self, model: str) -> Floats:
        """Return sums of a model's maps over each concept's segments, (I, k), in units of the scalar."""
        return self._by_concept(model, "total")

    def shares(self, model: str) -> Floats:
        """Return the same as shares of each map's total absolute attribution, (I, k), in [-1, 1]."""
        return self._by_concept(model, "share")

    def ledger(self, where: str = "all", model: str | None = None) -> Ledger:
        """Return the change of the scalar's difference, booked by concept.

        Parameters
        ----------
        where
            An image id, ``all``, a class as ``class:NAME``, or a quadrant such as ``only-reference``.
        model
            Which model against the reference; may be left out where there is one.

        Raises
        ------
        RunError
            When the method's maps do not add up, or there is no such slice.
        """
        if not self.has_ledger:
            raise RunError(
                f"There is no ledger: maps of {self.settings['method']!r} do not add up to the change of the scalar. "
                "Compare with integrated gradients for one."
            )
        other = self._other(model)
        at = {i: n for n, i in enumerate(self.images)}
        rows = np.array([at[i] for i in self.slice(where, model=model)], dtype=np.int64)
        first = None if self.alone else self.reference
        return ledger(
            None if first is None else self.totals(first)[rows],
            self.totals(other)[rows],
            None if first is None else self.diagnostic(first, "output_change")[rows],
            self.diagnostic(other, "output_change")[rows],
        )

    def segments_of(self, image_id: str) -> list[dict[str, Any]]:
        """Return an image's segments: their rows of ``segments``, with ``totals`` and ``shares`` by model."""
        place = self._place(image_id)
        start, end = self._starts[place : place + 2].tolist()
        rows: list[dict[str, Any]] = self.segments.slice(start, end - start).to_pylist()
        for name in ("total", "share"):
            for model in self.models:
                values = self._attributed(model)[name].slice(start, end - start).to_pylist()
                for row, value in zip(rows, values, strict=True):
                    row.setdefault(f"{name}s", {})[model] = value
        return rows

    def gap(self, model: str, image_id: str) -> float:
        """Return the completeness gap of an image's map in units of the scalar: its sum less the scalar's change."""
        return float(self.diagnostic(model, "completeness_gap")[self._place(image_id)])

    def diagnostic(self, model: str, name: str) -> Floats:
        """Return what the method measured beside each compared image's map, (I,), NaN where it did not."""
        recipe = self.settings["recipes"][self._known(model)]
        rows = self._diagnostics.filter(
            pc.and_(pc.equal(self._diagnostics["recipe"], recipe), pc.equal(self._diagnostics["name"], name))
        )
        found = dict(zip(rows["image_id"].to_pylist(), rows["value"].to_pylist(), strict=True))
        return np.array([found.get(i, np.nan) for i in self.images], dtype=np.float64)

    # ------------------------------------------------------------------ pictures

    def label_map(self, image_id: str) -> npt.NDArray[np.int32]:
        """Return the label map (H, W) of an image over the frame: each pixel's segment, from 0 on."""
        self._place(image_id)
        return self._labels.read(image_id)

    def heatmap(self, model: str, image_id: str) -> npt.NDArray[np.float32]:
        """Return a model's raw map of an image over the frame, (H, W): the sum of the map is kept."""
        target = int(self.targets[self._place(image_id)])
        found = self._readers[self._known(model)].read(image_id, [target])
        if found is None:
            raise RunError(f"The run has no map of {model!r} for image {image_id!r}.")
        height, width = self.settings["frame"]
        laid = to_frame(found[0], self.preprocessing(model), self._sizes[image_id], (height, width))
        return laid.astype(np.float32)

    def preprocessing(self, model: str) -> Preprocessing:
        """Return how a model's input lies in an image."""
        view = read_preprocessing(self.run.info["models"][self._known(model)]["preprocessing"])
        return replace(view, fit="squash") if self.settings["whole_inputs"] else view

    # ------------------------------------------------------------------ what differs

    @cached_property
    def confirmed(self) -> pa.Table:
        """The effects that interventions confirm, the largest first: see :func:`~.ranking.sizes`."""
        order = np.argsort(-self.sizes, kind="stable")
        rows = self.effects.take(pa.array(order, pa.int64()))
        return rows.filter(pc.fill_null(rows["confirmed"], False))

    @cached_property
    def sizes(self) -> Floats:
        """How much each row of ``effects`` is worth looking at, 0 to 1: see :func:`~.ranking.sizes`."""
        return sizes(self.effects, {c: self.quality(c) for c in self._concept_rows})

    def quality(self, concept: int) -> float:
        """Return how well a concept holds together, 0 to 1: its cohesion times its stability."""
        row = self._concept_rows[concept]
        return quality_of(row["cohesion"], row["stability"])

    def claims(self) -> list[str]:
        """Return what differs in sentences with intervals, the surest and largest first; what cannot be shown else."""
        told: list[str] = import_module("salience.comparison.wording").claims(self)
        return told

    def concept_name(self, concept: int) -> str:
        """Return what a concept is called: the name of a user's mask, or its number."""
        return self._concept_rows[concept]["name"] or f"concept {concept}"

    def slice(self, where: str = "all", *, concept: int | None = None, model: str | None = None) -> list[str]:
        """Return the ids of compared images: of a slice, and of those the ones that have a concept.

        Parameters
        ----------
        where
            An image id, ``all``, a class as ``class:NAME``, or a quadrant.
        concept
            Only images with one of its segments.
        model
            Whose quadrants; may be left out where one model is compared.

        Raises
        ------
        RunError
            When there is no such slice or concept.
        """
        chosen = self._where(where, model)
        if concept is None:
            return chosen
        if concept not in self._concept_rows:
            raise RunError(f"There is no concept {concept}; they are 0 to {len(self.concepts) - 1}.")
        rows = self.segments.filter(pc.equal(self.segments["concept"], concept))
        having = set(rows["image_id"].to_pylist())
        return [i for i in chosen if i in having]

    # ------------------------------------------------------------------ elsewhere

    def report(self, path: str | Path | None = None) -> Place:
        """Write the page: into the run, or everything in one file at ``path``.

        Raises
        ------
        RunError
            When it cannot be written.
        """
        page: Place = import_module("salience.report").write_comparison(self, path)
        return page

    def to_pandas(self) -> Any:
        """Return the effects with their concepts' quality as a pandas data frame.

        Raises
        ------
        RunError
            When pandas is not installed.
        """
        return import_module("salience.comparison.export").to_pandas(self)

    def to_fiftyone(self, name: str | None = None) -> Any:
        """Return a FiftyOne dataset: images, predictions, quadrants, and the segments of concepts as detections.

        Raises
        ------
        RunError
            When fiftyone (the extra ``fiftyone``) is not installed, or the images are no files.
        """
        return import_module("salience.comparison.export").to_fiftyone(self, name)

    # ------------------------------------------------------------------ within

    def _known(self, model: str) -> str:
        if model not in self.models:
            raise RunError(
                f"There is no model {model!r} in this comparison; it has {', '.join(self.models)}."
                f"{nearest(model, self.models)}"
            )
        return model

    def _other(self, model: str | None) -> str:
        if model is not None:
            return self._known(model)
        if len(self.others) > 1:
            raise RunError(f"Name the model: {', '.join(self.others)} are compared with {self.reference!r}.")
        return self.others[0]

    def _place(self, image_id: str) -> int:
        place = self._places.get(image_id)
        if place is None:
            raise RunError(f"Image {image_id!r} is not among the {len(self.images)} compared ones.")
        return place

    def _where(self, where: str, model: str | None) -> list[str]:
        if where == ALL:
            return list(self.images)
        if where in self._places:
            return [where]
        if where in QUADRANTS:
            return [i for i, q in self.quadrants(model).items() if q == where]
        head, _, name = where.partition(":")
        if head == "class" and name in self.classes:
            index = self.classes.index(name)
            return [i for i, t in zip(self.images, self.targets, strict=True) if t == index]
        known = ("all", *QUADRANTS, *(f"class:{c}" for c in self.classes))
        raise RunError(
            f"There is no slice {where!r}; give an image id, 'all', 'class:NAME' or one of {', '.join(QUADRANTS)}."
            f"{nearest(where, known)}"
        )

    def _attributed(self, model: str) -> pa.Table:
        """Return the rows of ``attributions`` of a model: they stand in the order of ``segments``."""
        if model not in self._attributions:
            rows = self.attributions.filter(pc.equal(self.attributions["model"], self._known(model)))
            self._attributions[model] = rows
        return self._attributions[model]

    @cached_property
    def _attributions(self) -> dict[str, pa.Table]:
        return {}

    def _by_concept(self, model: str, column: str) -> Floats:
        values = self._attributed(model)[column].to_numpy()
        k = max(1, len(self.concepts))
        cells: Floats = np.bincount(self._cells, values, minlength=len(self.images) * k).astype(np.float64)
        return cells.reshape(len(self.images), k)[:, : len(self.concepts)]

    @cached_property
    def _cells(self) -> npt.NDArray[np.int64]:
        """Image times concept of each row of ``segments``."""
        concept: npt.NDArray[np.int64] = self.segments["concept"].to_numpy().astype(np.int64)
        return self._image_of * max(1, len(self.concepts)) + concept

    @cached_property
    def _image_of(self) -> npt.NDArray[np.int64]:
        """Place of the image of each row of ``segments``."""
        places: npt.NDArray[np.int64] = (
            pc.index_in(self.segments["image_id"], pa.array(self.images, pa.string())).to_numpy().astype(np.int64)
        )
        return places

    @cached_property
    def _starts(self) -> npt.NDArray[np.int64]:
        """The first row of each image in ``segments``, and the end of the last one."""
        return np.searchsorted(self._image_of, np.arange(len(self.images) + 1))

    @cached_property
    def _concept_rows(self) -> dict[int, dict[str, Any]]:
        return {r["concept"]: r for r in self.concepts.to_pylist()}

    @cached_property
    def _places(self) -> dict[str, int]:
        return {i: n for n, i in enumerate(self.images)}

    @cached_property
    def _sizes(self) -> dict[str, tuple[int, int]]:
        """Height and width of each image."""
        rows = self.run.table("contents").to_pylist()
        return {r["image_id"]: (r["height"], r["width"]) for r in rows}

    @cached_property
    def _labels(self) -> LabelMaps:
        return LabelMaps(self.run, self.settings["partition_recipe"])

    @cached_property
    def _readers(self) -> dict[str, StoredMaps]:
        return {m: StoredMaps(self.run, self.settings["recipes"][m]) for m in self.models}

    @cached_property
    def _predictions(self) -> pa.Table:
        return self.run.table("predictions").select(["image_id", "model", "predicted", "probability"])

    @cached_property
    def _diagnostics(self) -> pa.Table:
        return self.run.table("diagnostics")

    @cached_property
    def _maps(self) -> dict[str, dict[str, dict[str, Any]]]:
        rows = self.run.table("maps").select(["recipe", "image_id", "target", "score"])
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for model in self.models:
            own = rows.filter(pc.equal(rows["recipe"], self.settings["recipes"][model])).to_pylist()
            found[model] = {r["image_id"]: r for r in own}
        return found


def read_preprocessing(entry: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing that a run describes."""
    return Preprocessing(
        size=(int(entry["size"][0]), int(entry["size"][1])),
        mean=tuple(entry["mean"]),
        std=tuple(entry["std"]),
        interpolation=entry["interpolation"],
        fit=entry["fit"],
        crop=entry["crop"],
    )


def read_comparison(run: Run | str | Place, notes: Sequence[str] = ()) -> Comparison:
    """Return the comparison that a run holds.

    Raises
    ------
    RunError
        When there is no run, nothing in it was compared, or its comparison was not finished.
    """
    run = run if isinstance(run, Run) else open_run(run)
    stage = run.info.get("stages", {}).get(STAGE)
    if stage is None:
        raise RunError(f"{run.folder} has no comparison: 'salience compare ... --out {run.folder}' makes one.")
    if not stage.get("complete"):
        raise RunError(
            f"The comparison in {run.folder} is not finished: run the same command again to carry on with it."
        )
    settings = stage["settings"]
    return Comparison(
        run=run,
        reference=settings["models"][0],
        models=tuple(settings["models"]),
        settings=settings,
        segments=run.table("segments"),
        attributions=run.table("attributions"),
        concepts=run.table("concepts"),
        effects=run.table("effects"),
        interventions=run.table("interventions"),
        notes=tuple(dict.fromkeys([*settings["notes"], *notes])),
    )
