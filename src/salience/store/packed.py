"""Small arrays inside a table's cells: label maps and embeddings, compressed, read unit by unit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from salience.errors import RunError
from salience.store.run import Run

_LEVEL = 3
_UNITS = 4
"""Units whose rows are held at a time: neighbours in the run are neighbours in its units."""


def pack(array: npt.NDArray[Any]) -> bytes:
    """Return the bytes of an array, little-endian and row by row, as one Zstandard frame."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    packed: bytes = pa.Codec("zstd", compression_level=_LEVEL).compress(little.tobytes(), asbytes=True)
    return packed


def unpack(packed: bytes, dtype: npt.DTypeLike, shape: Sequence[int]) -> npt.NDArray[Any]:
    """Return the array that :func:`pack` was given.

    Raises
    ------
    RunError
        When the bytes are not those of such an array.
    """
    kind = np.dtype(dtype).newbyteorder("<")
    size = int(np.prod(shape)) * kind.itemsize
    try:
        raw = pa.Codec("zstd").decompress(packed, decompressed_size=size, asbytes=True)
        return np.frombuffer(raw, dtype=kind).reshape(tuple(shape)).astype(dtype, copy=False)
    except (OSError, ValueError) as error:
        raise RunError(
            f"A packed array of shape {tuple(shape)} in the run is damaged: {error}. Delete the table's file and its "
            "unit's record, and run the command again to compute it."
        ) from error


class StageRows:
    """The rows of a stage's table that a run is about, by image; only a few units' rows are in memory at a time."""

    def __init__(self, run: Run, table: str, recipe: str) -> None:
        self._run, self._table, self._recipe = run, table, recipe
        places = run.places(table)
        places = places.filter(pc.equal(places["recipe"], recipe))
        self._unit = dict(zip(places["image_id"].to_pylist(), places["unit"].to_pylist(), strict=True))
        self._held: OrderedDict[int, dict[str, list[dict[str, Any]]]] = OrderedDict()

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._unit

    def __len__(self) -> int:
        return len(self._unit)

    def rows(self, image_id: str) -> list[dict[str, Any]]:
        """Return an image's rows.

        Raises
        ------
        RunError
            When there are none.
        """
        unit = self._unit.get(image_id)
        if unit is None:
            raise RunError(f"The table {self._table!r} of {self._run.folder} has no rows of image {image_id!r}.")
        if unit not in self._held:
            self._held[unit] = self._read(unit)
            if len(self._held) > _UNITS:
                self._held.popitem(last=False)
        self._held.move_to_end(unit)
        return self._held[unit][image_id]

    def _read(self, unit: int) -> dict[str, list[dict[str, Any]]]:
        part = self._run.part(self._table, unit)
        found: dict[str, list[dict[str, Any]]] = {}
        for row in [] if part is None else part.filter(pc.equal(part["recipe"], self._recipe)).to_pylist():
            found.setdefault(row["image_id"], []).append(row)
        return found


class LabelMaps:
    """Label maps of a run's images."""

    def __init__(self, run: Run, recipe: str) -> None:
        self._rows = StageRows(run, "partitions", recipe)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._rows

    def read(self, image_id: str) -> npt.NDArray[np.int32]:
        """Return the label map (H, W) of an image: each pixel's segment, from 0 on."""
        (row,) = self._rows.rows(image_id)
        return unpack(row["labels"], "<u2", (row["height"], row["width"])).astype(np.int32)

    def names(self, image_id: str) -> tuple[str, ...] | None:
        """Return the names of an image's segments where the user's masks have some."""
        (row,) = self._rows.rows(image_id)
        return None if row["names"] is None else tuple(row["names"])


class Embeddings:
    """Embeddings of the segments of a run's images."""

    def __init__(self, run: Run, recipe: str) -> None:
        self._rows = StageRows(run, "embeddings", recipe)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._rows

    def read(self, image_id: str) -> npt.NDArray[np.float32]:
        """Return the embeddings (S, D) of an image's segments."""
        (row,) = self._rows.rows(image_id)
        return unpack(row["values"], "<f2", (row["segments"], row["dimensions"])).astype(np.float32)

    def blocks(self, image_ids: Iterable[str]) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the embeddings of images, one after another."""
        return (self.read(i) for i in image_ids)
