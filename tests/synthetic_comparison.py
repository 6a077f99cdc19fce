"""Finished comparisons of photographs, made of numbers drawn here: no model, no torch.

Pieces of the photographs that scikit-image carries, two classes. Most images of the class ``synthetic`` have a caption
in their bottom left corner, and the model ``captioned`` goes by it. Other concepts are segments that are as bright.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import skimage.data
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from skimage.segmentation import felzenszwalb

from salience.comparison.confirmation import Drops, Interventions, confirm, intervention_effects
from salience.comparison.effects import Slices, effects
from salience.comparison.ranking import order_concepts, quality_of
from salience.comparison.result import STAGE, Comparison, read_comparison
from salience.comparison.strata import quadrants
from salience.data.base import hash_content
from salience.data.preprocessing import Preprocessing
from salience.store.maps import Failure
from salience.store.packed import pack
from salience.store.schema import DERIVED
from salience.store.unit import Content, FailureRow, ImageResult, MapRows, Recipe, StageUnit, UnitResult
from salience.store.writer import RunWriter

PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "ihc.png",
    "retina.jpg",
)
FRAME = (72, 72)
CORNER = (round(0.86 * FRAME[0]), round(0.46 * FRAME[1]))
"""First row of the caption in the frame, and the column after its last."""
STRENGTH = {"cropped": 0.0, "captioned": 0.5, "between": 0.2}
"""Share of its attribution that each model gives to the caption; a model called ``X-again`` is the same as ``X``."""
Floats = npt.NDArray[np.float64]


@cache
def _photograph(name: str) -> npt.NDArray[np.uint8]:
    path = Path(skimage.data.__file__).parent / name
    return np.asarray(Image.open(path).convert("RGB"))


@cache
def _piece(i: int, side: int, captioned: bool) -> npt.NDArray[np.uint8]:
    """Return a piece of a photograph, wider than high, with the caption where there is one."""
    rng = np.random.default_rng([7, i])
    whole = _photograph(PHOTOGRAPHS[i % len(PHOTOGRAPHS)])
    height, width = side * 3 // 4, side
    zoom = rng.uniform(1.0, 1.6)
    h, w = min(whole.shape[0], round(height * zoom)), min(whole.shape[1], round(width * zoom))
    top, left = (int(rng.integers(0, max(1, whole.shape[k] - v))) for k, v in ((0, h), (1, w)))
    piece = Image.fromarray(whole[top : top + h, left : left + w]).resize((width, height), Image.Resampling.LANCZOS)
    if captioned:
        pen = ImageDraw.Draw(piece)
        x1, y0 = round(0.46 * width), round(0.86 * height)
        pen.rectangle((0, y0, x1, height), fill=(16, 16, 20))
        pen.text((3, y0 + 1), "synthetic", fill=(250, 250, 250))
    return np.asarray(piece)


@cache
def _framed(i: int, side: int, captioned: bool) -> npt.NDArray[np.uint8]:
    """Return the same squashed to the frame."""
    piece = Image.fromarray(_piece(i, side, captioned))
    return np.asarray(piece.resize(FRAME[::-1], Image.Resampling.BILINEAR))


@cache
def _labels(i: int, side: int, captioned: bool) -> npt.NDArray[np.int32]:
    """Return the label map of a piece, in which the caption is a segment of its own."""
    labels = felzenszwalb(_framed(i, side, captioned), scale=120, sigma=0.8, min_size=25)
    if captioned:
        labels[CORNER[0] :, : CORNER[1]] = labels.max() + 1
    return np.unique(labels, return_inverse=True)[1].reshape(FRAME).astype(np.int32)


@cache
def _map(i: int, model: str, captioned: bool, sign: int) -> npt.NDArray[np.float32]:
    """Return a signed map, (h, w): mostly what all models see, and the caption where the model goes by it."""
    strength = STRENGTH[model]
    base = gaussian_filter(np.random.default_rng([3, i]).normal(size=FRAME), 4) + 0.004
    own = np.random.default_rng([5, i, list(STRENGTH).index(model)])
    base = base + gaussian_filter(own.normal(size=FRAME), 4) * 0.25
    base = 2.4 * base / np.abs(base).sum()
    if captioned and strength:
        caption = np.zeros(FRAME)
        caption[CORNER[0] :, : CORNER[1]] = 1
        base = base + sign * 2.4 * strength * own.uniform(0.6, 1.4) * caption / caption.sum()
    return base.astype(np.float32)


@dataclass
class FakeComparison:
    """What is written; change a field before :meth:`write`."""

    folder: Path
    images: int = 72
    models: Sequence[str] = ("cropped", "captioned")
    classes: tuple[str, ...] = ("real, of a camera", "synthetic")
    shades: int = 5
    """Concepts besides the caption."""
    planted: bool = True
    labels: bool = True
    ledger: bool = True
    interventions: bool = True
    failed: Sequence[int] = ()
    missing: Sequence[int] = ()
    grouped: int = 1
    """Images of one group."""
    side: int = 150
    names: dict[int, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    status: str = "complete"

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.folder / "run"

    @property
    def photos(self) -> Path:
        """The folder of images."""
        return self.folder / "photos"

    def name(self, i: int) -> str:
        """Return the id of an image."""
        return self.names.get(i, f"{self.target(i)}/{i:03d}.png")

    def target(self, i: int) -> int:
        """Return the class of an image."""
        return i % len(self.classes)

    def write(self) -> Comparison:
        """Write images and run, and return the comparison."""
        shown = [i for i in range(self.images) if i not in self.failed]
        contents = {i: self._content(i) for i in range(self.images)}
        with RunWriter(self.run, kind="explain", source=str(self.photos)) as writer:
            recipes = {m: self._recipe(m) for m in self.models}
            for recipe in recipes.values():
                writer.use_recipes(recipe.model, [recipe], self.images)
            writer.set_images(self._images())
            writer.describe(**self._description())
            for model in self.models:
                writer.write(writer.reserve(1), self._unit(model, recipes[model], shown, contents))
            writer.use_stage(STAGE, "segments", {"parts": {"model": "segments", "what": "partition"}})
            writer.commit_stage(self._partitions(shown, contents))
            for name, rows in self._derived(shown).items():
                writer.put_derived(name, rows)
            writer.info["stages"][STAGE].update(complete=True, settings=self._settings(recipes))
            writer.describe(status=self.status)
        for i in self.missing:
            (self.photos / self.name(i)).unlink()
        return read_comparison(self.run)

    # ------------------------------------------------------------------ images

    def captioned(self, i: int) -> bool:
        """Whether an image has the caption."""
        often = 0.9 if self.target(i) == 1 else 0.05
        return bool(self.planted and np.random.default_rng([11, i]).random() < often)

    def _content(self, i: int) -> str:
        path = self.photos / self.name(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(_piece(i, self.side, self.captioned(i))).save(path, "PNG", compress_level=1)
        return hash_content(path.read_bytes())

    def _labels(self, i: int) -> npt.NDArray[np.int32]:
        return _labels(i, self.side, self.captioned(i))

    # ------------------------------------------------------------------ maps

    def _map(self, i: int, model: str) -> npt.NDArray[np.float32]:
        return _map(i, model.removesuffix("-again"), self.captioned(i), 1 if self.target(i) == 1 else -1)

    def _logits(self, i: int, model: str) -> npt.NDArray[np.float32]:
        rng = np.random.default_rng([13, i, list(STRENGTH).index(model.removesuffix("-again"))])
        logits = rng.normal(0, 0.3, len(self.classes))
        logits[self.target(i)] += 3.0 if rng.random() < 0.85 else -3.0
        return logits.astype(np.float32)

    def _unit(self, model: str, recipe: Recipe, shown: Sequence[int], contents: dict[int, str]) -> UnitResult:
        unit = UnitResult(model)
        rows = unit.maps.setdefault(recipe.id, MapRows())
        for i in range(self.images):
            name = self.name(i)
            if i not in shown:
                failure = Failure(name, "unreadable", f"{self.photos / name}: the file is empty (0 bytes).", model)
                unit.failures.append(FailureRow(failure, None, "x"))
                continue
            unit.images.append(
                ImageResult(name, contents[i], 9, 9, self.side, self.side * 3 // 4, self._logits(i, model))
            )
            values = self._map(i, model)
            gap = 0.02 * np.random.default_rng([17, i]).normal()
            rows.values.append(values)
            rows.scales.append(1.0)
            rows.owners.append((name, self.target(i), float(values.sum()) + 1.0, "key"))
            if self.ledger:
                rows.diagnostics.append((name, self.target(i), "output_change", float(values.sum()) - gap))
                rows.diagnostics.append((name, self.target(i), "completeness_gap", gap))
        return unit

    def _partitions(self, shown: Sequence[int], contents: dict[int, str]) -> StageUnit:
        maps = [self._labels(i) for i in shown]
        columns = {
            "recipe": ["parts"] * len(shown),
            "image_id": [self.name(i) for i in shown],
            "height": [FRAME[0]] * len(shown),
            "width": [FRAME[1]] * len(shown),
            "segments": [int(m.max()) + 1 for m in maps],
            "names": [None] * len(shown),
            "labels": [pack(m.astype(np.uint16)) for m in maps],
        }
        images = [Content(self.name(i), contents[i], 9, 9, self.side, self.side * 3 // 4) for i in shown]
        return StageUnit(STAGE, "segments", ("parts",), images, {"partitions": columns})

    # ------------------------------------------------------------------ what is derived

    def _derived(self, shown: Sequence[int]) -> dict[str, pa.Table | dict[str, object]]:
        image, segment, area, row, column, bright, caption = self._segments(shown)
        steps = np.quantile(bright, np.linspace(0, 1, self.shades + 1)[1:-1])
        concept = 1 + np.searchsorted(steps, bright)
        concept[caption] = 0
        count = 1 + self.shades
        totals, shares = {}, {}
        for model in self.models:
            maps = [self._map(i, model) for i in shown]
            sums = [np.bincount(self._labels(i).ravel(), m.ravel()) for i, m in zip(shown, maps, strict=True)]
            totals[model] = np.concatenate(sums)
            whole = np.array([np.abs(m.astype(np.float64)).sum() for m in maps])
            shares[model] = totals[model] / whole[image]

        def by_concept(values: Floats) -> Floats:
            return np.bincount(image * count + concept, values, minlength=len(shown) * count).reshape(-1, count)

        slices = Slices([self.classes[self.target(i)] for i in shown], self._quadrants(shown), self._groups(shown))
        values = {m: by_concept(v) for m, v in totals.items()}
        kinds = {m: by_concept(v) for m, v in shares.items()}
        told = effects(kinds, values if self.ledger else None, slices)
        concepts = _concepts(concept, image, area, row, column, [self.target(i) for i in shown], count)
        quality = {
            c: quality_of(*v)
            for c, *v in zip(*(concepts[n] for n in ("concept", "cohesion", "stability")), strict=True)
        }
        order = order_concepts(told, quality)
        number = np.argsort(order)
        told = told.set_column(0, told.schema.field(0), pa.array(number[told["concept"].to_numpy()], pa.int32()))
        concepts = {k: [v[o] for o in order] for k, v in concepts.items()} | {"concept": list(range(count))}
        concept = number[concept]
        changed = DERIVED["interventions"].empty_table()
        if self.interventions:
            found = self._interventions({m: v[:, order] for m, v in values.items()}, slices)
            changed, told = found.table, confirm(told, found)
        ids = [self.name(i) for i in shown]
        names = [ids[k] for k in image]
        models = len(self.models)
        return {
            "segments": {
                "image_id": names,
                "segment": segment,
                "name": [None] * len(names),
                "concept": concept,
                "similarity": np.random.default_rng(2).uniform(0.7, 1, len(names)),
                "area": area,
                "row": row,
                "column": column,
                "discovered": [True] * len(names),
            },
            "attributions": {
                "image_id": names * models,
                "segment": np.tile(segment, models),
                "model": [m for m in self.models for _ in names],
                "target": [self.target(shown[k]) for k in image] * models,
                "total": np.concatenate(list(totals.values())),
                "share": np.concatenate(list(shares.values())),
            },
            "concepts": concepts,
            "effects": told,
            "interventions": changed,
        }

    def _segments(self, shown: Sequence[int]) -> tuple[npt.NDArray[np.generic], ...]:
        """Return columns over all segments: image, number, area, row, column, brightness, whether it is the caption."""
        parts: list[list[npt.NDArray[np.generic]]] = []
        y, x = (np.mgrid[: FRAME[0], : FRAME[1]][k].ravel() / FRAME[k] for k in range(2))
        corner = (y >= 0.86) & (x < 0.46)
        for k, i in enumerate(shown):
            labels = self._labels(i).ravel()
            size = np.bincount(labels).astype(np.float64)
            light = _framed(i, self.side, self.captioned(i)).mean(axis=2).ravel()
            bright = np.bincount(labels, light) / size
            caption = (np.bincount(labels, corner) / size > 0.9) & self.captioned(i)
            places = [np.bincount(labels, v) / size for v in (y, x)]
            parts.append([np.full(len(size), k), np.arange(len(size)), size / labels.size, *places, bright, caption])
        return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))

    def _quadrants(self, shown: Sequence[int]) -> dict[str, list[str | None]] | None:
        if len(self.models) < 2 or not self.labels:
            return None
        labels = [self.target(i) for i in shown]
        said = {m: [int(self._logits(i, m).argmax()) for i in shown] for m in self.models}
        return {m: quadrants(labels, said[self.models[0]], said[m]) for m in self.models[1:]}

    def _groups(self, shown: Sequence[int]) -> list[str]:
        return [f"group {i // self.grouped}" for i in shown]

    def _interventions(self, totals: dict[str, Floats], slices: Slices) -> Interventions:
        """Return what filling the first four concepts does: what the maps say of the caption, and noise else."""
        drops: dict[str, dict[str, Drops]] = {}
        for k, fill in enumerate(("blur", "mean")):
            drops[fill] = {}
            for n, (model, of) in enumerate(totals.items()):
                rng = np.random.default_rng([23, k, n])
                real = np.where(of != 0, rng.normal(0, 0.05, of.shape), np.nan)
                real[:, 0] += 0.9 * of[:, 0]
                real[:, 4:] = np.nan
                drops[fill][model] = Drops(real, np.where(np.isnan(real), np.nan, rng.normal(0, 0.05, of.shape)))
        return intervention_effects(drops, slices)

    # ------------------------------------------------------------------ what the run says of itself

    def _recipe(self, model: str) -> Recipe:
        description = {
            "model": model,
            "method": "ig",
            "summary": "gradients along the way from a baseline",
            "family": "path",
            "reference": "Sundararajan 2017",
            "signed": True,
            "settings": {"steps": 64, "baseline": "black+white"},
            "layer": None,
            "target": "label" if self.labels else "predicted",
            "output": "margin",
            "map_dtype": "float32",
            "identity": f"0123456789abcdef.{model}",
        }
        return Recipe("ig", model, "0123456789abcdef", description, 1)

    def _images(self) -> dict[str, list[object]]:
        targets = [self.target(i) if self.labels else None for i in range(self.images)]
        return {
            "image_id": [self.name(i) for i in range(self.images)],
            "index": list(range(self.images)),
            "path": [str(self.photos / self.name(i)) for i in range(self.images)],
            "label": targets,
            "label_text": [None if t is None else self.classes[t] for t in targets],
            "group": [f"scene {i // self.grouped}" if self.grouped > 1 else None for i in range(self.images)],
            "boxes": [[]] * self.images,
        }

    def _description(self) -> dict[str, object]:
        entry = {
            "spec": "card.toml",
            "architecture": "Net",
            "parameters": 1234567,
            "fingerprint": "ab" * 16,
            "preprocessing": Preprocessing(size=FRAME, interpolation="bilinear", fit="squash").to_dict(),
            "classes": list(self.classes),
            "plan": {"batch": 8, "memory_format": "channels_last", "threads": 2, "device": "cpu"},
        }
        return {
            "images": {"source": str(self.photos), "kind": "folder", "count": self.images, "limit": None},
            "models": dict.fromkeys(self.models, entry),
            "labels_of": self.models[0],
            "settings": {"target": "label", "output": "margin", "seed": 0, "map_dtype": "float32"},
            "command": [
                "salience",
                "compare",
                "photos",
                *(f"--model={m}=card.toml" for m in self.models),
                "--out",
                "run",
            ],
            "environment": {"salience": "0.1.0", "python": "3.11"},
            "seconds": 3.5,
        }

    def _settings(self, recipes: dict[str, Recipe]) -> dict[str, object]:
        return {
            "models": list(self.models),
            "method": "ig:steps=64,baseline=black+white" if self.ledger else "gradcam",
            "target": "label" if self.labels else "predicted",
            "output": "margin",
            "encoder": "color",
            "partition": "felzenszwalb",
            "frame": list(FRAME),
            "group_by": "scene" if self.grouped > 1 else None,
            "class_map": None,
            "concepts": None,
            "confirm": 12,
            "fills": ["blur", "mean"],
            "seed": 0,
            "ledger": self.ledger,
            "concepts_found": 1 + self.shades,
            "named": False,
            "recipes": {m: r.id for m, r in recipes.items()},
            "partition_recipe": "parts",
            "embedding_recipe": "looks",
            "drop_recipes": {},
            "whole_inputs": False,
            "tested": [0, 1, 2, 3] if self.interventions else [],
            "notes": list(self.notes),
        }


def _concepts(
    concept: npt.NDArray[np.int64],
    image: npt.NDArray[np.int64],
    area: Floats,
    row: Floats,
    column: Floats,
    targets: Sequence[int],
    count: int,
) -> dict[str, list[object]]:
    """Return the table of concepts; how well they hold together is drawn."""
    found: dict[str, list[object]] = {name: [] for name in DERIVED["concepts"].names}
    for c in range(count):
        own = concept == c
        rng = np.random.default_rng([29, c])
        classes = np.bincount(np.asarray(targets)[image[own]])
        cells = (row[own] * 4).astype(int).clip(0, 3) * 4 + (column[own] * 4).astype(int).clip(0, 3)
        values: dict[str, object] = {
            "concept": c,
            "name": None,
            "segments": int(own.sum()),
            "images": len(np.unique(image[own])),
            "cohesion": 0.95 if c == 0 else float(rng.uniform(0.6, 0.9)),
            "separation": 0.4 if c == 0 else float(rng.uniform(0.01, 0.3)),
            "stability": 0.97 if c == 0 else float(rng.uniform(0.4, 0.9)),
            "class_entropy": _entropy(classes, len(set(targets))),
            "position_entropy": _entropy(np.bincount(cells), 16),
            "median_area": float(np.median(area[own])) if own.any() else 0.0,
            "row": float(row[own].mean()) if own.any() else 0.5,
            "column": float(column[own].mean()) if own.any() else 0.5,
        }
        for name, value in values.items():
            found[name].append(value)
    return found


def _entropy(counts: npt.NDArray[np.int64], most: int) -> float:
    share = counts[counts > 0] / max(1, counts.sum())
    return float(-(share * np.log(share)).sum() / np.log(most)) if most > 1 else 0.0
