"""Where a method looks at the model: at the image itself, along a path, in a cloud of noise.

Methods with equal points share the forward passes there. ``count`` says how many points an image has, ``at`` makes
the k-th of them for a batch, on the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from salience.engine.fills import CONSTANTS, fill, unknown_fill
from salience.engine.random import normal, row_key
from salience.errors import MethodError

BASELINES = (*CONSTANTS, "mean", "blur")


class Points(ABC):
    """The inputs at which a model is evaluated for one image. Subclasses are frozen dataclasses."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of points for each image."""

    def prepare(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return what all points of a batch have in common; made once and handed to :meth:`at` and to methods."""
        return ()

    @abstractmethod
    def at(
        self, images: Tensor, draw: int, image_ids: Sequence[str], seed: int, prepared: tuple[Tensor, ...]
    ) -> Tensor:
        """Return point ``draw`` of each image (N, 3, H, W), pixels in [0, 1] where the image has them."""


@dataclass(frozen=True)
class Clean(Points):
    """The image as it is."""

    @property
    def count(self) -> int:
        """One point."""
        return 1

    def at(
        self, images: Tensor, draw: int, image_ids: Sequence[str], seed: int, prepared: tuple[Tensor, ...]
    ) -> Tensor:
        """Return the images."""
        return images


@dataclass(frozen=True)
class Noise(Points):
    """The image with Gaussian noise; ``level`` is its standard deviation as a share of the image's own range."""

    samples: int
    level: float

    def __post_init__(self) -> None:
        if self.samples < 1 or self.level < 0:
            raise MethodError(f"samples is {self.samples}, level {self.level}: at least 1 and at least 0 are needed.")

    @property
    def count(self) -> int:
        """One point a sample."""
        return self.samples

    def at(
        self, images: Tensor, draw: int, image_ids: Sequence[str], seed: int, prepared: tuple[Tensor, ...]
    ) -> Tensor:
        """Return the images with the noise of sample ``draw``."""
        keys = [row_key(seed, "noise", image_id, draw) for image_id in image_ids]
        noise = normal(keys, images.shape[1:], images.device).to(images.dtype)
        flat = images.flatten(1)
        sigma = (flat.amax(1) - flat.amin(1)) * self.level
        return torch.addcmul(images, noise, sigma.view(-1, 1, 1, 1))


@dataclass(frozen=True)
class Path(Points):
    """The straight line from a baseline to the image, at the midpoints of ``steps`` equal parts.

    ``baselines`` name fills, see :func:`~salience.engine.fills.fill`; several share the steps out evenly.
    """

    steps: int
    baselines: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in self.baselines:
            if name not in BASELINES:
                raise unknown_fill(name, (*BASELINES, "several joined by '+'"))
        if not self.baselines or self.steps < len(self.baselines) or self.steps % len(self.baselines):
            several = f", and {len(self.baselines)} baselines share them: give a multiple of their number"
            raise MethodError(
                f"steps is {self.steps}{several if len(self.baselines) > 1 else '; 1 or more is needed'}."
            )

    @property
    def count(self) -> int:
        """One point a step."""
        return self.steps

    def prepare(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the baselines, each broadcastable to ``images``."""
        return tuple(fill(name, images) for name in self.baselines)

    def start(self, draw: int, prepared: tuple[Tensor, ...]) -> Tensor:
        """Return the baseline of the path that point ``draw`` lies on."""
        return prepared[draw // (self.steps // len(self.baselines))]

    def at(
        self, images: Tensor, draw: int, image_ids: Sequence[str], seed: int, prepared: tuple[Tensor, ...]
    ) -> Tensor:
        """Return the midpoint of part ``draw``."""
        each = self.steps // len(self.baselines)
        share = (draw % each + 0.5) / each
        return torch.lerp(self.start(draw, prepared).expand_as(images), images, share)
