"""Partitions that a user drew: a picture of labels, or a folder of named masks, for each image."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from salience.comparison.partition import Labels, Partition, Pixels
from salience.data.files import SUFFIXES
from salience.errors import ImagesError, SettingsError

REST = "rest"
"""Name of the segment of all pixels that no mask covers."""
NAMES = "names.csv"

_MODES = ("1", "L", "P", "I", "I;16")


@dataclass(frozen=True)
class UserMasks(Partition):
    """Segments with names, drawn by a person or made by another program.

    The masks of image ``birds/wren.jpg`` are either ``FOLDER/birds/wren.png``, whose pixel values are the segments, or
    the folder ``FOLDER/birds/wren``, with a PNG file for each segment that is not 0 inside it: the file's name without
    ``.png`` is the segment's. Where there is no ``FOLDER/birds``, all lie flat: ``FOLDER/wren.png`` or ``FOLDER/wren``.

    ``FOLDER/names.csv`` (columns ``value`` and ``name``) names pixel values; others belong to no segment then, and
    values of one name are one segment. Without it every value but 0 is a segment, named by its number. What belongs to
    none is the segment ``rest``, the last one. Masks are brought to the size of the images they are asked for by taking
    the nearest pixel; one that would be lost thereby keeps a single pixel.

    Parameters
    ----------
    folder
        Where the masks are.

    Raises
    ------
    SettingsError
        When there is no such folder, or ``names.csv`` cannot be understood.
    """

    name: ClassVar[str] = "masks"
    folder: Path

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise SettingsError(
                f"{self.folder} is no folder; write masks:FOLDER, with a PNG file for each image in it."
            )
        _ = self.palette  # what is wrong with it is told now

    @cached_property
    def palette(self) -> dict[int, str] | None:
        """Names by pixel value; None where there is no ``names.csv``."""
        path = self.folder / NAMES
        return _read_names(path) if path.is_file() else None

    @cached_property
    def identity(self) -> dict[str, Any]:  # reads every mask: once
        """Name, version, and a digest of all masks and names: the folder's own place does not matter."""
        digest = hashlib.sha256()
        files = [p for p in self.folder.rglob("*.png") if p.is_file()]
        names = self.folder / NAMES
        for path in sorted([*files, names] if names.is_file() else files):
            what = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(self.folder).as_posix()}\x1f{what}\n".encode())
        return {"name": self.name, "version": 1, "content": digest.hexdigest()}

    def label_map(self, pixels: Pixels, image_id: str) -> Labels:
        """Return the masks of an image at the size of its pixels."""
        path, labels, names = self._read(image_id)
        return _resized(labels, len(names), pixels.shape[:2], path)

    def names(self, image_id: str) -> tuple[str, ...]:
        """Return the names of an image's segments, in the order of values or file names, ``rest`` last."""
        return tuple(self._read(image_id)[2])

    def check(self, image_ids: Sequence[str]) -> None:
        """Look whether there are masks at all, and whether two images would get the same one.

        Raises
        ------
        ImagesError
            When none of the images has masks, or two have the same.
        """
        taken: dict[Path, str] = {}
        for image_id in image_ids:
            path = next((p for p in self._places(image_id) if p.exists()), None)
            if path is not None and path in taken:
                raise ImagesError(
                    f"Images {taken[path]} and {image_id} would both get {path}: put masks of images that are called "
                    "alike into folders named as those of the images."
                )
            if path is not None:
                taken[path] = image_id
        if image_ids and not taken:
            raise ImagesError(f"None of {len(image_ids)} images has masks. {self._looked_for(image_ids[0])}")

    def _places(self, image_id: str) -> tuple[Path, Path]:
        """Return where the picture of labels and the folder of masks of an image would be."""
        whole = PurePosixPath(image_id)
        if whole.suffix.lower() in SUFFIXES:
            whole = whole.with_suffix("")
        parts = [p for p in whole.parts if p not in (whole.anchor, "..")]
        within = self.folder.joinpath(*parts[:-1])
        place = (within if within.is_dir() else self.folder) / parts[-1]
        return place.with_name(place.name + ".png"), place

    def _looked_for(self, image_id: str) -> str:
        picture, folder = self._places(image_id)
        return (
            f"Of {image_id} there should be {picture} (its values are segments) or the folder {folder} (of PNG files)."
        )

    def _read(self, image_id: str) -> tuple[Path, Labels, list[str]]:
        """Return where the masks of an image are, its labels (h, w) as they were drawn, and their names."""
        picture, folder = self._places(image_id)
        if picture.is_file():
            return picture, *_read_picture(picture, self.palette)
        if folder.is_dir():
            return folder, *_read_folder(folder)
        raise ImagesError(f"Image {image_id} has no masks. {self._looked_for(image_id)}")


