"""The encoder of places: near segments are alike, whatever the image shows."""

from __future__ import annotations

import numpy as np
import pytest

from salience.comparison.embedding import embed
from salience.comparison.encoders import parse_encoder
from salience.comparison.places import GRID, WIDTH, PlaceEncoder
from salience.errors import ModelError


def test_the_cosine_falls_with_the_distance_alone() -> None:
    encoder = PlaceEncoder()
    grid = encoder.features(np.zeros((1, GRID, GRID, 3), np.uint8))[0]
    unit = grid / np.linalg.norm(grid, axis=0)
    for a, b in (((14, 14), (14, 17)), ((14, 14), (11, 14)), ((10, 12), (13, 16))):
        distance = np.hypot(*(np.array(a) - b)) / GRID
        cosine = float(unit[:, a[0], a[1]] @ unit[:, b[0], b[1]])
        assert cosine == pytest.approx(np.exp(-(distance**2) / (4 * WIDTH**2)), abs=0.01)


def test_images_do_not_matter_and_places_do() -> None:
    encoder = parse_encoder("place")
    assert isinstance(encoder, PlaceEncoder)
    labels = np.arange(16, dtype=np.int32).reshape(4, 4).repeat(14, 0).repeat(14, 1)
    images = np.random.default_rng(0).integers(0, 256, (2, GRID, GRID, 3)).astype(np.uint8)
    first, second = embed(encoder, images, [labels, labels])
    np.testing.assert_array_equal(first, second)
    near = first @ first.T
    assert near[0, 1] > near[0, 2] > near[0, 3]
    assert near[0, 1] == pytest.approx(near[0, 4], abs=0.01)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ModelError, match="place"):
        PlaceEncoder().features(np.zeros((1, 8, 8, 3), np.uint8))
