"""Segments beside scikit-image's: the same labels, number for number."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image

from salience.comparison.felzenszwalb import felzenszwalb
from salience.comparison.partition import SCALES
from salience.comparison.segments import geometry, outlines, parse_partition

pytest.importorskip("skimage", reason="scikit-image is the peer")

from skimage import data, measure, segmentation
from skimage.util import img_as_float

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "rocket")
GREY = ("camera", "coins", "moon", "page", "text")


def photograph(name: str, height: int = 224, width: int = 224) -> np.ndarray:
    image = Image.fromarray(getattr(data, name)()).convert("RGB")
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def check(image: np.ndarray, scale: float, sigma: float, min_size: int, *, stable: bool = False) -> None:
    """Compare with the peer, or with the peer under a stable sort: NumPy's own leaves equal costs as they fall."""
    argsort = np.argsort

    def stable_argsort(values: Any) -> Any:
        return argsort(values, kind="stable")

    (ours,) = felzenszwalb(image, [scale], sigma, min_size)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Got image with third dimension", RuntimeWarning)
        if stable:
            patch.setattr(np, "argsort", stable_argsort)
        axis = None if image.ndim == 2 else -1
        theirs = segmentation.felzenszwalb(image, scale, sigma, min_size, channel_axis=axis)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_at_the_scales_of_the_display_pool(name: str) -> None:
    image = photograph(name)
    found = felzenszwalb(image, SCALES, 0.8, 150)
    for scale, labels in zip(SCALES, found, strict=True):
        theirs = segmentation.felzenszwalb(image, scale=scale, sigma=0.8, min_size=150)
        np.testing.assert_array_equal(labels, theirs)
    assert len({int(labels.max()) for labels in found}) > 1  # else one scale was as good as six


@pytest.mark.parametrize("name", GREY)
def test_grey_photographs_at_the_scales_of_the_display_pool(name: str) -> None:
    for scale in SCALES:
        check(photograph(name), scale, 0.8, 150, stable=True)


@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.7])
@pytest.mark.parametrize("min_size", [1, 20, 400])
def test_photographs_under_other_settings_and_sizes(sigma: float, min_size: int) -> None:
    for name, size in (("coffee", (130, 201)), ("chelsea", (96, 64)), ("astronaut", (17, 300))):
        for scale in (10, 300):
            check(photograph(name, *size), scale, sigma, min_size, stable=sigma == 0)


@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4, 7])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_noise_of_any_number_of_channels_and_type(channels: int | None, kind: type) -> None:
    rng = np.random.default_rng(channels or 0)
    shape = (70, 51) if channels is None else (70, 51, channels)
    image = rng.integers(0, 256, shape, dtype=np.uint8) if kind is np.uint8 else rng.random(shape).astype(kind)
    for scale, sigma, min_size in ((1, 0.8, 20), (80, 0, 5), (400, 2, 1), (3000, 0.8, 150)):
        check(image, scale, sigma, min_size, stable=kind is np.uint8)


def test_where_costs_are_equal_the_peer_agrees_once_its_sort_is_stable() -> None:
    """A drawing of few colours has thousands of equal costs."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        blocks = rng.integers(0, 3, (12, 9, 3), dtype=np.uint8) * 127
        check(np.repeat(np.repeat(blocks, 5, 0), 7, 1), 100, 0.8, 60, stable=True)
    check(np.repeat(data.checkerboard()[..., None], 3, 2), 250, 0.8, 150, stable=True)


def test_slic() -> None:
    image = photograph("coffee", 120, 160)
    theirs = segmentation.slic(img_as_float(image), n_segments=40, compactness=10, sigma=1, start_label=0)
    ours = parse_partition("slic:count=40").label_map(image, "coffee")
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(np.unique(ours), np.arange(ours.max() + 1))


@pytest.mark.parametrize("name", ["coffee", "coins"])
def test_geometry_and_outlines(name: str) -> None:
    labels = parse_partition("felzenszwalb").label_map(photograph(name, 150, 210), name)
    where = geometry(labels)
    regions = measure.regionprops(labels + 1)
    assert len(regions) == len(where.area)
    np.testing.assert_allclose(where.area, [r.area / labels.size for r in regions])
    centres = np.array([r.centroid for r in regions])
    np.testing.assert_allclose(where.row, (centres[:, 0] + 0.5) / 150)
    np.testing.assert_allclose(where.column, (centres[:, 1] + 0.5) / 210)
    boxes = np.stack([where.top, where.left, where.bottom, where.right], axis=1)
    np.testing.assert_array_equal(boxes, [r.bbox for r in regions])
    thick = segmentation.find_boundaries(labels, mode="thick", connectivity=1)
    assert (outlines(labels) <= thick).all()
    grown = outlines(labels)
    grown[1:] |= labels[1:] != labels[:-1]
    grown[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    np.testing.assert_array_equal(grown, thick)
