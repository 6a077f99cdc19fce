"""Noisy linear imputation against the sparse system that defines it, solved directly in double precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional as F

from salience.engine import road
from salience.engine.fills import gaussian_blur
from salience.engine.road import multigrid, tensors

sparse = pytest.importorskip("scipy.sparse")
linalg = pytest.importorskip("scipy.sparse.linalg")

Impute = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
FORMS = {"loops": road.impute, "tensors": tensors.impute}
SIDE = 45  # odd after three halvings or fewer, and even in between
WITHIN = 2e-4  # a fiftieth of the noise that is added
FARTHEST = 1e-3  # where two pixels are all that is kept


def direct(image: NDArray[np.float64], keep: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Solve for the removed pixels of (C, H, W), one equation a pixel."""
    place = np.arange(keep.size).reshape(keep.shape)
    pairs: list[tuple[NDArray[np.int64], NDArray[np.int64], float]] = []
    for dy, dx, weight in ((0, 1, 1 / 6), (1, 0, 1 / 6), (1, 1, 1 / 12), (1, -1, 1 / 12)):
        h, w = keep.shape
        here = place[: h - dy, max(0, -dx) : w - max(0, dx)].ravel()
        there = place[dy:, max(0, dx) : w + min(0, dx)].ravel()
        pairs += [(here, there, weight), (there, here, weight)]
    weights = sparse.csr_matrix(
        (
            np.concatenate([np.full(a.size, v) for a, _, v in pairs]),
            (np.concatenate([a for a, _, _ in pairs]), np.concatenate([b for _, b, _ in pairs])),
        ),
        (keep.size, keep.size),
    )
    system = (sparse.diags(np.asarray(weights.sum(1)).ravel()) - weights).tocsr()
    gone, kept = np.flatnonzero(~keep), np.flatnonzero(keep)
    out = image.reshape(len(image), -1).copy()
    if gone.size and kept.size:
        right = -system[gone][:, kept] @ out[:, kept].T
        out[:, gone] = linalg.splu(system[gone][:, gone].tocsc()).solve(right).T
    return out.reshape(image.shape)


