"""Run directories made of numbers drawn here: no model, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from salience.data.base import hash_content
from salience.store.maps import Failure
from salience.store.unit import FailureRow, ImageResult, MapRows, Recipe, UnitResult
from salience.store.writer import RunWriter

CLASSES = ("tench, Tinca tinca", "crane, bird", "crane, machine", "owl")


@dataclass(frozen=True)
class FakeMethod:
    """A method, with the grid and sign of its maps."""

    name: str
    signed: bool = False
    grid: tuple[int, int] = (32, 32)
    summary: str = "where something is"
    gap: bool = False
    queries: int = 0


@dataclass(frozen=True)
class FakeModel:
    """A model: one logit vector an image, one map a method and target."""

    name: str = "fish"
    classes: tuple[str, ...] = CLASSES
    size: tuple[int, int] = (32, 32)
    methods: tuple[FakeMethod, ...] = (
        FakeMethod("gradient"),
        FakeMethod("contrast", signed=True),
        FakeMethod("gradcam", grid=(4, 4)),
        FakeMethod("ig", signed=True, gap=True),
    )
    target: str = "predicted"


@dataclass
class FakeRun:
    """What is written; change a field before :meth:`write`."""

    folder: Path
    images: int = 6
    models: Sequence[FakeModel] = (FakeModel(),)
    names: dict[int, str] = field(default_factory=dict)
    """Image number -> file name, where it is not ``bird/000.png``."""
    labels: bool = True
    failed_images: Sequence[int] = ()
    failed_maps: Sequence[tuple[int, str]] = ()
    side: int = 40
    status: str = "complete"
    command: Sequence[str] = ("salience", "explain", "photos", "--model", "fish=card.toml", "--out", "run")
    missing: Sequence[int] = ()
    unfinished: Sequence[int] = ()

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
        return self.names.get(i, f"bird/{i:03d}.png")

    def write(self) -> Path:
        """Write images and run, and return the run directory."""
        contents = [self._photo(i) for i in range(self.images)]
        labels = [i % len(CLASSES) if self.labels else None for i in range(self.images)]
        with RunWriter(self.run, kind="explain", source=str(self.photos)) as writer:
            entries = {}
            for model in self.models:
                recipes = [self._recipe(model, method) for method in model.methods]
                writer.use_recipes(model.name, recipes, max(1, self.images))
                entries[model.name] = {
                    "spec": "card.toml",
                    "architecture": "Net",
                    "parameters": 1234567,
                    "fingerprint": "ab" * 16,
                    "preprocessing": {"size": list(model.size), "interpolation": "bilinear", "fit": "squash"},
                    "classes": list(model.classes),
                    "plan": {"batch": 8, "memory_format": "channels_last", "threads": 2, "device": "cpu"},
                }
            writer.set_images(
                {
                    "image_id": [self.name(i) for i in range(self.images)],
                    "index": list(range(self.images)),
                    "path": [str(self.photos / self.name(i)) for i in range(self.images)],
                    "label": labels,
                    "label_text": [None if v is None else CLASSES[v] for v in labels],
                    "group": [None] * self.images,
                    "boxes": [[]] * self.images,
                }
            )
            writer.describe(
                images={"source": str(self.photos), "kind": "folder", "count": self.images, "limit": None},
                models=entries,
                labels_of=self.models[0].name,
                settings={"target": "predicted", "output": "logit", "seed": 0, "map_dtype": "float16"},
                command=list(self.command),
                environment={"salience": "0.1.0", "python": "3.11"},
                status=self.status,
                seconds=3.5,
                last={m.name: {"computed": self.images, "reused": 0, "seconds": 2.0} for m in self.models},
            )
            for model in self.models:
                writer.write(writer.reserve(1), self._unit(model, contents))
        for i in self.missing:
            (self.photos / self.name(i)).unlink()
        return self.run

    def _photo(self, i: int) -> str:
        path = self.photos / self.name(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        y, x = np.mgrid[0 : self.side, 0 : self.side] / self.side
        waves = np.stack([np.sin(5 * x + i), np.cos(4 * y + i), np.sin(6 * x * y + i)], axis=-1)
        Image.fromarray((127 + 120 * waves).astype(np.uint8)).save(path, "PNG")
        return hash_content(path.read_bytes())

    def _recipe(self, model: FakeModel, method: FakeMethod) -> Recipe:
        description = {
            "model": model.name,
            "method": method.name,
            "summary": method.summary,
            "family": "fake",
            "reference": "nobody 2020",
            "signed": method.signed,
            "settings": {"steps": 32},
            "layer": "head" if method.grid != model.size else None,
            "target": model.target,
            "output": "logit",
            "map_dtype": "float16",
        }
        columns = len(model.classes) if model.target == "all" else 1
        return Recipe(method.name, model.name, "0123456789abcdef", description, columns)

    def _unit(self, model: FakeModel, contents: Sequence[str]) -> UnitResult:
        unit = UnitResult(model.name)
        for i in range(self.images):
            if i in self.unfinished:
                continue
            if i in self.failed_images:
                message = f"{self.photos / self.name(i)}: the file is empty (0 bytes)."
                unit.failures.append(FailureRow(Failure(self.name(i), "unreadable", message, model.name), None, "x"))
                continue
            rng = np.random.default_rng([i, len(model.name)])
            logits = rng.normal(0, 1, len(model.classes)).astype(np.float32)
            logits[(i + (i % 3 == 2)) % len(model.classes)] += 4
            every = model.target == "all"
            targets = np.arange(len(model.classes)) if every else np.array([int(logits.argmax())])
            scores = logits[targets]
            unit.images.append(ImageResult(self.name(i), contents[i], 9, 9, self.side, self.side, logits))
            for method in model.methods:
                recipe = self._recipe(model, method)
                if (i, method.name) in self.failed_maps:
                    failure = Failure(self.name(i), "map", "The map is not finite.", model.name, method.name)
                    unit.failures.append(FailureRow(failure, recipe.id, "x"))
                    continue
                rows = unit.maps.setdefault(recipe.id, MapRows())
                for target, score in zip(targets.tolist(), scores.tolist(), strict=True):
                    rows.values.append(_blob(method, i + target).astype(np.float16))
                    rows.scales.append(2.0)
                    rows.owners.append((self.name(i), target, score, "key"))
                    if method.gap:
                        rows.diagnostics.append((self.name(i), target, "output_change", 4.0))
                        rows.diagnostics.append((self.name(i), target, "completeness_gap", 0.1 * (i + 1)))
                    if method.queries:
                        rows.diagnostics.append((self.name(i), target, "forward_passes", float(method.queries)))
                        for k, agreement in ((64, 0.25 + 0.01 * i), (128, 0.75), (method.queries - 1, 1.0)):
                            rows.diagnostics.append((self.name(i), target, f"agreement@{k}", agreement))
        return unit


def _blob(method: FakeMethod, seed: int) -> np.ndarray:
    h, w = method.grid
    y, x = np.mgrid[0:h, 0:w] / max(h, w)
    rng = np.random.default_rng(seed)
    cx, cy = rng.uniform(0.3, 0.7, 2)
    near = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 0.05)
    far = np.exp(-((x - 1 + cx) ** 2 + (y - cx) ** 2) / 0.03) if method.signed else 0
    noise = 0.05 * rng.normal(size=(h, w))
    values = near - far + noise
    return np.asarray(values if method.signed else np.abs(values))
