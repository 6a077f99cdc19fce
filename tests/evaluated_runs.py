"""Small evaluate runs for the tests of their page: a small net, pictures in a folder, maps with hostile names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from salience.evaluating import evaluate
from salience.explaining import RunSettings, explain
from salience.models.classifier import Classifier
from salience.scores import Scores
from salience.store.maps import Maps
from salience.testing.models import small_classifier

HOW = RunSettings(batch=16, memory_format="contiguous", threads=1)
HOSTILE = "<img src=x onerror=document.title='owned'>"
METRICS = ("complete-sound:points=6", "insertion:points=6", "deletion:points=6", "gini")


def write_photos(folder: Path, count: int, size: int = 40) -> Path:
    """Write ``count`` pictures in two classes; one has a hostile name."""
    for i in range(count):
        path = folder / ("ant" if i % 2 else "bee") / (f"{HOSTILE}.png" if i == 1 else f"{i:03d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        y, x = np.mgrid[0:size, 0:size] / size
        waves = np.stack([np.sin(9 * x + i), np.cos(7 * y + 2 * i), np.sin(11 * x * y + i)], axis=-1)
        Image.fromarray((127 + 120 * waves).astype(np.uint8)).save(path)
    return folder


def hostile_maps(model: Classifier, photos: Path) -> Maps:
    """Maps from elsewhere, of a method with a hostile name."""
    found = explain(model, str(photos), method="gradient", target="all", batch_size=16)
    return Maps(**{**vars(found), "method": HOSTILE, "values": found.values[:, ::-1].copy()})


def evaluated(
    folder: Path,
    images: int = 6,
    *,
    background: tuple[str, ...] = ("dataset-mean", "blur", "road"),
    smooth: tuple[float, ...] = (0.0, 2.0),
    metrics: tuple[str, ...] = METRICS,
    labels: str = "all",
) -> Scores:
    """Evaluate two methods and hostile maps over pictures written into ``folder``; the run is ``folder / "run"``."""
    model = small_classifier()
    photos = write_photos(folder / "photos", images)
    return evaluate(
        model,
        str(photos),
        ["gradient", "gradcam"],
        maps=[hostile_maps(model, photos)],
        metrics=metrics,
        background=background,
        labels=labels,
        smooth=smooth,
        out=folder / "run",
        settings=HOW,
        command=["salience", "evaluate", "photos", "--method", "gradient,gradcam"],
    )
