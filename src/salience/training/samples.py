"""The images of a training: which they are, their classes, who is held out, and their pixels decoded once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from salience.cores import threads
from salience.data.arrays import ArraySource
from salience.data.base import ImageRef, ImageSource
from salience.data.decode import LoadedImage, load
from salience.data.labels import resolve_labels
from salience.data.preprocessing import Preprocessing
from salience.engine.random import row_key
from salience.errors import ImagesError, RunError, SettingsError
from salience.store.files import read_json, write_json

CHUNK = 64
_FEWEST = 3
"""Images of each class that are needed: two to train with, one to validate with."""


@dataclass(frozen=True)
class Samples:
    """Labelled images of a source, in its order.

    Attributes
    ----------
    source
        Where they are read.
    refs
        One reference for each image.
    labels
        Class of each image, int64 (n,).
    classes
        Names of the classes.
    """

    source: ImageSource
    refs: tuple[ImageRef, ...]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.refs)

    def take(self, rows: npt.NDArray[np.int64]) -> Samples:
        """Return some of the images, in the order of ``rows``."""
        return Samples(self.source, tuple(self.refs[i] for i in rows), self.labels[rows], self.classes)


def choose_samples(source: ImageSource, classes: Sequence[str] | None) -> tuple[Samples, list[str]]:
    """Return the images of the classes, and notes on what was assumed and left out.

    Parameters
    ----------
    source
        The images; their labels are resolved as everywhere, see :func:`~salience.data.labels.resolve_labels`.
    classes
        Names of the classes, in the order of the outputs; None for all labels of the source, names sorted.

    Raises
    ------
    ImagesError
        When the images have no labels, or those of one class alone.
    SettingsError
        When class names are fewer than two, or one is named twice.
    """
    names = tuple(classes) if classes is not None else _classes_of(source)
    if len(names) < 2 or len(set(names)) < len(names):
        raise SettingsError(f"The classes are {', '.join(names) or 'none'}: two or more different names are needed.")
    found = resolve_labels(source.refs, source.label_names, names, len(names), titles=source.titles)
    rows = [i for i, value in enumerate(found.values) if value is not None]
    samples = Samples(
        source,
        tuple(source.refs[i] for i in rows),
        np.array([found.values[i] for i in rows], dtype=np.int64),
        names,
    )
    counts = np.bincount(samples.labels, minlength=len(names))
    if not len(samples) or (counts == 0).any():
        empty = ", ".join(repr(n) for n, count in zip(names, counts, strict=True) if not count)
        listed = ", ".join(source.label_names or ()) or "class numbers or none"
        raise ImagesError(
            f"{source.location} has no image of the class {empty}. Its labels are {listed}. Name the classes as the "
            "labels do: --classes A,B."
        )
    left_out = len(source) - len(samples)
    notes = [found.note] if found.note else []
    if left_out:
        notes.append(f"{left_out} of {len(source)} images have none of these classes and are left out.")
    return samples, notes


def _classes_of(source: ImageSource) -> tuple[str, ...]:
    if source.label_names:
        return source.label_names
    numbers = [ref.label for ref in source.refs if isinstance(ref.label, int)]
    if not numbers:
        raise ImagesError(
            f"{source.location} has no labels: give a folder with the classes as sub-folders, or a manifest with them."
        )
    return tuple(source.titles.get(i, str(i)) for i in range(max(numbers) + 1))


def split(samples: Samples, share: float, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the rows to train with and those to validate with: of each class the same share, at least one image.

    Who is held out depends on the image's id and the seed alone, as far as the share allows.

    Raises
    ------
    ImagesError
        When a class has too few images.
    """
    counts = np.bincount(samples.labels, minlength=len(samples.classes))
    if counts.min() < _FEWEST:
        few = ", ".join(f"{n}: {c}" for n, c in zip(samples.classes, counts, strict=True) if c < _FEWEST)
        raise ImagesError(
            f"Too few images to train with ({few}): each class needs {_FEWEST} or more that can be read, one of them "
            "for validation."
        )
    keys = np.array([row_key(seed, "validation", ref.image_id) for ref in samples.refs], dtype=np.uint64)
    held = np.zeros(len(samples), dtype=bool)
    for c, count in enumerate(counts):
        rows = np.flatnonzero(samples.labels == c)
        number = int(np.clip(round(share * count), 1, count - 2))
        held[rows[np.argsort(keys[rows], kind="stable")[:number]]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


# ---------------------------------------------------------------------- arrays on the disk


def digest(*parts: Any) -> str:
    """Return 32 hexadecimal digits that name values that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def array_file(
    path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike, fill: Callable[[npt.NDArray[Any]], None]
) -> npt.NDArray[Any]:
    """Return an array that lies in a file, mapped into memory for reading; one that is not there is made by ``fill``.

    Raises
    ------
    RunError
        When the disk has no room for it, or cannot be written.
    """
    if not path.exists():
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(path.parent).free
            if free < size:
                raise RunError(
                    f"{size / 2**30:.1f} GiB are needed in {path.parent} to keep what is computed once for all runs, "
                    f"and {free / 2**30:.1f} GiB are free. Free some space, or choose another --out."
                )
            array = np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape)
            fill(array)
            array.flush()
            del array
            partial.replace(path)
        except OSError as error:
            raise RunError(f"Cannot write {path}: {error.strerror or error}. Choose another --out.") from error
        finally:
            partial.unlink(missing_ok=True)
    mapped: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    return mapped


@dataclass(frozen=True)
class Decoded:
    """Pixels of images at a model's input size.

    Attributes
    ----------
    samples
        The images that could be read.
    array
        uint8, or float32 in [0, 1], (rows, H, W, 3), mapped from a file.
    places
        Row of the array of each image, int64 (n,).
    sizes
        Width and height of each original, int64 (n, 2).
    key
        Names the content of all this.
    failures
        Image id and message of those that could not be read.
    """

    samples: Samples
    array: npt.NDArray[Any]
    places: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    key: str
    failures: tuple[tuple[str, str], ...]

    def read(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return the pixels (len(rows), H, W, 3) of some images."""
        pixels: npt.NDArray[Any] = self.array[self.places[rows]]
        return pixels


def decode_once(
    samples: Samples, preprocessing: Preprocessing, folder: Path, told: Callable[[int], None] = lambda done: None
) -> Decoded:
    """Decode every image to the model's input size into a file below ``folder``, or find that this was done before.

    ``told`` hears how many images are done. An image that cannot be read becomes a failure, not an error.

    Raises
    ------
    ImagesError
        When no image can be read.
    RunError
        When the disk has no room.
    """
    samples.source.check(preprocessing)
    key = digest("pixels 1", preprocessing.to_dict(), [_stamp(samples.source, ref) for ref in samples.refs])
    path, record = folder / f"pixels-{key}.npy", folder / f"pixels-{key}.json"
    floating = _is_floating(samples.source)
    if not record.exists():
        path.unlink(missing_ok=True)

    def fill(array: npt.NDArray[Any]) -> None:
        write_json(record, _decode_into(array, samples, preprocessing, told))

    rows, columns = preprocessing.size
    array = array_file(path, (len(samples), rows, columns, 3), np.float32 if floating else np.uint8, fill)
    known = read_json(record)
    broken = {int(i): str(message) for i, message in known["failed"]}
    good = np.array([i for i in range(len(samples)) if i not in broken], dtype=np.int64)
    if not len(good):
        raise ImagesError(f"None of the {len(samples)} images can be read: {next(iter(broken.values()))}")
    chosen = samples.take(good)
    return Decoded(
        chosen,
        array,
        good,
        np.asarray(known["sizes"], dtype=np.int64)[good],
        digest([(r.image_id, known["hashes"][i]) for r, i in zip(chosen.refs, good, strict=True)], key),
        tuple((samples.refs[i].image_id, message) for i, message in sorted(broken.items())),
    )


def _stamp(source: ImageSource, ref: ImageRef) -> tuple[Any, ...]:
    """Return what changes when the image does, without reading it where that is possible."""
    try:
        size, changed = source.stamp(ref)
        return (ref.image_id, size, changed) if changed else (ref.image_id, source.content_hash(ref))
    except ImagesError:
        return (ref.image_id, None)


def _is_floating(source: ImageSource) -> bool:
    """Tell whether any image is given as floats, which are kept as they are."""
    items = source.items if isinstance(source, ArraySource) else ()
    if isinstance(items, np.ndarray):
        return bool(items.dtype == np.float32)
    return any(getattr(item, "dtype", None) == np.float32 for item in items)


def _decode_into(
    array: npt.NDArray[Any], samples: Samples, preprocessing: Preprocessing, told: Callable[[int], None]
) -> dict[str, Any]:
    """Fill ``array`` with the pixels of the images, and return what else is known of them."""

    def decode(ref: ImageRef) -> LoadedImage | str:
        try:
            return load(samples.source, ref, preprocessing)
        except ImagesError as error:
            return str(error)

    hashes, sizes, failed = [], [], []
    with ThreadPoolExecutor(threads()) as pool:
        for start in range(0, len(samples), CHUNK):
            for i, image in enumerate(pool.map(decode, samples.refs[start : start + CHUNK]), start):
                if isinstance(image, str):
                    failed.append((i, image))
                    hashes.append("")
                    sizes.append((0, 0))
                    continue
                scale = 255 if array.dtype == np.float32 and image.pixels.dtype == np.uint8 else 1
                array[i] = image.pixels if scale == 1 else image.pixels.astype(np.float32) / np.float32(scale)
                hashes.append(image.content_hash)
                sizes.append((image.width, image.height))
            told(min(start + CHUNK, len(samples)))
    return {"hashes": hashes, "sizes": sizes, "failed": failed}
