"""From the bytes of an image to the pixels that a model is given: exactly its input size, 8 bits, RGB."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from salience.data.base import ImageRef, ImageSource, Pixels, RawImage
from salience.data.geometry import source_box
from salience.data.pixels import to_rgb
from salience.data.preprocessing import Preprocessing
from salience.errors import ImagesError

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
_REACH = 3  # pixels, of the coarser grid, to either side: lanczos, the widest of them


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image as the model gets it.

    Parameters
    ----------
    pixels
        uint8 (H, W, 3) in [0, 255], H and W being the model's input size; or float32 (H, W, 3) in [0, 1] for images
        that were given as floats.
    content_hash
        Names the content of the original.
    width, height
        Size of the original in pixels, after its EXIF rotation.
    """

    pixels: Pixels
    content_hash: str
    width: int
    height: int


def load(source: ImageSource, ref: ImageRef, preprocessing: Preprocessing) -> LoadedImage:
    """Read and decode one image.

    Raises
    ------
    ImagesError
        When it cannot be read or decoded; the message names the file and the cause.
    """
    return decode(source.read(ref), preprocessing)


def decode(raw: RawImage, preprocessing: Preprocessing) -> LoadedImage:
    """Decode an image and bring it to the model's input size.

    The part that the model sees is resampled straight from the original, once and antialiased. Pillow computes the
    same weights for it as for resizing everything and cropping afterwards, so the result is that of torchvision's
    ``Resize`` and ``CenterCrop``, apart from roundings of one grey level in less than one pixel of a hundred (of two in
    single pixels). Two exceptions: for images several times as tall as wide, recent versions of Pillow swap their two
    passes, which makes 0.3 grey levels on average; and ``nearest`` and ``box`` jump instead of rounding: where two
    pixels of the original are equally near, they may take the other one.

    Raises
    ------
    ImagesError
        When the image is broken, truncated, empty or too large to be genuine, when it is no image, or when it is
        made of floats and does not have the model's size. The message names the image and the cause.
    """
    if isinstance(raw.data, np.ndarray) and raw.data.dtype == np.float32:
        height, width = raw.data.shape[:2]
        check_float_size(height, width, preprocessing, raw.where)
        return LoadedImage(raw.data, raw.content_hash, width, height)
    if isinstance(raw.data, np.ndarray) and (raw.fitted or _is_whole(raw.data, preprocessing)):
        rows, columns = preprocessing.size
        return LoadedImage(raw.data, raw.content_hash, columns, rows)
    try:
        image = _open_bytes(raw.data) if isinstance(raw.data, bytes) else Image.fromarray(raw.data)
        pixels = np.array(_resize(image, preprocessing))
    except Exception as error:  # Pillow raises all kinds of errors on broken files; each is about this one image
        raise ImagesError(f"{raw.where}: {_cause(error, raw.data)}.") from error
    return LoadedImage(pixels, raw.content_hash, image.width, image.height)


def decode_whole(raw: RawImage) -> Pixels:
    """Decode an image at its own size: uint8 (H, W, 3), or float32 as it was given.

    Raises
    ------
    ImagesError
        When the image cannot be decoded; the message names the image and the cause.
    """
    if isinstance(raw.data, np.ndarray):
        return raw.data
    try:
        return np.array(_open_bytes(raw.data))
    except Exception as error:  # as above
        raise ImagesError(f"{raw.where}: {_cause(error, raw.data)}.") from error


def check_float_size(height: int, width: int, preprocessing: Preprocessing, where: str) -> None:
    """Refuse float images that do not have the model's input size."""
    rows, columns = preprocessing.size
    if (height, width) != (rows, columns):
        raise ImagesError(
            f"{where}: float images are taken as they are, so they must be {rows}x{columns} (height x width), the "
            f"model's input size, not {height}x{width}. Give uint8 pixels, which are resized, or resize them before."
        )


def _is_whole(pixels: Pixels, preprocessing: Preprocessing) -> bool:
    """Tell whether pixels are what the model sees already, so that resampling would change nothing."""
    rows, columns = preprocessing.size
    whole = (0.0, 0.0, float(columns), float(rows))
    return pixels.shape[:2] == (rows, columns) and source_box(columns, rows, preprocessing) == whole


def _resize(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    rows, columns = preprocessing.size
    resample = _FILTERS[preprocessing.interpolation]
    x0, y0, x1, y1 = source_box(image.width, image.height, preprocessing)
    reach = _REACH * max(1.0, (y1 - y0) / rows) + 1
    top, bottom = max(0, math.floor(y0 - reach)), min(image.height, math.ceil(y1 + reach))
    if bottom - top < image.height:
        image = image.crop((0, top, image.width, bottom))  # the other rows touch nothing that is kept
    # Across, then down, as Pillow resizes whole images. In one call its recent versions swap the passes for some
    # windows, and as it rounds and clips between them, single pixels would come out up to nine grey levels apart.
    across = image.resize((columns, image.height), resample, box=(x0, 0, x1, image.height))
    return across.resize((columns, rows), resample, box=(0, y0 - top, columns, y1 - top))


def _open_bytes(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        # Pillow itself only warns up to twice its limit; a warning nobody reads does not save the machine.
        if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError
        return to_rgb(image)


def _cause(error: Exception, data: bytes | Pixels) -> str:
    """Say in words why an image could not be decoded."""
    if isinstance(error, ImagesError):
        return str(error).rstrip(".")
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        limit = Image.MAX_IMAGE_PIXELS or 0
        return f"it has more than {limit:,} pixels, Pillow's limit against files made to fill the memory; shrink it"
    if isinstance(data, bytes):
        if not data:
            return "the file is empty (0 bytes)"
        if data.startswith(b"version https://git-lfs"):
            return "the file is a Git LFS pointer, not the image: run 'git lfs pull'"
        if data[:200].lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
            return "the file is a web page, not an image: the download went wrong"
        if isinstance(error, UnidentifiedImageError):
            return "the file is not an image of a kind that Pillow reads"
    text = str(error).strip().rstrip(".") or type(error).__name__
    return f"the image is broken: {text}"
