"""Masks that hide parts of an image, made on the device when a batch needs them and never all held.

A mask is 1 where a pixel stays and 0 where the fill shows. :class:`Masks` knows ``count`` of them for each image of a
group and renders any: images and candidates are given by number, so a batch may hold any mixture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from salience.engine.random import key_words, row_key, uniform_at


class Masks(ABC):
    """``count`` masks for each image of a group."""

    fill: str | None = None
    """What shows where these masks hide the image, where it is not what the method says."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Masks an image."""

    @abstractmethod
    def render(self, image: Tensor, candidate: Tensor, size: tuple[int, int]) -> Tensor:
        """Return masks (R, 1, H, W) in [0, 1]: candidate ``candidate[r]`` of image ``image[r]``, both (R,)."""


@dataclass(frozen=True, eq=False)
class Cells(Masks):
    """Values (G, k, h, w) on a coarse grid, enlarged: ``bilinear`` between the centres of cells, or ``nearest``."""

    values: Tensor
    smooth: bool = True

    @property
    def count(self) -> int:
        """The values' second axis."""
        return self.values.shape[1]

    def render(self, image: Tensor, candidate: Tensor, size: tuple[int, int]) -> Tensor:
        """Enlarge the rows' values."""
        return enlarge(self.values[image, candidate].unsqueeze(1), size, smooth=self.smooth)


@dataclass(frozen=True, eq=False)
class Patches(Masks):
    """Values (G, k, D) of D segments, numbered in ``segments`` (G, H, W): whole segments come and go."""

    values: Tensor
    segments: Tensor

    @property
    def count(self) -> int:
        """The values' second axis."""
        return self.values.shape[1]

    def render(self, image: Tensor, candidate: Tensor, size: tuple[int, int]) -> Tensor:
        """Look every pixel's segment up."""
        place = self.segments[image]
        return self.values[image, candidate].gather(1, place.flatten(1)).view(len(image), 1, *place.shape[1:])


@dataclass(frozen=True, eq=False)
class Windows(Masks):
    """Rectangles that are hidden: (k, 4) rows top, left, bottom, right, in pixels; the same for all images.

    Or (G, k, 4): each image's own.
    """

    corners: Tensor

    @property
    def count(self) -> int:
        """One mask a rectangle."""
        return self.corners.shape[-2]

    def render(self, image: Tensor, candidate: Tensor, size: tuple[int, int]) -> Tensor:
        """Return ones with a hole."""
        corners = self.corners[candidate] if self.corners.ndim == 2 else self.corners[image, candidate]
        top, left, bottom, right = corners.to(torch.float32).unbind(1)
        rows = torch.arange(size[0], dtype=torch.float32, device=corners.device)
        columns = torch.arange(size[1], dtype=torch.float32, device=corners.device)
        down = (rows >= top[:, None]) & (rows < bottom[:, None])
        across = (columns >= left[:, None]) & (columns < right[:, None])
        return (~(down[:, :, None] & across[:, None, :])).to(torch.float32).unsqueeze(1)


