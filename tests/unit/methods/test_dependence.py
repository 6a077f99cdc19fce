"""HSIC by its matrices, total Sobol indices of functions that have them in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from games import drawn, found, game, linear, pictures, stream
from torch import Tensor

from salience.engine.fills import fill
from salience.engine.masks import Cells
from salience.engine.queries import blend
from salience.errors import MethodError
from salience.methods.dependence import _median_distance, hsic, total_indices
from salience.methods.registry import parse_method

SIZE = (12, 12)
IMAGES = pictures(2, SIZE)


# ---------------------------------------------------------------------- HSIC


def by_matrices(values: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """tr(K H L H) / (n - 1)^2 for every part, all matrices held."""
    n = len(answers)
    centre = np.eye(n) - 1 / n
    distances = np.abs(answers[:, None] - answers[None])
    # the lower median, as torch has it; of many answers a part of the columns is looked at
    width = np.sort(distances[:, :: max(1, n // 100)].ravel())
    width = max(width[(len(width) - 1) // 2], 1e-12)
    kernel = np.exp(-(distances**2) / (2 * width**2))
    out = []
    for column in values.T:
        same = (column[:, None] == column[None]).astype(np.float64)
        out.append(np.trace(same @ centre @ kernel @ centre) / (n - 1) ** 2)
    return np.array(out)


@pytest.mark.parametrize("count", [4, 30, 199, 301, 600])
def test_hsic_is_the_trace(count: int) -> None:
    values = (drawn(2, count, 5) < 0.5).float()
    answers = 0.3 * values[..., 0] + 0.2 * values[..., 1] * values[..., 2] + 0.1 * drawn(2, count, seed=1)
    scores = hsic(values, answers)
    assert scores.shape == (2, 5)
    for g in range(2):
        np.testing.assert_allclose(
            scores[g], by_matrices(values[g].double().numpy(), answers[g].double().numpy()), rtol=1e-5, atol=1e-9
        )


@pytest.mark.parametrize("count", [500, 1000, 1023])
def test_the_width_of_many_answers_is_near_the_whole_median(count: int) -> None:
    y = drawn(count, seed=count).double().square()
    whole = np.median(np.abs(y.numpy()[:, None] - y.numpy()[None]))
    assert float(_median_distance(y)) == pytest.approx(whole, rel=0.05)


def test_hsic_tells_what_matters_from_what_does_not() -> None:
    values = (drawn(1, 1000, 4) < 0.5).float()
    answers = values[..., 0] - 0.5 * values[..., 1] + 0.01 * drawn(1, 1000, seed=2)  # its sign does not count
    first, second, *rest = hsic(values, answers)[0].tolist()
    assert first > second > 10 * max(rest)


@pytest.mark.parametrize("answers", [torch.full((1, 60), 0.7), torch.zeros(1, 60), torch.eye(60)[:1]])
def test_hsic_is_never_negative(answers: Tensor) -> None:
    """Of a model that always says the same, rounding alone is left."""
    for seed in range(20):
        scores = hsic((drawn(1, 60, 9, seed=seed) < 0.5).float(), answers)
        assert float(scores.min()) >= 0
        assert bool(torch.isfinite(scores).all())


def test_hsic_asks_about_binary_cells() -> None:
    of, _ = linear(SIZE)
    classifier = game(of, SIZE)
    values = (stream(2, "parts").uniform(150, 9) < 0.5).float()
    rows, every = torch.arange(2).repeat_interleave(150), torch.arange(150).repeat(2)
    masks = Cells(values.view(2, 150, 3, 3)).render(rows, every, SIZE)
    with torch.no_grad():
        answers = classifier.logits(blend(IMAGES, fill("mean", IMAGES), masks, rows)).softmax(1)[:, 0].view(2, 150)
    maps = found("hsic:cells=3:budget=151", classifier, IMAGES)[:, 0].reshape(2, 9)
    for g in range(2):
        expected = by_matrices(values[g].double().numpy(), answers[g].double().numpy())
        np.testing.assert_allclose(maps[g], expected, rtol=2e-3)  # the width hangs on float32 answers


# ---------------------------------------------------------------------- Sobol indices


def designs(function, parts: int, count: int, seed: int = 0) -> Tensor:
    """Answers (1, N, 2 + d, 1) of a function of (..., d) at Saltelli's designs, by NumPy."""
    rng = np.random.default_rng(seed)
    a, b = rng.random((count, parts)), rng.random((count, parts))
    rows = [function(a), function(b)]
    for j in range(parts):
        mixed = a.copy()
        mixed[:, j] = b[:, j]
        rows.append(function(mixed))
    return torch.from_numpy(np.stack(rows, 1))[None, :, :, None]


def ishigami(u: np.ndarray) -> np.ndarray:
    x = (2 * u - 1) * np.pi
    return np.sin(x[..., 0]) + 7 * np.sin(x[..., 1]) ** 2 + 0.1 * x[..., 2] ** 4 * np.sin(x[..., 0])


