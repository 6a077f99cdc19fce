"""How raw maps are looked at."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salience.store.views import clip_scale, min_max, upsample

SIDES = st.integers(1, 20)


@settings(max_examples=60, deadline=None)
@given(h=SIDES, w=SIDES, height=SIDES, width=SIDES, n=st.integers(0, 3))
def test_upsample_is_torch_s_interpolate(h: int, w: int, height: int, width: int, n: int) -> None:
    maps = np.random.default_rng(h * 100 + w).normal(size=(n, h, w)).astype(np.float32)
    found = upsample(maps, (height, width))
    assert found.dtype == np.float32
    assert found.shape == (n, height, width)
    if n:
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(maps).double()[None], size=(height, width), mode="bilinear", align_corners=False
        )[0]
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=2e-5)


def test_upsample_keeps_constants_and_leading_axes() -> None:
    assert upsample(np.full((2, 3, 4, 4), 0.7, np.float32), (9, 11)) == pytest.approx(0.7, rel=1e-6)
    maps = np.ones((2, 5, 5), np.float32)
    assert upsample(maps, (5, 5)) is maps


def test_min_max() -> None:
    maps = np.array([[[-1.0, 3.0], [1.0, 0.0]], [[5.0, 5.0], [5.0, 5.0]], [[0, 0], [0, 0]]], dtype=np.float32)
    found = min_max(maps)
    np.testing.assert_allclose(found[0], [[0, 1], [0.5, 0.25]])
    assert (found[1:] == 0).all()
    assert found.dtype == np.float32
    assert maps[0, 0, 0] == -1  # nothing is changed in place


def test_clip_scale() -> None:
    signed = np.array([[-4.0, 2.0], [1.0, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(clip_scale(signed, 100), [[-1, 0.5], [0.25, 0]])
    assert clip_scale(signed, 50).min() == -1
    zeros = np.zeros((2, 3, 3), np.float32)
    assert (clip_scale(zeros) == 0).all()
    constant = np.full((3, 3), -2.0, np.float32)
    assert (clip_scale(constant) == -1).all()
    lone = np.zeros((100, 100), np.float32)
    lone[3, 3] = -0.5  # below the percentile all is zero: the largest value takes its place
    assert clip_scale(lone)[3, 3] == -1
    each = clip_scale(np.stack([signed, 10 * signed]))
    np.testing.assert_allclose(each[0], each[1])  # every map by its own scale


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda n: st.lists(st.floats(-1e6, 1e6, width=32), min_size=n * 6, max_size=n * 6).map(
            lambda v: np.array(v, np.float32).reshape(n, 2, 3)
        )
    )
)
def test_ranges(maps: np.ndarray) -> None:
    scaled, clipped = min_max(maps), clip_scale(maps)
    assert np.isfinite(scaled).all()
    assert ((scaled >= 0) & (scaled <= 1)).all()
    assert np.isfinite(clipped).all()
    assert (np.abs(clipped) <= 1).all()
    assert (np.sign(clipped) * np.sign(maps) >= 0).all()
