"""Occlusion against double loops over windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from games import ask, drawn, found, game, linear, pictures
from torch import Tensor

from salience.errors import MethodError
from salience.methods.occlusion import _refined
from salience.methods.registry import parse_method

SIZE = (12, 16)
IMAGES = pictures(3, SIZE)


def fall(image: Tensor, weights: Tensor, top: int, left: int, bottom: int, right: int) -> float:
    """How far the linear probability falls when a window shows the image's mean colour."""
    change = (image - image.mean((1, 2), keepdim=True)).double() * weights.double()
    return float(change[:, top:bottom, left:right].sum())


def by_hand(image: Tensor, weights: Tensor, window: int, stride: int) -> np.ndarray:
    """Slide the window, the last one held at the edge; average over those that cover the middle of each map cell."""
    height, width = SIZE
    starts = [sorted({*range(0, max(0, n - window), stride), max(0, n - window)}) for n in SIZE]
    rows, columns = -(-height // stride), -(-width // stride)
    out = np.empty((rows, columns))
    for i in range(rows):
        for j in range(columns):
            y, x = int((i + 0.5) * height / rows), int((j + 0.5) * width / columns)
            out[i, j] = np.mean(
                [
                    fall(image, weights, top, left, top + window, left + window)
                    for top in starts[0]
                    for left in starts[1]
                    if top <= y < top + window and left <= x < left + window
                ]
            )
    return out


@pytest.mark.parametrize(
    ("window", "stride"), [(4, 4), (4, 2), (4, 1), (5, 3), (3, 3), (7, 5), (12, 12), (16, 4), (20, 7), (1, 1)]
)
def test_any_window_and_stride(window: int, stride: int) -> None:
    of, weights = linear(SIZE)
    maps = found(f"occlusion:window={window}:stride={stride}:budget=400", game(of, SIZE), IMAGES)
    for image, values in zip(IMAGES, maps[:, 0], strict=True):
        np.testing.assert_allclose(values, by_hand(image, weights, window, stride), atol=2e-6)


def test_the_stride_is_the_window_where_none_is_given() -> None:
    classifier = game(linear(SIZE)[0], SIZE)
    a = found("occlusion:window=5:budget=99", classifier, IMAGES)
    b = found("occlusion:window=5:stride=5:budget=99", classifier, IMAGES)
    assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(("budget", "side"), [(5, 2), (10, 3), (16, 3), (17, 4), (100, 9), (145, 12), (1000, 12)])
def test_without_a_window_the_budget_decides_the_grid(budget: int, side: int) -> None:
    """And no side is finer than the image's pixels."""
    of, weights = linear(SIZE)
    result, sweep = ask(f"occlusion:budget={budget}", game(of, SIZE), IMAGES)
    assert sweep.calls.forward == 3 * (1 + side**2)
    maps = result.maps[0].values.double().numpy()
    assert maps.shape == (3, 1, side, side)
    down, across = ([round(i * n / side) for i in range(side + 1)] for n in SIZE)
    for image, values in zip(IMAGES, maps[:, 0], strict=True):
        expected = [
            [fall(image, weights, down[i], across[j], down[i + 1], across[j + 1]) for j in range(side)]
            for i in range(side)
        ]
        np.testing.assert_allclose(values, expected, atol=2e-6)
        # every pixel is hidden once: a linear model's falls add up to all that there is
        assert values.sum() == pytest.approx(fall(image, weights, 0, 0, *SIZE), abs=1e-5)


def test_two_classes_fall_by_opposite_amounts() -> None:
    maps = found("occlusion:budget=17", game(linear(SIZE)[0], SIZE), IMAGES, target="all")
    np.testing.assert_allclose(maps[:, 0], -maps[:, 1], atol=2e-6)


# ---------------------------------------------------------------------- coarse to fine


@pytest.mark.parametrize("budget", [5, 9, 18, 33, 40, 100, 129])
def test_refining_keeps_the_mean_of_every_coarse_cell(budget: int) -> None:
    of, _ = linear(SIZE)
    result, sweep = ask(f"occlusion:refine=true:budget={budget}", game(of, SIZE), IMAGES)
    fine = result.maps[0].values.double().numpy()
    side = min(int(np.sqrt((budget - 1) // 2)), *SIZE)
    coarse = found(f"occlusion:budget={side**2 + 1}", game(of, SIZE), IMAGES) if side > 1 else fine
    split = min(side**2, (budget - 1 - side**2) // 4)
    assert sweep.calls.forward == 3 * (1 + side**2 + 4 * split) <= 3 * budget
    if split and side > 1:
        assert fine.shape == (3, 1, 2 * side, 2 * side)
        blocks = fine.reshape(3, 1, side, 2, side, 2)
        np.testing.assert_allclose(blocks.mean((3, 5)), coarse, atol=2e-6)
        uneven = blocks.max((3, 5)) - blocks.min((3, 5)) > 1e-6
        assert (uneven.sum((2, 3)) <= split).all()  # cells that were not split stay flat


def test_a_planted_pixel_is_found_by_refining() -> None:
    """The probability hangs on one pixel: the coarse grid finds its cell, the fine one its quarter."""
    size = (16, 16)
    classifier = game(lambda x: 0.1 + 0.8 * x[:, 0, 13, 6], size)
    images = torch.zeros(1, 3, *size)
    images[..., 13, 6] = 1
    maps = found("occlusion:refine=true:budget=40:fill=black", classifier, images)[0, 0]  # 4 x 4, then quarters
    expected = np.zeros((8, 8))
    expected[6, 3] = 4 * 0.8
    np.testing.assert_allclose(maps, expected, atol=1e-6)


def test_falls_are_shared_out_in_proportion() -> None:
    maps = drawn(2, 1, 2, 2) - 0.3
    chosen = torch.tensor([[0, 3], [2, 1]])
    finer = (drawn(2, 2, 4, 1, seed=1) - 0.4).clone()
    finer[0, 1] = -1  # nothing falls: all alike
    out = _refined(maps, chosen, finer)
    expected = maps.repeat_interleave(2, 2).repeat_interleave(2, 3).clone()
    for g in range(2):
        for n, cell in enumerate(chosen[g].tolist()):
            y, x = divmod(cell, 2)
            parts = finer[g, n, :, 0].clamp_min(0)
            share = parts / parts.sum() if parts.sum() > 0 else torch.full((4,), 0.25)
            expected[g, 0, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2] = 4 * maps[g, 0, y, x] * share.view(2, 2)
    torch.testing.assert_close(out, expected)


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("occlusion:window=0", "window is 0"),
        ("occlusion:stride=3", "without window"),
        ("occlusion:window=3:stride=4", "never be hidden"),
        ("occlusion:window=3:refine=true", "refine"),
        ("occlusion:budget=4", "5 forward passes"),
        ("occlusion:fill=pink", "pink"),
    ],
)
def test_settings_that_make_no_sense(text: str, words: str) -> None:
    with pytest.raises(MethodError, match=words):
        parse_method(text)


def test_more_windows_than_the_budget_allows_are_refused() -> None:
    with pytest.raises(MethodError, match=r"needs 49 forward passes; 48 are set"):
        ask("occlusion:window=2:budget=48", game(linear(SIZE)[0], SIZE), IMAGES)
