"""Evolve: what it finds on planted models, and how it spends its budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from games import ask, drawn, found, game, linear, pictures
from torch import Tensor

from salience.errors import MethodError
from salience.methods.evolve import top
from salience.methods.registry import parse_method

SIZE = (32, 32)
IMAGES = pictures(3, SIZE)


def quadrant(x: Tensor) -> Tensor:
    """The mean of the upper right quarter decides."""
    return (0.05 + 0.9 * (x[:, :, :16, 16:].mean((1, 2, 3)) - 0.1) / 0.8).clamp(0.01, 0.99)


@pytest.mark.parametrize("form", ["", ":survey=1", ":survey=0.3", ":mode=snes:survey=0.3"])
def test_the_quarter_that_decides_is_found(form: str) -> None:
    maps = found(f"evolve:budget=400:fill=black{form}", game(quadrant, SIZE), IMAGES)[:, 0]
    half = maps.shape[1] // 2
    for one in maps:
        y, x = np.unravel_index(one.argmax(), one.shape)
        assert y <= half
        assert x >= half
        inside = one[:half, half + 1 :].mean()
        assert inside > 2 * abs(one[half + 1 :, :half].mean())


def test_the_map_follows_the_weights_of_a_linear_model() -> None:
    of, weights = linear(SIZE)
    maps = found("evolve:budget=1025:fill=black:survey=1:reach=0.2:noise=0.001", game(of, SIZE), IMAGES)[:, 0]
    for image, one in zip(IMAGES, maps, strict=True):
        share = (image * weights).sum(0)[None, None]
        cells = torch.nn.functional.interpolate(share, size=one.shape, mode="area")[0, 0]
        assert np.corrcoef(one.ravel(), cells.ravel())[0, 1] > 0.85  # masks are smooth, cells are not


@pytest.mark.parametrize("budget", [17, 33, 64, 65, 129, 300])
@pytest.mark.parametrize("form", ["", ":survey=1", ":survey=0.1", ":mode=snes"])
def test_the_budget_is_kept(budget: int, form: str) -> None:
    result, sweep = ask(f"evolve:budget={budget}{form}", game(quadrant, SIZE), IMAGES)
    spent = result.maps[0].diagnostics["forward_passes"]
    assert bool((spent <= budget).all())
    assert bool((spent >= budget - (1 if "snes" not in form else 40)).all())
    assert sweep.calls.forward == 3 * int(spent[0])


def test_every_class_comes_from_the_same_answers() -> None:
    whole, sweep = ask("evolve:budget=65:survey=1", game(quadrant, SIZE), IMAGES, target="all")
    one, alone = ask("evolve:budget=65:survey=1", game(quadrant, SIZE), IMAGES, target="class:1")
    assert sweep.calls.forward == alone.calls.forward
    torch.testing.assert_close(whole.maps[0].values[:, 1:], one.maps[0].values, rtol=1e-4, atol=1e-5)


def test_fitness_of_the_evolution_strategy_is_stored_and_rises() -> None:
    result, _ = ask("evolve:budget=1500:mode=snes:survey=0.1:fill=black", game(quadrant, SIZE), IMAGES)
    curve = [v for k, v in result.maps[0].diagnostics.items() if k.startswith("fitness@")]
    assert len(curve) > 3
    assert float(curve[-1].mean()) > float(curve[0].mean())


def test_top_keeps_the_share_of_cells_that_score_highest() -> None:
    scores = drawn(2, 3, 4, 5)
    masks = top(scores, torch.tensor([[0.05, 0.5, 1.0], [0.0, 0.25, 0.9]]))
    kept = masks.flatten(2).sum(2)
    assert kept.tolist() == [[1, 10, 19], [1, 5, 18]]  # never none, never all
    for g in range(2):
        for k in range(3):
            inside = scores[g, k][masks[g, k] == 1].min()
            assert inside >= scores[g, k][masks[g, k] == 0].max()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("evolve:budget=16", "17"),
        ("evolve:survey=0", "survey"),
        ("evolve:reach=0", "reach"),
        ("evolve:mode=genetic", "posterior"),
    ],
)
def test_settings_that_make_no_sense_are_refused(text: str, words: str) -> None:
    with pytest.raises(MethodError, match=words):
        parse_method(text)
