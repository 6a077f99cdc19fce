"""Segments of an image: how they are asked for, where they lie, and what lies on them. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from salience.comparison.partition import Felzenszwalb, Grid, Labels, Partition, Slic
from salience.comparison.user_masks import UserMasks
from salience.engine.registry import Registry, split
from salience.errors import SettingsError, nearest

__all__ = ["Geometry", "Partition", "area_matched", "geometry", "outlines", "parse_partition", "sums"]

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

_REGISTRY: Registry[Partition] = Registry("partition", __name__, SettingsError)
for _kind in (Felzenszwalb, Slic, Grid):
    _REGISTRY.add(_kind.name, _kind)
_KNOWN = (Felzenszwalb.name, Slic.name, Grid.name)


def parse_partition(text: str) -> Partition:
    """Read ``felzenszwalb``, ``slic:count=80``, ``grid:rows=14,columns=14`` (or ``:`` for ``,``), or ``masks:FOLDER``.

    Raises
    ------
    SettingsError
        When there is no such partition or setting, a value does not fit, or the masks are not there.
    """
    name, _, rest = text.strip().partition(":")
    if name == UserMasks.name:
        if not rest:
            raise SettingsError("The masks are in no folder: write masks:FOLDER.")
        return UserMasks(Path(rest).expanduser())
    name, words, given = split(text.replace(",", ":"))
    if name not in _KNOWN:
        raise SettingsError(
            f"There is no partition {name!r}; choose {', '.join(_KNOWN)} or masks:FOLDER."
            f"{nearest(name, (*_KNOWN, UserMasks.name))}"
        )
    return _REGISTRY.build(name, words, given)


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the S segments of a label map (H, W) lie; every array is (S,).

    Attributes
    ----------
    area
        Share of the image, above 0; they add up to 1.
    row, column
        Centre of mass: 0 top or left edge, 1 bottom or right edge.
    top, bottom, left, right
        Smallest box in pixels: rows ``top`` to ``bottom - 1``, columns ``left`` to ``right - 1``.
    """

    area: Floats
    row: Floats
    column: Floats
    top: Numbers
    bottom: Numbers
    left: Numbers
    right: Numbers


def geometry(labels: Labels) -> Geometry:
    """Return where segments lie, from labels (H, W) of 0 to S - 1, all of which occur."""
    height, width = labels.shape
    count = int(labels.max()) + 1
    by_row = np.bincount((np.arange(height)[:, None] * count + labels).ravel(), minlength=height * count)
    by_column = np.bincount((np.arange(width) * count + labels).ravel(), minlength=width * count)
    top, bottom, row, pixels = _along(by_row.reshape(height, count))
    left, right, column, _ = _along(by_column.reshape(width, count))
    return Geometry(pixels / labels.size, row, column, top, bottom, left, right)


def _along(pixels: npt.NDArray[np.intp]) -> tuple[Numbers, Numbers, Floats, Floats]:
    """Return (S,) first line, line behind the last one, centre in [0, 1] and total of pixels by line, (length, S)."""
    length = len(pixels)
    there = pixels > 0
    total = pixels.sum(0).astype(np.float64)
    centre = (np.arange(length) + 0.5) @ pixels / (total * length)
    return there.argmax(0).astype(np.int64), (length - there[::-1].argmax(0)).astype(np.int64), centre, total


def sums(values: npt.NDArray[Any], labels: Labels) -> Floats:
    """Return what lies on each segment: the sums of ``values`` (H, W) as (S,), or of K such maps (K, H, W) as (K, S).

    Raises
    ------
    SettingsError
        When maps and labels have different sizes.
    """
    if values.shape[-2:] != labels.shape or values.ndim not in (2, 3):
        raise SettingsError(f"Maps of shape {values.shape} cannot be summed over segments of shape {labels.shape}.")
    count = int(labels.max()) + 1
    maps = values.reshape(-1, labels.size)
    cells = labels.ravel() + count * np.arange(len(maps))[:, None]
    found = np.bincount(cells.ravel(), maps.ravel(), minlength=len(maps) * count)
    return found.astype(np.float64, copy=False).reshape(*values.shape[:-2], count)


