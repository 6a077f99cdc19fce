"""What every image source is: references to images, and the way from a reference to its bytes."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from salience.data.preprocessing import Preprocessing
from salience.errors import ImagesError, SettingsError

Box = tuple[float, float, float, float]
Label = int | str
Pixels = NDArray[np.uint8] | NDArray[np.float32]

HASH_LENGTH = 32


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image of a source, without its pixels.

    Parameters
    ----------
    index
        Position in :attr:`ImageSource.refs` of the whole source; a part of it keeps it.
    image_id
        Stable name: the path relative to the folder or manifest, or the position in an array as ``000012``. A limit
        on the number of images never changes it.
    label
        As the source has it: a class index or a class name; None where unknown. What it means to a model is told by
        :func:`salience.data.labels.resolve_labels`.
    path
        Absolute path of the file; None for arrays.
    boxes
        Objects as (x0, y0, x1, y1) in pixels of the image as viewers show it, that is, after its EXIF rotation.
    group
        Whatever the manifest groups images by.
    """

    index: int
    image_id: str
    label: Label | None
    path: str | None
    boxes: tuple[Box, ...] = ()
    group: str | None = None

    @property
    def where(self) -> str:
        """What messages call this image: its path, or its id where it is no file."""
        return self.path or f"image {self.image_id}"


@dataclass(frozen=True)
class RawImage:
    """One image as it was read, once, before it was decoded.

    Parameters
    ----------
    data
        The bytes of an encoded file; or uint8 pixels (H, W, 3); or float32 pixels (H, W, 3) in [0, 1].
    content_hash
        What :meth:`ImageSource.content_hash` gives for the same image.
    where
        What messages call this image.
    fitted
        Whether the pixels are a model's input already: nothing is resampled or cropped.
    """

    data: bytes | Pixels
    content_hash: str
    where: str = "image"
    fitted: bool = False


def hash_content(data: bytes | Pixels) -> str:
    """Return the first 32 hexadecimal digits of SHA-256 over a file's bytes, or an array's bytes, shape and type."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()[:HASH_LENGTH]
    digest = hashlib.sha256(f"{data.dtype.str}{data.shape}".encode())
    digest.update(np.ascontiguousarray(data).data)
    return digest.hexdigest()[:HASH_LENGTH]


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of a source: of its images every ``count``-th, from the ``number``-th on (from 1).

    Raises
    ------
    SettingsError
        When there is no such part.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise SettingsError(f"The shard is {self}; write i/n with i from 1 to n, e.g. 3/8.")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/n``."""
        number, slash, count = text.partition("/")
        if not slash or not number.strip().isdecimal() or not count.strip().isdecimal():
            raise SettingsError(f"The shard is {text!r}; write i/n with i from 1 to n, e.g. 3/8.")
        return cls(int(number), int(count))


@dataclass(eq=False)
class ImageSource(ABC):
    """Images in a fixed order. Reading is safe from several threads.

    Parameters
    ----------
    kind
        ``folder``, ``manifest``, ``npz``, ``array`` or ``files``.
    location
        What the user gave: a path, or a description of the array or list.
    refs
        One reference for each image.
    label_names
        The distinct names, sorted, where labels are names; counted before any limit. None otherwise.
    titles
        Human names of labels, where the source has them beside the labels (a manifest's ``name`` column).
    note
        What was assumed about the input and should be told to the user; empty where nothing was.
    """

    kind: str
    location: str
    refs: Sequence[ImageRef]
    label_names: tuple[str, ...] | None = None
    titles: Mapping[Label, str] = field(default_factory=dict)
    note: str = ""

    def __len__(self) -> int:
        return len(self.refs)

    def part(self, shard: Shard) -> Self:
        """Return a source of some of the images, which keep their names and places.

        Raises
        ------
        ImagesError
            When there are fewer images than parts, so that this one is empty.
        """
        refs = self.refs[shard.number - 1 :: shard.count]
        if not refs:
            raise ImagesError(f"Shard {shard} is empty: {self.location} has {len(self)} images.")
        chosen = copy.copy(self)
        chosen.refs = refs
        return chosen

    @abstractmethod
    def stamp(self, ref: ImageRef) -> tuple[int, int]:
        """Return (size in bytes, modification time in ns): what changes when a file does, without reading it.

        A time of 0 means that nothing cheap tells whether the image changed: compare content hashes.

        Raises
        ------
        ImagesError
            When the file is not there.
        """

    @abstractmethod
    def read(self, ref: ImageRef) -> RawImage:
        """Read one image, touching its file once.

        Raises
        ------
        ImagesError
            When it cannot be read; the message names the file and the cause.
        """

    def content_hash(self, ref: ImageRef) -> str:
        """Return 32 hexadecimal digits that name the content of one image.

        Raises
        ------
        ImagesError
            When the image cannot be read.
        """
        return self.read(ref).content_hash

    def hash_since(self, ref: ImageRef, before: tuple[str, int, int] | None) -> str | None:
        """Return the content hash of an image that was read before, reading it again only if it may have changed.

        ``before`` is (content hash, bytes, modification time in ns) as they were; the answer is None where there is
        no such record, or the image cannot be read any more.
        """
        if before is None:
            return None
        try:
            size, changed = self.stamp(ref)
            if changed and (size, changed) == before[1:]:
                return before[0]
            return self.content_hash(ref)
        except (OSError, ImagesError):
            return None

    def finish(self, refs: Sequence[ImageRef], pixels: Any) -> Any:
        """Return what a model is given in the place of a batch's pixels: a change that is made on its device.

        Parameters
        ----------
        refs
            The N images of the batch.
        pixels
            A tensor (N, 3, H, W) in [0, 1], of the model's size, on its device; it is left as it is.

        Returns
        -------
        Tensor
            Of the same shape and type. What an image gets does not depend on the images beside it.
        """
        return pixels

    def check(self, preprocessing: Preprocessing) -> None:
        """Find out at once what would fail for every image: float images that do not have the model's size.

        Raises
        ------
        ImagesError
            When the images of this source can never be given to that model.
        """
        return


def label_names_of(labels: Sequence[Any]) -> tuple[str, ...] | None:
    """Return the distinct labels, sorted, where they are names; None where they are class indices or missing."""
    names = {label for label in labels if isinstance(label, str)}
    return tuple(sorted(names)) or None
