"""The pictures of a comparison: patches of concepts, and single images with both models' maps and their segments."""

from __future__ import annotations

import base64
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from salience.comparison.strata import QUADRANTS
from salience.cores import threads
from salience.data.preprocessing import Preprocessing
from salience.errors import RunError
from salience.report.bundles import Bundles
from salience.report.colour import colourise, scale_of
from salience.report.comparison.cards import Card
from salience.report.comparison.choice import Patch
from salience.report.comparison.material import Material
from salience.report.comparison.patches import Labels, Pixels, draw_patch
from salience.report.comparison.sentences import SCALARS
from salience.report.pictures import PERCENTILE, TINY, Missing, Photographs, draw_photo, encode, view_size
from salience.report.trust.drill import thumbnail
from salience.report.words import without_path

LONGEST = 448
"""Pixels of the longer side of the photographs that patches are cut from."""

MOST_IMAGES = 240
"""Images that can be looked at one by one; of more, some are chosen."""


@dataclass
class Drawing:
    """All pictures of a comparison on their way to the page."""

    material: Material
    bundles: Bundles
    concept_places: dict[int, int] = field(default_factory=dict)
    entries: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[int, str] = field(default_factory=dict)
    """Place of an image -> why its photograph cannot be shown."""
    _reading: Lock = field(default_factory=Lock)
    """Held while the run is read: its readers keep what they have read last."""

    def __post_init__(self) -> None:
        run = self.material.comparison.run
        table = run.table("images").select(["image_id", "width", "height"])
        self._sizes = {
            r["image_id"]: (r["width"], r["height"]) for r in table.to_pylist() if r["width"] and r["height"]
        }
        self._photographs = Photographs(run.info.get("images", {}), self.material.pictures)

    def draw(self, cards: Sequence[Sequence[Card]]) -> None:
        """Draw the patches of all cards, a list of them for each model, and the images chosen; fill the bundles."""
        patches = _patches(cards)
        chosen = self._choose([p for of in patches.values() for p in of])
        by_image: dict[int, list[Patch]] = defaultdict(list)
        for of in patches.values():
            for patch in of:
                by_image[patch.image].append(patch)
        wanted = sorted({*by_image, *chosen})
        whole = set(chosen)
        pictures: dict[str, bytes] = {}
        with ThreadPoolExecutor(threads(), thread_name_prefix="draw") as pool:
            jobs = pool.map(lambda i: self._image(i, by_image[i], i in whole), wanted)
            for i, (entry, found) in zip(wanted, jobs, strict=True):
                pictures.update(found)
                if i in whole:
                    self.entries.append(entry)
        self._place(patches, pictures)

    def _choose(self, patches: Iterable[Patch]) -> list[int]:
        """Return the images that can be opened: those of patches, then evenly from all."""
        count = len(self.material.pictures)
        chosen = list(dict.fromkeys(p.image for p in patches))[:MOST_IMAGES]
        evenly = np.linspace(0, count - 1, min(count, MOST_IMAGES)).round().astype(int).tolist() if count else []
        taken = set(chosen)
        for i in evenly:
            if len(chosen) >= MOST_IMAGES:
                break
            if i not in taken:
                chosen.append(i)
        return chosen

    def _place(self, patches: Mapping[int, Sequence[Patch]], pictures: dict[str, bytes]) -> None:
        """Hand pictures to the bundles: a concept's together, then an image's."""
        for concept, of in patches.items():
            own = {p.key: pictures[p.key] for p in of if p.key in pictures}
            self.bundles.add({**own, f"v{concept}": _json(self._values(concept))})
        for entry in self.entries:
            keys = [k for k in pictures if k.split(".")[0][1:] == str(entry["image"]) and k[0] in "pldm"]
            self.bundles.add({k: pictures[k] for k in keys})
        self.bundles.close()
        self.concept_places = dict(zip(patches, self.bundles.places, strict=False))
        for entry, place in zip(self.entries, self.bundles.places[len(patches) :], strict=True):
            entry["place"] = place

    def _values(self, concept: int) -> dict[str, Any]:
        """Return what each model gives to a concept, image by image: for lists and their download."""
        m = self.material
        rows = np.flatnonzero(m.has[:, concept] > 0)
        found = {
            "images": rows.tolist(),
            "segments": m.has[rows, concept].tolist(),
            "shares": [_short(m.shares[name][rows, concept]) for name in m.comparison.models],
        }
        if m.comparison.has_ledger:
            found["totals"] = [_short(m.totals[name][rows, concept]) for name in m.comparison.models]
        return found

    # ------------------------------------------------------------------ one image

    def _image(self, i: int, patches: Sequence[Patch], whole: bool) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return what the page's list says of an image, and its pictures and numbers."""
        m, picture = self.material, self.material.pictures[i]
        out: dict[str, bytes] = {}
        see = self._view(picture.image_id)
        entry: dict[str, Any] = {"image": i, "ratio": round(see.size[1] / see.size[0], 4)}
        labels: Labels | None = None
        try:
            with self._reading:
                found = m.comparison.label_map(picture.image_id)
            fine = max(math.ceil(a / b) for a, b in zip(found.shape, see.size, strict=True))
            labels = _resized(found, (fine * see.size[0], fine * see.size[1]))  # no segment is lost
        except (RunError, OSError, ValueError) as error:
            self.missing[i] = entry["missing"] = str(error)
        try:
            pixels = _bytes(self._photographs.pixels(picture, see))
        except Missing as error:
            self.missing[i] = entry["missing"] = without_path(str(error), picture.path, picture.image_id)
            pixels = None
        tiny = max(see.size) <= TINY
        if pixels is not None and labels is not None:
            for patch in patches:
                out[patch.key] = encode(draw_patch(pixels, labels, patch.segment, tiny=tiny))
        if whole:
            if pixels is not None:
                out[f"p{i}"] = draw_photo(pixels)
                entry["thumb"] = base64.b64encode(thumbnail(pixels)).decode()
            if labels is not None:
                out[f"l{i}"] = encode_labels(_resized(labels, view_size(see.size)))
            out.update({f"m{i}.{n}": data for n, data in self._maps(picture.image_id, see.size).items()})
            out[f"d{i}"] = _json(self._numbers(i))
        return entry, out

    def _view(self, image_id: str) -> Preprocessing:
        """Return the view of a whole image, not distorted, that patches are cut from."""
        width, height = self._sizes.get(image_id, (LONGEST, LONGEST))
        share = min(1.0, LONGEST / max(width, height))
        return Preprocessing(
            size=(max(1, round(height * share)), max(1, round(width * share))), fit="squash", interpolation="bilinear"
        )

    def _maps(self, image_id: str, size: tuple[int, int]) -> dict[int, bytes]:
        """Return the maps of all models on one scale: shares of each map's absolute sum."""
        c = self.material.comparison
        found: dict[int, npt.NDArray[np.float32]] = {}
        for n, model in enumerate(c.models):
            try:
                with self._reading:
                    values = np.nan_to_num(c.heatmap(model, image_id))
            except (RunError, OSError, ValueError):  # the picture then says that there is no map
                continue
            found[n] = values / max(float(np.abs(values).sum()), 1e-12)
        if not found:
            return {}
        limit = float(np.percentile(np.abs(np.stack(list(found.values()))), PERCENTILE)) or 1.0
        height, width = view_size(size)
        out = {}
        for n, values in found.items():
            recipe = c.run.info["recipes"][c.settings["recipes"][c.models[n]]]
            scaled = Image.fromarray(values / limit).resize((width, height), Image.Resampling.BILINEAR)
            out[n] = encode(colourise(np.asarray(scaled), scale_of(bool(recipe["signed"]))))
        return out

    def _numbers(self, i: int) -> dict[str, Any]:
        """Return what is known of an image's segments, and what its maps should add up to."""
        m = self.material
        start, end = np.searchsorted(m.segments.image, [i, i + 1])
        rows = np.arange(start, end)
        models = m.comparison.models
        found: dict[str, Any] = {
            "segments": m.segments.segment[rows].tolist(),
            "concepts": m.segments.concept[rows].tolist(),
            "shares": [_short(m.segments.share[name][rows]) for name in models],
        }
        if m.comparison.has_ledger:
            found["totals"] = [_short(m.segments.total[name][rows], 6) for name in models]
            found["change"] = [_finite(m.changes[name][i]) for name in models]
        return found