@dataclass(frozen=True, eq=False)
class Blobs(Masks):
    """K ellipses an image and candidate: (G, k, K, 5) rows of (y, x, sy, sx, amplitude), in shares of the image.

    A pixel is kept as far as the strongest of the Gaussians reaches it.
    """

    values: Tensor

    @property
    def count(self) -> int:
        """The values' second axis."""
        return self.values.shape[1]

    def render(self, image: Tensor, candidate: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the maximum over the Gaussians of amplitude times exp(-d^2 / 2)."""
        y, x, sy, sx, amplitude = (v.unsqueeze(-1) for v in self.values[image, candidate].unbind(2))
        down = (torch.arange(size[0], device=y.device) + 0.5) / size[0]
        across = (torch.arange(size[1], device=y.device) + 0.5) / size[1]
        rows = torch.exp(-0.5 * ((down - y) / sy) ** 2) * amplitude  # (R, K, H)
        columns = torch.exp(-0.5 * ((across - x) / sx) ** 2)
        out = rows[:, 0, :, None] * columns[:, 0, None, :]
        for k in range(1, rows.shape[1]):
            out = torch.maximum(out, rows[:, k, :, None] * columns[:, k, None, :])
        return out.unsqueeze(1)


@dataclass(frozen=True, eq=False)
class Filled(Masks):
    """The masks of ``inner`` over another fill than the method's."""

    inner: Masks
    fill: str | None = None

    @property
    def count(self) -> int:
        """As many."""
        return self.inner.count

    def render(self, image: Tensor, candidate: Tensor, size: tuple[int, int]) -> Tensor:
        """Render them."""
        return self.inner.render(image, candidate, size)


@dataclass(frozen=True, eq=False)
class Joined(Masks):
    """The masks of several, one after another."""

    parts: tuple[Masks, ...]

    @property
    def count(self) -> int:
        """All of them."""
        return sum(p.count for p in self.parts)

    def render(self, image: Tensor, candidate: Tensor, size: tuple[int, int]) -> Tensor:
        """Render each row by the part that it belongs to."""
        out = torch.empty(len(image), 1, *size, device=image.device)
        for part in self.parts:
            here = (candidate >= 0) & (candidate < part.count)
            if bool(here.any()):
                out[here] = part.render(image[here], candidate[here], size)
            candidate = candidate - part.count
        return out


@dataclass(frozen=True, eq=False)
class Turned(Masks):
    """Two masks for every one of ``inner``: itself, then what it leaves out."""

    inner: Masks

    @property
    def count(self) -> int:
        """Twice as many."""
        return 2 * self.inner.count

    def render(self, image: Tensor, candidate: Tensor, size: tuple[int, int]) -> Tensor:
        """Turn every second one around."""
        masks = self.inner.render(image, candidate // 2, size)
        return torch.where((candidate % 2 == 1).view(-1, 1, 1, 1), 1 - masks, masks)


@dataclass(frozen=True, eq=False)
class RandomCells(Masks):
    """Random grids of ``cells`` x ``cells``, each cell kept with the chance ``keep``, enlarged and shifted at random.

    As RISE makes them (Petsiuk et al. 2018): the grid is enlarged bilinearly to one cell more than the image needs,
    and the image's size is cut out of it at a random place. Every number comes from the image's own key.
    """

    image_ids: tuple[str, ...]
    seed: int
    count_: int
    size: tuple[int, int]
    cells: int
    keep: float
    device: torch.device

    @property
    def count(self) -> int:
        """As asked for."""
        return self.count_

    @cached_property
    def _words(self) -> Tensor:
        return key_words([row_key(self.seed, "cells", i) for i in self.image_ids], self.device)

    @cached_property
    def cell(self) -> tuple[int, int]:
        """Height and width of a cell in pixels."""
        return -(-self.size[0] // self.cells), -(-self.size[1] // self.cells)

    def _drawn(self, image: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the grids (R, cells, cells), and the shifts down and across (R,)."""
        each = self.cells**2 + 2
        u = uniform_at(self._words[image], candidate * each, each)
        grids = (u[:, 2:] < self.keep).to(torch.float32).view(-1, self.cells, self.cells)
        return grids, (u[:, 0] * self.cell[0]).long(), (u[:, 1] * self.cell[1]).long()

    def _ramps(self, axis: int, size: int) -> Tensor:
        """Return (shifts, size, cells): what each cell gives each row of the image, for every shift of the cut."""
        cell, length = self.cell[axis], self.size[axis]
        whole = F.interpolate(
            torch.eye(self.cells, device=self.device)[None],
            size=(self.cells + 1) * cell,
            mode="linear",
            align_corners=False,
        )[0].T
        ramps = torch.stack([whole[shift : shift + length] for shift in range(cell)])
        return ramps.view(cell, size, length // size, self.cells).mean(2)

    def render(self, image: Tensor, candidate: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the masks at the image's size, or averaged down to a ``size`` that divides it."""
        grids, down, across = self._drawn(image, candidate)
        rows, columns = self._table(size)
        return (rows[down] @ grids @ columns[across].transpose(1, 2)).unsqueeze(1)

    def _table(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        known = self._tables
        if size not in known:
            known[size] = (self._ramps(0, size[0]), self._ramps(1, size[1]))
        return known[size]

    @cached_property
    def _tables(self) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
        return {}


def enlarge(values: Tensor, size: tuple[int, int], *, smooth: bool = True) -> Tensor:
    """Enlarge (R, 1, h, w) to (R, 1, H, W); bilinear values stay within those of the cells."""
    if tuple(values.shape[2:]) == tuple(size):
        return values
    if smooth:
        rows, columns = _between(size[0], values.shape[2], values), _between(size[1], values.shape[3], values)
        return rows @ values @ columns.T
    return F.interpolate(values, size=size, mode="nearest-exact")


def _between(length: int, cells: int, like: Tensor) -> Tensor:
    """Return (length, cells): bilinear weights. As a product of matrices every row is computed alike."""
    eye = torch.eye(cells, dtype=like.dtype, device=like.device)[None]
    return F.interpolate(eye, size=length, mode="linear", align_corners=False)[0].T.contiguous()
