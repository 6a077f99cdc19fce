"""The smooth linear surrogate: a Gaussian belief, by its closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from salience.engine.surrogate import Surrogate

GRID = (4, 5)
CPU = torch.device("cpu")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def kernel(grid: tuple[int, int], reach: float) -> np.ndarray:
    y, x = (v.ravel() for v in np.mgrid[: grid[0], : grid[1]])
    return np.exp(-((y[:, None] - y) ** 2 + (x[:, None] - x) ** 2) / (2 * reach**2))


def posterior(masks: np.ndarray, answers: np.ndarray, reach: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance (with unit noise) of w ~ N(0, K), y = a + m w + e, in kernel form; noise as a share."""
    k = kernel(GRID, reach)
    x = masks.reshape(len(masks), -1) - masks.reshape(len(masks), -1).mean(0)
    y = answers - answers.mean(0)
    prior = x @ k @ x.T
    variance = noise * np.trace(prior) / len(x)
    gain = k @ x.T @ np.linalg.inv(prior + variance * np.eye(len(x)))
    return gain @ y, (k - gain @ x @ k) / variance


@pytest.mark.parametrize("reach", [0.3, 0.7, 2.0])
@pytest.mark.parametrize("noise", [0.03, 0.5])
def test_weights_are_the_mean_of_the_belief(reach: float, noise: float) -> None:
    masks, answers = (drawn(2, 30, *GRID) < 0.5).float(), drawn(2, 30, 3, seed=1)
    belief = Surrogate(2, 3, GRID, reach, noise, CPU)
    for at in range(0, 30, 7):  # in pieces, as the answers come
        belief.learn(masks[:, at : at + 7], answers[:, at : at + 7])
    white, factor = belief.fit()
    found = belief.maps(white)
    for g in range(2):
        mean, spread = posterior(masks[g].double().numpy(), answers[g].double().numpy(), reach, noise)
        np.testing.assert_allclose(found[g].flatten(1).numpy(), mean.T, rtol=1e-6, atol=1e-9)
        root = belief.maps(torch.linalg.inv(factor[g]).unsqueeze(0).transpose(1, 2))[0].flatten(1)  # rows: L A^-1/2
        np.testing.assert_allclose((root.T @ root).numpy(), spread, rtol=1e-5, atol=1e-7)


def test_deviation_is_that_of_the_residuals() -> None:
    masks, answers = (drawn(1, 40, *GRID) < 0.5).float(), drawn(1, 40, 2, seed=1)
    belief = Surrogate(1, 2, GRID, 0.7, 0.1, CPU)
    belief.learn(masks, answers)
    white, _ = belief.fit()
    weights = belief.maps(white)[0].flatten(1)
    x, y = masks[0].flatten(1).double(), answers[0].double()
    rest = (y - y.mean(0)) - (x - x.mean(0)) @ weights.T
    torch.testing.assert_close(belief.deviation(white)[0], rest.square().mean(0).sqrt())


def test_a_linear_truth_is_found() -> None:
    truth = drawn(1, *GRID, seed=3) - 0.5
    masks = (drawn(1, 400, *GRID) < 0.5).float()
    answers = 0.3 + (masks * truth.unsqueeze(1)).sum((2, 3)).unsqueeze(2)
    belief = Surrogate(1, 1, GRID, 0.3, 1e-4, CPU)
    belief.learn(masks, answers)
    torch.testing.assert_close(belief.maps(belief.fit()[0])[0], truth.double(), atol=2e-3, rtol=0)


def test_memory_does_not_grow_with_answers() -> None:
    belief = Surrogate(1, 1, GRID, 0.7, 0.1, CPU)
    before = {k: v.shape for k, v in vars(belief).items() if isinstance(v, torch.Tensor)}
    for seed in range(5):
        belief.learn(drawn(1, 50, *GRID, seed=seed), drawn(1, 50, 1, seed=seed))
    assert {k: v.shape for k, v in vars(belief).items() if isinstance(v, torch.Tensor)} == before
    assert belief.count == 250
