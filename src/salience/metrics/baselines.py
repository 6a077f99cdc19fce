"""Maps that know nothing of the model: what every method has to be better than. They stand in every table.

They are made when they are scored, from the image and from keys; nothing of them is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from salience.engine.fills import gaussian_blur
from salience.engine.random import row_key, uniform

BLUR = 1 / 16
CENTRE = 1 / 4


@dataclass(frozen=True)
class Baseline:
    """A map that needs no model.

    ``make(pixels (3, H, W), image id, labels, seed)`` returns maps (T, H, W), one for each label, or (1, H, W) where
    one map stands for all labels (``shared``).
    """

    name: str
    summary: str
    shared: bool
    make: Callable[[Tensor, str, Sequence[int], int], Tensor]


def random_map(pixels: Tensor, image_id: str, labels: Sequence[int], seed: int) -> Tensor:
    """Return uniform noise, drawn anew for every label."""
    keys = [row_key(seed, "random map", image_id, label) for label in labels]
    return uniform(keys, pixels.shape[1:], pixels.device)


def random_blurred(pixels: Tensor, image_id: str, labels: Sequence[int], seed: int) -> Tensor:
    """Return the noise of ``random`` under a Gaussian of a sixteenth of the shorter side."""
    noise = random_map(pixels, image_id, labels, seed)
    return gaussian_blur(noise.unsqueeze(1), min(pixels.shape[1:]) * BLUR).squeeze(1)


def sobel(pixels: Tensor, image_id: str, labels: Sequence[int], seed: int) -> Tensor:
    """Return the length of the Sobel gradient of the grey image, borders replicated."""
    grey = pixels.float().mean(0)[None, None]
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=pixels.device)
    kernels = torch.stack([across, across.T]).unsqueeze(1)
    found = F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), kernels)
    return found.square().sum(1).sqrt()


def centre(pixels: Tensor, image_id: str, labels: Sequence[int], seed: int) -> Tensor:
    """Return a Gaussian at the centre, of a quarter of each side."""
    h, w = pixels.shape[1:]

    def bell(length: int) -> Tensor:
        x = (torch.arange(length, dtype=torch.float32, device=pixels.device) + 0.5) / length - 0.5
        return torch.exp(-(x**2) / (2 * CENTRE**2))

    return (bell(h)[:, None] * bell(w)[None, :]).unsqueeze(0)


BASELINES = (
    Baseline("random", "uniform noise, another for every label", False, random_map),
    Baseline("random-blurred", "that noise under a Gaussian of a sixteenth of the side", False, random_blurred),
    Baseline("sobel", "edges of the image", True, sobel),
    Baseline("centre", "a Gaussian at the centre of the image", True, centre),
)
CLASS_AGNOSTIC = "class-agnostic"
"""``class-agnostic:METHOD`` hands the method's map for the predicted label to every label."""
