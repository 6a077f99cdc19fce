"""Noisy linear imputation against the sparse system that defines it, solved directly in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from salience.engine import road
from salience.engine.fills import gaussian_blur

SIZE = 33  # odd: aggregates of two by two do not fit


def direct(image: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Solve for the removed pixels of (3, H, W), one equation a pixel."""
    sparse = pytest.importorskip("scipy.sparse")
    solve = pytest.importorskip("scipy.sparse.linalg").spsolve
    h, w = keep.shape
    place = -np.ones((h, w), dtype=int)
    place[~keep] = np.arange((~keep).sum())
    system, right = sparse.lil_matrix(((~keep).sum(),) * 2), np.zeros(((~keep).sum(), 3))
    for n, (y, x) in enumerate(np.argwhere(~keep)):
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if (dy, dx) == (0, 0) or not (0 <= y + dy < h and 0 <= x + dx < w):
                    continue
                weight = 1 / 6 if 0 in (dy, dx) else 1 / 12
                system[n, n] += weight
                if keep[y + dy, x + dx]:
                    right[n] += weight * image[:, y + dy, x + dx]
                else:
                    system[n, place[y + dy, x + dx]] -= weight
    out = image.copy()
    out[:, ~keep] = solve(system.tocsc(), right).T
    return out


@pytest.fixture(scope="module")
def scene() -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(0)
    images = gaussian_blur(torch.from_numpy(rng.random((4, 3, SIZE, SIZE))).float(), 1.5)
    images = (images - images.amin()) / (images.amax() - images.amin())
    ys, xs = np.mgrid[:SIZE, :SIZE]
    far = (ys - SIZE / 2) ** 2 + (xs - SIZE / 2) ** 2
    keep = np.stack([rng.random((SIZE, SIZE)) < 0.1, ys < SIZE // 4, far > (SIZE * 0.4) ** 2, far < (SIZE * 0.2) ** 2])
    wanted = np.stack([direct(images[i].double().numpy(), keep[i]) for i in range(4)])
    return images, torch.from_numpy(keep), wanted


def test_what_is_filled_is_the_solution(scene) -> None:
    images, keep, wanted = scene
    off = np.abs(road.impute(images, keep).numpy() - wanted).reshape(4, -1)
    assert np.sqrt((off**2).mean(1)).max() < 5e-4
    assert off.max() < 2e-3  # a fifth of the noise that is added
    exact = np.abs(road.impute(images, keep, cycles=40).numpy() - wanted)
    assert exact.max() < 1e-5  # it is that system which is solved, not another


def test_a_row_does_not_depend_on_the_others(scene) -> None:
    images, keep, _ = scene
    together = road.impute(images, keep)
    for i in range(4):
        assert torch.equal(road.impute(images[i : i + 1], keep[i : i + 1])[0], together[i])


def test_kept_pixels_stay_and_noise_is_on_the_others(scene) -> None:
    images, keep, _ = scene
    replacement = road.imputed(images, ["a", "b", "c", "d"], seed=0)
    out = torch.empty_like(images)
    replacement.blend(images, keep, torch.arange(4), out)
    filled = road.impute(images, keep)
    inside = keep.unsqueeze(1).expand_as(images)
    assert torch.equal(out[inside], images[inside])
    noise = (out - filled)[~inside]
    assert float(noise.std()) == pytest.approx(0.01, rel=0.05)
    assert float(noise.mean()) == pytest.approx(0, abs=5e-4)
    again = torch.empty_like(images)
    road.imputed(images, ["a", "b", "c", "d"], seed=0).blend(images, keep, torch.arange(4), again)
    assert torch.equal(out, again)


def test_all_and_nothing(scene) -> None:
    images, keep, _ = scene
    everything, nothing = torch.ones_like(keep), torch.zeros_like(keep)
    assert torch.equal(road.impute(images, everything), images)
    assert torch.allclose(road.impute(images, nothing), images.mean((2, 3), keepdim=True).expand_as(images), atol=1e-6)
    flat = torch.full_like(images, 0.3)
    assert torch.allclose(road.impute(flat, keep), flat, atol=1e-6)