def photograph(rng: np.random.Generator, h: int, w: int) -> torch.Tensor:
    """Return a smooth picture with an edge, (3, h, w) over all of [0, 1]."""
    soft = gaussian_blur(torch.from_numpy(rng.random((1, 3, h, w))).float(), 1.5)[0]
    soft[:, :, w // 2 :] += 0.5
    return (soft - soft.amin()) / (soft.amax() - soft.amin()).clamp_min(1e-6)


def hard_masks(h: int, w: int, rng: np.random.Generator) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield masks of kept pixels."""
    ys, xs = np.mgrid[:h, :w]
    grid = torch.from_numpy(rng.random((1, 1, 7, 7)))
    order = F.interpolate(grid, (h, w), mode="bilinear").flatten().argsort().argsort().view(h, w).numpy()
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        yield f"{share:.0%} of a coarse map removed", order >= share * h * w
    noise = rng.random((h, w))
    for share in (0.1, 0.5, 0.9, 0.99):
        yield f"{share:.0%} of the pixels removed", noise >= share
    far = (ys - h / 2) ** 2 + (xs - w / 2) ** 2
    yield "a disc kept", far < (min(h, w) * 0.2) ** 2
    yield "a disc removed", far >= (min(h, w) * 0.45) ** 2
    yield "one row kept", ys == h // 2
    yield "the upper rows kept", ys < h // 4
    yield "a diagonal kept", ys == xs
    yield "chessboard", (ys + xs) % 2 == 0
    yield "coarse chessboard", (ys // 4 + xs // 4) % 2 == 0
    yield "every third column kept", xs % 3 == 0
    yield "a lattice of lines kept", (ys % 16 == 0) | (xs % 16 == 0)
    yield "channels of one pixel removed", (ys % 4 != 0) & (xs % 4 != 0)
    maze = ys % 3 == 0
    maze[::6, -2:] = maze[3::6, :2] = False
    yield "a long winding channel removed", maze
    yield "lone pixels removed", (ys % 2 == 0) | (xs % 2 == 0)
    two = np.zeros((h, w), bool)
    two[0, 0] = two[h - 1, w - 1] = True
    yield "two corners kept", two


def beyond(found: NDArray[np.float32], wanted: NDArray[np.float64], names: list[str]) -> dict[str, float]:
    """Return the largest error under each mask that is farther from the solution than it may be."""
    off = dict(zip(names, np.abs(found - wanted).reshape(len(names), -1).max(1), strict=True))
    return {n: float(o) for n, o in off.items() if not o <= (FARTHEST if n == "two corners kept" else WITHIN)}


@pytest.fixture(scope="module")
def scene() -> tuple[torch.Tensor, torch.Tensor, list[str], NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    image = photograph(rng, SIDE, SIDE)
    masks = dict(hard_masks(SIDE, SIDE, rng))
    wanted = np.stack([direct(image.double().numpy(), keep) for keep in masks.values()])
    keep = torch.from_numpy(np.stack(list(masks.values())))
    return image.expand(len(keep), -1, -1, -1).contiguous(), keep, list(masks), wanted


# ---------------------------------------------------------------------- the solution


@pytest.mark.parametrize("form", FORMS)
def test_what_is_filled_is_the_solution(form: str, scene) -> None:
    images, keep, names, wanted = scene
    assert beyond(FORMS[form](images, keep, road.CYCLES).numpy(), wanted, names) == {}
    exact = FORMS[form](images, keep, 12).numpy()
    np.testing.assert_allclose(exact, wanted, atol=1e-5)  # it is that system which is solved, and not another


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(32, 32), (31, 64), (48, 20), (1, 40), (40, 1), (2, 37), (3, 5), (2, 2), (1, 2)])
def test_any_size(form: str, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    image = photograph(rng, *size)
    masks = {n: m for n, m in hard_masks(*size, rng) if m.any()}
    keep = torch.from_numpy(np.stack(list(masks.values())))
    found = FORMS[form](image.expand(len(keep), -1, -1, -1).contiguous(), keep, road.CYCLES).numpy()
    wanted = np.stack([direct(image.double().numpy(), mask) for mask in masks.values()])
    assert beyond(found, wanted, list(masks)) == {}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 2**31))
def test_noise_under_lines_frames_and_points(h: int, w: int, seed: int) -> None:
    """Regions that thin lines part, open at the image's border, with little that is known: errors go slowly there."""
    rng = np.random.default_rng(seed)
    keep = rng.random((h, w)) < rng.choice([0, 0.01, 0.1, 0.5])
    for _ in range(rng.integers(4)):
        top, left = rng.integers(h), rng.integers(w)
        bottom, right = rng.integers(top, h), rng.integers(left, w)
        keep[top, left : right + 1] = keep[top : bottom + 1, left] = True
        if rng.random() < 0.5:
            keep[bottom, left : right + 1] = keep[top : bottom + 1, right] = True
    keep[rng.integers(h), rng.integers(w)] = True
    image = rng.random((2, h, w)).astype(np.float32)
    wanted = direct(image.astype(np.float64), keep)
    for form in FORMS.values():
        found = form(torch.from_numpy(image)[None], torch.from_numpy(keep)[None], road.CYCLES)[0].numpy()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-3)  # a fifth of the noise that is added


@pytest.mark.parametrize("cycles", [1, 3])
def test_both_forms_are_one_method(cycles: int, scene) -> None:
    """Also finds machine code that was kept while the method's numbers changed in another file."""
    images, keep, _, _ = scene
    loops, other = (form(images, keep, cycles) for form in FORMS.values())
    torch.testing.assert_close(loops, other, rtol=0, atol=1e-5)


def test_more_cycles_come_nearer(scene) -> None:
    images, keep, _, wanted = scene
    off = [np.abs(road.impute(images, keep, n).numpy() - wanted).max() for n in (1, 2, 3, 4)]
    assert all(later < 0.25 * sooner for sooner, later in pairwise(off))


def test_a_large_image_with_few_pixels() -> None:
    """Of an image of 224 x 224 a line and 50 pixels are kept: errors have far to go."""
    rng = np.random.default_rng(2)
    image, keep = photograph(rng, 224, 224), np.zeros((2, 224, 224), bool)
    keep[0].flat[rng.choice(224 * 224, 50, replace=False)] = True
    keep[1, np.arange(224), np.arange(224)] = True
    wanted = np.stack([direct(image.double().numpy(), k) for k in keep])
    for form in FORMS.values():
        found = form(image.expand(2, -1, -1, -1).contiguous(), torch.from_numpy(keep), road.CYCLES)
        np.testing.assert_allclose(found.numpy(), wanted, atol=WITHIN)


