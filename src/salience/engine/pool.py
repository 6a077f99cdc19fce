"""A pool of images of the dataset: what methods and metrics put in the place of pixels that they take away."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from salience.data.base import ImageSource
from salience.data.decode import load
from salience.data.preprocessing import Preprocessing
from salience.engine.random import row_key, uniform_at
from salience.errors import ImagesError, SettingsError

POOL_SIZE = 100
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
DRAWN = 6
"""Uniform numbers that one background takes: image, area, ratio, row, column, flip."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Distinct images at a model's input size.

    Attributes
    ----------
    images
        uint8 (P, 3, H, W) in [0, 255], no two the same, P at least 2.
    hash
        Names the images and their order: 32 hexadecimal digits.
    """

    images: Tensor
    hash: str

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> Pool:
        """Return the pool on ``device``."""
        return self if self.images.device == device else replace(self, images=self.images.to(device))

    def find(self, images: Tensor) -> Tensor:
        """Return where images (N, 3, H, W), pixels in [0, 1], are in the pool: int64 (N,), P where they are not.

        Pictures are compared, pixel by pixel at 8 bits, so another name or another file of the same picture is found.
        """
        place = torch.full((len(images),), len(self), dtype=torch.int64)
        for i, image in enumerate(images):
            same = (self.images == (image.float() * 255).round().to(torch.uint8)).flatten(1).all(1).nonzero()
            if len(same):
                place[i] = same[0, 0]
        return place

    def backgrounds(self, words: Tensor, first: int, count: int, own: Tensor, dtype: torch.dtype) -> Tensor:
        """Return ``count`` backgrounds for each of R images, (R, count, 3, H, W) in [0, 1]: crops of pool images.

        Each is a random pool image other than the image itself, of which a random crop is enlarged to the full size
        and flipped with a chance of one half. Crops take 8 % to all of the area at a ratio of sides of 3/4 to 4/3
        (log-uniform); one that is longer than the image is cut to it.

        Parameters
        ----------
        words
            Keys of the images, see :func:`~salience.engine.random.key_words`: (R, 2), on the CPU.
        first
            Backgrounds drawn from these keys before: with it, steps draw afresh.
        own
            Where each image is in the pool, (R,), as :meth:`find` tells.
        """
        start = torch.full((len(words),), first * DRAWN)
        u = uniform_at(words, start, count * DRAWN).double().view(-1, DRAWN)  # (R * count, 6)
        own = own.repeat_interleave(count)
        chosen = (u[:, 0] * (len(self) - (own < len(self)).long())).long()
        chosen += chosen >= own  # pass over the image itself
        height, width = self.images.shape[-2:]
        area = (AREA[0] + u[:, 1] * (AREA[1] - AREA[0])) * (height * width)
        ratio = (math.log(RATIO[0]) + u[:, 2] * math.log(RATIO[1] / RATIO[0])).exp()
        tall = (area / ratio).sqrt().round().clamp(1, height)
        wide = (area * ratio).sqrt().round().clamp(1, width)
        top = (u[:, 3] * (height - tall + 1)).floor()
        left = (u[:, 4] * (width - wide + 1)).floor()
        boxes = torch.stack([top, left, tall, wide], 1)
        device = self.images.device
        drawn = self.images[chosen.to(device)].to(dtype).div_(255)
        return crop(drawn, boxes.to(device, dtype), (u[:, 5] < 0.5).to(device)).view(-1, count, *self.images.shape[1:])


def crop(images: Tensor, boxes: Tensor, flip: Tensor) -> Tensor:
    """Enlarge a box of each image (R, 3, H, W) to the full size, bilinear, half-pixel centres; mirror where ``flip``.

    ``boxes`` (R, 4) are top, left, height and width in pixels; nothing from outside of a box shows.
    """
    height, width = images.shape[-2:]
    top, left, tall, wide = boxes.unbind(1)
    y = _positions(height, top, tall, boxes)
    x = _positions(width, left, wide, boxes)
    x = torch.where(flip.unsqueeze(1), x.flip(1), x)
    grid = torch.stack([x.unsqueeze(1).expand(-1, height, -1), y.unsqueeze(2).expand(-1, -1, width)], 3)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _positions(length: int, start: Tensor, extent: Tensor, like: Tensor) -> Tensor:
    """Return the places (R, length) in [-1, 1] that ``length`` pixels show of a stretch of each image."""
    steps = (torch.arange(length, dtype=like.dtype, device=like.device) + 0.5) / length
    place = (steps * extent.unsqueeze(1)).sub_(0.5).clamp_(min=0)
    place = torch.minimum(place, extent.unsqueeze(1) - 1) + start.unsqueeze(1)
    return place * (2 / max(1, length - 1)) - 1


def draw_pool(source: ImageSource, preprocessing: Preprocessing, size: int = POOL_SIZE, seed: int = 0) -> Pool:
    """Draw ``size`` images of a source: the same for the same seed and image ids, in whatever order they stand.

    Images that cannot be read are passed over, and so are pictures that are there already: another is drawn for them.

    Raises
    ------
    SettingsError
        When ``size`` is below 2.
    ImagesError
        When the source has fewer than two different images that can be read.
    """
    if size < 2:
        raise SettingsError(f"The size of the pool is {size}: 2 or more images are needed.")
    source.check(preprocessing)
    found: dict[bytes, npt.NDArray[np.uint8]] = {}
    for ref in sorted(source.refs, key=lambda ref: (row_key(seed, "pool", ref.image_id), ref.image_id)):
        try:
            loaded = load(source, ref, preprocessing).pixels
        except ImagesError:
            continue
        exact = loaded.dtype == np.uint8
        pixels = np.ascontiguousarray(loaded if exact else (loaded * np.float32(255)).round(), dtype=np.uint8)
        found.setdefault(hashlib.sha256(pixels.data).digest(), pixels)
        if len(found) == size:
            break
    if len(found) < 2:
        raise ImagesError(
            f"Backgrounds are drawn from other images, and {source.location} has {len(found)} that can be read (the "
            "same picture counts once). Give a pool of at least two: --pool IMAGES, in Python pool=."
        )
    digest = hashlib.sha256(b"".join(found)).hexdigest()[:32]
    return Pool(torch.from_numpy(np.stack(list(found.values()))).permute(0, 3, 1, 2).contiguous(), digest)
