"""Masks in closed form: each kind against plain loops in float64, and the same bytes for any cut of rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from salience.engine.masks import Blobs, Cells, Filled, Joined, Masks, Patches, RandomCells, Turned, Windows, enlarge

CPU = torch.device("cpu")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def rows_of(masks: Masks, groups: int) -> tuple[Tensor, Tensor]:
    """Every candidate of every image: image by image."""
    return torch.arange(groups).repeat_interleave(masks.count), torch.arange(masks.count).repeat(groups)


def rendered(masks: Masks, groups: int, size: tuple[int, int]) -> np.ndarray:
    """All masks (G, k, H, W)."""
    made = masks.render(*rows_of(masks, groups), size)
    assert made.shape == (groups * masks.count, 1, *size)
    assert made.dtype == torch.float32
    return made.view(groups, masks.count, *size).numpy()


def bilinear(cells: np.ndarray, height: int, width: int) -> np.ndarray:
    """Enlarge (h, w) in float64, cell centres at half pixels, borders held."""

    def line(of: int, to: int) -> list[tuple[int, int, float]]:
        out = []
        for i in range(to):
            at = min(max((i + 0.5) * of / to - 0.5, 0.0), of - 1.0)
            low = min(int(at), of - 1)
            out.append((low, min(low + 1, of - 1), at - low))
        return out

    found = np.empty((height, width))
    for y, (top, bottom, v) in enumerate(line(cells.shape[0], height)):
        for x, (left, right, u) in enumerate(line(cells.shape[1], width)):
            upper = (1 - u) * cells[top, left] + u * cells[top, right]
            lower = (1 - u) * cells[bottom, left] + u * cells[bottom, right]
            found[y, x] = (1 - v) * upper + v * lower
    return found


# ---------------------------------------------------------------------- the random masks of RISE

SIZES = [((28, 28), 7), ((32, 32), 7), ((30, 44), 5), ((9, 16), 4), ((5, 5), 7)]


def random_cells(size: tuple[int, int], cells: int, count: int = 6, keep: float = 0.5) -> RandomCells:
    return RandomCells(("one", "two", "three"), 3, count, size, cells, keep, CPU)


@pytest.mark.parametrize(("size", "cells"), SIZES)
def test_random_cells_are_petsiuk_s(size: tuple[int, int], cells: int) -> None:
    """His construction, step by step: a grid, enlarged to one cell more than is needed, cut out at a random place."""
    masks = random_cells(size, cells)
    rows = rows_of(masks, 3)
    grids, down, across = masks._drawn(*rows)
    cell = (int(np.ceil(size[0] / cells)), int(np.ceil(size[1] / cells)))
    assert masks.cell == cell
    made = masks.render(*rows, size)[:, 0].numpy()
    for found, grid, y, x in zip(made, grids.numpy(), down.tolist(), across.tolist(), strict=True):
        assert 0 <= y < cell[0]
        assert 0 <= x < cell[1]
        assert set(np.unique(grid)) <= {0.0, 1.0}
        large = bilinear(grid.astype(np.float64), (cells + 1) * cell[0], (cells + 1) * cell[1])
        np.testing.assert_allclose(found, large[y : y + size[0], x : x + size[1]], atol=2e-6)


@pytest.mark.parametrize(
    ("size", "cells", "grid"), [((28, 28), 7, (14, 7)), ((30, 44), 5, (10, 22)), ((8, 8), 2, (1, 8))]
)
def test_a_coarse_rendering_is_the_mean_of_the_whole_one(
    size: tuple[int, int], cells: int, grid: tuple[int, int]
) -> None:
    masks = random_cells(size, cells)
    whole, coarse = rendered(masks, 3, size), rendered(masks, 3, grid)
    blocks = whole.reshape(3, 6, grid[0], size[0] // grid[0], grid[1], size[1] // grid[1])
    np.testing.assert_allclose(coarse, blocks.mean((3, 5), dtype=np.float64), atol=2e-6)


@pytest.mark.parametrize("keep", [0.1, 0.5])
def test_random_cells_keep_every_pixel_with_the_chance_asked_for(keep: float) -> None:
    count = 4000
    masks = random_cells((12, 12), 3, count, keep)
    means = rendered(masks, 3, (12, 12)).mean(axis=1, dtype=np.float64)
    # a pixel's value lies in [0, 1] and has the mean keep: its variance is at most that of a coin
    assert np.abs(means - keep).max() < 5 * np.sqrt(keep * (1 - keep) / count)


def test_shifts_are_uniform_and_cells_independent() -> None:
    masks = random_cells((28, 28), 7, 3000)
    grids, down, across = masks._drawn(*rows_of(masks, 3))
    for shift in (down, across):
        assert stats.chisquare(np.bincount(shift.numpy(), minlength=4)).pvalue > 1e-3
    assert abs(np.corrcoef(down, across)[0, 1]) < 5 / np.sqrt(9000)
    flat = grids.flatten(1).double()
    correlation = torch.corrcoef(torch.cat([flat, down[:, None], across[:, None]], 1).T)
    assert float(correlation.fill_diagonal_(0).abs().max()) < 5 / np.sqrt(9000)


def test_random_cells_belong_to_the_image_and_the_seed() -> None:
    whole = rendered(random_cells((16, 16), 4), 3, (16, 16))
    alone = RandomCells(("two",), 3, 6, (16, 16), 4, 0.5, CPU)
    assert rendered(alone, 1, (16, 16))[0].tobytes() == whole[1].tobytes()
    other = RandomCells(("two",), 4, 6, (16, 16), 4, 0.5, CPU)
    assert rendered(other, 1, (16, 16))[0].tobytes() != whole[1].tobytes()
    assert not np.allclose(whole[0], whole[2])


def test_more_masks_begin_with_the_same_ones() -> None:
    few, many = random_cells((16, 16), 4, 5), random_cells((16, 16), 4, 50)
    assert rendered(few, 3, (16, 16)).tobytes() == rendered(many, 3, (16, 16))[:, :5].tobytes()


# ---------------------------------------------------------------------- all other kinds


@pytest.mark.parametrize("size", [(16, 16), (15, 22), (7, 3), (4, 9)])
def test_cells_are_bilinear(size: tuple[int, int]) -> None:
    values = drawn(2, 3, 7, 3)
    made = rendered(Cells(values), 2, size)
    for i in range(2):
        for k in range(3):
            expected = bilinear(values[i, k].double().numpy(), *size)
            np.testing.assert_allclose(made[i, k], expected, atol=1e-6)


def test_cells_that_are_not_smooth_are_blocks() -> None:
    values = drawn(2, 3, 2, 3)
    made = rendered(Cells(values, smooth=False), 2, (8, 9))
    assert np.array_equal(made, values.numpy().repeat(4, axis=2).repeat(3, axis=3))


def test_cells_of_the_image_s_size_are_the_mask() -> None:
    values = drawn(1, 2, 6, 5)
    assert np.array_equal(rendered(Cells(values), 1, (6, 5)), values.numpy())
    assert enlarge(values, (6, 5)) is values


def test_cells_of_one_value_stay_constant() -> None:
    """Weights of every pixel add up to one."""
    np.testing.assert_allclose(rendered(Cells(torch.full((1, 1, 7, 7), 0.3)), 1, (31, 50)), 0.3, rtol=1e-6)


def test_patches_are_looked_up() -> None:
    values, segments = drawn(2, 3, 5), (drawn(2, 6, 7, seed=1) * 5).long()
    made = rendered(Patches(values, segments), 2, (6, 7))
    for i in range(2):
        for k in range(3):
            assert np.array_equal(made[i, k], values[i, k].numpy()[segments[i].numpy()])


def test_windows_are_holes() -> None:
    corners = torch.tensor([[0, 0, 2, 3], [4, 5, 6, 7], [5, 6, 9, 12], [3, 3, 3, 3], [0, 0, 6, 7]])
    expected = np.ones((5, 6, 7), dtype=np.float32)
    for mask, (top, left, bottom, right) in zip(expected, corners.tolist(), strict=True):
        mask[top:bottom, left:right] = 0
    made = rendered(Windows(corners), 2, (6, 7))
    assert np.array_equal(made[0], expected)
    assert np.array_equal(made[1], expected)
    own = torch.stack([corners, corners.flip(0)])
    made = rendered(Windows(own), 2, (6, 7))
    assert np.array_equal(made[0], expected)
    assert np.array_equal(made[1], expected[::-1])


def test_blobs_are_the_strongest_of_their_gaussians() -> None:
    values = drawn(2, 3, 4, 5) * 0.8 + 0.1
    made = rendered(Blobs(values), 2, (9, 12))
    for i in range(2):
        for k in range(3):
            expected = np.zeros((9, 12))
            for y, x, sy, sx, amplitude in values[i, k].double().tolist():
                for row in range(9):
                    for column in range(12):
                        far = (((row + 0.5) / 9 - y) / sy) ** 2 + (((column + 0.5) / 12 - x) / sx) ** 2
                        expected[row, column] = max(expected[row, column], amplitude * np.exp(-far / 2))
            np.testing.assert_allclose(made[i, k], expected, rtol=1e-5, atol=1e-7)


def test_turned_asks_about_what_is_left_out_too() -> None:
    inner = Cells(drawn(2, 3, 4, 4))
    made, plain = rendered(Turned(inner), 2, (8, 8)), rendered(inner, 2, (8, 8))
    assert np.array_equal(made[:, ::2], plain)
    assert np.array_equal(made[:, 1::2], 1 - plain)


def test_filled_changes_nothing_but_the_fill() -> None:
    inner = Cells(drawn(2, 3, 4, 4))
    assert (inner.fill, Filled(inner, "white").fill) == (None, "white")
    assert np.array_equal(rendered(Filled(inner, "white"), 2, (8, 8)), rendered(inner, 2, (8, 8)))


def test_joined_are_one_after_another() -> None:
    parts = (
        Cells(drawn(2, 3, 4, 4)),
        Windows(torch.tensor([[0, 0, 2, 2]])),
        Turned(Blobs(drawn(2, 2, 3, 5) * 0.5 + 0.1)),
        Patches(drawn(2, 2, 3), torch.zeros(2, 8, 8, dtype=torch.int64)),
    )
    joined = Joined(parts)
    assert joined.count == 3 + 1 + 4 + 2
    expected = np.concatenate([rendered(p, 2, (8, 8)) for p in parts], axis=1)
    assert rendered(joined, 2, (8, 8)).tobytes() == expected.tobytes()
    image, candidate = torch.tensor([1, 0, 1, 0, 0]), torch.tensor([9, 0, 3, 7, 4])  # any mixture
    mixed = joined.render(image, candidate, (8, 8))[:, 0].numpy()
    assert mixed.tobytes() == expected[image, candidate].tobytes()


KINDS: dict[str, Masks] = {
    "cells": Cells(drawn(2, 9, 7, 7)),
    "blocks": Cells(drawn(2, 9, 7, 7), smooth=False),
    "patches": Patches(drawn(2, 9, 5), (drawn(2, 32, 32, seed=1) * 5).long()),
    "windows": Windows((drawn(2, 9, 4) * 32).long()),
    "blobs": Blobs(drawn(2, 9, 5, 5) * 0.8 + 0.1),
    "random": RandomCells(("a", "b"), 0, 9, (32, 32), 7, 0.5, CPU),
    "joined": Joined((Cells(drawn(2, 5, 7, 7)), Turned(Cells(drawn(2, 2, 7, 7, seed=2))))),
}


@pytest.mark.parametrize("masks", KINDS.values(), ids=KINDS.keys())
def test_any_cut_of_rows_renders_the_same_bytes(masks: Masks) -> None:
    image, candidate = rows_of(masks, 2)
    whole = masks.render(image, candidate, (32, 32))
    assert float(whole.min()) >= 0
    assert float(whole.max()) <= 1 + 1e-6
    for wide in (1, 2, 5, 7):
        cuts = [slice(at, at + wide) for at in range(0, len(image), wide)]
        parts = torch.cat([masks.render(image[c], candidate[c], (32, 32)) for c in cuts])
        assert torch.equal(parts, whole), wide
    back = masks.render(image.flip(0), candidate.flip(0), (32, 32))
    assert torch.equal(back.flip(0), whole)
