"""``salience.explain`` on images of any shape and kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import salience
from salience.errors import ImagesError, MethodError, SalienceError, SettingsError
from salience.testing.models import linear_classifier, small_classifier

CLASSIFIER = small_classifier()
SIDE = st.integers(1, 48)
FEW = settings(max_examples=25, deadline=None)


def check(maps: salience.Maps, count: int, grid: tuple[int, int] = (16, 16)) -> None:
    assert maps.values.shape == (count, *grid)
    assert maps.values.dtype == np.float32
    assert np.isfinite(maps.values).all()
    assert not maps.failures
    assert len(set(maps.image_ids)) == count
    assert maps.probabilities.shape == (count, 5)
    np.testing.assert_allclose(maps.probabilities.sum(1), 1, rtol=1e-5)
    assert maps.targets.tolist() == maps.probabilities.argmax(1).tolist()
    assert maps.upsampled((20, 30)).shape == (count, 20, 30)


@FEW
@given(n=st.integers(1, 6), h=SIDE, w=SIDE, seed=st.integers(0, 99))
def test_uint8_arrays_of_any_size(n: int, h: int, w: int, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (n, h, w, 3), dtype=np.uint8)
    check(salience.explain(CLASSIFIER, images, "gradient", batch_size=4), n)


@FEW
@given(
    n=st.integers(1, 6), dtype=st.sampled_from([torch.float16, torch.float32, torch.float64]), seed=st.integers(0, 99)
)
def test_float_tensors_at_the_model_s_size(n: int, dtype: torch.dtype, seed: int) -> None:
    images = torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed)).to(dtype)
    check(salience.explain(CLASSIFIER, images, "gradcam", batch_size=4), n, (4, 4))
    np_images = images.float().numpy()
    again = salience.explain(CLASSIFIER, np_images, "gradcam", batch_size=4)
    if dtype != torch.float64:
        check(again, n, (4, 4))


@FEW
@given(
    sizes=st.lists(st.tuples(SIDE, SIDE), min_size=1, max_size=5),
    mode=st.sampled_from(["RGB", "L", "RGBA", "P", "CMYK", "1", "I;16"]),
)
def test_pil_images_of_any_mode_and_mixed_sizes(sizes: list[tuple[int, int]], mode: str) -> None:
    images = [Image.new(mode, size) for size in sizes]
    check(salience.explain(CLASSIFIER, images, "positive", batch_size=4), len(sizes))


@FEW
@given(h=SIDE, w=SIDE)
def test_float_tensors_of_another_size_are_refused(h: int, w: int) -> None:
    if (h, w) == (16, 16):
        return
    with pytest.raises(ImagesError, match=f"must be 16x16.*not {h}x{w}"):
        salience.explain(CLASSIFIER, torch.zeros(2, 3, h, w), "gradient", batch_size=4)


@settings(max_examples=15, deadline=None)
@given(h=st.integers(2, 12), w=st.integers(2, 12), n=st.integers(1, 4))
def test_models_that_are_not_square(h: int, w: int, n: int) -> None:
    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.arange(2 * 3 * h * w, dtype=torch.float32).view(2, -1) / 100)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) @ self.weight.T

    classifier = salience.Classifier(Flat(), size=(h, w))
    maps = salience.explain(classifier, torch.rand(n, 3, h, w), "gradient:channels=signed", target=1, batch_size=2)
    expected = classifier.module.weight[1].detach().view(3, h, w).sum(0).numpy()
    np.testing.assert_allclose(maps.values, np.broadcast_to(expected, (n, h, w)), rtol=1e-5)
    assert salience.explain(classifier, np.zeros((n, 7, 9, 3), np.uint8), "ig", steps=2, batch_size=2).values.shape == (
        n,
        h,
        w,
    )


def test_uint8_and_float_mean_the_same() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    whole = salience.explain(CLASSIFIER, images, "gradient", batch_size=4)
    floats = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    for same in (floats, floats.numpy(), list(floats), list(images), [Image.fromarray(i) for i in images]):
        maps = salience.explain(CLASSIFIER, same, "gradient", batch_size=4)
        np.testing.assert_allclose(maps.values, whole.values, rtol=1e-4, atol=1e-7)


def test_several_methods_come_by_name() -> None:
    classifier, _ = linear_classifier()
    found = salience.explain(classifier, np.zeros((2, 8, 8, 3), np.uint8), ["gradient", "ig:steps=2"], target="all")
    assert list(found) == ["gradient", "ig:steps=2"]
    assert len(found["gradient"]) == 6
    assert found["gradient"].targets.tolist() == [0, 1, 2, 0, 1, 2]
    assert found["gradient"].image_ids == ("000000",) * 3 + ("000001",) * 3
    assert found["ig:steps=2"].diagnostics["completeness_gap"].shape == (6,)


def test_labels_as_target() -> None:
    images = np.zeros((3, 16, 16, 3), np.uint8)
    maps = salience.explain(CLASSIFIER, images, "gradient", target="label", labels=[4, None, 2], batch_size=4)
    assert maps.targets.tolist() == [4, 2]
    assert [(f.image_id, f.kind) for f in maps.failures] == [("000001", "label")]


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"target": "label"}, SettingsError, "needs labels"),
        ({"target": "class:5"}, SettingsError, "classes 0 to 4"),
        ({"output": "logits"}, SettingsError, "Output 'logits' is unknown"),
        ({"method": "gradients"}, MethodError, "Did you mean 'gradient'"),
        ({"method": []}, MethodError, "No method"),
        ({"method": ["gradient", "gradient"]}, MethodError, "named twice"),
        ({"method": "gradient", "steps": 3}, MethodError, "no setting 'steps'"),
        ({"method": "gradcam", "layer": "relu3"}, MethodError, "Did you mean 'relu"),
        ({"labels": [1]}, SalienceError, "label"),
    ],
)
def test_mistakes_are_told(how: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        salience.explain(CLASSIFIER, np.zeros((2, 16, 16, 3), np.uint8), **how)
