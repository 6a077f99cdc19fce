"""Real photographs and real ImageNet classifiers, all carried by packages."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from salience.errors import ImagesError

MODEL = "EfficientNet-Lite0=salience.models.zoo:efficientnet_lite0"
LARGER = "EfficientNet-Lite1=salience.models.zoo:efficientnet_lite1"
"""Trained alike, with more layers, for images of 240 pixels."""
METHODS = ("gradient", "positive", "negative", "active", "inactive", "contrast", "ig", "gradcam")

#: package, path inside it, name here
PHOTOGRAPHS = (
    ("skimage", "data/astronaut.png", "astronaut.png"),
    ("skimage", "data/chelsea.png", "cat.png"),
    ("skimage", "data/coffee.png", "coffee.png"),
    ("skimage", "data/rocket.jpg", "rocket.jpg"),
    ("skimage", "data/motorcycle_left.png", "motorcycle.png"),
    ("skimage", "data/camera.png", "cameraman.png"),
    ("skimage", "data/coins.png", "coins.png"),
    ("skimage", "data/clock_motion.png", "clock.png"),
    ("skimage", "data/brick.png", "brick.png"),
    ("skimage", "data/page.png", "page.png"),
    ("sklearn", "datasets/images/china.jpg", "temple.jpg"),
    ("sklearn", "datasets/images/flower.jpg", "flower.jpg"),
)


def collect_photographs(folder: Path) -> Path:
    """Copy the photographs out of their packages into ``folder`` and return it.

    Raises
    ------
    ImagesError
        When a package of the extra ``demo`` is not installed, or no longer has a photograph.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for package, inside, name in PHOTOGRAPHS:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ImagesError(f'The demo needs the package {package}: pip install "salience[demo]".')
        source = Path(spec.origin).parent / inside
        if not source.exists():
            raise ImagesError(f"The package {package} has no {inside} in this version.")
        target = folder / name
        if not target.exists() or target.stat().st_size != source.stat().st_size:
            shutil.copyfile(source, target)
    return folder
