"""What stands in for pixels: constants, the image's own mean and blur, noise and images of a pool."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from salience.engine.fills import fill, gaussian_blur
from salience.engine.pool import Pool
from salience.errors import MethodError

IMAGES = torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.0, 4.0, 9.0])
def test_blur_is_scipy_s(sigma: float) -> None:
    expected = gaussian_filter(IMAGES.numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=3)
    np.testing.assert_allclose(gaussian_blur(IMAGES, sigma).numpy(), expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(h=st.integers(1, 24), w=st.integers(1, 24), sigma=st.sampled_from([0.6, 1.7, 3.2]))
def test_blur_of_any_shape(h: int, w: int, sigma: float) -> None:
    images = torch.rand(1, 3, h, w, generator=torch.Generator().manual_seed(h * 31 + w), dtype=torch.float64)
    expected = gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=3)
    np.testing.assert_allclose(gaussian_blur(images, sigma).numpy(), expected, rtol=1e-10, atol=1e-12)


def test_constants() -> None:
    for name, value in (("black", 0.0), ("grey", 0.5), ("white", 1.0)):
        assert fill(name, IMAGES).shape == (1, 1, 1, 1)
        assert float(fill(name, IMAGES)) == value
    with pytest.raises(MethodError, match="blur"):
        fill("pink", IMAGES)


def test_mean_is_each_image_s_own() -> None:
    torch.testing.assert_close(fill("mean", IMAGES), IMAGES.flatten(2).mean(2)[:, :, None, None])


def test_noise_is_the_image_s_own_and_new_with_each_draw() -> None:
    both = fill("noise", IMAGES, ("a", "b"), 3)
    assert torch.equal(both[1:], fill("noise", IMAGES[1:], ("b",), 3))
    assert not torch.equal(both, fill("noise", IMAGES, ("a", "b"), 3, draw=1))
    assert 0 <= float(both.min()) < 0.05 < 0.95 < float(both.max()) < 1


def test_a_pool_is_drawn_from_by_image_and_draw_and_never_the_image_itself() -> None:
    images = torch.arange(50, dtype=torch.uint8).view(-1, 1, 1, 1).expand(50, 3, 16, 20).contiguous()
    pool = Pool(images, "pool")
    both = fill("dataset", IMAGES, ("a", "b"), 3, pool=pool)
    assert both.shape == IMAGES.shape
    assert both.dtype == torch.float64
    assert torch.equal(both[1:], fill("dataset", IMAGES[1:], ("b",), 3, pool=pool))
    draws = {float(fill("dataset", IMAGES[:1], ("a",), 3, draw=d, pool=pool).mean()) * 255 for d in range(30)}
    assert len(draws) > 15
    assert all(round(d) in range(50) and abs(d - round(d)) < 1e-9 for d in draws)
    two = Pool(images[:2], "two")
    own = images[1:2].double() / 255
    others = {float(fill("dataset", own, ("a",), 3, draw=d, pool=two).amax()) for d in range(20)}
    assert others == {0.0}
    with pytest.raises(MethodError, match="dataset"):
        fill("dataset", IMAGES, ("a", "b"))
