"""A finished audit in a second or two: small nets, small pictures, everything that a page of it can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from compared_pictures import CLASSES, pictures
from salience.auditing import audit
from salience.behaviour.audit import Audit
from salience.explaining import RunSettings
from salience.models.classifier import Classifier
from salience.testing.models import small_classifier

FAST = RunSettings(batch=16, memory_format="contiguous", threads=1)
SIDE = 32
RUNS = 4


def write_pictures(folder: Path, count: int, *, seed: int = 0, names: Mapping[int, str] | None = None) -> Path:
    """Write pictures of four classes, a folder each; ``names`` are other names of files by number."""
    made = pictures(count, seed)
    for i, (pixels, label) in enumerate(zip(made.pixels, made.labels, strict=True)):
        place = folder / CLASSES[label] / (names or {}).get(i, f"{i:02d}.png")
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)
    return folder


def net(name: str, seed: int, *, near: int | None = None, size: int = SIDE) -> Classifier:
    """Return a small net with random weights; ``near`` a common seed, it differs little from others of that seed."""
    made = small_classifier(classes=len(CLASSES), seed=seed, name=name)
    if near is not None:
        common = small_classifier(classes=len(CLASSES), seed=near).module.state_dict()
        with torch.no_grad():
            for key, value in made.module.state_dict().items():
                if value.is_floating_point():
                    value.mul_(0.12).add_(common[key], alpha=0.88)
    return Classifier(
        made.module, size=size, mean=(0.4, 0.45, 0.5), std=(0.2, 0.25, 0.3), classes=list(CLASSES), name=name
    )


def groups(runs: int = RUNS, size: int = SIDE) -> dict[str, list[Classifier]]:
    """Return two recipes: runs of the first have nothing in common, those of the second nearly everything."""
    return {
        "plain": [net(f"plain-{i}", i, size=size) for i in range(runs)],
        "guided": [net(f"guided-{i}", 50 + i, near=99, size=size) for i in range(runs)],
    }


def write_audit(
    folder: Path,
    models: Mapping[str, Sequence[Classifier]] | Classifier | None = None,
    *,
    count: int = 16,
    names: Mapping[int, str] | None = None,
    second: bool = True,
    broken: bool = True,
    **asked: Any,
) -> Audit:
    """Audit small nets on pictures in ``folder``, one of which cannot be read where ``broken``."""
    photos = write_pictures(folder / "photos", count, names=names)
    if broken:
        (photos / CLASSES[0] / "empty.png").write_bytes(b"")
    other = write_pictures(folder / "others", 8, seed=7) if second else None
    if other is not None:
        for place in other.rglob("*.png"):
            Image.fromarray(np.asarray(Image.open(place)) // 3).save(place)
    return audit(
        groups() if models is None else models,
        photos,
        out_of_set=other,
        out=folder / "run",
        background=asked.pop("background", ["blur", "dataset-mean"]),
        settings=FAST,
        **asked,
    )
