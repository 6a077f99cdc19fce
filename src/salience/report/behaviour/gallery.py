"""Galleries of extreme images: photographs, and every run's maps under each condition as strips of small maps."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from salience.behaviour.audit import WORST
from salience.behaviour.measures import statistic
from salience.behaviour.traits import Statistic
from salience.behaviour.view import CLEAN
from salience.errors import RunError, SettingsError
from salience.report.behaviour import wording
from salience.report.behaviour.material import Material
from salience.report.bundles import Bundles
from salience.report.colour import Scale, colourise, scale_of
from salience.report.gather import Picture, preprocessing_of
from salience.report.pictures import PERCENTILE, Missing, Photographs, encode
from salience.report.words import without_path
from salience.store.views import clip_scale, upsample

MOST_IMAGES = 12
"""Images of a gallery."""
MOST_MODELS = 12
"""Runs whose maps are drawn: of more, as many of each group."""
SIDE = 56
"""Pixels of the longer side of a small map."""

Worst = tuple[float, str, str]
"""The lowest number of an image among models and conditions, and which these are."""


@dataclass(frozen=True)
class Tile:
    """An image of a gallery: its number over all runs, and the run and condition that are worst on it.

    ``model`` is its place among those drawn, ``cell`` the condition's among the gallery's. ``other`` is the run
    whose map stands beside: the same one, under that condition, or of maps of clean images the most typical run.
    """

    image: int
    name: str
    text: str
    model: int
    other: int
    cell: int
    worst: str


@dataclass(frozen=True)
class Gallery:
    """The images with the worst numbers of one measure."""

    measure: str
    title: str
    statistic: str
    summary: str
    conditions: tuple[str, ...]
    models: tuple[str, ...]
    tiles: tuple[Tile, ...]


@dataclass
class Galleries:
    """All galleries, drawn into bundles; ``places`` tells which bundle an image is in."""

    material: Material
    pictures: Sequence[Picture]
    bundles: Bundles
    made: dict[str, Gallery] = field(default_factory=dict)
    places: dict[int, int] = field(default_factory=dict)
    ratio: float = 1.0
    scale: Scale = "sequential"
    _drawn: dict[int, dict[str, bytes]] = field(default_factory=lambda: defaultdict(dict))

    def draw(self) -> None:
        """Choose the images, and draw them run after run."""
        models = drawn_models(self.material)
        h, w = self.material.view.input_size(models[0])
        self.ratio = round(w / h, 4)
        _, recipe = self.material.audit.run.recipe(self.material.audit.method, models[0])
        self.scale = scale_of(bool(recipe.get("signed")))
        rows = {name: number for number, name in enumerate(self.material.view.image_ids)}
        chosen: dict[str, list[int]] = {}
        for measure in self.material.audit.asked:
            gallery = self._choose(measure, models, rows)
            if gallery is not None:
                self.made[measure] = gallery
                chosen[measure] = [t.image for t in gallery.tiles]
        for number, model in enumerate(models):
            for measure, images in chosen.items():
                self._strips(measure, number, model, images)
        self._photographs(sorted({i for images in chosen.values() for i in images}))
        for pictures in self._drawn.values():
            self.bundles.add(pictures)
        self.bundles.close()
        self.places = dict(zip(self._drawn, self.bundles.places, strict=True))
        self._drawn.clear()

    def data(self) -> dict[str, Any]:
        """Return what the page's script needs."""
        groups = {m: g for g, members in enumerate(self.material.audit.groups.values()) for m in members}
        return {
            "files": self.bundles.files,
            "ratio": self.ratio,
            "scale": self.scale,
            "groups": list(self.material.groups),
            "places": {str(k): v for k, v in self.places.items()},
            "ids": {str(k): self.pictures[k].image_id for k in self.places},
            "galleries": {
                g.measure: {
                    "title": g.title,
                    "statistic": g.statistic,
                    "conditions": [wording.condition_title(c) for c in g.conditions],
                    "models": [[m, groups[m]] for m in g.models],
                    "images": [t.image for t in g.tiles],
                }
                for g in self.made.values()
            },
        }

    # ------------------------------------------------------------------ choosing

    def _choose(self, measure: str, models: Sequence[str], place: Mapping[str, int]) -> Gallery | None:
        form, name = WORST[measure]
        try:
            found = self.material.audit.extremes(measure, MOST_IMAGES, lowest=measure != "entropy")
        except SettingsError:
            return None
        of = statistic(measure, form, name)
        conditions = [CLEAN, *(t.name for t in self.material.view.conditions(measure))]
        numbers = self._numbers(of, [f["image_id"] for f in found])
        tiles = []
        for row in found:
            image = place[row["image_id"]]
            of_image = numbers[row["image_id"]]
            drawn = {k: v for k, v in of_image.items() if k[0] in models}
            worst = (max if measure == "entropy" else min)(drawn, key=lambda k: drawn[k], default=(models[0], CLEAN))
            cell = conditions.index(worst[1]) if worst[1] in conditions else 0
            where = worst[0] if cell == 0 else f"{worst[0]}, {wording.condition_title(worst[1])}"
            at = "" if not drawn else f"{where}: {wording.two_digits(drawn[worst])}"
            best = max(drawn, key=lambda k: drawn[k], default=worst)
            model = models.index(worst[0])
            other = models.index(best[0]) if measure == "stability" else model
            tiles.append(Tile(image, row["image_id"], wording.two_digits(row["value"]), model, other, cell, at))
            table = [[_short(of_image.get((m, c))) for c in conditions] for m in models]
            self._drawn[image][f"n{image}.{measure}"] = json.dumps(table, separators=(",", ":")).encode()
        return Gallery(
            measure,
            wording.GALLERIES[measure],
            wording.statistic_title(of.name),
            of.summary,
            tuple(conditions),
            tuple(models),
            tuple(tiles),
        )

    def _numbers(self, of: Statistic, ids: Sequence[str]) -> dict[str, dict[tuple[str, str], float]]:
        """Return the numbers of images by model and condition."""
        rows = self.material.audit.rows(of)
        rows = rows.filter(pc.is_in(rows["image_id"].cast(pa.string()), pa.array(ids, pa.string())))
        out: dict[str, dict[tuple[str, str], float]] = {i: {} for i in ids}
        for row in rows.select(["image_id", "model", "condition", "value"]).to_pylist():
            if row["model"] is not None:
                out[row["image_id"]][row["model"], row["condition"]] = row["value"]
        return out

    # ------------------------------------------------------------------ drawing

    def _strips(self, measure: str, number: int, model: str, images: Sequence[int]) -> None:
        """Draw a run's maps of the images of a gallery: for each one picture, a cell for each condition."""
        rows = np.array(images, dtype=np.int64)
        cells = []
        for condition in self.made[measure].conditions:
            try:
                cells.append(self._cells(self.material.view.maps(model, rows, condition)))
            except RunError:  # a run that is not there, or damaged: the picture then has an empty cell
                cells.append(self._cells(np.full((len(rows), 1, 1), np.nan, dtype=np.float32)))
        for k, image in enumerate(images):
            strip = np.concatenate([of_condition[k] for of_condition in cells], axis=1)
            self._drawn[image][f"s{image}.{measure}.{number}"] = encode(strip)

    def _cells(self, maps: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """Return maps (n, h, w) as small coloured pictures (n, H, W, 3); a map that is not there is grey."""
        size = (round(SIDE / max(1.0, self.ratio)), round(SIDE * min(1.0, self.ratio)))
        there = np.isfinite(maps).all(axis=(1, 2))
        scaled = upsample(clip_scale(np.nan_to_num(maps), PERCENTILE), size)
        out = np.stack([colourise(one, self.scale) for one in scaled])
        out[~there] = 128
        return out

    def _photographs(self, images: Sequence[int]) -> None:
        run = self.material.audit.run
        info = run.info["models"][self.material.audit.models[0]]
        see = preprocessing_of(info, (224, 224))
        photographs = Photographs(run.info.get("images", {}), self.pictures)
        for image in images:
            picture = self.pictures[image]
            try:
                self._drawn[image][f"p{image}"] = photographs.draw(picture, see)
            except Missing as error:
                why = without_path(str(error), picture.path, picture.image_id)
                self._drawn[image][f"w{image}"] = json.dumps(why).encode()


def drawn_models(material: Material) -> list[str]:
    """Return the runs whose maps are drawn."""
    each = max(1, MOST_MODELS // len(material.groups))
    return [m for models in material.audit.groups.values() for m in models[:each]]


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 3)
