"""The one door for images: a folder, a manifest, an archive, arrays, tensors or lists become an image source."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from salience.data.arrays import open_array, open_items, open_npz
from salience.data.base import ImageRef, ImageSource, RawImage
from salience.data.files import SUFFIXES, open_folder, open_paths
from salience.data.labels import parse_labels
from salience.data.manifest import MANIFEST_NAMES, open_manifest
from salience.errors import ImagesError, SettingsError, nearest

__all__ = ["ImageRef", "ImageSource", "RawImage", "open_images"]

_ACCEPTED = (
    "a folder, a manifest (.csv, .parquet), an .npz file, an image file, an array or tensor of images, "
    "or a list of paths, PIL images or arrays"
)


def open_images(
    images: Any,
    *,
    columns: Mapping[str, str] | None = None,
    labels: Sequence[int | str | None] | None = None,
    limit: int | None = None,
) -> ImageSource:
    """Open images of any accepted kind; nothing is decoded yet.

    Parameters
    ----------
    images
        - An image source that is open already: it is taken as it is.
        - A folder. Its sub-folders are the classes (images at any depth below them belong to them); images directly
          in it have no label. A ``labels``, ``metadata`` or ``manifest`` file (.csv or .parquet) in it is used as its
          manifest instead. Hidden files and files without an image suffix are passed over.
        - A manifest: see :func:`salience.data.manifest.open_manifest` for its columns. Files that are missing on disk
          are no error here; they fail one by one when they are read.
        - An ``.npz`` file with ``images``, uint8 (N, H, W, 3), and perhaps ``labels`` and ``classes``.
        - An image file.
        - A uint8 array or tensor (N, H, W, 3): resized like files. Grey (N, H, W) and channels first (N, 3, H, W) are
          recognised where they cannot be mistaken, and the source's ``note`` says so.
        - A float array or tensor (N, 3, H, W) in [0, 1]: taken as it is, so it must have the model's input size.
        - A list of paths, of PIL images, or of arrays of one image each.
    columns
        For a manifest: which of its columns is what, as ``{"label": "wnid"}``.
    labels
        For arrays and lists: one class index or class name for each image, None where unknown.
    limit
        Take the first N images in the source's order. For a folder of classes, take them in turn from each class, so
        that few images still show many classes; they keep the source's order, and image ids never change.

    Raises
    ------
    ImagesError
        When there is nothing there, no image in it, or its description cannot be understood.
    SettingsError
        When ``limit`` is below one.
    """
    if limit is not None and limit < 1:
        raise SettingsError(f"limit is {limit}: give 1 or more, or leave it out for all images.")
    if isinstance(images, ImageSource):
        if limit is not None or columns is not None or labels is not None:
            raise ImagesError("An open image source has its limit, columns and labels: give them where it is opened.")
        return images
    if isinstance(images, (str, os.PathLike)):
        if labels is not None:
            raise ImagesError(
                "labels= goes with arrays and lists. Labels of files come from their class folders or from a manifest."
            )
        return _open_path(str(images), columns, limit)
    if columns is not None:
        raise ImagesError(f"Columns belong to a manifest, but the images are given as {type(images).__name__}.")
    values = None if labels is None else parse_labels(labels, lambda i: f"labels[{i}]")
    if isinstance(images, Image.Image):
        images = [images]
    if hasattr(images, "shape"):
        return open_array(images, values, limit)
    if not isinstance(images, Sequence) or isinstance(images, (bytes, bytearray)):
        raise ImagesError(f"Images are given as {type(images).__name__}: give {_ACCEPTED}.")
    if not images:
        raise ImagesError("The list of images is empty.")
    paths = [isinstance(item, (str, os.PathLike)) for item in images]
    if all(paths):
        return open_paths([str(item) for item in images], values, limit)
    if any(paths):
        raise ImagesError("The list mixes paths with images: give either paths or images.")
    return open_items(images, values, limit)


def _open_path(given: str, columns: Mapping[str, str] | None, limit: int | None) -> ImageSource:
    path = Path(given).expanduser()
    if not path.exists():
        raise ImagesError(_not_there(given, path))
    manifest: Path | None = path if path.suffix.lower() in (".csv", ".parquet") else None
    if path.is_dir():
        found = [path / name for name in MANIFEST_NAMES if (path / name).is_file()]
        if len(found) > 1:
            names = ", ".join(p.name for p in found)
            raise ImagesError(f"{given} holds several manifests ({names}): give the path of the one to use.")
        manifest = found[0] if found else None
    if manifest is not None:
        return open_manifest(manifest, columns=columns, limit=limit, location=given)
    if columns is not None:
        raise ImagesError(f"Columns belong to a manifest (.csv, .parquet), but {given} is none and holds none.")
    if path.is_dir():
        return open_folder(path, limit=limit, location=given)
    if path.suffix.lower() == ".npz":
        return open_npz(path, limit=limit, location=given)
    if path.suffix.lower() in SUFFIXES:
        return open_paths([str(path)], None, limit, ids=[path.name], location=given)
    raise ImagesError(f"{given} is a {path.suffix or 'file without a suffix'}: give {_ACCEPTED}.")


def _not_there(given: str, path: Path) -> str:
    parent = path.absolute().parent
    while not parent.is_dir():
        path, parent = parent, parent.parent
    try:
        siblings = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
    except OSError:
        siblings = []
    near = nearest(path.name, siblings)
    if not near and siblings:
        near = f" {parent} holds {', '.join(siblings[:5])}{', ...' if len(siblings) > 5 else ''}."
    return f"{given} does not exist.{near}"
