"""Partitions of an image that look at its pixels alone, never at a model: the same for all that are compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from salience.errors import SettingsError

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]

SCALES = (50.0, 100.0, 150.0, 250.0, 500.0, 1200.0)
"""Scales of the display pool, from fine to coarse: those of XRAI (Kapishnikov et al. 2019), for images of 224x224."""


class Partition(ABC):
    """A way to cut an image into segments. Safe to be used from several threads.

    Attributes
    ----------
    name
        What it is called on the command line.
    """

    name: ClassVar[str]

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that decides over labels but for the image, ready for JSON: it belongs to the keys of results."""

    @abstractmethod
    def label_map(self, pixels: Pixels, image_id: str) -> Labels:
        """Return each pixel's segment.

        Parameters
        ----------
        pixels
            uint8 (H, W, 3).
        image_id
            Names the image, for partitions that are not made from pixels.

        Returns
        -------
        labels
            int32 (H, W): 0 to S - 1, each of which occurs; in the order of the segments' first pixels, or of
            :meth:`names` where they have names.

        Raises
        ------
        ImagesError
            When this image cannot be partitioned.
        """

    def display(self, pixels: Pixels, image_id: str) -> list[Labels]:
        """Return the label maps (H, W) that pictures choose from, fine to coarse; one, where there is one."""
        return [self.label_map(pixels, image_id)]

    def names(self, image_id: str) -> tuple[str, ...] | None:
        """Return the names of an image's segments, in the order of their labels; None where they have none.

        Raises
        ------
        ImagesError
            When this image cannot be partitioned.
        """
        return None

    def check(self, image_ids: Sequence[str]) -> None:
        """Find out at once what would go wrong for these images as a whole.

        Raises
        ------
        ImagesError
            When none of them can be partitioned, or two would get the same segments by mistake.
        """
        return


@dataclass(frozen=True)
class Felzenszwalb(Partition):
    """Segments that follow the contours of the image; see :mod:`salience.comparison.felzenszwalb`.

    Parameters
    ----------
    scale
        Higher ones make larger segments; 250 makes about fifty of a photograph of 224x224.
    sigma
        Standard deviation of the blur before, in pixels.
    min_size
        Pixels of the smallest segment.
    """

    name: ClassVar[str] = "felzenszwalb"
    scale: float = 250.0
    sigma: float = 0.8
    min_size: int = 150

    def __post_init__(self) -> None:
        _above(0.0, scale=self.scale)
        _at_least(0, sigma=self.sigma)
        _at_least(1, min_size=self.min_size)

    @property
    def identity(self) -> dict[str, Any]:
        """Name, version and settings."""
        return {"name": self.name, "version": 1, **asdict(self)}

    def label_map(self, pixels: Pixels, image_id: str) -> Labels:
        """Return the segments at the scale of the setting."""
        return self._at(pixels, (self.scale,))[0]

    def display(self, pixels: Pixels, image_id: str) -> list[Labels]:
        """Return the segments at all :data:`SCALES`, for little more than one of them takes."""
        return self._at(pixels, SCALES)

    def _at(self, pixels: Pixels, scales: Sequence[float]) -> list[Labels]:
        from salience.comparison.felzenszwalb import felzenszwalb  # imports numba

        return felzenszwalb(pixels, scales, self.sigma, self.min_size)


@dataclass(frozen=True)
class Slic(Partition):
    """Superpixels of similar size (Achanta et al. 2012); see :mod:`salience.methods.superpixels`.

    Parameters
    ----------
    count
        About how many there are.
    """

    name: ClassVar[str] = "slic"
    count: int = 50

    def __post_init__(self) -> None:
        _at_least(1, count=self.count)
        if find_spec("skimage") is None:
            raise SettingsError("It needs scikit-image: pip install scikit-image, or choose felzenszwalb.")

    @property
    def identity(self) -> dict[str, Any]:
        """Name, version and settings."""
        return {"name": self.name, "version": 1, **asdict(self)}

    def label_map(self, pixels: Pixels, image_id: str) -> Labels:
        """Return the superpixels that methods hide, of the same image."""
        torch = import_module("torch")  # for this option alone
        superpixels = import_module("salience.methods.superpixels").superpixels
        images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))[None] / 255)
        labels: Labels = superpixels(images, self.count)[0].numpy().astype(np.int32)
        return labels


@dataclass(frozen=True)
class Grid(Partition):
    """Equal cells, as the tokens of a vision transformer.

    Parameters
    ----------
    rows, columns
        Cells down and across; never more than there are pixels.
    """

    name: ClassVar[str] = "grid"
    rows: int = 7
    columns: int = 7

    def __post_init__(self) -> None:
        _at_least(1, rows=self.rows, columns=self.columns)

    @property
    def identity(self) -> dict[str, Any]:
        """Name, version and settings."""
        return {"name": self.name, "version": 1, **asdict(self)}

    def label_map(self, pixels: Pixels, image_id: str) -> Labels:
        """Return the cells, row by row; sizes differ by a pixel where they do not divide the image."""
        height, width = pixels.shape[:2]
        rows, columns = min(self.rows, height), min(self.columns, width)
        down = np.arange(height) * rows // height
        across = np.arange(width) * columns // width
        labels: Labels = (down[:, None] * columns + across).astype(np.int32)
        return labels


def _at_least(least: int, **values: float) -> None:
    for name, value in values.items():
        if not least <= value < np.inf:
            raise SettingsError(f"{name} is {value}; {least} or more is needed.")


def _above(bound: float, **values: float) -> None:
    for name, value in values.items():
        if not bound < value < np.inf:
            raise SettingsError(f"{name} is {value}; a number above {bound:g} is needed.")
