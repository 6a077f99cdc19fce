"""The images of an evaluation one by one: what a metric saw of each, with its scores and curves."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from salience.cores import threads
from salience.data.base import Pixels
from salience.data.preprocessing import Preprocessing
from salience.errors import RunError
from salience.report.bundles import Bundles
from salience.report.colour import scale_of
from salience.report.gather import Picture, preprocessing_of, softmax
from salience.report.pictures import TINY, Missing, Photographs, draw_map, draw_photo, encode, view_size
from salience.report.trust import masks
from salience.report.words import without_path
from salience.scores import Scores
from salience.store.reader import StoredMaps
from salience.store.run import Run

MOST_IMAGES = 120
"""Images that can be looked at one by one; of more, some are chosen."""

THUMB = 64
"""Pixels of the longer side of the pictures in the list."""

BETA = 0.1

Kind = tuple[str, str, int]
"""Of a curve: which pixels stay, which output is read, at how many points."""


@dataclass(frozen=True)
class Lane:
    """A line of the leaderboard: where its maps are."""

    name: str
    baseline: bool
    signed: bool
    reader: StoredMaps | None
    shared: bool
    why: str
    """Why there are no maps to show."""


@dataclass
class Drill:
    """The images of one model, drawn into bundles; :attr:`data` is for the page's script."""

    scores: Scores
    run: Run
    model: str
    number: int
    pictures: Sequence[Picture]
    bundles: Bundles
    smooth: float
    backgrounds: Sequence[str]
    data: dict[str, Any] = field(default_factory=dict)
    _scored: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _curved: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _kinds: dict[Kind, list[float]] = field(default_factory=dict)
    _counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        info = self.run.info["models"].get(self.model, {})
        self._see: Preprocessing = preprocessing_of(info, (224, 224))
        self._classes: Sequence[str] = info.get("classes", ())
        self._seed = int(self.run.info["stages"]["evaluate"]["settings"].get("seed", 0))
        self._lanes = lanes(self.scores, self.run, self.model)
        table = self.run.table("predictions")
        table = table.filter(pc.equal(table["model"], self.model))
        rows = zip(table["image_id"].to_pylist(), table["logits"].to_pylist(), strict=True)
        self._logits = {i: np.asarray(v, dtype=np.float32) for i, v in rows}

    def draw(self) -> None:
        """Draw the chosen images, a few at a time; their pictures and numbers go into the bundles."""
        chosen, of = self._choose()
        self._gather(chosen)
        pixels = self._see.size[0] * self._see.size[1]
        self._counts = masks.all_counts(list(self._kinds.values()), pixels)
        photographs = Photographs(self.run.info.get("images", {}), self.pictures)
        entries = []
        workers = threads()
        with ThreadPoolExecutor(workers, thread_name_prefix="draw") as pool:
            for at in range(0, len(chosen), 4 * workers):
                jobs = [pool.submit(self._image, p, photographs) for p in chosen[at : at + 4 * workers]]
                for job in jobs:
                    entry, found = job.result()
                    entries.append(entry)
                    self.bundles.add(found)
        h, w = view_size(self._see.size)
        self.data = {
            "name": self.model,
            "tiny": max(self._see.size) <= TINY,
            "shown": [h, w],
            "counts": [round(c / pixels, 5) for c in self._counts],
            "curves": [
                {"curve": curve, "output": output, "shares": [round(s, 4) for s in shares]}
                for (curve, output, _), shares in self._kinds.items()
            ],
            "lanes": [
                {"name": v.name, "baseline": v.baseline, "scale": scale_of(v.signed), "why": v.why} for v in self._lanes
            ],
            "entries": entries,
            "of": of,
            "smooth": self.smooth,
            "colours": self._colours(),
            "drawn": [b for b in self.backgrounds if not _can_be_made(b)],
        }

    # ------------------------------------------------------------------ what is shown

    def _choose(self) -> tuple[list[Picture], int]:
        """Return the images that are shown, evenly from all that have scores, and how many there are."""
        table = self.scores.table
        scored = set(table.filter(pc.equal(table["model"], self.model))["image_id"].unique().to_pylist())
        found = [p for p in self.pictures if p.image_id in scored]
        if len(found) <= MOST_IMAGES:
            return found, len(found)
        places = np.linspace(0, len(found) - 1, MOST_IMAGES).round().astype(int)
        return [found[i] for i in places], len(found)

    def _gather(self, chosen: Sequence[Picture]) -> None:
        """Read scores and curves of the chosen images, and which kinds of curves there are."""
        ids = pa.array([p.image_id for p in chosen], pa.string())
        self._scored = {p.image_id: [] for p in chosen}
        self._curved = {p.image_id: [] for p in chosen}
        kinds: dict[Kind, list[float]] = {}
        for into, table in ((self._scored, self.scores.table), (self._curved, self.scores.curves)):
            if not table.num_rows:
                continue
            kept = pc.and_(pc.is_in(table["image_id"], ids), pc.equal(table["model"], self.model))
            kept = pc.and_(kept, pc.equal(table["smooth"], pa.scalar(self.smooth, pa.float32())))
            for row in table.filter(kept).drop_columns(["recipe", "model"]).to_pylist():
                into[row["image_id"]].append(row)
                if "curve" in row:
                    kinds.setdefault((row["curve"], row["output"], len(row["fractions"])), row["fractions"])
        order = sorted(kinds, key=lambda k: (k[0] != "keep", k[1] != "restricted", k[2]))
        self._kinds = {k: kinds[k] for k in order}

    def _colours(self) -> dict[str, list[int]]:
        """Return the backgrounds that are one colour for all images."""
        nothing = np.zeros((1, 1, 3), dtype=np.float32)
        fixed = [b for b in self.backgrounds if b in masks.CONSTANTS or b == "dataset-mean"]
        found = {b: masks.background(b, nothing, self._see.mean) for b in fixed}
        return {b: masks.swatch(v) for b, v in found.items() if v is not None}

    # ------------------------------------------------------------------ one image

    def _image(self, picture: Picture, photographs: Photographs) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return what the page's list says of an image, and its pictures and numbers."""
        key = f"{self.number}.{picture.index}"
        out: dict[str, bytes] = {}
        entry: dict[str, Any] = {"image": picture.index, "id": picture.image_id}
        labels = self._labels(picture.image_id)
        lanes_of = [self._lane(picture.image_id, lane) for lane in self._lanes]
        about: dict[str, Any] = {
            "labels": [[label, self._name(label)] for label in labels],
            "chances": self._chances(picture.image_id, labels),
            "lanes": lanes_of,
            "colours": {},
        }
        self._draw_photo(picture, photographs, key, entry, about, out)
        for i, (lane, found) in enumerate(zip(self._lanes, lanes_of, strict=True)):
            self._draw_maps(
                picture.image_id, lane, labels, sorted({0, *found["worst"].values()}), f"{key}.{i}", found, out
            )
        entry["said"] = self._name(labels[0]) if labels else ""
        entry["truth"] = picture.label_text or ""
        entry["weak"] = [[_weakest(found["scores"], b) for found in lanes_of] for b in self.backgrounds]
        out[f"d{key}"] = json.dumps(about, separators=(",", ":"), allow_nan=False).encode()
        return entry, out

    def _draw_photo(
        self,
        picture: Picture,
        photographs: Photographs,
        key: str,
        entry: dict[str, Any],
        about: dict[str, Any],
        out: dict[str, bytes],
    ) -> None:
        try:
            pixels = photographs.pixels(picture, self._see)
        except Missing as error:
            entry["missing"] = without_path(str(error), picture.path, picture.image_id)
            return
        out[f"p{key}"] = draw_photo(pixels)
        entry["thumb"] = base64.b64encode(thumbnail(pixels)).decode()
        whole = pixels.astype(np.float32) / np.float32(255 if pixels.dtype == np.uint8 else 1)
        for j, name in enumerate(self.backgrounds):
            if name in ("mean", "blur"):
                found = masks.background(name, whole, self._see.mean)
                assert found is not None
                if found.ndim == 1:
                    about["colours"][name] = masks.swatch(found)
                else:
                    out[f"b{key}.{j}"] = draw_photo(masks.as_picture(found))

    def _draw_maps(
        self,
        image_id: str,
        lane: Lane,
        labels: Sequence[int],
        positions: Sequence[int],
        key: str,
        found: dict[str, Any],
        out: dict[str, bytes],
    ) -> None:
        """Draw a lane's maps of some labels, and at which point of the curves each pixel comes in."""
        found["maps"] = []
        for position in positions:
            if lane.reader is None or position >= len(labels) or (lane.shared and position):
                continue
            try:
                raw = lane.reader.read(image_id, [labels[position]])
            except (RunError, OSError, ValueError, KeyError):
                continue
            if raw is None or not np.isfinite(raw).all():
                continue
            found["maps"].append(position)
            out[f"m{key}.{position}"] = draw_map(raw[0], self._see.size, scale_of(lane.signed))
            rank = masks.ranks(raw[0], self._see.size, image_id, self._seed, self.smooth)
            out[f"l{key}.{position}"] = encode_levels(masks.levels(rank, self._counts), view_size(self._see.size))

    def _name(self, label: int) -> str:
        return self._classes[label] if 0 <= label < len(self._classes) else f"class {label}"

    def _labels(self, image_id: str) -> list[int]:
        """Return the label set of an image, the predicted one first."""
        rows = [*self._curved[image_id], *self._scored[image_id]]
        found = {r["position"]: r["label"] for r in rows if r["position"] is not None}
        return [found[k] for k in sorted(found)] if found and sorted(found) == list(range(len(found))) else []

    def _chances(self, image_id: str, labels: Sequence[int]) -> list[float]:
        """Return the probability of each label at the whole image, among all classes."""
        logits = self._logits.get(image_id)
        if logits is None:
            return []
        chances = softmax(logits[None])[0]
        return [round(float(chances[label]), 4) for label in labels]

    def _lane(self, image_id: str, lane: Lane) -> dict[str, Any]:
        """Return a lane's scores, curves and, for each background, the wrong label that its map justifies best."""
        curves = [r for r in self._curved[image_id] if r["method"] == lane.name]
        worst = {b: worst_label(curves, b) for b in self.backgrounds}
        worst = {b: p for b, p in worst.items() if p is not None}
        kinds = {k: i for i, k in enumerate(self._kinds)}
        kept = []
        for r in curves:
            if r["position"] in (0, worst.get(r["background"])):
                kind = kinds[r["curve"], r["output"], len(r["fractions"])]
                values = [round(v, 3) for v in r["values"]]
                kept.append([self.backgrounds.index(r["background"]), kind, r["position"], values])
        return {"scores": self._numbers(image_id, lane.name), "curves": kept, "worst": worst}

    def _numbers(self, image_id: str, method: str) -> list[tuple[str, str | None, float]]:
        """Return (metric, background, the image's number) of a method: what its mean over images is made of."""
        found: dict[tuple[str, str | None], list[float]] = {}
        for r in self._scored[image_id]:
            over = self.scores.metrics.get(r["metric"], {}).get("over")
            position = r["position"]
            counts = {"predicted": position == 0, "wrong": (position or 0) > 0, "image": position is None}
            if r["method"] == method and counts.get(str(over), False) and math.isfinite(r["value"]):
                found.setdefault((r["metric"], r["background"]), []).append(r["value"])
        return [(m, b, round(sum(v) / len(v), 4)) for (m, b), v in found.items()]


