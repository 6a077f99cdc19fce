"""Maps on disk: a Zarr v3 array (rows, h, w), one shard a work unit, one chunk a map.

The shards are written here byte by byte as the ``sharding_indexed`` codec defines them, because a shard of whole,
uncompressed maps is a copy of memory with an index behind it. ``benchmarks/store.py``, microseconds a map, the zarr
library against this module, on two cores: 381 and 114 at 224 x 224, 111 and 6 at 32 x 32, 102 and 1 at 7 x 7. Any
Zarr v3 reader opens the result.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from salience.errors import RunError
from salience.store.files import json_bytes, read_json, whole_file, write_json
from salience.store.place import Pieces, Place, storage

_MISSING = np.uint64(0xFFFFFFFFFFFFFFFF)
Floats = npt.NDArray[np.floating]


def array_metadata(
    rows: int, per_shard: int, grid: tuple[int, int], dtype: str, attributes: dict[str, object]
) -> dict[str, object]:
    """Return the ``zarr.json`` of an array of ``rows`` maps."""
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [rows, *grid],
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [per_shard, *grid]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0,
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [1, *grid],
                    "codecs": [little],
                    "index_codecs": [little, {"name": "crc32c"}],
                    "index_location": "end",
                },
            }
        ],
        "dimension_names": ["row", "y", "x"],
        "attributes": attributes,
    }


class MapArray:
    """One array of maps in a run."""

    def __init__(self, folder: Place) -> None:
        self.folder = folder
        meta = read_json(folder / "zarr.json")
        self._meta = meta
        self._grows = True
        self._opened: _Opened | None = None
        try:
            per_shard, *_ = meta["chunk_grid"]["configuration"]["chunk_shape"]
            _, height, width = meta["shape"]
            if {"float16": 2, "float32": 4}[meta["data_type"]] * per_shard * height * width <= 0:
                raise ValueError("no size")
            self.per_shard, self.grid = int(per_shard), (int(height), int(width))
            self.dtype = np.dtype(meta["data_type"]).newbyteorder("<")
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{folder / 'zarr.json'} does not describe an array of maps. The run directory is damaged; restore "
                "it or start another."
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is open: a worker opens its own."""
        return {**self.__dict__, "_opened": None}

    @classmethod
    def create(
        cls,
        folder: Place,
        per_shard: int,
        grid: tuple[int, int],
        dtype: str,
        attributes: dict[str, object],
        *,
        grows: bool = True,
    ) -> MapArray:
        """Make an empty array, or open the one that is there; only one process may let it grow."""
        path, empty = folder / "zarr.json", array_metadata(0, per_shard, grid, dtype, attributes)
        storage(folder).start(path, json_bytes(empty))
        array = cls(folder)
        array._grows = grows
        return array

    def path(self, shard: int) -> Place:
        """Return the file of a shard."""
        return self.folder / "c" / str(shard) / "0" / "0"

    def write(self, shard: int, maps: Floats) -> None:
        """Write the first ``len(maps)`` rows of a shard (n, h, w), atomically; the others stay missing."""
        if maps.shape[1:] != self.grid or len(maps) > self.per_shard:
            raise ValueError(f"maps of shape {maps.shape} do not fit a shard of {self.per_shard} x {self.grid}")
        data = np.ascontiguousarray(maps, dtype=self.dtype)
        size = int(np.prod(self.grid)) * self.dtype.itemsize
        index = np.full((self.per_shard, 2), _MISSING, dtype="<u8")
        index[: len(maps), 0] = np.arange(len(maps), dtype="<u8") * np.uint64(size)
        index[: len(maps), 1] = size
        raw = index.tobytes()
        with whole_file(self.path(shard)) as file:
            file.write(data.data)
            file.write(raw)
            file.write(struct.pack("<I", google_crc32c.value(raw)))
        if self._grows:
            self.grow((shard + 1) * self.per_shard)

    def grow(self, rows: int) -> None:
        """Make the array at least so many rows long."""
        if rows > self._meta["shape"][0]:
            self._meta["shape"][0] = rows
            write_json(self.folder / "zarr.json", self._meta)

    def read(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the maps at ``rows``, float32 (len(rows), h, w), without their scales.

        Raises
        ------
        RunError
            When a shard is missing or damaged.
        """
        out = np.empty((len(rows), *self.grid), dtype=np.float32)
        shards = rows // self.per_shard

        def fill(shard: int) -> None:
            where = np.flatnonzero(shards == shard)
            for i, piece in zip(where, self._pieces(shard, rows[where]), strict=True):
                out[i] = np.frombuffer(piece, dtype=self.dtype).reshape(self.grid)

        deque(storage(self.folder).each(fill, np.unique(shards).tolist()), maxlen=0)
        return out

    def _pieces(self, shard: int, rows: npt.NDArray[np.int64]) -> Iterable[Any]:
        """Return the bytes of the maps at ``rows``, all of one shard."""
        if (opened := self._opened) is None or opened.shard != shard:
            opened = self._opened = self._open(shard)  # images that follow one another are of one shard
        size = int(np.prod(self.grid)) * self.dtype.itemsize
        index = opened.index[rows - shard * self.per_shard]
        lost = (index[:, 1] != size) | (index[:, 0] > opened.pieces.size - size)
        if lost.any():
            raise RunError(f"The map at row {int(rows[lost][0])} of {self.folder} is missing. {_cure(shard)}")
        return opened.pieces.read(index[:, 0].tolist(), size)

    def _open(self, shard: int) -> _Opened:
        path, tail = self.path(shard), self.per_shard * 16
        try:
            pieces = storage(path).pieces(path)
            end = pieces.tail(tail + 4)
            index, (checksum,) = end[:-4], struct.unpack("<I", end[-4:])
        except (OSError, ValueError, struct.error) as error:
            raise RunError(f"The maps in {path} cannot be read: {error}. {_cure(shard)}") from error
        if len(index) != tail or google_crc32c.value(index) != checksum:
            raise RunError(f"The maps in {path} are damaged. {_cure(shard)}")
        return _Opened(shard, pieces, np.frombuffer(index, dtype="<u8").reshape(-1, 2))


@dataclass(frozen=True)
class _Opened:
    """A shard and its index: (offset, length) of each map."""

    shard: int
    pieces: Pieces
    index: npt.NDArray[np.uint64]


def _cure(shard: int) -> str:
    return f"Delete units/{shard:06d}.json of the run and run the command again to compute them."