def _patches(cards: Sequence[Sequence[Card]]) -> dict[int, list[Patch]]:
    """Return the patches of each concept over all models, those of the first cards first, none twice."""
    found: dict[int, dict[str, Patch]] = {}
    for of_model in cards:
        for card in of_model:
            own = found.setdefault(card.number, {})
            for group in card.groups:
                own.update({p.key: p for p in group.patches})
            if card.counter is not None:
                own.update({p.key: p for p in card.counter.patches})
    return {concept: list(own.values()) for concept, own in found.items()}


def _resized(labels: Labels, size: tuple[int, int]) -> Labels:
    """Return a label map at another size: each pixel takes the label where its centre lies."""
    rows = ((np.arange(size[0]) + 0.5) * labels.shape[0] / size[0]).astype(np.int64)
    columns = ((np.arange(size[1]) + 0.5) * labels.shape[1] / size[1]).astype(np.int64)
    found: Labels = labels[np.ix_(rows, columns)]
    return found


def encode_labels(labels: Labels) -> bytes:
    """Return a label map as a picture without loss: red has the low byte of a number, green the high one."""
    found = np.zeros((*labels.shape, 3), dtype=np.uint8)
    found[..., 0], found[..., 1] = labels & 255, labels >> 8
    return encode(found, lossless=True)


