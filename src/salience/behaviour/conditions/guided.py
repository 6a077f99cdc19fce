"""Degradation that is led by the model's own salience, as published: blurred more the less, or the more, salient."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from salience.behaviour.conditions.condition import PUBLISHED_SIDE, GuidedCondition, alone
from salience.behaviour.conditions.registry import register
from salience.behaviour.similarity import published_8bit
from salience.behaviour.traits import CRUM
from salience.behaviour.view import OBJECT, Array
from salience.engine.fills import gaussian_blur

SMOOTH = 5.0
"""Standard deviation, in pixels of an image of 224, of the blur of the salience."""
LEVELS = 100
"""Tenths of the quotient of salience: 0 to 100, so 101 strengths of blur."""
_CUTS = (21, 44)
"""Levels from which on a blur is below 4, and below 1: wide kernels are for those alone that need them."""
_ROWS = 16
"""Rows of an image that are blurred at a time."""


@register(
    "salience",
    lambda: [Degradation("background"), Degradation("object")],
    family="guided",
    measure="degradation",
    summary="Blurred where the model's own map of the image is low (background) or high (object)",
    reference=CRUM,
    details="Published: s is the upscaled 8-bit map (background) or 255 less it (object); s is smoothed with a "
    "Gaussian of 5; q = round(10 s / max s, 1), v = 10 - q, sigma = v^4 / 1000; each pixel is that of the image "
    "blurred with its sigma. Inferred: bicubic upscaling, clipped to 0 and 255. Ours: Gaussians end at three sigma, "
    "borders are replicated; lengths are of images of 224 pixels and go with the shorter side; where s is 0 "
    "everywhere, so is q.",
    published=True,
)
@dataclass(frozen=True)
class Degradation(GuidedCondition):
    """The published salience-guided degradation.

    Published: s, q, v and sigma, see :func:`levels` and :func:`sigma_of`. Inferred: how the 8-bit map is upscaled.
    Ours: the cut and the borders of Gaussians, other sizes than 224, and maps of zeros: nothing is salient, so all is
    background, blurred with the largest sigma, and nothing is object, left as it is.

    Parameters
    ----------
    blurred
        Which part: ``background`` (what is not salient) or ``object`` (what is).
    """

    blurred: Literal["background", "object"]

    @property
    def name(self) -> str:
        """``background`` or ``object``."""
        return self.blurred

    def degrade(self, pixels: Tensor, maps: Array) -> Tensor:
        """Blur every image by itself: which strengths it needs is its own."""
        salience, _ = published_8bit(maps)
        return torch.cat(
            [_degraded(image, torch.from_numpy(s), self.blurred) for image, s in zip(pixels, salience, strict=True)]
        )


def _degraded(image: Tensor, salience: Tensor, blurred: str) -> Tensor:
    """Return an image (3, H, W), led by its 8-bit map (h, w): (1, 3, H, W)."""
    height, width = image.shape[-2:]
    level = levels(salience.to(image.device, image.dtype), (height, width), blurred)
    bands = _bands(min(height, width), image.device, image.dtype)
    most = max(band.reach for band in bands)
    wide = F.pad(alone(image), (most, most, most, most), mode="replicate")[0]
    out = torch.empty_like(image, memory_format=torch.contiguous_format)
    for top in range(0, height, _ROWS):
        here = level[top : top + _ROWS]
        for band in bands:
            row, column = ((here >= band.first) & (here < band.first + len(band.kernels))).nonzero(as_tuple=True)
            if not len(row):
                continue
            at = here[row, column] - band.first
            used, which = torch.unique(at, return_inverse=True)
            margin, length = most - band.reach, 2 * band.reach + 1
            near = wide[:, top + margin : top + len(here) + 2 * most - margin, margin : width + 2 * most - margin]
            weights, mixed = band.kernels[used].expand(len(here), -1, -1), band.kernels[at]
            for channel, rows in enumerate(near.unfold(1, length, 1).transpose(2, 3)):
                down = weights @ rows  # (rows, levels, width and margins): blurred down, as each level asks
                across = down.unfold(2, length, 1)[row, which, column]  # around each pixel, in its own level
                out[channel, top + row, column] = (across * mixed).sum(-1)
    return out.unsqueeze(0)


def levels(salience: Tensor, size: tuple[int, int], blurred: str) -> Tensor:
    """Return ten times the quotient q of every pixel, int64 (H, W) in 0 to 100, for an 8-bit map (h, w).

    ``q = round(10 s / max s, 1)`` of the upscaled and smoothed map, or of 255 less it.
    """
    s = F.interpolate(salience[None, None], size, mode="bicubic", align_corners=False).clamp_(0, 255)
    if blurred == OBJECT:
        s = 255 - s
    s = gaussian_blur(s, SMOOTH * min(size) / PUBLISHED_SIDE)[0, 0]
    top = s.max()
    return (LEVELS * s / top.masked_fill(top <= 0, 1)).round_().long()


def sigma_of(level: int) -> float:
    """Return the blur of a level: ``(10 - q)^4 / 1000`` with ``q = level / 10``, in pixels of an image of 224."""
    return float((10 - level / 10) ** 4 / 1000)


@dataclass(frozen=True, eq=False)
class _Band:
    """Neighbouring levels, whose kernels (K, 2 reach + 1) end at one distance."""

    first: int
    reach: int
    kernels: Tensor


@lru_cache(maxsize=4)
def _bands(side: int, device: torch.device, dtype: torch.dtype) -> tuple[_Band, ...]:
    """Return the blurs of all levels for images of a shorter side; the last level blurs nothing."""
    share = side / PUBLISHED_SIDE
    ends = [*_CUTS, LEVELS + 1]
    bands = []
    for first, end in zip([0, *_CUTS], ends, strict=True):
        reach = max(1, round(3 * sigma_of(first) * share))  # blurs fall with the level
        point = torch.zeros(1, 1, 2 * reach + 1, 1, device=device, dtype=dtype)
        point[:, :, reach] = 1
        made = [gaussian_blur(point, sigma_of(k) * share) if k < LEVELS else point for k in range(first, end)]
        bands.append(_Band(first, reach, torch.stack([kernel.flatten() for kernel in made])))
    return tuple(bands)
