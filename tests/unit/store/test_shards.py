"""Arrays of maps: what is written here is what any Zarr v3 reader sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from salience.errors import RunError
from salience.store.shards import MapArray

ATTRIBUTES = {"model": "m", "method": "gradient"}


def draw(rows: int, grid: tuple[int, int], dtype: str, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, *grid)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_zarr_library_reads_the_same(dtype: str, tmp_path: Path) -> None:
    array = MapArray.create(tmp_path / "a", 4, (5, 7), dtype, ATTRIBUTES)
    first, third = draw(4, (5, 7), dtype), draw(2, (5, 7), dtype, 1)
    array.write(0, first)
    array.write(2, third)
    seen = zarr.open_array(tmp_path / "a", mode="r")
    assert seen.shape == (12, 5, 7)
    assert seen.dtype == np.dtype(dtype)
    assert seen.chunks == (1, 5, 7)
    assert seen.shards == (4, 5, 7)
    assert dict(seen.attrs) == ATTRIBUTES
    assert seen.metadata.dimension_names == ("row", "y", "x")
    np.testing.assert_array_equal(seen[:4], first)
    np.testing.assert_array_equal(seen[4:8], 0)  # a shard that was never written
    np.testing.assert_array_equal(seen[8:10], third)
    np.testing.assert_array_equal(seen[10:], 0)  # rows of a shard that is not full
    np.testing.assert_array_equal(seen[9, 2:4, 1:3], third[1, 2:4, 1:3])
    np.testing.assert_array_equal(array.read(np.array([9, 0, 3])), np.stack([third[1], first[0], first[3]]))


@settings(max_examples=20, deadline=None)
@given(
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    per=st.integers(1, 6),
    dtype=st.sampled_from(["float16", "float32"]),
    data=st.data(),
)
def test_any_grid_and_shard(
    tmp_path_factory: pytest.TempPathFactory, h: int, w: int, per: int, dtype: str, data
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    array = MapArray.create(folder, per, (h, w), dtype, {})
    counts = data.draw(st.lists(st.integers(1, per), min_size=1, max_size=3))
    rows, values = [], []
    for shard, count in enumerate(counts):
        maps = draw(count, (h, w), dtype, shard)
        array.write(shard, maps)
        rows += [shard * per + i for i in range(count)]
        values += list(maps)
    again = MapArray(folder)
    np.testing.assert_array_equal(again.read(np.array(rows)), np.stack(values).astype(np.float32))
    np.testing.assert_array_equal(zarr.open_array(folder, mode="r")[:][rows], np.stack(values))


def test_a_shard_is_written_again_whole(tmp_path: Path) -> None:
    array = MapArray.create(tmp_path, 3, (2, 2), "float32", {})
    array.write(0, draw(3, (2, 2), "float32"))
    fresh = draw(1, (2, 2), "float32", 1)
    array.write(0, fresh)
    np.testing.assert_array_equal(array.read(np.array([0])), fresh)
    with pytest.raises(RunError, match=r"row 1 .* missing"):
        array.read(np.array([1]))


def test_what_does_not_fit(tmp_path: Path) -> None:
    array = MapArray.create(tmp_path, 2, (2, 2), "float32", {})
    with pytest.raises(ValueError, match="do not fit"):
        array.write(0, draw(3, (2, 2), "float32"))
    with pytest.raises(ValueError, match="do not fit"):
        array.write(0, draw(1, (2, 3), "float32"))


@pytest.mark.parametrize("damage", ["gone", "empty", "short", "index", "checksum"])
def test_damage_is_told(damage: str, tmp_path: Path) -> None:
    array = MapArray.create(tmp_path, 2, (4, 4), "float32", {})
    array.write(0, draw(2, (4, 4), "float32"))
    path = array.path(0)
    raw = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "short":
        path.write_bytes(raw[:20])
    else:
        raw[-20 if damage == "index" else -1] ^= 255
        path.write_bytes(raw)
    with pytest.raises(RunError, match=r"(?s)c/0/0/0.*units/000000\.json.*run the command again"):
        array.read(np.array([0]))


def test_metadata_that_is_damaged(tmp_path: Path) -> None:
    MapArray.create(tmp_path, 2, (4, 4), "float32", {})
    (tmp_path / "zarr.json").write_text("{")
    with pytest.raises(RunError, match=r"zarr\.json cannot be read"):
        MapArray(tmp_path)
