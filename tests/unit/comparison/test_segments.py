"""Partitions as they are asked for, and what is known of segments."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salience.comparison.partition import SCALES, Felzenszwalb, Grid, Slic
from salience.comparison.segments import area_matched, geometry, outlines, parse_partition, sums
from salience.errors import SettingsError

NONE: list[int] = []


def drawn(count: int, shape: tuple[int, int] = (40, 60), seed: int = 0) -> np.ndarray:
    """Labels of segments that are scattered over the image, all of which occur."""
    labels = np.random.default_rng(seed).integers(0, count, shape)
    labels.flat[:count] = np.arange(count)
    return labels.astype(np.int32)


# ---------------------------------------------------------------------- partitions


@pytest.mark.parametrize(
    ("text", "partition"),
    [
        ("felzenszwalb", Felzenszwalb()),
        ("felzenszwalb:scale=100,sigma=0.5:min-size=20", Felzenszwalb(100.0, 0.5, 20)),
        ("grid:rows=14,columns=3", Grid(14, 3)),
        (" grid ", Grid()),
    ],
)
def test_parse(text: str, partition: object) -> None:
    assert parse_partition(text) == partition


def test_parse_slic() -> None:
    pytest.importorskip("skimage")
    assert parse_partition("slic:count=80") == Slic(80)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("felsenzwalb", "Did you mean 'felzenszwalb'"),
        ("felzenszwalb:scales=3", "Did you mean 'scale'"),
        ("felzenszwalb:scale=0", "above 0"),
        ("felzenszwalb:scale=nan", "above 0"),
        ("felzenszwalb:scale=inf", "above 0"),
        ("felzenszwalb:sigma=-1", "0 or more"),
        ("felzenszwalb:min_size=0", "1 or more"),
        ("felzenszwalb:min_size=1.5", "type int"),
        ("grid:rows=0", "1 or more"),
        ("grid:7", "words"),
        ("masks", "masks:FOLDER"),
        ("masks:nowhere/at/all", "is no folder"),
        ("", "choose felzenszwalb"),
    ],
)
def test_parse_errors(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_partition(text)


def test_slic_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salience.comparison.partition.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="pip install scikit-image"):
        parse_partition("slic")


def test_identities_differ_and_are_json(tmp_path: Path) -> None:
    texts = ["felzenszwalb", "felzenszwalb:scale=251", "grid", "grid:rows=8", f"masks:{tmp_path}"]
    assert len({json.dumps(parse_partition(t).identity, sort_keys=True) for t in texts}) == len(texts)


@pytest.mark.parametrize(("height", "width", "rows", "columns"), [(224, 224, 7, 7), (10, 11, 3, 4), (3, 2, 7, 7)])
def test_grid(height: int, width: int, rows: int, columns: int) -> None:
    labels = Grid(rows, columns).label_map(np.zeros((height, width, 3), np.uint8), "x")
    rows, columns = min(rows, height), min(columns, width)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(np.unique(labels), np.arange(rows * columns))
    where = geometry(labels)
    down, across = where.bottom - where.top, where.right - where.left
    np.testing.assert_allclose(where.area * labels.size, down * across)  # rectangles
    assert np.ptp(down) <= 1
    assert np.ptp(across) <= 1


def test_display() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    partition = Felzenszwalb(scale=SCALES[3])
    pool = partition.display(image, "x")
    assert len(pool) == len(SCALES)
    np.testing.assert_array_equal(pool[3], partition.label_map(image, "x"))
    (only,) = Grid().display(image, "x")
    np.testing.assert_array_equal(only, Grid().label_map(image, "x"))
    assert partition.names("x") is None
    partition.check(["x", "y"])  # nothing can be wrong


# ---------------------------------------------------------------------- what is known of segments


@pytest.mark.parametrize("count", [1, 2, 50])
def test_geometry_by_masks(count: int) -> None:
    labels = drawn(count)
    where = geometry(labels)
    assert where.area.sum() == pytest.approx(1)
    for s in range(count):
        rows, columns = np.nonzero(labels == s)
        assert where.area[s] == len(rows) / labels.size
        assert where.row[s] == pytest.approx((rows.mean() + 0.5) / 40)
        assert where.column[s] == pytest.approx((columns.mean() + 0.5) / 60)
        box = (where.top[s], where.bottom[s], where.left[s], where.right[s])
        assert box == (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)


def test_sums_by_masks() -> None:
    labels = drawn(30)
    maps = np.random.default_rng(1).standard_normal((3, 40, 60)).astype(np.float32)
    found = sums(maps, labels)
    assert found.dtype == np.float64
    for k, values in enumerate(maps.astype(np.float64)):
        np.testing.assert_allclose(found[k], [values[labels == s].sum() for s in range(30)], rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(sums(maps[k], labels), found[k])
        assert found[k].sum() == pytest.approx(values.sum(), abs=1e-9)


def test_sums_of_other_sizes_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"\(7, 7\)"):
        sums(np.zeros((7, 7)), drawn(5))


def test_outlines() -> None:
    labels = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]], dtype=np.int32)
    np.testing.assert_array_equal(outlines(labels), [[0, 1, 0], [1, 1, 1], [0, 0, 0]])


# ---------------------------------------------------------------------- controls


def photographs() -> list[np.ndarray]:
    data = pytest.importorskip("skimage.data")
    images = [data.astronaut()[::2, ::2], data.coffee()[::2, ::3], data.chelsea()[:, ::2]]
    return [Felzenszwalb().label_map(np.ascontiguousarray(i), "x") for i in images]


def test_controls_of_photographs_match_in_area() -> None:
    errors = []
    for labels in photographs():
        area = geometry(labels).area
        for seed in range(200):
            rng = np.random.default_rng(seed)
            wanted = rng.choice(len(area), rng.integers(1, 5), replace=False)
            control = area_matched(labels, area, wanted, wanted, seed)
            assert not set(control.tolist()) & set(wanted.tolist())
            assert (np.diff(control) > 0).all()
            if area[wanted].sum() < 0.5:  # else there is too little left
                errors.append(abs(area[control].sum() / area[wanted].sum() - 1))
    assert len(errors) > 400
    assert np.median(errors) < 0.01
    assert np.quantile(errors, 0.9) < 0.06


SIZES = st.lists(st.integers(1, 60), min_size=2, max_size=9)


@settings(max_examples=200, deadline=None)
@given(SIZES, st.integers(0, 2**64 - 1), st.data())
def test_no_single_exchange_would_match_better(sizes: list[int], key: int, data: st.DataObject) -> None:
    labels = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[None]
    wanted = sorted(data.draw(st.sets(st.integers(0, len(sizes) - 1), min_size=1)))
    exclude = sorted(data.draw(st.sets(st.integers(0, len(sizes) - 1), max_size=2)))
    control = area_matched(labels, geometry(labels).area, wanted, exclude, key).tolist()
    others = set(range(len(sizes))) - set(wanted) - set(exclude)
    assert set(control) <= others
    assert bool(control) == bool(others)
    target = sum(sizes[s] for s in wanted)
    error = abs(target - sum(sizes[s] for s in control))
    for leave in [set(), *({s} for s in control)]:
        for come in [set(), *({s} for s in others - set(control))]:
            other = (set(control) - leave) | come
            assert not other or abs(target - sum(sizes[s] for s in other)) >= error


def test_controls_are_none_where_there_are_no_other_pixels() -> None:
    labels = drawn(4)
    area = geometry(labels).area
    assert len(area_matched(labels, area, [0, 1, 2, 3], NONE, 1)) == 0
    assert len(area_matched(labels, area, [0, 1], [2, 3], 1)) == 0
    assert area_matched(labels, area, [0, 1], [2], 1).tolist() == [3]


def test_controls_are_drawn_by_key_and_evenly() -> None:
    labels = Grid(10, 10).label_map(np.zeros((100, 100, 3), np.uint8), "x")
    area = geometry(labels).area
    chosen = [area_matched(labels, area, range(20), range(20), key) for key in range(2000)]
    np.testing.assert_array_equal(chosen[7], area_matched(labels, area, range(20), range(20), 7))
    assert all(len(c) == 20 for c in chosen)
    counts = np.bincount(np.concatenate(chosen), minlength=100)
    assert counts[:20].sum() == 0
    # Each of 80 others comes in a quarter of 2000 draws: mean 500, standard deviation 19.4.
    assert np.abs(counts[20:] - 500).max() < 5 * 19.4


def test_many_segments_are_matched_in_little_memory() -> None:
    labels = np.arange(60_000, dtype=np.int32).reshape(200, 300)
    labels[0, :7] = 0  # the wanted area is even, and all others are single pixels
    labels = np.unique(labels, return_inverse=True)[1].reshape(200, 300).astype(np.int32)
    area = geometry(labels).area
    assert len(area_matched(labels, area, [0], [0], 5)) == 7
