"""Any image that Pillow opens, as upright 8-bit RGB: the way into the house for strange files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from salience.errors import ImagesError

_ORIENTATION = 0x0112  # the EXIF tag
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(image: Image.Image) -> Image.Transpose | None:
    """Return the turn that shows an image upright, as its EXIF data asks for it; None for none.

    EXIF data that cannot be parsed is taken for no EXIF data: the pixels are good, and viewers show them as they are.
    """
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow's parser raises a dozen kinds of errors on broken EXIF data
        return None


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the first frame of an image as RGB, upright.

    Transparent parts are laid on white. 16-bit values are scaled by 255 / 65535, never clipped. Colour profiles are
    not applied, as the usual training pipelines do not apply them.

    Raises
    ------
    ImagesError
        When the values have no agreed range (32-bit integers, floats outside [0, 1]).
    Exception
        Whatever Pillow raises on a broken file; :func:`salience.data.decode.decode` turns it into an ImagesError.
    """
    image.load()
    turn = orientation(image)  # after load(): Pillow turns a TIFF itself then, and removes the tag
    rgb = _colours(image)
    return rgb if turn is None else rgb.transpose(turn)


def _colours(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _from_levels(image, 2 ** _bits(image) - 1)
    if image.mode == "I":
        # Pillow gives 16-bit PNG and PGM files as 32-bit integers, depending on its version.
        if image.format not in ("PNG", "PPM"):
            raise ImagesError("it holds 32-bit integers, which have no agreed range: save it with 8 or 16 bits")
        return _from_levels(image, 65535)
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):
            raise ImagesError("it holds floats outside [0, 1], which have no agreed range: save it with 8 or 16 bits")
        return _from_grey(image, np.rint(values * 255))
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _tiff_tags(image: Image.Image) -> Mapping[int, Any]:
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    return tags


def _bits(image: Image.Image) -> int:
    """Return how many of the 16 bits are used: microscopes write TIFF files of 12."""
    bits = _tiff_tags(image).get(_BITS_PER_SAMPLE, (16,))[0]
    return int(bits) if 8 < bits < 16 else 16


def _from_levels(image: Image.Image, top: int) -> Image.Image:
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > top:
        raise ImagesError(f"its grey values leave the range 0 to {top}")
    return _from_grey(image, (levels * 255 + top // 2) // top)


def _from_grey(image: Image.Image, values: NDArray[Any]) -> Image.Image:
    if _tiff_tags(image).get(_PHOTOMETRIC) == 0:  # white is zero; Pillow inverts such TIFF files of 8 bits only
        values = 255 - values
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")
