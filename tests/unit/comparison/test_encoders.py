"""Encoders give the features of whole images, and leave the model as it was found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from salience.comparison.encoders import FunctionEncoder, ModelEncoder, parse_encoder
from salience.errors import ModelError
from salience.models.classifier import Classifier
from salience.testing.models import small_classifier, small_vit


def _images(count: int, size: int = 16, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def _tensor(pixels: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def test_features_are_those_of_the_last_layer_with_a_grid() -> None:
    model = small_classifier(seed=3)
    encoder = ModelEncoder(model, batch=4)
    pixels = _images(6)
    found = encoder.features(pixels)
    net = model.module
    with torch.no_grad():
        x = model.normalise(_tensor(pixels))
        expected = net.relu2(net.conv2(net.relu1(net.norm(net.conv1(x)))))  # type: ignore[operator]
    assert encoder.layer.name == "relu2"
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_what_works_in_place_behind_the_layer_does_not_change_features() -> None:
    pixels = _images(3)
    plain, inplace = (
        ModelEncoder(small_classifier(seed=3, inplace=i), layer="conv2").features(pixels) for i in (False, True)
    )
    assert plain.min() < 0  # before the activation
    np.testing.assert_array_equal(plain, inplace)


def test_tokens_become_a_grid() -> None:
    model = small_vit()
    pixels = _images(2)
    encoder = ModelEncoder(model)
    found = encoder.features(pixels)
    assert (encoder.layer.name, found.shape) == ("blocks.1", (2, 16, 4, 4))
    net = model.module
    with torch.no_grad():
        x = net.patch(model.normalise(_tensor(pixels))).flatten(2).transpose(1, 2)  # type: ignore[operator]
        x = torch.cat([net.class_token.expand(len(x), -1, -1), x], 1) + net.position  # type: ignore[operator]
        for block in list(net.blocks)[:2]:  # type: ignore[arg-type]
            x = block(x)
    expected = x[:, 1:].reshape(2, 4, 4, -1).permute(0, 3, 1, 2)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_no_batch_changes_the_features_of_an_image() -> None:
    pixels = _images(11)
    encoder = ModelEncoder(small_classifier(), batch=4)
    whole = encoder.features(pixels)
    np.testing.assert_array_equal(encoder.features(pixels[7:8])[0], whole[7])
    np.testing.assert_array_equal(encoder.features(pixels[::-1])[::-1], whole)


def test_the_model_is_left_as_found() -> None:
    model = small_classifier(norm=True)
    model.module.train()
    model.module.fc.weight.requires_grad_(False)  # type: ignore[union-attr]
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    encoder = ModelEncoder(model)
    encoder.features(_images(3))
    assert all(m.training for m in model.module.modules())
    assert not any(m._forward_hooks for m in model.module.modules())
    assert [p.requires_grad for p in model.module.parameters()] == [True] * 6 + [False, True]
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())


class _Failing(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.fail = False

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        if self.fail:
            raise ValueError("no more")
        return out


def test_the_model_is_left_as_found_when_it_fails() -> None:
    module = _Failing(small_classifier().module)
    encoder = ModelEncoder(Classifier(module, size=16, name="weak"))
    encoder.features(_images(1))
    module.fail = True
    module.train()
    with pytest.raises(ModelError, match="'weak' fails on a batch"):
        encoder.features(_images(1))
    assert module.training
    assert not any(m._forward_hooks for m in module.modules())


def test_batches_are_halved_where_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ModelEncoder(small_classifier(), batch=8)
    pixels = _images(8)
    expected = encoder.features(pixels)
    logits = encoder.classifier.logits

    def scarce(images: Tensor) -> Tensor:
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return logits(images)

    monkeypatch.setattr(encoder.classifier, "logits", scarce)
    np.testing.assert_allclose(encoder.features(pixels), expected, atol=1e-6)
    assert encoder.plan.batch == 2
    monkeypatch.setattr(encoder.classifier, "logits", lambda images: scarce(torch.cat([images] * 3)))
    with pytest.raises(torch.OutOfMemoryError):
        encoder.features(pixels)


def test_identity_names_model_layer_and_kind() -> None:
    one, same, other = small_classifier(seed=1), small_classifier(seed=1), small_classifier(seed=2)
    identity = ModelEncoder(one).identity
    assert identity == ModelEncoder(same).identity
    assert identity["weights"] == one.fingerprint()
    assert identity != ModelEncoder(other).identity
    assert identity != ModelEncoder(one, layer="conv2").identity
    assert identity != ModelEncoder(one, crops=True).identity


def test_a_model_without_layers_is_refused() -> None:
    model = Classifier.from_callable(lambda x: x.mean((2, 3)), size=16, name="far")
    with pytest.raises(ModelError, match=r"'far' cannot be the encoder.*'color'"):
        ModelEncoder(model)


@pytest.mark.parametrize("pixels", [_images(1).astype(np.float32), _images(1, 8), _images(1)[0]])
def test_other_pixels_are_refused(pixels: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(ModelError, match=r"takes uint8 images \(N, 16, 16, 3\)"):
        ModelEncoder(small_classifier()).features(pixels)


def test_features_that_are_no_numbers_are_refused() -> None:
    model = small_classifier()
    encoder = ModelEncoder(model)
    with torch.no_grad():
        model.module.conv2.bias[0] = float("inf")  # type: ignore[index,union-attr]
    with pytest.raises(ModelError, match="no finite numbers"):
        encoder.features(_images(1))


# ---------------------------------------------------------------------- functions


def _mean_grid(images: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(images, 4)


def test_a_function_is_an_encoder() -> None:
    encoder = FunctionEncoder(_mean_grid, size=(16, 16), device="cpu", batch=4)
    pixels = _images(6)
    found = encoder.features(pixels)
    assert encoder.name == "_mean_grid"
    expected = pixels.reshape(6, 4, 4, 4, 4, 3).astype(np.float64).mean((2, 4)).transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_module_as_a_function_is_left_as_found() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.Dropout(0.5))
    encoder = FunctionEncoder(net, size=(16, 16), device="cpu")
    pixels = _images(2)
    np.testing.assert_array_equal(encoder.features(pixels), encoder.features(pixels))
    assert all(m.training for m in net.modules())
    assert not net[1].running_mean.any()


def test_functions_are_told_apart_by_code_answers_and_version() -> None:
    def scaled(by: float) -> Callable[[Tensor], Tensor]:
        return lambda images: _mean_grid(images) * by

    def identity(function: Callable[[Tensor], Tensor], **settings: str) -> str:
        return str(FunctionEncoder(function, size=(16, 16), device="cpu", name="f", **settings).identity)  # type: ignore[arg-type]

    assert identity(scaled(2.0)) == identity(scaled(2.0))
    assert identity(scaled(2.0)) != identity(scaled(3.0))  # the same code
    assert identity(_mean_grid) != identity(scaled(1.0))
    assert identity(_mean_grid) != identity(_mean_grid, version="2")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.mean((2, 3)), r"returned \(32, 3\) for 32 images"),
        (lambda x: x[:1], r"returned \(1, 3, 16, 16\)"),
        (lambda x: None, "returned NoneType"),
        (lambda x: 1 / 0, "fails on a batch.*ZeroDivisionError"),
        (lambda x: x / 0, "no finite numbers"),
    ],
)
def test_functions_that_answer_with_something_else(function: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        FunctionEncoder(function, size=(16, 16), device="cpu").features(_images(2))


# ---------------------------------------------------------------------- what is meant


def test_what_names_an_encoder() -> None:
    model = small_classifier()
    spec = "timid=salience.testing.models:small_classifier"
    assert parse_encoder("color") is None
    dense, crops = parse_encoder(spec, "cpu"), parse_encoder(f"crop:{spec}", "cpu")
    assert isinstance(dense, ModelEncoder)
    assert isinstance(crops, ModelEncoder)
    assert (dense.name, dense.crops, crops.crops) == ("timid", False, True)
    found = parse_encoder(model, "cpu")
    assert isinstance(found, ModelEncoder)
    assert found.classifier is model
    assert parse_encoder(found) is found
    function = parse_encoder(_mean_grid, "cpu")
    assert isinstance(function, FunctionEncoder)
    assert function.size == (224, 224)
    assert isinstance(parse_encoder(nn.Conv2d(3, 4, 3), "cpu"), FunctionEncoder)


def test_what_names_no_encoder() -> None:
    with pytest.raises(ModelError, match="int"):
        parse_encoder(3)  # type: ignore[arg-type]
    with pytest.raises(ModelError):
        parse_encoder("crop:nothing")
