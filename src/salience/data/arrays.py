"""Images that are in memory: arrays, tensors, lists of them, PIL images, and .npz files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from salience.data.base import ImageRef, ImageSource, Label, Pixels, RawImage, hash_content, label_names_of
from salience.data.decode import check_float_size
from salience.data.files import check_labels
from salience.data.labels import parse_labels
from salience.data.pixels import to_rgb
from salience.data.preprocessing import Preprocessing
from salience.errors import ImagesError, nearest

Item = NDArray[np.uint8] | NDArray[np.float32] | Image.Image


@dataclass(eq=False)
class ArraySource(ImageSource):
    """Images in memory.

    Parameters
    ----------
    items
        For each image uint8 pixels (H, W, 3), float32 pixels (H, W, 3) in [0, 1], or a PIL image.
    mtime_ns
        Modification time of the file they came from; 0 where there is none.
    """

    items: Sequence[Item] | Pixels = ()
    mtime_ns: int = 0

    def stamp(self, ref: ImageRef) -> tuple[int, int]:
        """Return (bytes of the pixels, modification time of the .npz file, or 0 for images without a file)."""
        item = self.items[ref.index]
        if isinstance(item, Image.Image):
            return item.width * item.height * len(item.getbands()), self.mtime_ns
        return item.nbytes, self.mtime_ns

    def read(self, ref: ImageRef) -> RawImage:
        """Return the pixels as a contiguous array."""
        item = self.items[ref.index]
        if isinstance(item, Image.Image):
            try:
                item = np.asarray(to_rgb(item))
            except Exception as error:  # an opened file is only decoded here, and may be broken in any way
                raise ImagesError(f"{ref.where}: the image is broken: {error}.") from error
        pixels = np.ascontiguousarray(item)
        return RawImage(pixels, hash_content(pixels), ref.where)

    def check(self, preprocessing: Preprocessing) -> None:
        """Refuse float images that do not have the model's size."""
        for ref in self.refs:
            item = self.items[ref.index]
            if isinstance(item, Image.Image) or item.dtype != np.float32:
                continue
            check_float_size(item.shape[0], item.shape[1], preprocessing, ref.where)
            if isinstance(self.items, np.ndarray):
                return  # all images of one array have one size


def open_npz(path: Path, *, limit: int | None, location: str) -> ArraySource:
    """Open an ``.npz`` file: ``images``, and perhaps ``labels`` and ``classes`` (the names of class indices).

    Raises
    ------
    ImagesError
        When it is damaged, holds pickled objects, has no ``images``, or these are no images.
    """
    try:
        # Never unpickle: opening a file of images must not be able to run code.
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it holds a single array without a name")
        with loaded as archive:
            arrays = {name: archive[name] for name in ("images", "labels", "classes") if name in archive.files}
            names = list(archive.files)
    except Exception as error:  # zipfile, zlib and NumPy raise all kinds of errors on broken archives
        raise ImagesError(f"{location} cannot be read as an .npz file of plain arrays: {error}.") from error
    if "images" not in arrays:
        raise ImagesError(
            f"{location} has no array 'images'. It holds {', '.join(map(repr, names)) or 'nothing'}."
            + nearest("images", names)
        )
    labels = None
    if "labels" in arrays:
        given = _flat(arrays["labels"], f"'labels' of {location}")
        labels = parse_labels(given, lambda i: f"labels[{i}] of {location}")
    titles: Mapping[Label, str] = {}
    if "classes" in arrays:
        titles = {i: str(name) for i, name in enumerate(_flat(arrays["classes"], f"'classes' of {location}"))}
    source = open_array(arrays["images"], labels, limit, where=f"'images' of {location}")
    source.kind, source.location, source.titles = "npz", location, titles
    source.mtime_ns = path.stat().st_mtime_ns
    return source


def open_array(
    images: Any, labels: Sequence[Label | None] | None, limit: int | None, *, where: str = "The array of images"
) -> ArraySource:
    """Open one array or tensor of images: uint8 (N, H, W, 3), or float (N, 3, H, W) in [0, 1].

    Raises
    ------
    ImagesError
        When shape, type or values are not those of images; the message names the first bad image.
    """
    array = _to_numpy(images, where)
    location = f"{array.dtype} array {array.shape}"
    if array.ndim == 3 and 3 in (array.shape[0], array.shape[2]):
        raise ImagesError(
            f"{where} has the shape {array.shape}, which may be one image or several grey ones: give [image] for one, "
            "images[..., None] for grey ones."
        )
    pixels, note = _channels_last(array, stacked=True, where=where)
    if not pixels.shape[0]:
        raise ImagesError(f"{where} is empty.")
    values = check_labels(labels, len(pixels))
    pixels = pixels[:limit]
    ids = [f"{i:06d}" for i in range(len(pixels))]
    if pixels.dtype != np.uint8:
        for image_id, image in zip(ids, pixels, strict=True):
            _check_range(image, f"Image {image_id}")
    return ArraySource(
        kind="array",
        location=location,
        refs=[ImageRef(i, name, label, None) for i, (name, label) in enumerate(zip(ids, values, strict=False))],
        label_names=label_names_of(values),
        note=note,
        items=_storable(pixels),
    )