# ---------------------------------------------------------------------- files


def _read_names(path: Path) -> dict[int, str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [[cell.strip() for cell in row] for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"{path} cannot be read as CSV in UTF-8: {error}.") from error
    if not rows or rows[0] != ["value", "name"]:
        raise SettingsError(f"{path} does not begin with the header 'value,name'.")
    names: dict[int, str] = {}
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != 2 or not row[0].isdecimal() or not row[1]:
            raise SettingsError(f"{path}, row {number}: {','.join(row)!r}; a pixel value and a name are needed.")
        if int(row[0]) in names:
            raise SettingsError(f"{path}, row {number}: pixel value {int(row[0])} has a name already.")
        names[int(row[0])] = row[1]
    return names


def _read_png(path: Path) -> npt.NDArray[Any]:
    """Return the values of a picture of one channel: of a palette, the numbers of its colours."""
    try:
        with Image.open(path) as image:
            values, mode = np.asarray(image), image.mode
    except Exception as error:  # Pillow raises all kinds of errors on broken files; each is about this one
        cause = str(error).rstrip(".") or type(error).__name__
        raise ImagesError(f"{path} cannot be read as a mask: {cause}.") from error
    if mode not in _MODES:
        raise ImagesError(f"{path} is in colours ({mode}): save masks as PNG files in grey or with a palette.")
    return values


def _read_picture(path: Path, palette: dict[int, str] | None) -> tuple[Labels, list[str]]:
    """Return labels and names of a picture whose values are segments."""
    drawn = _read_png(path)
    values, where = np.unique(drawn, return_inverse=True)

    def called(value: int) -> str:
        if palette is not None:
            return palette.get(value, REST)
        return str(value) if value else REST

    of_value = [called(int(v)) for v in values]
    names = _rest_last(of_value)
    numbers = np.array([names.index(n) for n in of_value], dtype=np.int32)
    return numbers[where].reshape(drawn.shape), names


def _read_folder(folder: Path) -> tuple[Labels, list[str]]:
    """Return labels and names of a folder of masks; empty ones are passed over."""
    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise ImagesError(f"{folder} has no PNG files: one for each segment is needed.")
    labels: npt.NDArray[np.int32] | None = None
    for number, path in enumerate(paths):
        inside = _read_png(path) != 0
        if labels is None:
            labels = np.full(inside.shape, -1, dtype=np.int32)
        if inside.shape != labels.shape:
            raise ImagesError(f"{path} is {_size(inside.shape)}, and {paths[0].name} beside it {_size(labels.shape)}.")
        both = inside & (labels >= 0)
        if both.any():
            raise ImagesError(
                f"{path} overlaps {paths[labels[both][0]].name} in {int(both.sum())} pixels: every pixel can belong to "
                "one segment only."
            )
        labels[inside] = number
    assert labels is not None  # there is a path
    found = np.unique(labels)
    of_value = [REST if v < 0 else paths[v].stem for v in found.tolist()]
    names = _rest_last(of_value)
    numbers = np.array([names.index(n) for n in of_value], dtype=np.int32)
    return numbers[np.searchsorted(found, labels)], names


def _rest_last(names: Sequence[str]) -> list[str]:
    """Return the names without repetitions, that of the rest last where it is among them."""
    return sorted(dict.fromkeys(names), key=lambda name: name == REST)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]} pixels (width x height)"


def _resized(labels: Labels, count: int, size: tuple[int, ...], path: Path) -> Labels:
    """Return labels at another size, each taken from the pixel under the new one's centre; none is lost."""
    (height, width), (rows, columns) = labels.shape, size
    down = (2 * np.arange(rows) + 1) * height // (2 * rows)
    across = (2 * np.arange(columns) + 1) * width // (2 * columns)
    found: Labels = labels[down][:, across]
    for lost in np.flatnonzero(np.bincount(found.ravel(), minlength=count) == 0):
        own = np.flatnonzero(labels == lost)
        row, column = divmod(int(own[len(own) // 2]), width)
        found[row * rows // height, column * columns // width] = lost
    if np.bincount(found.ravel(), minlength=count).min() == 0:
        raise ImagesError(f"{path} has {count} segments, some of them too small to be seen at {rows}x{columns} pixels.")
    return found