# ---------------------------------------------------------------------- all or nothing


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(9, 14), (1, 1)])
def test_all_and_nothing(form: str, size: tuple[int, int]) -> None:
    images = torch.from_numpy(np.random.default_rng(0).random((2, 3, *size))).float()
    everything, nothing = torch.ones(2, *size, dtype=torch.bool), torch.zeros(2, *size, dtype=torch.bool)
    assert torch.equal(FORMS[form](images, everything, road.CYCLES), images)
    blank = FORMS[form](images, nothing, road.CYCLES)
    assert torch.allclose(blank, images.mean((2, 3), keepdim=True).expand_as(images), atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_constants_and_single_pixels_spread_unchanged(form: str) -> None:
    keep = torch.zeros(2, 40, 33, dtype=torch.bool)
    keep[0, 7, 30] = True
    keep[1, ::3, ::2] = True
    image = torch.from_numpy(np.random.default_rng(0).random((1, 3, 40, 33))).float()
    flat = torch.full((1, 3, 40, 33), 0.3)
    found = FORMS[form](torch.cat([image, flat]), keep, road.CYCLES)
    assert torch.allclose(found[0], image[0, :, 7, 30].view(3, 1, 1).expand(-1, 40, 33), atol=1e-6)
    assert torch.allclose(found[1], flat[0], atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_removed_pixels_are_not_read(form: str, scene) -> None:
    images, keep, _, _ = scene
    broken = torch.where(keep.unsqueeze(1), images, float("nan"))
    assert torch.equal(FORMS[form](broken, keep, road.CYCLES), FORMS[form](images, keep, road.CYCLES))


# ---------------------------------------------------------------------- rows


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_row_does_not_depend_on_the_others(threads: int, scene) -> None:
    images, keep, _, _ = scene
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = road.impute(images, keep)
    finally:
        torch.set_num_threads(before)
    for i in range(0, len(keep), 4):
        assert torch.equal(road.impute(images[i : i + 1], keep[i : i + 1])[0], together[i])
    assert torch.equal(road.impute(images.flip(0), keep.flip(0)).flip(0), together)


def test_kept_pixels_stay_and_noise_is_on_the_others(scene) -> None:
    images, keep, _, _ = scene
    ids = [str(i) for i in range(len(images))]
    replacement = road.imputed(images, ids, seed=0)
    out = torch.empty_like(images)
    replacement.blend(images, keep, torch.arange(len(images)), out)
    filled = road.impute(images, keep)
    inside = keep.unsqueeze(1).expand_as(images)
    assert torch.equal(out[inside], images[inside])
    noise = (out - filled)[~inside]
    assert float(noise.std()) == pytest.approx(0.01, rel=0.05)
    assert float(noise.mean()) == pytest.approx(0, abs=5e-4)
    again = torch.empty_like(images)
    road.imputed(images, ids, seed=0).blend(images, keep, torch.arange(len(images)), again)
    assert torch.equal(out, again)


def test_rows_of_any_owner_in_any_memory(scene) -> None:
    _, keep, _, _ = scene
    rng = np.random.default_rng(3)
    images = torch.stack([photograph(rng, SIDE, SIDE) for _ in range(3)])
    replacement = road.imputed(images, ["a", "b", "c"], seed=1)
    owner = torch.tensor([2, 0, 0, 1, 2])
    wanted = torch.where(
        keep[:5].unsqueeze(1), images[owner], road.impute(images[owner], keep[:5]) + replacement.noise[owner]
    )
    plain = torch.empty(5, 3, SIDE, SIDE)
    last = torch.empty(8, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)[2:7]
    loose = torch.zeros(5, 3, SIDE, SIDE + 3)[..., 1 : SIDE + 1]
    for out in (plain, last, loose):
        replacement.blend(images, keep[:5], owner, out)
        torch.testing.assert_close(out, wanted, rtol=0, atol=1e-7)
    half = torch.empty(5, 3, SIDE, SIDE, dtype=torch.bfloat16)
    replacement.blend(images.bfloat16(), keep[:5], owner, half)
    torch.testing.assert_close(half.float(), wanted, rtol=0, atol=0.01)
    nothing = torch.zeros(1, SIDE, SIDE, dtype=torch.bool).expand(5, -1, -1)
    replacement.blend(images, nothing, owner, plain)
    torch.testing.assert_close(plain, (images.mean((2, 3), keepdim=True) + replacement.noise)[owner])


# ---------------------------------------------------------------------- the method


def test_chebyshev_weights_damp_their_interval_best() -> None:
    first, then = multigrid.chebyshev(2 / 3, 4 / 3)
    values = np.linspace(2 / 3, 4 / 3, 1001)
    left = (1 - first * values) * (1 - then * values)
    assert np.abs(left).max() == pytest.approx(1 / 17, rel=1e-6)  # 1 / T2(3)
    assert left[0] == pytest.approx(left[-1]) == pytest.approx(-left[500])


def test_grids_end_in_a_point() -> None:
    assert multigrid.grids(5, 12) == [(5, 12), (3, 6), (2, 3), (1, 2), (1, 1)]
    assert multigrid.turns(len(multigrid.grids(224, 224)), 3) == [3, 2, 2, 2, 1, 1, 1, 1, 1]
    assert multigrid.turns(2, 1) == [1, 2]