def test_total_indices_of_ishigami() -> None:
    """Saltelli's standard example: the third input acts through the first alone."""
    a, b = 7, 0.1
    v1, v2 = 0.5 * (1 + b * np.pi**4 / 5) ** 2, a**2 / 8
    v13 = b**2 * np.pi**8 * (1 / 18 - 1 / 50)
    whole = v1 + v2 + v13
    found_ = total_indices(designs(ishigami, 3, 60_000))[0, 0].numpy()
    np.testing.assert_allclose(found_, [(v1 + v13) / whole, v2 / whole, v13 / whole], atol=0.015)


def test_total_indices_of_a_product() -> None:
    """prod (1 + c_j (u_j - 1/2)): V_j = c_j^2 / 12, V = prod (1 + V_j) - 1, T_j = V_j prod_{i != j} (1 + V_i) / V."""
    c = np.array([0.3, 1.0, 2.0, 0.0, 1.5])
    v = c**2 / 12
    whole = np.prod(1 + v) - 1
    expected = [v[j] * np.prod(np.delete(1 + v, j)) / whole for j in range(5)]
    found_ = total_indices(designs(lambda u: np.prod(1 + c * (u - 0.5), axis=-1), 5, 60_000))[0, 0].numpy()
    np.testing.assert_allclose(found_, expected, atol=0.015)
    assert found_[3] == 0


def test_total_indices_are_jansen_s_formula() -> None:
    answers = drawn(2, 7, 5, 2).double()
    out = total_indices(answers).numpy()
    assert out.shape == (2, 2, 3)
    for g in range(2):
        for t in range(2):
            f = answers[g, :, :, t].numpy()
            variance = np.var(f[:, :2], ddof=1)
            for j in range(3):
                assert out[g, t, j] == pytest.approx(np.mean((f[:, 0] - f[:, 2 + j]) ** 2) / (2 * variance))


def test_a_constant_model_has_no_indices() -> None:
    assert not bool(total_indices(torch.full((1, 6, 5, 1), 0.3)).any())


def test_sobol_asks_at_shifted_points_of_its_sequence() -> None:
    of, weights = linear(SIZE)
    maps = found("sobol:cells=3:budget=221", game(of, SIZE), IMAGES)[:, 0].reshape(2, 9)
    points = torch.quasirandom.SobolEngine(18, scramble=False).draw(20).double()
    change = ((IMAGES - fill("mean", IMAGES)) * weights).sum(1).double()
    rest = 0.5 + (fill("mean", IMAGES) * weights).sum((1, 2, 3)).double()
    ramps = Cells(torch.eye(9).view(1, 9, 3, 3)).render(torch.zeros(9).long(), torch.arange(9), SIZE)[:, 0].double()
    for g, shift in enumerate(stream(2, "sobol").uniform(18).double()):
        both = ((points + shift) % 1).numpy()
        a, b = both[:, :9], both[:, 9:]
        adds = torch.einsum("hw,khw->k", change[g], ramps).numpy()
        f, last = float(rest[g]) + a @ adds, float(rest[g]) + b @ adds
        variance = np.var(np.concatenate([f, last]), ddof=1)
        for j in range(9):
            mixed = a.copy()
            mixed[:, j] = b[:, j]
            index = np.mean((f - float(rest[g]) - mixed @ adds) ** 2) / (2 * variance)
            assert maps[g, j] == pytest.approx(index, rel=1e-3, abs=1e-6)


def test_sobol_of_a_linear_model() -> None:
    """T_j = a_j^2 / sum a^2, with a_j what cell j adds to the output from none of it to all."""
    of, weights = linear(SIZE)
    maps = found("sobol:cells=3:budget=4400:fill=black", game(of, SIZE), IMAGES, batch=64)
    ramps = Cells(torch.eye(9).view(1, 9, 3, 3)).render(torch.zeros(9).long(), torch.arange(9), SIZE)[:, 0]
    adds = torch.einsum("nchw,khw->nk", (IMAGES * weights).double(), ramps.double()).square()
    np.testing.assert_allclose(maps.reshape(2, 9), adds / adds.sum(1, keepdim=True), atol=0.1)


@pytest.mark.parametrize(
    ("cells", "budget", "side", "count"),
    [(8, 13, 2, 2), (8, 50, 2, 8), (8, 89, 3, 8), (8, 145, 4, 8), (8, 1024, 8, 15), (8, 2113, 8, 32), (3, 1024, 3, 93)],
)
def test_the_grid_gives_way_to_the_budget(cells: int, budget: int, side: int, count: int) -> None:
    method = parse_method(f"sobol:cells={cells}:budget={budget}").method
    assert method._design() == (side, count)  # type: ignore[attr-defined]
    assert method.questions(SIZE) == count * (side**2 + 2) <= budget - 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "words"), [("sobol:budget=12", "13"), ("sobol:cells=1", "2"), ("hsic:cells=0", "cells")]
)
def test_settings_that_make_no_sense(text: str, words: str) -> None:
    with pytest.raises(MethodError, match=words):
        parse_method(text)
