"""Where the model's input lies in the original image: one computation for pixels and for boxes."""

from __future__ import annotations

from dataclasses import dataclass

from salience.data.base import Box
from salience.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class Frame:
    """The resized image and the model's window in it, in pixels.

    Parameters
    ----------
    width, height
        Size to which the whole image is resized.
    left, top
        Upper left corner of the model's input in the resized image.
    """

    width: int
    height: int
    left: int
    top: int


def place(width: int, height: int, preprocessing: Preprocessing) -> Frame:
    """Return where the model's input lies once an image of ``width`` x ``height`` pixels is resized.

    The roundings are torchvision's: ``Resize`` truncates the long side, ``CenterCrop`` rounds half to even. For an
    input that is not square, the side that would otherwise fall short is the one that is fitted.
    """
    rows, columns = preprocessing.size
    if preprocessing.fit == "squash":
        return Frame(columns, rows, 0, 0)
    # 224 / (224 / 232) is 231.99999999999997: the nudge undoes what dividing twice does, and moves nothing else.
    short_h, short_w = (int(side / preprocessing.crop + 1e-6) for side in (rows, columns))
    if width * short_h <= height * short_w:
        new_w, new_h = short_w, int(short_w * height / width)
    else:
        new_w, new_h = int(short_h * width / height), short_h
    return Frame(new_w, new_h, round((new_w - columns) / 2), round((new_h - rows) / 2))


def source_box(width: int, height: int, preprocessing: Preprocessing) -> Box:
    """Return the part of the original image that the model sees, as (x0, y0, x1, y1) in its pixels."""
    frame = place(width, height, preprocessing)
    rows, columns = preprocessing.size
    across, down = width / frame.width, height / frame.height
    return (
        frame.left * across,
        frame.top * down,
        min((frame.left + columns) * across, float(width)),
        min((frame.top + rows) * down, float(height)),
    )


def box_to_input(box: Box, width: int, height: int, preprocessing: Preprocessing) -> Box:
    """Map a box from the original image to the model's input.

    Parameters
    ----------
    box
        (x0, y0, x1, y1) in pixels of the original image, after its EXIF rotation.
    width, height
        Size of that image, as :class:`~salience.data.decode.LoadedImage` tells it.
    preprocessing
        The model's preprocessing.

    Returns
    -------
    Box
        (x0, y0, x1, y1) in pixels of the input, clipped to it. A box that lies outside of the crop comes back
        without area: x0 equals x1, or y0 equals y1.
    """
    frame = place(width, height, preprocessing)
    rows, columns = preprocessing.size

    def clip(value: float, high: int) -> float:
        return min(max(value, 0.0), float(high))

    x0, y0, x1, y1 = box
    across, down = frame.width / width, frame.height / height
    return (
        clip(x0 * across - frame.left, columns),
        clip(y0 * down - frame.top, rows),
        clip(x1 * across - frame.left, columns),
        clip(y1 * down - frame.top, rows),
    )
