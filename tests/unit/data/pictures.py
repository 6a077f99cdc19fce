"""Pictures for the tests of this folder."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def make_pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with noise on them, uint8 (H, W, 3): neither flat nor pure noise, like a photograph."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = np.stack([np.sin(7 * x + 3 * y), np.cos(5 * y), np.sin(9 * x * y)], axis=-1)
    return np.clip(127 + 90 * waves + rng.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()
