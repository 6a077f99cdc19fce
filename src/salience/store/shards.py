"""Maps on disk: a Zarr v3 array (rows, h, w), one shard a work unit, one chunk a map.

The shards are written here byte by byte as the ``sharding_indexed`` codec defines them, because a shard of whole,
uncompressed maps is a copy of memory with an index behind it. ``benchmarks/store.py``, microseconds a map, the zarr
library against this module, on two cores: 381 and 114 at 224 x 224, 111 and 6 at 32 x 32, 102 and 1 at 7 x 7. Any
Zarr v3 reader opens the result.
"""

from __future__ import annotations

import struct
from pathlib import Path

import google_crc32c
import numpy as np
import numpy.typing as npt

from salience.errors import RunError
from salience.store.files import read_json, whole_file, write_json

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

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        meta = read_json(folder / "zarr.json")
        self._meta = meta
        self._grows = True
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

    @classmethod
    def create(
        cls,
        folder: Path,
        per_shard: int,
        grid: tuple[int, int],
        dtype: str,
        attributes: dict[str, object],
        *,
        grows: bool = True,
    ) -> MapArray:
        """Make an empty array, or open the one that is there; only one process may let it grow."""
        if not (folder / "zarr.json").exists():
            write_json(folder / "zarr.json", array_metadata(0, per_shard, grid, dtype, attributes))
        array = cls(folder)
        array._grows = grows
        return array

    def path(self, shard: int) -> Path:
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
        size = int(np.prod(self.grid)) * self.dtype.itemsize
        shards = rows // self.per_shard
        for shard in np.unique(shards):
            path = self.path(int(shard))
            where = np.flatnonzero(shards == shard)
            tail = self.per_shard * 16
            cure = f"Delete units/{int(shard):06d}.json of the run and run the command again to compute them."
            try:
                raw = np.memmap(path, dtype=np.uint8, mode="r")
                index_bytes = raw[-tail - 4 : -4].tobytes()
                (checksum,) = struct.unpack("<I", raw[-4:].tobytes())
            except (OSError, ValueError, struct.error) as error:
                raise RunError(f"The maps in {path} cannot be read: {error}. {cure}") from error
            if len(index_bytes) != tail or google_crc32c.value(index_bytes) != checksum:
                raise RunError(f"The maps in {path} are damaged. {cure}")
            index = np.frombuffer(index_bytes, dtype="<u8").reshape(-1, 2)
            for i in where:
                offset, length = (int(v) for v in index[int(rows[i]) - int(shard) * self.per_shard])
                if length != size or offset + length > len(raw):
                    raise RunError(f"The map at row {int(rows[i])} of {self.folder} is missing. {cure}")
                out[i] = raw[offset : offset + length].view(self.dtype).reshape(self.grid)
        return out
