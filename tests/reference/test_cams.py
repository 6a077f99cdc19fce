"""Class activation maps against their formulas, on a convolutional net and on vision transformers."""

from __future__ import annotations

import formulas as f
import pytest
import torch

from salience.models.layers import find_layer
from salience.testing.models import small_classifier

CAMS = ("gradcam", "gradcam++", "hirescam", "layercam", "xgradcam")
FORMS = [f"{name}:relu={flag}" for name in CAMS for flag in ("true", "false")]
NETS = {
    "cnn": lambda: small_classifier(dtype=torch.float64),
    "vit-token": lambda: f.double_vit("token"),
    "vit-mean": lambda: f.double_vit("mean"),
}


def as_maps(values: torch.Tensor) -> torch.Tensor:
    """(K, h, w) as it is; (T, K) tokens of a 4x4 grid behind one class token, patch by patch."""
    if values.ndim == 3:
        return values
    out = torch.empty(values.shape[1], 4, 4, dtype=values.dtype)
    for row in range(4):
        for column in range(4):
            out[:, row, column] = values[1 + row * 4 + column]
    return out


@pytest.mark.parametrize("output", ["logit", "prob", "logprob", "margin"])
@pytest.mark.parametrize("target", ["predicted", "class:2", "all"])
@pytest.mark.parametrize("net", list(NETS))
def test_every_map_is_its_formula(net: str, target: str, output: str) -> None:
    classifier = NETS[net]()
    images = f.pixels(3, 16)
    layer = find_layer(classifier)
    module = classifier.module.get_submodule(layer.name)
    found = f.engine(classifier, images, FORMS, target=target, output=output)
    for i, image in enumerate(images):
        for column, t in enumerate(found.targets[i].tolist()):
            a, g = (as_maps(v) for v in f.activation(classifier, image, module, t, output))
            for form, maps in zip(FORMS, found.maps, strict=True):
                expected = f.cam(form.split(":")[0], a, g)
                scale = float(expected.abs().max())
                if form.endswith("true"):
                    expected = f.relu(expected)
                torch.testing.assert_close(
                    maps.values[i, column],
                    expected,
                    rtol=1e-8,
                    atol=1e-9 * scale,
                    msg=lambda m, form=form: f"{form}: {m}",
                )


def test_the_layer_that_is_found() -> None:
    assert find_layer(NETS["cnn"]()).name == "relu2"
    assert find_layer(NETS["vit-token"]()).name == "blocks.1"
    assert find_layer(NETS["vit-mean"]()).name == "blocks.2"


@pytest.mark.parametrize("layer", ["conv1", "relu1", "conv2"])
def test_a_named_layer_before_an_inplace_activation(layer: str) -> None:
    """What stands behind the layer may write into its output; what is read is what the layer returned."""
    images = f.pixels(2, 16)
    plain = small_classifier(dtype=torch.float64, norm=False)
    found = f.engine(plain, images, [f"{name}:layer={layer}" for name in CAMS])
    inplace = small_classifier(dtype=torch.float64, norm=False, inplace=True)
    again = f.engine(inplace, images, [f"{name}:layer={layer}" for name in CAMS])
    module = plain.module.get_submodule(layer)
    for name, maps, other in zip(CAMS, found.maps, again.maps, strict=True):
        for i, image in enumerate(images):
            a, g = f.activation(plain, image, module, int(found.targets[i, 0]), "logit")
            expected = f.cam(name, a, g)
            expected = expected if name == "hirescam" else f.relu(expected)
            torch.testing.assert_close(maps.values[i, 0], expected, rtol=1e-8, atol=1e-10, msg=name)
        torch.testing.assert_close(other.values, maps.values, rtol=1e-12, atol=0, msg=name)


def test_hirescam_adds_up_to_the_logit() -> None:
    """With global average pooling and one linear layer, the sum of the map is the logit less its bias."""
    classifier = small_classifier(dtype=torch.float64)
    found = f.engine(classifier, f.pixels(4, 16), ["hirescam", "gradcam:relu=false"], target="all")
    bias = classifier.module.fc.bias.detach()
    sums = found.maps[0].values.sum((2, 3))
    torch.testing.assert_close(sums, found.logits - bias, rtol=1e-10, atol=1e-12)
    # and there Grad-CAM is the same map
    torch.testing.assert_close(found.maps[1].values, found.maps[0].values, rtol=1e-10, atol=1e-12)


def test_dead_channels_are_no_division_by_zero() -> None:
    classifier = small_classifier(dtype=torch.float64, norm=False)
    with torch.no_grad():
        classifier.module.conv2.weight[:6] = 0
        classifier.module.conv2.bias[:6] = -1  # dead behind the rectifier
    found = f.engine(classifier, f.pixels(2, 16), list(CAMS), target="all")
    assert all(torch.isfinite(m.values).all() for m in found.maps)


def test_gradcam_plus_plus_survives_tiny_gradients() -> None:
    """g^3 underflows in float32 long before the weights do: maps scale with the gradient."""
    images = f.pixels(2, 16).float()
    plain = small_classifier()
    faint = small_classifier()
    with torch.no_grad():
        faint.module.fc.weight *= 1e-13
    a = f.engine(plain, images, ["gradcam++"], target="class:1").maps[0].values
    b = f.engine(faint, images, ["gradcam++"], target="class:1").maps[0].values
    # with g -> 0 the denominator tends to 2 g^2 and alpha to one half
    assert torch.isfinite(b).all()
    assert (b > 0).any() == (a > 0).any()
    wide = small_classifier(dtype=torch.float64)
    with torch.no_grad():
        wide.module.fc.weight *= 1e-13
    exact = f.engine(wide, images.double(), ["gradcam++"], target="class:1").maps[0].values
    torch.testing.assert_close(b.double(), exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max()))
