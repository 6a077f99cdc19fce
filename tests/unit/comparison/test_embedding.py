"""Embeddings of segments: features weighted by area, exactly."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salience.comparison.embedding import embed, embed_crops, overlaps, pool

Labels = npt.NDArray[np.int32]


def _labels(shape: tuple[int, int], segments: int, seed: int) -> Labels:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, segments, shape).astype(np.int32)
    labels.ravel()[rng.permutation(labels.size)[:segments]] = np.arange(segments)
    return labels


def _exact(labels: Labels, grid: tuple[int, int]) -> list[list[Fraction]]:
    """Return shares of segments in cells, in fractions: pixel by pixel and cell by cell."""

    def common(i: int, n: int, j: int, m: int) -> Fraction:
        low, high = max(Fraction(i, n), Fraction(j, m)), min(Fraction(i + 1, n), Fraction(j + 1, m))
        return max(Fraction(0), high - low)

    (height, width), (rows, columns) = labels.shape, grid
    area = [[Fraction(0)] * (rows * columns) for _ in range(int(labels.max()) + 1)]
    for y in range(height):
        for x in range(width):
            for i in range(rows):
                for j in range(columns):
                    area[labels[y, x]][i * columns + j] += common(y, height, i, rows) * common(x, width, j, columns)
    return [[a / sum(row) for a in row] for row in area]


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.integers(0, 1000),
)
def test_overlaps_are_exact(size: tuple[int, int], grid: tuple[int, int], seed: int) -> None:
    labels = _labels(size, min(3, size[0] * size[1]), seed)
    expected = np.array([[float(v) for v in row] for row in _exact(labels, grid)])
    np.testing.assert_allclose(overlaps(labels, grid).toarray(), expected, atol=1e-7)


def test_pooling_is_the_mean_over_pixels_where_grids_fit() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((3, 5, 4, 6)).astype(np.float32)
    labels = [_labels((16, 12), k, k) for k in (1, 4, 9)]
    found = pool(features, labels)
    for one, of, got in zip(features, labels, found, strict=True):
        pixels = one.repeat(4, axis=1).repeat(2, axis=2).astype(np.float64)
        means = np.stack([pixels[:, of == s].mean(axis=1) for s in range(int(of.max()) + 1)])
        np.testing.assert_allclose(got, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-6)
        assert got.dtype == np.float32


def test_a_segment_of_zeros_has_an_embedding_of_zeros() -> None:
    features = np.zeros((1, 3, 2, 2), dtype=np.float32)
    features[0, :, 1] = 2
    (found,) = pool(features, [np.repeat(np.arange(2), 2)[:, None].repeat(4, axis=1)])
    np.testing.assert_allclose(found, [[0, 0, 0], [3**-0.5] * 3], atol=1e-7)


def test_images_do_not_meet() -> None:
    features = np.random.default_rng(1).standard_normal((4, 3, 2, 2)).astype(np.float32)
    labels = [_labels((8, 8), 5, s) for s in range(4)]
    whole = pool(features, labels)
    for i in range(4):
        np.testing.assert_array_equal(pool(features[i : i + 1], labels[i : i + 1])[0], whole[i])


# ---------------------------------------------------------------------- crops


class _Colours:
    """An encoder whose features are the pixels of a 4 x 4 input."""

    name = "colours"
    size = (4, 4)
    identity: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, crops: bool = True) -> None:
        self.crops = crops
        self.calls: list[int] = []

    def features(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        assert pixels.dtype == np.uint8
        assert pixels.shape[1:] == (4, 4, 3)
        self.calls.append(len(pixels))
        return pixels.transpose(0, 3, 1, 2).astype(np.float32)


def test_crops_hold_the_segment_alone() -> None:
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    labels = np.zeros((4, 4), dtype=np.int32)
    image[:2, :2], labels[:2, :2] = (200, 0, 0), 1
    image[3, 1:], labels[3, 1:] = (0, 0, 50), 2
    (found,) = embed_crops(_Colours(), image[None], [labels])
    np.testing.assert_allclose(found[1:], [[1, 0, 0], [0, 0, 1]], atol=1e-6)
    # the first one is black where it is, and grey in the seven pixels of its box that are others'
    np.testing.assert_allclose(found[0], [3**-0.5] * 3, atol=1e-6)


def test_crops_of_many_images_come_back_in_order() -> None:
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    labels = [_labels((16, 16), k, k) for k in (30, 2, 50, 1, 40)]  # finer than the pixels
    encoder = _Colours()
    found = embed_crops(encoder, pixels, labels)
    assert [len(f) for f in found] == [30, 2, 50, 1, 40]
    assert sum(encoder.calls) == 123
    assert max(encoder.calls) == 64
    for image, of, got in zip(pixels, labels, found, strict=True):
        np.testing.assert_array_equal(embed_crops(_Colours(), image[None], [of])[0], got)


def test_a_segment_that_vanishes_at_the_size_of_the_encoder() -> None:
    labels = np.zeros((8, 8), dtype=np.int32)
    labels[7, 7] = 1  # the nearest pixels of a 2 x 2 grid are 0 and 4
    (found,) = embed_crops(_Colours(), np.full((1, 2, 2, 3), 9, dtype=np.uint8), [labels])
    np.testing.assert_allclose(found, np.full((2, 3), 3**-0.5), atol=1e-6)


@pytest.mark.parametrize("crops", [False, True])
def test_the_encoder_says_how_segments_are_embedded(crops: bool) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    labels = [_labels((4, 4), 3, s) for s in range(2)]
    encoder = _Colours(crops)
    found = embed(encoder, pixels, labels)
    expected = embed_crops(encoder, pixels, labels) if crops else pool(encoder.features(pixels), labels)
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got, want)
