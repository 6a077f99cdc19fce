"""Why shards are written here and not by the zarr library: microseconds a map, both in one process.

python benchmarks/store.py
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr

from salience.store.shards import MapArray


def median_us(work: Callable[[], object], maps: int, rounds: int = 7) -> float:
    work()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) / maps * 1e6


def main() -> None:
    heads = ("zarr write", "ours write", "zarr read", "ours read")
    print("microseconds a map".ljust(24) + " ".join(h.rjust(10) for h in heads))
    for side, count in ((224, 64), (32, 256), (7, 1024)):
        values = np.random.default_rng(0).standard_normal((count, side, side)).astype("<f2")
        folder = Path(tempfile.mkdtemp())
        try:
            theirs = zarr.create_array(
                folder / "theirs",
                shape=values.shape,
                chunks=(1, side, side),
                shards=values.shape,
                dtype="f2",
                compressors=None,
            )
            ours = MapArray.create(folder / "ours", count, (side, side), "float16", {})
            rows = np.arange(count)

            def write_theirs(array: zarr.Array = theirs, v: np.ndarray = values) -> None:
                array[:] = v

            figures = (
                median_us(write_theirs, count),
                median_us(lambda a=ours, v=values: a.write(0, v), count),
                median_us(lambda a=theirs: a[:], count),
                median_us(lambda a=ours, r=rows: a.read(r), count),
            )
            assert np.array_equal(zarr.open(folder / "ours", mode="r")[:], values)
            print(f"{count:4} maps of {side} x {side}".ljust(24) + " ".join(f"{f:10.1f}" for f in figures))
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
