"""What a network in training is given: pixels, moved at random where that is asked for, or what was computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from salience.engine.runner import to_pixels
from salience.errors import ModelError
from salience.models.classifier import Classifier
from salience.training.parts import Cut, Part
from salience.training.samples import CHUNK, Decoded, array_file, digest

SHIFT = 8
"""Shifts go up to the side over this."""

Rows = npt.NDArray[np.int64]


class Inputs(Protocol):
    """Where batches come from."""

    def batch(self, rows: Rows) -> Tensor:
        """Return what the network is given of some images, on its device."""
        ...


@dataclass(frozen=True, eq=False)
class Pixels:
    """Pixels in [0, 1], (N, 3, H, W)."""

    decoded: Decoded
    classifier: Classifier

    def batch(self, rows: Rows) -> Tensor:
        """Return the pixels of some images."""
        return to_pixels(list(self.decoded.read(rows)), self.classifier)


@dataclass(frozen=True, eq=False)
class Kept:
    """What arrives at the cut of a network, computed once: (N, ...), mapped from a file."""

    array: npt.NDArray[Any]
    classifier: Classifier

    def batch(self, rows: Rows) -> Tensor:
        """Return what arrives at the cut of some images."""
        return torch.from_numpy(self.array[rows]).to(self.classifier.device)


def keep_stem(
    classifier: Classifier,
    cut: Cut,
    part: Part,
    decoded: Decoded,
    folder: Path,
    fingerprint: str,
    told: Callable[[int], None] = lambda done: None,
) -> Kept:
    """Compute what arrives at the cut for every image into a file below ``folder``, or find that it was done before.

    Parameters
    ----------
    classifier, cut, part
        The network, frozen up to the cut.
    decoded
        The images.
    folder
        Where the file is.
    fingerprint
        Of the backbone: names its weights and preprocessing.
    told
        Hears how many images are done.

    Raises
    ------
    ModelError
        When the network answers with something that is not finite.
    RunError
        When the disk has no room.
    """
    part.set_up(classifier.module, training=False)
    pixels = Pixels(decoded, classifier)
    count = len(decoded.samples)
    batches = [np.arange(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    with cut.collecting() as collect:

        def arriving(rows: Rows) -> npt.NDArray[Any]:
            values: npt.NDArray[Any] = collect(classifier.normalise(pixels.batch(rows))).float().cpu().numpy()
            if not np.isfinite(values).all():
                raise ModelError(
                    f"Model {classifier.name!r} computes numbers that are not finite from "
                    f"{decoded.samples.refs[rows[0]].image_id} or the images after it. Check its weights."
                )
            return values

        def fill(array: npt.NDArray[Any]) -> None:
            for rows in batches:
                array[rows] = arriving(rows)
                told(int(rows[-1]) + 1)

        shape = (count, *arriving(batches[0][:2]).shape[1:])
        key = digest("stem 1", decoded.key, fingerprint, cut.name, str(classifier.device.type))
        return Kept(array_file(folder / f"stem-{key}.npy", shape, np.float32, fill), classifier)


def move(images: Tensor, human: Tensor | None, draws: Tensor, names: Sequence[str]) -> tuple[Tensor, Tensor | None]:
    """Flip and shift images and their human maps alike.

    Parameters
    ----------
    images
        (N, 3, H, W).
    human
        (N, H, W), or None.
    draws
        Uniform numbers in [0, 1), (N, 3): whether an image is flipped, and how far it goes down and right.
    names
        Which of ``flip`` and ``shift`` are done. Edges are repeated.
    """
    if not names:
        return images, human
    height, width = images.shape[-2:]
    draws = draws.to(images.device)
    y = torch.arange(height, device=images.device).expand(len(images), -1)
    x = torch.arange(width, device=images.device).expand(len(images), -1)
    if "shift" in names:
        y = (y - _steps(draws[:, 1], height // SHIFT)).clamp(0, height - 1)
        x = (x - _steps(draws[:, 2], width // SHIFT)).clamp(0, width - 1)
    if "flip" in names:
        x = torch.where(draws[:, :1] < 0.5, width - 1 - x, x)
    row = torch.arange(len(images), device=images.device).view(-1, 1, 1)
    moved = images.movedim(1, 3)[row, y.unsqueeze(2), x.unsqueeze(1)].movedim(3, 1).contiguous()
    return moved, None if human is None else human[row, y.unsqueeze(2), x.unsqueeze(1)]


def _steps(draws: Tensor, most: int) -> Tensor:
    """Return whole numbers from -most to most, (N, 1)."""
    return (draws * (2 * most + 1)).floor().long().unsqueeze(1) - most