# ---------------------------------------------------------------------- helpers


def lanes(scores: Scores, run: Run, model: str) -> list[Lane]:
    """Return the lines of the leaderboard with their stored maps."""
    recipes = {run.info["recipes"][r]["identity"]: r for r in run.info["current"]}
    table = scores.table
    present = set(table.filter(pc.equal(table["model"], model))["method"].unique().to_pylist())
    again = {name for others in scores.repeats.values() for name in others}
    found = []
    for name, about in scores.methods.items():
        if name not in present or name in again:
            continue
        identity = str(about.get("maps", ""))
        shared = identity.startswith("class-agnostic:")
        recipe = recipes.get(identity.removeprefix("class-agnostic:"))
        reader = StoredMaps(run, recipe) if recipe is not None else None
        why = ""
        if reader is None:
            why = (
                "This baseline's maps are made while they are scored, and not kept."
                if identity.startswith("baseline:")
                else "These maps are not in this run: they came from another run or from a file."
            )
        found.append(Lane(name, about["kind"] == "baseline", bool(about.get("signed")), reader, shared, why))
    return found


def _weakest(numbers: Sequence[tuple[str, str | None, float]], background: str) -> float | None:
    """Return the smaller of an image's worst completeness and worst soundness; None where either is missing."""
    found = {m.partition(":")[0]: v for m, b, v in numbers if b == background and m.startswith("worst-")}
    return min(found.values()) if len(found) == 2 else None


