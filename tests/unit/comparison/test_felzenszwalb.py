"""Felzenszwalb's segments beside the definition, written out, and what they owe to no machine, thread or scale."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salience.comparison.felzenszwalb import felzenszwalb
from salience.errors import ImagesError

SCALES = (50, 250, 1200)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def by_definition(image: np.ndarray, scale: float, min_size: int) -> np.ndarray:
    """The published algorithm on sets of pixels, without blur; equal costs in the order right, down, diagonals."""
    height, width = image.shape[:2]
    edges = []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        for row in range(height - down):
            for column in range(max(0, -right), width - max(0, right)):
                a, b = (row, column), (row + down, column + right)
                edges.append((float(np.sqrt(((image[a] - image[b]) ** 2).sum())), a, b))
    edges.sort(key=lambda edge: edge[0])
    segment = {(r, c): frozenset([(r, c)]) for r in range(height) for c in range(width)}
    within = dict.fromkeys(segment.values(), 0.0)

    def join(one: frozenset, other: frozenset, cost: float) -> None:
        both = one | other
        within[both] = cost
        segment.update(dict.fromkeys(both, both))

    for cost, a, b in edges:
        one, other = segment[a], segment[b]
        if one != other and cost < min(np.float32(within[s] + scale / 255 / len(s)) for s in (one, other)):
            join(one, other, cost)
    for cost, a, b in edges:
        one, other = segment[a], segment[b]
        if one != other and min(len(one), len(other)) < min_size:
            join(one, other, cost)
    numbers = {s: i for i, s in enumerate(dict.fromkeys(segment[r, c] for r in range(height) for c in range(width)))}
    return np.array([[numbers[segment[r, c]] for c in range(width)] for r in range(height)])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(2, 255), st.integers(0, 2**20))
def test_definition(height: int, width: int, channels: int, levels: int, seed: int) -> None:
    """With few levels most costs are equal."""
    image = np.random.default_rng(seed).integers(0, levels, (height, width, channels)) / levels
    for scale, min_size in ((20.0, 1), (100.0, 4), (1000.0, 6)):
        (found,) = felzenszwalb(image, [scale], 0, min_size)
        np.testing.assert_array_equal(found, by_definition(image, scale, min_size))


def test_two_halves() -> None:
    image = np.zeros((20, 30, 3), dtype=np.uint8)
    image[:, 12:] = 200
    (found,) = felzenszwalb(image, [100], 0, 20)
    np.testing.assert_array_equal(found, np.broadcast_to(np.arange(30) >= 12, (20, 30)))


def test_one_sort_serves_every_scale() -> None:
    image = noise(60, 50, 3)
    together = felzenszwalb(image, SCALES, 0.8, 20)
    for scale, labels in zip(SCALES, together, strict=True):
        np.testing.assert_array_equal(labels, felzenszwalb(image, [scale], 0.8, 20)[0])


@pytest.mark.parametrize("min_size", [1, 10, 150])
def test_segments_are_numbered_by_their_first_pixels_and_large_enough(min_size: int) -> None:
    for labels in felzenszwalb(noise(80, 70, 3, seed=1), SCALES, 0.8, min_size):
        assert labels.dtype == np.int32
        values, first, counts = np.unique(labels, return_index=True, return_counts=True)
        np.testing.assert_array_equal(values, np.arange(len(values)))
        assert (np.diff(first) > 0).all()
        assert counts.min() >= min_size


def test_higher_scales_make_larger_segments() -> None:
    counts = [labels.max() for labels in felzenszwalb(noise(100, 100, 3, seed=2), (1, 50, 500, 5000), 0.8, 1)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_grey_images_are_one_channel() -> None:
    image = noise(30, 40, seed=3)
    np.testing.assert_array_equal(felzenszwalb(image, [90], 0.5, 9), felzenszwalb(image[..., None], [90], 0.5, 9))


def test_eight_bits_are_floats_over_255() -> None:
    image = noise(30, 40, 3, seed=4)
    np.testing.assert_array_equal(felzenszwalb(image, [90], 0.8, 9), felzenszwalb(image * (1 / 255), [90], 0.8, 9))


def test_threads_get_the_same_labels() -> None:
    images = [noise(64, 64, 3, seed=i) for i in range(8)]
    alone = [felzenszwalb(i, SCALES, 0.8, 30) for i in images]
    with ThreadPoolExecutor(4) as threads:
        np.testing.assert_array_equal(alone, list(threads.map(lambda i: felzenszwalb(i, SCALES, 0.8, 30), images)))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((4, 4, 3), dtype=np.int64), "type int64"),
        (np.zeros((2, 4, 4, 3), dtype=np.uint8), r"shape \(2, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "shape"),
        (np.full((4, 4, 3), np.nan), "NaN"),
    ],
)
def test_what_is_no_image_is_refused(pixels: np.ndarray, message: str) -> None:
    with pytest.raises(ImagesError, match=message):
        felzenszwalb(pixels, [100], 0.8, 10)


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        (
            "from salience.comparison.segments import parse_partition; parse_partition('felzenszwalb')",
            "numba torch scipy",
        ),
        ("import salience.comparison.frame", "numba torch scipy"),
        ("import salience", "numba torch scipy"),
        ("from salience.cli import main; sys.argv = ['salience', '--help']; main()", "numba"),
    ],
)
def test_what_takes_long_to_import_waits_until_it_is_needed(code: str, heavy: str) -> None:
    after = f"assert not set({heavy.split()}) & set(sys.modules), sorted(sys.modules)"
    whole = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\n{after}\n"
    subprocess.run([sys.executable, "-c", whole], check=True, capture_output=True)