def _bytes(pixels: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> Pixels:
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels * 255)
    return pixels.astype(np.uint8, copy=False)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _short(values: npt.NDArray[np.float64], digits: int = 4) -> list[float]:
    """Return numbers with few digits: they are for looking at, the run's tables have them whole."""
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else 0.0 for v in values.tolist()]


def _finite(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def payload(material: Material, drawing: Drawing, hero: Card | None) -> dict[str, Any]:
    """Return the data of the page's script: all images in short, those with pictures, and how things are called.

    The image that is opened first is one of the ``hero``'s patches, the one where it counts most.
    """
    ranked = sorted(hero.groups, key=lambda g: g.kind != "most") if hero else []
    first = next((p.image for g in ranked for p in g.patches), 0)
    c = material.comparison
    used = {int(v) for part in (c.labels, c.targets, *(c.predicted(m) for m in c.models)) for v in np.unique(part)}
    recipe = c.run.info["recipes"][c.settings["recipes"][c.reference]]
    return {
        "models": list(c.models),
        "others": list(c.others),
        "alone": c.alone,
        "ledger": c.has_ledger,
        "scalar": SCALARS.get(str(c.settings["output"]), "scalar"),
        "scale": scale_of(bool(recipe["signed"])),
        "classes": {str(k): [c.classes[k], material.class_names[k]] for k in sorted(used) if 0 <= k < len(c.classes)},
        "concepts": [
            {"title": material.names[n].title, "where": material.names[n].where, "place": drawing.concept_places.get(n)}
            for n in sorted(material.names)
        ],
        "quadrants": list(QUADRANTS),
        "first": first,
        "images": {
            "ids": list(c.images),
            "labels": c.labels.tolist(),
            "targets": c.targets.tolist(),
            "predicted": [c.predicted(m).tolist() for m in c.models],
            "quadrants": [
                [QUADRANTS.index(q) if q else -1 for q in material.quadrants(m)] if not c.alone else []
                for m in c.others
            ],
        },
        "entries": drawing.entries,
        "files": drawing.bundles.files,
    }