def open_items(images: Sequence[Any], labels: Sequence[Label | None] | None, limit: int | None) -> ArraySource:
    """Open a list of PIL images or of arrays or tensors of one image each; their sizes may differ.

    Raises
    ------
    ImagesError
        When an item is no image; the message names the first one.
    """
    values = check_labels(labels, len(images))
    items: list[Item] = []
    notes: dict[str, None] = {}
    for index, image in enumerate(images[:limit]):
        where = f"Image {index:06d}"
        if isinstance(image, Image.Image):
            items.append(image)
            continue
        if not hasattr(image, "shape"):
            raise ImagesError(f"{where} is {type(image).__name__}: give paths, PIL images, arrays or tensors.")
        pixels, note = _channels_last(_to_numpy(image, where), stacked=False, where=where)
        if pixels.dtype != np.uint8:
            _check_range(pixels, where)
        items.append(_storable(pixels))
        notes.update({note: None} if note else {})
    refs = [ImageRef(i, f"{i:06d}", label, None) for i, label in zip(range(len(items)), values, strict=False)]
    return ArraySource(
        kind="array",
        location=f"list of {len(images)} images",
        refs=refs,
        label_names=label_names_of(values),
        note=" ".join(notes),
        items=items,
    )


def _to_numpy(images: Any, where: str) -> NDArray[Any]:
    """Return an array for an array or a tensor of any framework that offers detach, cpu and numpy."""
    if all(hasattr(images, name) for name in ("detach", "cpu", "numpy")):
        try:
            images = images.detach().cpu().numpy()
        except TypeError as error:
            raise ImagesError(f"{where} has the type {images.dtype}: give uint8 or float32.") from error
    array = np.asarray(images)
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise ImagesError(f"{where} has the type {array.dtype}: give uint8 in [0, 255] or floats in [0, 1].")
    return array


def _channels_last(array: NDArray[Any], *, stacked: bool, where: str) -> tuple[NDArray[Any], str]:
    """Return images (..., H, W, 3) and what was assumed about them.

    uint8 images have their channels last and float images have them first, as is the custom; the other order is
    recognised where no other reading is possible. Grey images get three equal channels.
    """
    dims = 4 if stacked else 3
    custom = "uint8 (N, H, W, 3) or float (N, 3, H, W)" if stacked else "uint8 (H, W, 3) or float (3, H, W)"
    whole = array.dtype == np.uint8
    if array.ndim == dims - 1:
        if min(array.shape[-2:]) == 0:
            raise ImagesError(f"{where} has the shape {array.shape}: there are no pixels.")
        grey = np.broadcast_to(array[..., None], (*array.shape, 3))
        return grey, "The array was read as grey images, one channel."
    if array.ndim != dims:
        raise ImagesError(f"{where} has the shape {array.shape}: give {custom}.")
    first, last = array.shape[-3], array.shape[-1]
    if 0 in array.shape[-3:]:
        raise ImagesError(f"{where} has the shape {array.shape}: there are no pixels.")
    for channels in (3, 1):
        last_fits, first_fits = last == channels, first == channels
        if not (last_fits or first_fits):
            continue
        channels_first = first_fits and not (whole and last_fits)
        moved = np.moveaxis(array, -3, -1) if channels_first else array
        note = ""
        if channels_first == whole:
            note = f"The array was read with its channels {'first' if channels_first else 'last'}, as {array.shape}."
        if channels == 1:
            moved = np.broadcast_to(moved, (*moved.shape[:-1], 3))
            note = f"{note} The array was read as grey images, one channel.".strip()
        return moved, note
    raise ImagesError(f"{where} has the shape {array.shape}, no side of which can be 3 colour channels: give {custom}.")


def _check_range(image: NDArray[Any], where: str) -> None:
    low, high = float(image.min()), float(image.max())
    if np.isnan(low) or np.isnan(high):
        raise ImagesError(f"{where} holds values that are not numbers (NaN).")
    if low < 0 or high > 1:
        cure = "divide by 255, or give uint8" if low >= 0 and high <= 255 else "give pixels before normalisation"
        raise ImagesError(f"{where} has float values from {low:.4g} to {high:.4g}: [0, 1] is needed; {cure}.")


def _storable(pixels: NDArray[Any]) -> Pixels:
    if pixels.dtype == np.uint8:
        return cast(NDArray[np.uint8], pixels)
    return pixels.astype(np.float32, copy=False)


def _flat(array: NDArray[Any], where: str) -> list[Any]:
    if array.ndim != 1:
        raise ImagesError(f"{where} has the shape {array.shape}: one value for each is needed.")
    return cast(list[Any], array.tolist())
