"""Photographs as the model sees them and maps in colour, as small WebP files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from salience.data.base import ImageRef, ImageSource, Pixels, RawImage, hash_content
from salience.data.decode import decode
from salience.data.preprocessing import Preprocessing
from salience.data.source import open_images
from salience.data.tiles import TileSource
from salience.errors import SalienceError
from salience.report.colour import Scale, colourise
from salience.report.gather import Picture
from salience.store.views import clip_scale, upsample

PERCENTILE = 99.5
"""Of a map's absolute values: where its colours end."""

LONGEST = 224
"""Pixels of a picture's longer side; larger inputs are shown smaller."""

TINY = 64
"""Up to this many pixels pictures are stored without loss and shown with their pixels visible."""

_QUALITY = 80
_EFFORT = 2  # of WebP's 0 to 6: half the time of 4 for 2 % more bytes on gradient maps


class Missing(Exception):
    """A photograph that cannot be shown; the text says why."""


def view_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) at which the pictures of a model with this input size are shown."""
    share = min(1.0, LONGEST / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def encode(pixels: npt.NDArray[np.uint8], *, lossless: bool = False) -> bytes:
    """Return uint8 (h, w, 3) as WebP; what is tiny, or must be ``lossless``, loses nothing."""
    out = io.BytesIO()
    whole = lossless or max(pixels.shape[:2]) <= TINY
    Image.fromarray(pixels).save(out, "WEBP", quality=_QUALITY, method=_EFFORT, lossless=whole)
    return out.getvalue()


def draw_photo(pixels: Pixels) -> bytes:
    """Return what a model saw of an image, (H, W, 3), as a WebP picture."""
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels * 255).astype(np.uint8)
    height, width = view_size((pixels.shape[0], pixels.shape[1]))
    if (height, width) != pixels.shape[:2]:
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
        return encode(np.asarray(image))
    return encode(pixels.astype(np.uint8, copy=False))


def draw_map(values: npt.NDArray[np.float32], size: tuple[int, int], scale: Scale) -> bytes:
    """Return a raw map (h, w) as a coloured WebP picture.

    It is scaled by the 99.5th percentile of its own absolute values, so colours compare places within a map, not maps.

    Parameters
    ----------
    values
        The raw map at its native grid.
    size
        The model's input size; a coarser map is enlarged to it, bilinearly.
    scale
        The colour scale.
    """
    scaled = clip_scale(np.nan_to_num(values), PERCENTILE)
    shown = view_size(size)
    if scaled.shape != size and scaled.shape[0] <= shown[0]:
        scaled = upsample(scaled, shown)
    elif scaled.shape != shown:
        resized = Image.fromarray(scaled).resize((shown[1], shown[0]), Image.Resampling.BILINEAR)
        scaled = np.asarray(resized, dtype=np.float32)
    return encode(colourise(scaled, scale))


class Photographs:
    """The images of a run, found again where they lay. Reading is safe from several threads.

    Parameters
    ----------
    images
        What ``run.json`` says about the source.
    """

    def __init__(self, images: Mapping[str, Any], pictures: Sequence[Picture]) -> None:
        self._source: ImageSource | None = None
        self._refs: dict[str, ImageRef] = {}
        self._why = ""
        self._tiles = images.get("kind") == "tiles"
        if any(picture.path is None for picture in pictures):
            location = str(images.get("source", ""))
            self._open(location.removeprefix("tiles of ") if self._tiles else location)

    def _open(self, location: str) -> None:
        try:
            if not Path(location).exists():
                raise Missing("The images were given in memory; only their maps were kept.")
            self._source = open_images(location)
            self._refs = {ref.image_id: ref for ref in self._source.refs}
        except Missing as error:
            self._why = str(error)
        except (SalienceError, OSError, ValueError) as error:
            self._why = f"The images cannot be opened again: {str(error).replace(location, Path(location).name)}"

    def draw(self, picture: Picture, preprocessing: Preprocessing) -> bytes:
        """Return what the model saw of an image as WebP.

        Raises
        ------
        Missing
            When the file is gone, has changed since it was explained, or cannot be decoded.
        """
        return draw_photo(self.pixels(picture, preprocessing))

    def pixels(self, picture: Picture, preprocessing: Preprocessing) -> Pixels:
        """Return what the model saw of an image: uint8 (H, W, 3), or float32 in [0, 1] where it was given so.

        Raises
        ------
        Missing
            When the file is gone, has changed since it was explained, or cannot be decoded.
        """
        raw = self._read(picture, preprocessing)
        if picture.content_hash is not None and raw.content_hash != picture.content_hash:
            raise Missing("The image has changed since it was explained.")
        try:
            return decode(raw, preprocessing).pixels
        except SalienceError as error:
            message = str(error)
            raise Missing(message.replace(picture.path, picture.image_id) if picture.path else message) from error

    def _read(self, picture: Picture, preprocessing: Preprocessing) -> RawImage:
        if picture.path is not None:
            try:
                data = Path(picture.path).read_bytes()
            except FileNotFoundError as error:
                raise Missing("The file is no longer where it was.") from error
            except OSError as error:
                raise Missing(f"The file cannot be read: {error.strerror or error}.") from error
            return RawImage(data, hash_content(data), picture.image_id)
        ref = self._refs.get(picture.image_id)
        pair = self._pair(picture.image_id) if self._tiles and ref is None else None
        if self._source is None or (ref is None and pair is None):
            raise Missing(self._why or "The image is no longer in its source.")
        try:
            if pair is not None:
                tile = ImageRef(0, picture.image_id, None, None)
                return TileSource(
                    "tiles", "", [tile], source=self._source, pairs=[pair], preprocessing=preprocessing
                ).read(tile)
            assert ref is not None
            return self._source.read(ref)
        except SalienceError as error:
            raise Missing(str(error)) from error

    def _pair(self, image_id: str) -> tuple[ImageRef, ImageRef] | None:
        """Return the two images that a tile is named after."""
        words = image_id.split(" + ")
        for cut in range(1, len(words)):
            first, second = (self._refs.get(" + ".join(part)) for part in (words[:cut], words[cut:]))
            if first is not None and second is not None:
                return first, second
        return None
