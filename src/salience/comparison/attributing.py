"""How much of every model's map lies on every segment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from salience.comparison.frame import to_frame
from salience.comparison.segments import geometry, sums
from salience.data.preprocessing import Preprocessing
from salience.store.packed import LabelMaps
from salience.store.reader import StoredMaps

Floats = npt.NDArray[np.float64]
_BLOCK = 64


@dataclass(frozen=True)
class Side:
    """A model's maps, and where its input lies in an image."""

    model: str
    maps: StoredMaps
    preprocessing: Preprocessing


@dataclass(frozen=True, eq=False)
class Attributions:
    """Sums of maps over the P segments of I images, image after image.

    Attributes
    ----------
    images
        Their ids.
    starts
        The first segment of each image, and the end of the last one (I + 1,).
    names
        Of the user's masks (P,), None where there are none.
    area, row, column
        Share of the image that a segment covers, and its centre, 0 to 1 (P,).
    totals, shares
        By model (P,): the sum of the raw map over the segment, and that over the sum of absolute values of the map.
    """

    images: tuple[str, ...]
    starts: npt.NDArray[np.int64]
    names: tuple[str, ...] | None
    area: Floats
    row: Floats
    column: Floats
    totals: Mapping[str, Floats]
    shares: Mapping[str, Floats]

    @property
    def image_of(self) -> npt.NDArray[np.int64]:
        """Place of each segment's image (P,)."""
        return np.repeat(np.arange(len(self.images)), np.diff(self.starts))

    @property
    def segment(self) -> npt.NDArray[np.int64]:
        """Number of each segment within its image (P,)."""
        return np.arange(self.starts[-1]) - np.repeat(self.starts[:-1], np.diff(self.starts))

    def by_concept(self, values: Floats, concept: npt.NDArray[np.integer], count: int) -> Floats:
        """Return sums of ``values`` (P,) over the segments of each concept, (I, count)."""
        cells = np.bincount(self.image_of * count + concept, values, minlength=len(self.images) * count)
        return cells.astype(np.float64).reshape(len(self.images), count)

    def table(self, targets: Sequence[int]) -> dict[str, Any]:
        """Return the columns of the table ``attributions``: model after model, in the order of the segments."""
        models = list(self.totals)
        count, target = len(self.area), np.asarray(targets, dtype=np.int32)[self.image_of]
        ids = pa.array(self.images, pa.string()).take(pa.array(np.tile(self.image_of, len(models))))
        return {
            "image_id": ids,
            "segment": np.tile(self.segment, len(models)),
            "model": pa.array(models, pa.string()).take(pa.array(np.repeat(np.arange(len(models)), count))),
            "target": np.tile(target, len(models)),
            "total": np.concatenate([self.totals[m] for m in models]),
            "share": np.concatenate([self.shares[m] for m in models]),
        }


@dataclass(frozen=True, eq=False)
class _One:
    """One image: its label map, the maps of all models, and its size in pixels."""

    labels: npt.NDArray[np.int32]
    maps: Sequence[npt.NDArray[np.float32]]
    size: tuple[int, int]


def attribute(
    images: Sequence[str],
    targets: Sequence[int],
    sides: Sequence[Side],
    labels: LabelMaps,
    sizes: Mapping[str, tuple[int, int]],
    frame: tuple[int, int],
    workers: int,
    on_images: Callable[[int], None] = lambda done: None,
) -> Attributions:
    """Sum the maps of all models over the segments of all images; only some images are in memory at a time.

    Parameters
    ----------
    targets
        The class of each image whose map is read.
    sizes
        Height and width of each image in pixels.
    frame
        Rows and columns of the label maps.

    Raises
    ------
    RunError
        When a map is missing.
    """
    named = bool(images) and labels.names(images[0]) is not None
    names: list[str] = []
    parts: list[Floats] = []

    def look(one: _One) -> Floats:
        return _sums(one, sides, frame)

    with ThreadPoolExecutor(workers, thread_name_prefix="segments") as threads:
        for at in range(0, len(images), _BLOCK):
            some = images[at : at + _BLOCK]
            block = list(_read(some, targets[at : at + _BLOCK], sides, labels, sizes))
            parts += threads.map(look, block)
            for image_id in some if named else ():
                names += labels.names(image_id) or ()
            on_images(at + len(some))
    counts = np.array([p.shape[1] for p in parts], dtype=np.int64)
    every = np.concatenate([np.zeros((3 + 2 * len(sides), 0)), *parts], axis=1)
    area, row, column = every[:3]
    return Attributions(
        images=tuple(images),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        names=tuple(names) if named else None,
        area=area,
        row=row,
        column=column,
        totals={s.model: every[3 + 2 * i] for i, s in enumerate(sides)},
        shares={s.model: every[4 + 2 * i] for i, s in enumerate(sides)},
    )


def _read(
    images: Sequence[str],
    targets: Sequence[int],
    sides: Sequence[Side],
    labels: LabelMaps,
    sizes: Mapping[str, tuple[int, int]],
) -> Iterator[_One]:
    blocks = [side.maps.read_block(images, targets) for side in sides]
    for place, image_id in enumerate(images):
        yield _One(labels.read(image_id), [block[place] for block in blocks], sizes[image_id])


def _sums(one: _One, sides: Sequence[Side], frame: tuple[int, int]) -> Floats:
    """Return (3 + 2 * models, S): area, row, column; then total and share of each model."""
    where = geometry(one.labels)
    rows = [where.area, where.row, where.column]
    for side, values in zip(sides, one.maps, strict=True):
        total = sums(to_frame(values, side.preprocessing, one.size, frame), one.labels)
        whole = float(np.abs(values.astype(np.float64)).sum())
        rows += [total, total / whole if whole else np.zeros_like(total)]
    return np.stack(rows).astype(np.float64)
