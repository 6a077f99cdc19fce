"""Two colour scales, one for each sign convention, and nothing else.

Both are built in OKLab (B. Ottosson, 2020), where equal steps look equal. Non-negative maps go from black through
plum and orange to pale yellow, with lightness rising evenly. Signed maps go from blue through near-white at exactly
zero to red-orange, equally dark on both sides, and differ along the blue-yellow axis that all common colour vision
deficiencies keep.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Scale = Literal["sequential", "diverging"]
Floats = npt.NDArray[np.floating]
Bytes = npt.NDArray[np.uint8]

SEQUENTIAL_STEPS = 256
DIVERGING_STEPS = 255
"""Odd, so that zero has a step of its own."""

# Position, hue in degrees, chroma: lightness is linear between the ends, hue and chroma between these points.
_SEQUENTIAL = (
    (0.0, 285, 0.02),
    (0.2, 297, 0.13),
    (0.42, 345, 0.19),
    (0.62, 395, 0.19),
    (0.8, 425, 0.16),
    (1.0, 465, 0.07),
)
_SEQUENTIAL_LIGHTNESS = (0.06, 0.975)
_BLUE, _RED = 256.0, 33.0
_DIVERGING_LIGHTNESS = (0.975, 0.43)
_DIVERGING_CHROMA = 0.185

_TO_LMS = np.array(
    [[1.0, 0.3963377774, 0.2158037573], [1.0, -0.1055613458, -0.0638541728], [1.0, -0.0894841775, -1.2914855480]]
)
_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def scale_of(signed: bool) -> Scale:
    """Return the name of the colour scale for maps that are signed, or not."""
    return "diverging" if signed else "sequential"


@cache
def table(scale: Scale) -> Bytes:
    """Return the colours of a scale from its lowest value to its highest: uint8 (steps, 3), sRGB, read-only."""
    if scale == "sequential":
        at = np.linspace(0, 1, SEQUENTIAL_STEPS)
        places, hues, chromas = np.array(_SEQUENTIAL).T
        low, high = _SEQUENTIAL_LIGHTNESS
        colours = _to_srgb(low + (high - low) * at, np.interp(at, places, chromas), np.interp(at, places, hues))
    else:
        at = np.linspace(-1, 1, DIVERGING_STEPS)
        middle, end = _DIVERGING_LIGHTNESS
        size = np.abs(at)
        colours = _to_srgb(
            middle + (end - middle) * size, _DIVERGING_CHROMA * size**0.75, np.where(at < 0, _BLUE, _RED)
        )
    colours.flags.writeable = False
    return colours


def _to_srgb(lightness: Floats, chroma: Floats, hue: Floats) -> Bytes:
    """Turn OKLCh into sRGB; where a colour does not exist in sRGB, chroma gives way and lightness and hue stay."""
    low, high = np.zeros_like(chroma), np.array(chroma)
    for _ in range(24):
        middle = (low + high) / 2
        linear = _linear(lightness, middle, hue)
        fits = ((linear >= -1e-6) & (linear <= 1 + 1e-6)).all(axis=-1)
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    linear = _linear(lightness, low, hue).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    colours: Bytes = np.rint(encoded * 255).astype(np.uint8)
    return colours


def _linear(lightness: Floats, chroma: Floats, hue: Floats) -> Floats:
    angle = np.deg2rad(hue)
    lab = np.stack([lightness, chroma * np.cos(angle), chroma * np.sin(angle)], axis=-1)
    linear: Floats = (lab @ _TO_LMS.T) ** 3 @ _TO_RGB.T
    return linear


def colourise(values: Floats, scale: Scale) -> Bytes:
    """Colour maps that are scaled already.

    Parameters
    ----------
    values
        (..., h, w) in [0, 1] for the sequential scale, in [-1, 1] for the diverging one; what lies beyond takes the
        colour of the end, and what is no number that of zero.
    scale
        Which of the two.

    Returns
    -------
    Bytes
        uint8 (..., h, w, 3), sRGB.
    """
    colours = table(scale)
    share = np.nan_to_num(values) if scale == "sequential" else (np.nan_to_num(values) + 1) / 2
    coloured: Bytes = colours[np.rint(share.clip(0, 1) * (len(colours) - 1)).astype(np.intp)]
    return coloured


def css_gradient(scale: Scale, stops: int = 17) -> str:
    """Return the scale as a CSS ``linear-gradient`` from left to right."""
    colours = table(scale)
    chosen = colours[np.linspace(0, len(colours) - 1, stops).round().astype(int)]
    return f"linear-gradient(90deg, {', '.join(f'#{r:02x}{g:02x}{b:02x}' for r, g, b in chosen.tolist())})"