def worst_label(curves: Sequence[Mapping[str, Any]], background: str) -> int | None:
    """Return the position of the wrong label that its own kept pixels raise most: the one of the worst soundness."""
    best: tuple[float, int] | None = None
    for r in curves:
        if r["background"] == background and r["curve"] == "keep" and r["position"]:
            mean = sum(r["values"][1:]) / max(1, len(r["values"]) - 1)
            ratio = max(BETA, r["values"][-1]) / max(mean, 1e-12)
            if best is None or ratio < best[0]:
                best = ratio, r["position"]
    return None if best is None else best[1]


def thumbnail(pixels: Pixels) -> bytes:
    """Return a small picture (H, W, 3) for the list of images."""
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels * 255).astype(np.uint8)
    share = min(1.0, THUMB / max(pixels.shape[:2]))
    size = (max(1, round(pixels.shape[1] * share)), max(1, round(pixels.shape[0] * share)))
    out = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS).save(out, "WEBP", quality=75)
    return out.getvalue()


def encode_levels(found: npt.NDArray[np.uint8], size: tuple[int, int]) -> bytes:
    """Return levels (H, W) as a picture without loss, at the size that is shown."""
    rows = ((np.arange(size[0]) + 0.5) * found.shape[0] / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * found.shape[1] / size[1]).astype(int)
    return encode(np.repeat(found[rows][:, columns, None], 3, axis=2), lossless=True)


def _can_be_made(background: str) -> bool:
    return background in (*masks.CONSTANTS, "dataset-mean", "mean", "blur")
