"""Descriptors tell colours and textures apart, and nothing else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from salience.comparison.clusters import assign, discover, project
from salience.comparison.descriptors import DIMENSIONS, cielab, describe
from salience.comparison.quality import discovery_rows
from salience.errors import ImagesError

Pixels = npt.NDArray[np.uint8]
COLOURS, EDGES, PATTERNS = slice(7, 252), slice(252, 270), slice(270, 280)


def _halves(left: Pixels, right: Pixels) -> npt.NDArray[np.float64]:
    """Return the cosine of two textures (H, W, 3), described side by side."""
    labels = np.repeat([0, 1], left.shape[1])[None].repeat(len(left), axis=0)
    one, other = describe(np.concatenate([left, right], axis=1), labels).astype(np.float64)
    return one @ other / np.sqrt((one @ one) * (other @ other))


def _flat(colour: tuple[int, int, int], size: int = 32) -> Pixels:
    return np.full((size, size, 3), colour, dtype=np.uint8)


def _stripes(period: int, axis: int, size: int = 32) -> Pixels:
    level = 128 + 80 * np.sin(2 * np.pi * np.arange(size) / period)
    grid = np.broadcast_to(level[:, None] if axis == 0 else level[None], (size, size))
    return np.repeat(grid[:, :, None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [  # CIE 15:2004 with the sRGB matrix, as colour tables print them
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0, 0)),
        ((3, 3, 3), (0.82, 0, 0)),
    ],
)
def test_cielab(rgb: tuple[int, int, int], lab: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(cielab(_flat(rgb, 1))[:, 0, 0], lab, atol=0.02)


def test_cielab_is_that_of_scikit_image() -> None:
    color = pytest.importorskip("skimage.color")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    np.testing.assert_allclose(cielab(pixels), np.moveaxis(color.rgb2lab(pixels), 2, 0), atol=0.02)


def test_blocks_have_norm_1() -> None:
    rng = np.random.default_rng(0)
    found = describe(rng.integers(0, 256, (24, 24, 3)).astype(np.uint8), rng.integers(0, 5, (24, 24)))
    assert (found.dtype, found.shape) == (np.float32, (5, DIMENSIONS))
    for block in (slice(0, 7), COLOURS, slice(252, 261), slice(261, 270), PATTERNS):
        np.testing.assert_allclose(np.linalg.norm(found[:, block], axis=1), 1, atol=1e-6)


def test_moments_are_those_of_the_pixels() -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (20, 20, 3)).astype(np.uint8)
    labels = rng.integers(0, 4, (20, 20))
    found = describe(pixels, labels)[:, :7].astype(np.float64)
    found /= found[:, 6:]  # the last one is 1 but for the norm
    for segment in range(4):
        lab = cielab(pixels)[:, labels == segment].astype(np.float64)
        mean, spread = lab.mean(axis=1) - [50, 0, 0], lab.std(axis=1)
        np.testing.assert_allclose(found[segment], [*mean / 25, *spread / 12.5, 1], atol=1e-4)


def test_a_histogram_holds_each_pixel_once() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    histogram = describe(pixels, np.zeros((16, 16), dtype=int))[0, COLOURS].astype(np.float64) ** 2
    assert histogram.sum() == pytest.approx(1, abs=1e-5)
    # shares of nodes of L, times the nodes, add up to the mean of L: interpolation is linear
    light = histogram.reshape(5, -1).sum(axis=1) @ np.linspace(0, 100, 5)
    assert light == pytest.approx(float(cielab(pixels)[0].mean()), abs=1e-2)


def test_where_a_segment_lies_and_what_surrounds_it_is_not_described() -> None:
    texture = np.random.default_rng(3).integers(90, 160, (12, 12, 3)).astype(np.uint8)
    found = []
    for top, left, ground in ((11, 11, (0, 0, 0)), (40, 41, (0, 0, 0)), (40, 41, (250, 250, 20))):
        pixels, labels = _flat(ground, 64), np.zeros((64, 64), dtype=int)  # edges are blurred by up to 10 pixels
        pixels[top : top + 12, left : left + 12] = texture
        labels[top : top + 12, left : left + 12] = 1
        found.append(describe(pixels, labels)[1])
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    same = np.r_[0:252, 270:280]  # colours, and patterns: they reach one pixel, and stay inside by one
    np.testing.assert_allclose(found[1][same], found[2][same], atol=1e-5)


def test_textures_of_one_colour_are_told_apart() -> None:
    across, down = _stripes(8, 0), _stripes(8, 1)
    assert _halves(across, across) > 0.99
    assert _halves(across, down) < 0.9
    assert _halves(across, _stripes(3, 0)) < 0.97
    noise = np.repeat(np.random.default_rng(4).integers(48, 209, (32, 32, 1)), 3, axis=2).astype(np.uint8)
    assert _halves(across, noise) < 0.9


def test_colours_of_one_texture_are_told_apart() -> None:
    rng = np.random.default_rng(5)
    grain = rng.integers(-8, 9, (2, 32, 32, 1))

    def grained(colour: tuple[int, int, int], which: int) -> Pixels:
        return (_flat(colour) + grain[which]).astype(np.uint8)

    blue, same, red, dark = (
        grained((60, 90, 200), 0),
        grained((64, 94, 204), 1),
        grained((200, 60, 60), 1),
        grained((20, 30, 70), 1),
    )
    assert _halves(blue, same) > 0.97
    assert _halves(blue, red) < 0.75
    assert _halves(blue, dark) < 0.85


def test_a_segment_of_single_pixels_is_described() -> None:
    labels = np.zeros((9, 9), dtype=int)
    labels[4, 4] = 1
    found = describe(np.random.default_rng(6).integers(0, 256, (9, 9, 3)).astype(np.uint8), labels)
    assert np.isfinite(found).all()
    assert describe(_flat((1, 2, 3), 1), np.zeros((1, 1), dtype=int)).shape == (1, DIMENSIONS)


@pytest.mark.parametrize(
    ("pixels", "labels"),
    [
        (np.zeros((4, 4, 3), dtype=np.float32), np.zeros((4, 4), dtype=int)),
        (np.zeros((4, 4, 3), dtype=np.uint8), np.zeros((4, 5), dtype=int)),
        (np.zeros((4, 4), dtype=np.uint8), np.zeros((4, 4), dtype=int)),
    ],
)
def test_what_does_not_fit_is_refused(pixels: Pixels, labels: npt.NDArray[np.int64]) -> None:
    with pytest.raises(ImagesError, match="are needed"):
        describe(pixels, labels)


# ---------------------------------------------------------------------- planted parts of photographs


def _photographs(count: int) -> list[Pixels]:
    """Return windows 192 x 192 of natural photographs."""
    data = pytest.importorskip("skimage.data")
    whole = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        photograph = whole[i % len(whole)]
        top, left = (int(rng.integers(0, n - 191)) for n in photograph.shape[:2])
        found.append(np.ascontiguousarray(photograph[top : top + 192, left : left + 192, :3]))
    return found


def _caption(corner: Pixels, number: int) -> None:
    """Write a line of black strokes on white."""
    corner[:] = 250
    rng = np.random.default_rng(number)
    for left in range(2, 44, 5):
        corner[10:16, left : left + 2] = 15
        corner[10 + rng.integers(0, 5), left : left + 4] = 15


def _patch(corner: Pixels, number: int) -> None:
    corner[:] = (235 - number % 8, 205, 25 + number % 8)


@pytest.mark.parametrize("plant", [_caption, _patch])
def test_what_is_planted_in_photographs_becomes_a_concept_of_its_own(plant: object) -> None:
    """A corner of one image in six; the rest of each image is cut into tiles."""
    images = _photographs(72)
    labels = np.kron(np.arange(32).reshape(8, 4), np.ones((24, 48), dtype=int))
    planted = np.arange(72) % 6 == 0
    for i in np.flatnonzero(planted):
        plant(images[i][-24:, -48:], int(i))  # type: ignore[operator]
    truth = np.zeros((72, 32), dtype=bool)
    truth[planted, -1] = True
    rng = np.random.default_rng(1)
    total = rng.standard_normal((72, 32)) + 5 * truth  # one model has learnt the corner, the other one not
    starts, ids = np.arange(73) * 32, [str(i) for i in range(72)]
    rows = discovery_rows(
        {"a": rng.standard_normal(72 * 32), "b": total.ravel()}, np.full(72 * 32, 1 / 32), starts, ids, seed=0
    )
    blocks = [describe(image, labels) for image in images]
    projection = project(blocks)
    points = np.concatenate([projection.transform(block) for block in blocks])
    of = np.repeat(np.arange(72), 32)
    concepts = discover(points[rows], images=of[rows], seed=0)
    concept = assign(points, concepts.centres).concept
    own = np.bincount(concept[truth.ravel()]).argmax()
    assert (concept[truth.ravel()] == own).mean() > 0.95
    assert truth.ravel()[concept == own].mean() > 0.5  # 0.5 % of all segments are planted ones
    assert concepts.stability[own] > 0.75
