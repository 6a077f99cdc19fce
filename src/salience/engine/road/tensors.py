"""Imputation on tensors: for devices that compiled loops do not run on; all images of a batch at once.

The same method as that of the loops, see :mod:`salience.engine.road.multigrid`; sums are taken in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from salience.engine.road.multigrid import ACTIVE, CHAIN, CORNER, EDGE, WEIGHTS, grids, turns

_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))


@dataclass(frozen=True, eq=False)
class _System:
    """A system ``diagonal * x - sum of couplings * neighbours = right`` on a grid, all (R, 1, h, w).

    ``east`` couples a point to the next one in its row, ``south`` to the one below, ``falling`` to the one below that;
    ``rising`` couples the next one to the one below. Couplings to points that there are not are zero.
    """

    diagonal: Tensor
    east: Tensor
    south: Tensor
    falling: Tensor
    rising: Tensor

    def neighbours(self, x: Tensor) -> Tensor:
        """Return the coupled sum of the neighbours (R, C, h, w)."""
        out = torch.zeros_like(x)
        h, w = x.shape[2:]
        for coupling, (dy, dx) in zip((self.east, self.south, self.falling, self.rising), _DIRECTIONS, strict=True):
            here = (..., slice(0, h - dy), slice(max(0, -dx), w - max(0, dx)))
            there = (..., slice(dy, h), slice(max(0, dx), w + min(0, dx)))
            own = coupling[..., : h - dy, : w - abs(dx)]
            out[here].addcmul_(own, x[there])
            out[there].addcmul_(own, x[here])
        return out

    def inverse(self) -> Tensor:
        """Return one over the diagonal, raised to half of the row's absolute values; zero without unknowns."""
        sums = _System(*(part.abs() for part in self._parts())).neighbours(torch.ones_like(self.diagonal))
        raised = torch.maximum(self.diagonal, (self.diagonal + sums) / 2).clamp_min(ACTIVE)
        chain = CHAIN if (raised.shape[2] == 1) != (raised.shape[3] == 1) else 1
        return torch.where(self.diagonal > ACTIVE, 1 / (raised * chain), 0)

    def coarser(self) -> _System:
        """Return the Galerkin product: every second row, then every second column."""
        return self._coarser_rows()._transposed()._coarser_rows()._transposed()

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self.diagonal, self.east, self.south, self.falling, self.rising

    def _transposed(self) -> _System:
        d, e, s, f, r = (part.transpose(2, 3) for part in self._parts())
        return _System(d, s, e, f, r)

    def _coarser_rows(self) -> _System:
        h = self.diagonal.shape[2]
        half = (h + 1) // 2
        share = self.diagonal.new_full((half, 1), 0.5)
        link = share.clone()
        if h % 2 == 0:  # the last row is a copy of the one above, not half of two
            share[-1], link[-1] = 1, 0
        padded = [F.pad(part, (0, 0, 1, 1)) for part in self._parts()]
        above, own, below = ([part[:, :, at::2][:, :, :half] for part in padded] for at in range(3))
        (d0, e0, s0, f0, r0), (d1, e1, s1, f1, r1), (d2, e2, s2, f2, r2) = above, own, below
        return _System(
            d1 + d0 / 4 + share**2 * d2 - s0 - 2 * share * s1,
            e1 + e0 / 4 + share**2 * e2 + (f0 + r0) / 2 + share * (f1 + r1),
            link * (s1 + s2 - d2 / 2),
            link * (f1 + f2 + e2 / 2),
            link * (r1 + r2 + e2 / 2),
        )


def _everywhere(removed: Tensor) -> _System:
    """Return the weights of all neighbours, (1, 1, H, W); its diagonal is one."""
    ones = torch.ones_like(removed[:1])
    return _System(ones, ones * EDGE, ones * EDGE, ones * CORNER, ones * CORNER)


def _finest(removed: Tensor) -> _System:
    """Return the system of removed pixels (R, 1, H, W), 1 or 0."""
    weights = _everywhere(removed)
    u = F.pad(removed, (0, 1, 0, 1))
    here, right, below, across = u[..., :-1, :-1], u[..., :-1, 1:], u[..., 1:, :-1], u[..., 1:, 1:]
    return _System(
        weights.neighbours(weights.diagonal) * removed,
        EDGE * here * right,
        EDGE * here * below,
        CORNER * here * across,
        CORNER * right * below,
    )


def impute(images: Tensor, keep: Tensor, cycles: int) -> Tensor:
    """Fill what ``keep`` (R, H, W) leaves out of images (R, C, H, W), float32, from its neighbours, without noise."""
    known = keep.unsqueeze(1)
    count = known.sum((2, 3), keepdim=True)
    mean = torch.where(known, images, 0).sum((2, 3), keepdim=True) / count.clamp_min(1)
    mean = torch.where(count > 0, mean, images.mean((2, 3), keepdim=True))
    removed = (~known & (count > 0)).to(images.dtype)
    sizes = grids(int(keep.shape[1]), int(keep.shape[2]))
    systems = [_finest(removed)]
    while len(systems) < len(sizes):
        systems.append(systems[-1].coarser())
    inverses = [system.inverse() for system in systems]
    # Solve for the difference from the mean colour of what is kept: then nothing is far from zero.
    rest = torch.where(known, images - mean, 0)
    levels = _Levels(systems, inverses, turns(len(sizes), cycles))
    found = levels.solve(_everywhere(removed).neighbours(rest) * removed)
    return torch.where(known, images, found + mean)


@dataclass(frozen=True, eq=False)
class _Levels:
    """Systems from the finest to that of one point, with their divisors and numbers of turns."""

    systems: Sequence[_System]
    inverses: Sequence[Tensor]
    turns: Sequence[int]

    def solve(self, right: Tensor, level: int = 0) -> Tensor:
        """Return a level's answer to a right-hand side (R, C, h, w), from zero, after all of its turns."""
        system, inverse = self.systems[level], self.inverses[level]
        if level == len(self.systems) - 1:
            return right * inverse
        x, residual = torch.zeros_like(right), right
        for turn in range(self.turns[level]):
            if turn > 0:
                residual = right + system.neighbours(x) - system.diagonal * x
            correction = self.solve(_restrict(residual), level + 1)
            x = x + torch.where(inverse > 0, _interpolate(correction, residual), 0)
            for weight in WEIGHTS:
                x = x + weight * inverse * (right + system.neighbours(x) - system.diagonal * x)
        return x


def _interpolate(coarse: Tensor, like: Tensor) -> Tensor:
    """Return values between those of every second row and column, at the size of ``like``."""
    for axis in (2, 3):
        following = torch.cat([coarse.narrow(axis, 1, coarse.shape[axis] - 1), coarse.narrow(axis, -1, 1)], axis)
        both = torch.stack([coarse, (coarse + following) / 2], axis + 1).flatten(axis, axis + 1)
        coarse = both.narrow(axis, 0, like.shape[axis])
    return coarse


def _restrict(fine: Tensor) -> Tensor:
    """Return sums with the weights that interpolation has."""
    for axis in (2, 3):
        length = fine.shape[axis]
        fine = fine.transpose(axis, -1)
        own, between = fine[..., 0::2].clone(), fine[..., 1::2] / 2
        own[..., : length // 2] += between
        following = own.shape[-1] - 1
        own[..., 1:] += between[..., :following]
        if length % 2 == 0:
            own[..., -1] += between[..., -1]
        fine = own.transpose(axis, -1)
    return fine