def outlines(labels: Labels) -> npt.NDArray[np.bool_]:
    """Return the pixels (H, W) whose right or lower neighbour is of another segment: lines one pixel wide."""
    found = np.zeros(labels.shape, dtype=np.bool_)
    found[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    found[:-1] |= labels[1:] != labels[:-1]
    return found


def area_matched(
    labels: Labels,
    area: npt.NDArray[np.floating[Any]],
    wanted: Sequence[int] | npt.NDArray[np.integer[Any]],
    exclude: Sequence[int] | npt.NDArray[np.integer[Any]],
    key: int,
) -> Numbers:
    """Draw other segments of an image that cover about as much of it: the control of a change.

    Segments are taken in random order, each if the area is nearer to the wanted one with it; then single ones are
    added, dropped or exchanged as long as that brings the area nearer still.

    Parameters
    ----------
    labels
        The label map (H, W), whose size makes whole pixels of shares: so they compare the same on every machine.
    area
        Share of the image that each segment covers (S,), as :func:`geometry` tells it.
    wanted
        The segments whose area is matched.
    exclude
        Segments that may not be drawn either, e.g. all others of the same concept.
    key
        Of the draw, 64 bits: from the seed, the image id and the purpose.

    Returns
    -------
    control
        Numbers of segments, rising; none of them wanted or excluded. At least one, where there are others.
    """
    pixels = np.rint(np.asarray(area, dtype=np.float64) * labels.size).astype(np.int64)
    free = np.ones(len(pixels), dtype=np.bool_)
    free[np.asarray(exclude, dtype=np.int64)] = free[np.asarray(wanted, dtype=np.int64)] = False
    others = np.flatnonzero(free)
    if not len(others):
        return others
    drawn = np.random.Philox(key=key).random_raw(len(others))  # raw words: NumPy never changes them
    others = others[np.argsort(drawn, kind="stable")]
    target = int(pixels[np.asarray(wanted, dtype=np.int64)].sum())
    return np.sort(others[_near(pixels[others], target)])


def _near(sizes: Numbers, target: int) -> npt.NDArray[np.bool_]:
    """Return which of the sizes, taken in their order, add up to about ``target``; at least one."""
    chosen = np.zeros(len(sizes), dtype=np.bool_)
    missing = target
    for i, size in enumerate(sizes.tolist()):
        if abs(missing - size) < abs(missing):
            chosen[i] = True
            missing -= size
    if not chosen.any():
        first = int(np.abs(sizes - target).argmin())
        chosen[first] = True
        missing -= int(sizes[first])
    while missing:
        out, into, left = _best_exchange(sizes, chosen, missing)
        if abs(left) >= abs(missing):
            break
        chosen[out], chosen[into], missing = False, True, left
    return chosen


def _best_exchange(sizes: Numbers, chosen: npt.NDArray[np.bool_], missing: int) -> tuple[list[int], list[int], int]:
    """Return which one leaves and which one comes (or none), and what is missing then: as little as can be."""
    inside, outside = np.flatnonzero(chosen), np.flatnonzero(~chosen)
    leaves = np.append(sizes[inside], 0)  # the last stands for none
    rising = np.argsort(np.append(sizes[outside], 0), kind="stable")
    comes = np.append(sizes[outside], 0)[rising]
    after = np.searchsorted(comes, missing + leaves).clip(1, max(1, len(comes) - 1))
    near = np.stack([after - 1, np.minimum(after, len(comes) - 1)])
    left = missing + leaves - comes[near]
    if len(inside) == 1:  # one stays
        left[:, 0][rising[near[:, 0]] == len(outside)] = missing
    side, out = np.unravel_index(int(np.abs(left).argmin()), left.shape)
    into = int(rising[near[side, out]])
    return inside[out : out + 1].tolist(), outside[into : into + 1].tolist(), int(left[side, out])
