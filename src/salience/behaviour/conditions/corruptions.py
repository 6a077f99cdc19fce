"""Corruptions at five severities each: their strengths are those of ImageNet-C.

Hendrycks and Dietterich, ICLR 2019 (arXiv 1903.12261). They are told for images of 224 pixels. Ours: images stay
floats (ImageNet-C saves them as JPEG files once more), and a blur's standard deviation goes with the shorter side.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from salience.behaviour.conditions.condition import PUBLISHED_SIDE, DeviceCondition, HostCondition, alone
from salience.behaviour.conditions.registry import register
from salience.data.base import Pixels
from salience.engine.fills import gaussian_blur
from salience.engine.random import normal, row_key
from salience.errors import SettingsError

IMAGENET_C = "Hendrycks and Dietterich, ICLR 2019 (arXiv 1903.12261)"
SEVERITIES = (1, 2, 3, 4, 5)

NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)
"""Standard deviations, of pixels in [0, 1]."""
BLUR = (1.0, 2.0, 3.0, 4.0, 6.0)
"""Standard deviations in pixels of an image of 224."""
QUALITY = (25, 18, 15, 10, 7)
"""JPEG qualities, 1 to 95."""
BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""What is added to the value of the colour model HSV, 0 to 1."""
CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
"""What deviations from the mean colour are multiplied by."""


@dataclass(frozen=True)
class _Severe:
    """Five of a kind."""

    level: int

    def __post_init__(self) -> None:
        if self.level not in SEVERITIES:
            raise SettingsError(f"The severity is {self.level}: there are 1 to 5.")

    @property
    def severity(self) -> float:
        """1 to 5."""
        return float(self.level)


@register(
    "gaussian-noise",
    lambda: [GaussianNoise(level) for level in SEVERITIES],
    family="corruption",
    measure="out-of-set",
    summary="Normal noise on every value, clipped to [0, 1]",
    reference=IMAGENET_C,
    details="Published (ImageNet-C): the standard deviations. Ours: one draw an image, scaled by the severity.",
    drawn=True,
)
@dataclass(frozen=True)
class GaussianNoise(_Severe, DeviceCondition):
    """Gaussian noise. Published (ImageNet-C): the standard deviations. Ours: the same draw for all severities."""

    @property
    def name(self) -> str:
        """Such as ``gaussian-noise-3``."""
        return f"gaussian-noise-{self.level}"

    def change(self, pixels: Tensor, image_ids: Sequence[str], seed: int) -> Tensor:
        """Add the noise of each image."""
        keys = [row_key(seed, "gaussian-noise", image_id) for image_id in image_ids]
        noise = normal(keys, pixels.shape[1:], pixels.device).to(pixels.dtype)
        return noise.mul_(NOISE[self.level - 1]).add_(pixels).clamp_(0, 1)


@register(
    "blur",
    lambda: [Blur(level) for level in SEVERITIES],
    family="corruption",
    measure="out-of-set",
    summary="A Gaussian blur",
    reference=IMAGENET_C,
    details="Published (ImageNet-C): the standard deviations, at 224 pixels. Ours: they go with the shorter side; the "
    "kernel ends at three of them, borders are replicated.",
)
@dataclass(frozen=True)
class Blur(_Severe, DeviceCondition):
    """Gaussian blur. Published (ImageNet-C): the deviations at 224 pixels. Ours: they go with the shorter side."""

    @property
    def name(self) -> str:
        """Such as ``blur-3``."""
        return f"blur-{self.level}"

    def change(self, pixels: Tensor, image_ids: Sequence[str], seed: int) -> Tensor:
        """Blur each image by itself: products of matrices may sum in an order that the batch decides."""
        sigma = BLUR[self.level - 1] * min(pixels.shape[-2:]) / PUBLISHED_SIDE
        return torch.cat([gaussian_blur(alone(image), sigma) for image in pixels])


@register(
    "jpeg",
    lambda: [Jpeg(level) for level in SEVERITIES],
    family="corruption",
    measure="out-of-set",
    summary="Compression to a JPEG file of low quality, at the size of the model's input",
    reference=IMAGENET_C,
    details="Published (ImageNet-C): the qualities, after resizing. Images that were given as floats are rounded to 8 "
    "bits.",
)
@dataclass(frozen=True)
class Jpeg(_Severe, HostCondition):
    """JPEG compression. Published (ImageNet-C): the qualities, at the size of the model's input."""

    @property
    def name(self) -> str:
        """Such as ``jpeg-3``."""
        return f"jpeg-{self.level}"

    def read(self, image: Pixels, image_id: str, seed: int) -> Pixels:
        """Return what an image is after it was saved and read again."""
        whole = image.dtype == np.uint8
        levels = image if whole else (image * np.float32(255)).round().astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(levels).save(file, format="JPEG", quality=QUALITY[self.level - 1])
        again = np.array(Image.open(file).convert("RGB"))
        return again if whole else again.astype(np.float32) / np.float32(255)


@register(
    "brightness",
    lambda: [Brightness(level) for level in SEVERITIES],
    family="corruption",
    measure="out-of-set",
    summary="Brighter: more value in the colour model HSV, hue and saturation kept",
    reference=IMAGENET_C,
    details="Published (ImageNet-C): what is added to the value.",
)
@dataclass(frozen=True)
class Brightness(_Severe, DeviceCondition):
    """Brightness. Published (ImageNet-C): what is added to the value of the colour model HSV, clipped to [0, 1]."""

    @property
    def name(self) -> str:
        """Such as ``brightness-3``."""
        return f"brightness-{self.level}"

    def change(self, pixels: Tensor, image_ids: Sequence[str], seed: int) -> Tensor:
        """Scale colours to their new value, the largest of the channels: that keeps hue and saturation."""
        value = pixels.amax(1, keepdim=True)
        brighter = (value + BRIGHTNESS[self.level - 1]).clamp_(0, 1)
        dark = value <= 0
        scaled = pixels * (brighter / value.masked_fill(dark, 1))
        return torch.where(dark, brighter, scaled).clamp_(0, 1)


@register(
    "contrast",
    lambda: [Contrast(level) for level in SEVERITIES],
    family="corruption",
    measure="out-of-set",
    summary="Less contrast: colours come nearer to the image's mean colour",
    reference=IMAGENET_C,
    details="Published (ImageNet-C): what deviations from the mean colour are multiplied by.",
)
@dataclass(frozen=True)
class Contrast(_Severe, DeviceCondition):
    """Contrast. Published (ImageNet-C): what deviations from the image's mean colour are multiplied by."""

    @property
    def name(self) -> str:
        """Such as ``contrast-3``."""
        return f"contrast-{self.level}"

    def change(self, pixels: Tensor, image_ids: Sequence[str], seed: int) -> Tensor:
        """Shrink towards the mean colour of each image, which is summed by itself."""
        means = torch.cat([alone(image).mean((2, 3), keepdim=True) for image in pixels])
        return (pixels - means).mul_(CONTRAST[self.level - 1]).add_(means).clamp_(0, 1)
