"""Geometry: flips, turns, shifts and changes of scale, and the way back on maps.

Everything happens around the middle of the model's input; what the image does not show is its border, replicated.
Angles are counter-clockwise.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from salience.behaviour.conditions.condition import GeometryCondition, Truths, alone
from salience.behaviour.conditions.registry import register
from salience.behaviour.resampling import sample
from salience.behaviour.traits import CRUM, OURS
from salience.behaviour.view import Array
from salience.errors import SettingsError

CRABBE = "Crabbé and van der Schaar, NeurIPS 2023 (arXiv 2304.06715)"
STEP = 16
"""Pixels of the shorter of the published shifts: half a cell of a network whose cells are 32 pixels wide."""
_SMALL = 96
"""Images below that side are shifted by a sixteenth of it: 16 pixels would leave little of them."""

DIRECTIONS: dict[str, tuple[int, int]] = {
    "up": (-1, 0),
    "down": (1, 0),
    "left": (0, -1),
    "right": (0, 1),
    "up-left": (-1, -1),
    "up-right": (-1, 1),
    "down-left": (1, -1),
    "down-right": (1, 1),
}
"""Rows and columns that a step goes."""

Places = npt.NDArray[np.float64]
Matrix = tuple[tuple[float, float], tuple[float, float]]


# ---------------------------------------------------------------------- exact on any grid


@register(
    "flip",
    lambda: [Flip("lr"), Flip("tb")],
    family="geometry",
    measure="geometry",
    summary="Mirrored: left and right, or top and bottom",
    reference=CRUM,
    details="Published: both flips. Undone exactly, on the native grid.",
    published=True,
)
@dataclass(frozen=True)
class Flip(GeometryCondition):
    """A flip, left to right or top to bottom. Published."""

    sides: Literal["lr", "tb"]

    exact: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """``flip-lr`` or ``flip-tb``."""
        return f"flip-{self.sides}"

    @property
    def _axis(self) -> int:
        return -1 if self.sides == "lr" else -2

    def change(self, pixels: Tensor, image_ids: Sequence[str], seed: int) -> Tensor:
        """Flip."""
        return pixels.flip(self._axis)

    def undo(self, maps: Array) -> tuple[Array, Truths]:
        """Flip again."""
        return np.flip(maps, self._axis), np.ones(maps.shape[-2:], dtype=np.bool_)


@register(
    "turn",
    lambda: [Turn(1), Turn(-1)],
    family="geometry",
    measure="geometry",
    summary="Turned by a right angle",
    reference=CRUM,
    details="Published: +90 and -90 degrees. Inferred: + is counter-clockwise. Undone exactly, on the native grid. "
    "Square inputs only.",
    published=True,
)
@dataclass(frozen=True)
class Turn(GeometryCondition):
    """A turn by right angles, counter-clockwise where above 0. Published; its sense is inferred."""

    quarters: Literal[1, -1]

    exact: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """``rotate+90`` or ``rotate-90``."""
        return f"rotate{90 * self.quarters:+d}"

    @property
    def severity(self) -> float:
        """Degrees, without sign."""
        return 90.0

    def fits(self, size: tuple[int, int]) -> bool:
        """Only squares keep their shape."""
        return size[0] == size[1]

    def change(self, pixels: Tensor, image_ids: Sequence[str], seed: int) -> Tensor:
        """Turn."""
        return torch.rot90(pixels, self.quarters, (-2, -1))

    def undo(self, maps: Array) -> tuple[Array, Truths]:
        """Turn back."""
        back = np.rot90(maps, -self.quarters, (-2, -1))
        return back, np.ones(back.shape[-2:], dtype=np.bool_)


# ---------------------------------------------------------------------- on maps of the input's size


def step(size: tuple[int, int]) -> int:
    """Return the shorter shift's pixels for an image: 16, or a sixteenth of the shorter side of small ones."""
    side = min(size)
    return STEP if side >= _SMALL else max(1, side // 16)


@dataclass(frozen=True)
class _Shift(GeometryCondition):
    """Whole pixels, the border replicated."""

    towards: str

    steps: ClassVar[int]

    def __post_init__(self) -> None:
        if self.towards not in DIRECTIONS:
            raise SettingsError(f"The direction is {self.towards!r}: choose of {', '.join(DIRECTIONS)}.")

    @property
    def name(self) -> str:
        """Such as ``shift16-up-left``."""
        return f"shift{STEP * self.steps}-{self.towards}"

    @property
    def severity(self) -> float:
        """Pixels, of images that are not small."""
        return float(STEP * self.steps)

    def offset(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return rows and columns that an image is moved by."""
        down, right = (d * self.steps * step(size) for d in DIRECTIONS[self.towards])
        return down, right

    def fits(self, size: tuple[int, int]) -> bool:
        """Something of the image must stay."""
        return all(abs(by) < side for by, side in zip(self.offset(size), size, strict=True))

    def change(self, pixels: Tensor, image_ids: Sequence[str], seed: int) -> Tensor:
        """Move."""
        for axis, by in zip((2, 3), self.offset((pixels.shape[2], pixels.shape[3])), strict=True):
            places = torch.arange(pixels.shape[axis], device=pixels.device) - by
            pixels = pixels.index_select(axis, places.clamp_(0, pixels.shape[axis] - 1))
        return pixels

    def undo(self, maps: Array) -> tuple[Array, Truths]:
        """Move back."""
        h, w = maps.shape[-2:]
        down, right = self.offset((h, w))
        back, valid = np.zeros_like(maps), np.zeros((h, w), dtype=np.bool_)
        to = (slice(max(0, -down), h - max(0, down)), slice(max(0, -right), w - max(0, right)))
        of = (slice(max(0, down), h - max(0, -down)), slice(max(0, right), w - max(0, -right)))
        back[(..., *to)] = maps[(..., *of)]
        valid[to] = True
        return back, valid


@register(
    "shift16",
    lambda: [HalfCellShift(towards) for towards in DIRECTIONS],
    family="geometry",
    measure="geometry",
    summary="Moved by 16 pixels, half a cell of most networks, in eight directions",
    reference=CRUM,
    details="Published: the eight shifts of 16 pixels with replicated border, at 224 pixels. Ours: images whose "
    "shorter side is below 96 are moved by a sixteenth of it.",
    published=True,
)
@dataclass(frozen=True)
class HalfCellShift(_Shift):
    """A shift by 16 pixels. Published; ours for inputs below 96 pixels: a sixteenth of the shorter side."""

    steps = 1


@register(
    "shift32",
    lambda: [CellShift(towards) for towards in DIRECTIONS],
    family="geometry",
    measure="geometry",
    summary="Moved by 32 pixels, a whole cell of most networks, in eight directions",
    reference=OURS,
    details="Ours: a shift by whole cells, which a map of such cells can follow exactly.",
)
@dataclass(frozen=True)
class CellShift(_Shift):
    """A shift by 32 pixels, twice the published one. Ours."""

    steps = 2


@dataclass(frozen=True)
class _Affine(GeometryCondition):
    """A turn and a scaling around the middle, bilinear, the border replicated."""

    @property
    @abstractmethod
    def _matrix(self) -> Matrix:
        """Where a place (row, column) of the changed image is in the unchanged one, both from the middle."""

    def change(self, pixels: Tensor, image_ids: Sequence[str], seed: int) -> Tensor:
        """Read every pixel where it was."""
        size = (pixels.shape[2], pixels.shape[3])
        grid = _grid(size, self._matrix, pixels.device, pixels.dtype)
        return torch.cat(
            [F.grid_sample(alone(image), grid, padding_mode="border", align_corners=False) for image in pixels]
        )

    def undo(self, maps: Array) -> tuple[Array, Truths]:
        """Read every cell where it went."""
        (a, b), (c, d) = self._matrix
        det = a * d - b * c
        back = ((d / det, -b / det), (-c / det, a / det))
        rows, columns = _places((maps.shape[-2], maps.shape[-1]), back)
        return sample(maps, rows, columns)


@lru_cache(maxsize=8)
def _grid(size: tuple[int, int], matrix: Matrix, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return where a matrix reads the pixels of an image, as ``grid_sample`` takes it: (1, H, W, 2)."""
    rows, columns = _places(size, matrix)
    across, down = 2 * (columns + 0.5) / size[1] - 1, 2 * (rows + 0.5) / size[0] - 1
    return torch.from_numpy(np.stack([across, down], axis=-1)).to(device, dtype).unsqueeze(0)


@lru_cache(maxsize=8)
def _places(size: tuple[int, int], matrix: Matrix) -> tuple[Places, Places]:
    """Return the rows and columns (H, W) that a matrix takes the cells of a grid to, around its middle."""
    middle_row, middle_column = (size[0] - 1) / 2, (size[1] - 1) / 2
    y = (np.arange(size[0]) - middle_row)[:, None]
    x = (np.arange(size[1]) - middle_column)[None, :]
    (a, b), (c, d) = matrix
    return a * y + b * x + middle_row, c * y + d * x + middle_column


@register(
    "scale",
    lambda: [Scale(0.8), Scale(1.25)],
    family="geometry",
    measure="geometry",
    summary="Made smaller or larger around the middle",
    reference=CRABBE,
    details="Ours: 0.8 and 1.25, bilinear; the border of a smaller image is replicated.",
)
@dataclass(frozen=True)
class Scale(_Affine):
    """A change of scale. Ours; the measure of equivariance is published (Crabbé and van der Schaar 2023).

    Parameters
    ----------
    factor
        Above 1 things become larger.
    """

    factor: float

    def __post_init__(self) -> None:
        if not 0.1 <= self.factor <= 10:
            raise SettingsError(f"The factor of the scale is {self.factor}: 0.1 to 10 is possible.")

    @property
    def name(self) -> str:
        """Such as ``scale-0.8``."""
        return f"scale-{self.factor:g}"

    @property
    def severity(self) -> float:
        """The factor."""
        return self.factor

    @property
    def _matrix(self) -> Matrix:
        return (1 / self.factor, 0.0), (0.0, 1 / self.factor)


@register(
    "rotate",
    lambda: [Rotate(15), Rotate(30)],
    family="geometry",
    measure="geometry",
    summary="Turned by 15 or 30 degrees around the middle",
    reference=CRABBE,
    details="Ours: +15 and +30 degrees, counter-clockwise, bilinear; the border is replicated.",
)
@dataclass(frozen=True)
class Rotate(_Affine):
    """A turn by any angle. Ours; the measure of equivariance is published (Crabbé and van der Schaar 2023).

    Parameters
    ----------
    degrees
        Counter-clockwise.
    """

    degrees: float

    @property
    def name(self) -> str:
        """Such as ``rotate+15``."""
        return f"rotate{self.degrees:+g}"

    @property
    def severity(self) -> float:
        """Degrees, without sign."""
        return abs(float(self.degrees))

    @property
    def _matrix(self) -> Matrix:
        angle = math.radians(self.degrees)
        return (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))
