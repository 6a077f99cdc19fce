"""What stands in for pixels that are taken away: baselines of paths, fills of masks, backgrounds of metrics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from salience.engine.pool import Pool
from salience.engine.random import choose, row_key, uniform
from salience.errors import MethodError, nearest

CONSTANTS = {"black": 0.0, "grey": 0.5, "white": 1.0}
FILLS = (*CONSTANTS, "mean", "blur", "noise", "dataset")
"""Every fill; ``dataset`` needs a pool of images."""
DRAWN = ("noise", "dataset")
"""Fills that are drawn at random, per image and draw."""


def fill(
    name: str,
    images: Tensor,
    image_ids: Sequence[str] = (),
    seed: int = 0,
    draw: int = 0,
    pool: Pool | None = None,
) -> Tensor:
    """Return what replaces the pixels of images (N, 3, H, W), in the same range, broadcastable to them.

    ``black``, ``grey`` and ``white`` come as (1, 1, 1, 1); ``mean``, each image's own mean colour, as (N, 3, 1, 1);
    ``blur``, the image under a Gaussian of a standard deviation of an eighth of the shorter side, ``noise``, uniform
    in [0, 1], and ``dataset``, an image of ``pool`` other than the image itself, as (N, 3, H, W). The last two are
    drawn from ``seed``, the image's id and ``draw``.

    Raises
    ------
    MethodError
        When the name is unknown, or there is no pool to draw from.
    """
    if name in CONSTANTS:
        return images.new_full((1, 1, 1, 1), CONSTANTS[name])
    if name == "mean":
        return images.mean((2, 3), keepdim=True)
    if name == "blur":
        return gaussian_blur(images, min(images.shape[-2:]) / 8)
    if name == "noise":
        keys = [row_key(seed, "fill", image_id, draw) for image_id in image_ids]
        return uniform(keys, images.shape[1:], images.device).to(images.dtype)
    if name == "dataset":
        if pool is None:
            raise MethodError("The fill 'dataset' draws from other images of the dataset, and here are none.")
        rows = []
        for own, image_id in zip(pool.find(images).tolist(), image_ids, strict=True):
            first, second = choose(row_key(seed, "fill", image_id, draw), 2, len(pool))
            rows.append(second if first == own else first)
        return pool.images[rows].to(images.device, images.dtype).div_(255)
    raise unknown_fill(name, FILLS)


def unknown_fill(name: str, known: Sequence[str]) -> MethodError:
    """Return the error for a fill or baseline that is none of ``known``."""
    return MethodError(f"Baseline {name!r} is unknown; choose of {', '.join(known)}.{nearest(name, known)}")


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Blur (N, K, H, W) with a Gaussian of ``sigma`` pixels, cut off at three sigma, borders replicated."""
    for axis in (2, 3):
        radius = max(1, round(3 * sigma))
        x = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
        kernel = torch.exp(-(x**2) / (2 * sigma**2))
        kernel = kernel / kernel.sum()
        length = images.shape[axis]
        # As a matrix the border needs no padding: weights that fall outside are added to the edge.
        index = (torch.arange(length, device=images.device)[:, None] + x.long()[None]).clamp(0, length - 1)
        matrix = torch.zeros(length, length, dtype=images.dtype, device=images.device)
        matrix.scatter_add_(1, index, kernel.expand(length, -1))
        images = matrix @ images if axis == 2 else images @ matrix.T
    return images
