"""Our methods against Captum's, and the adapter against Captum called directly."""

from __future__ import annotations

import warnings
from typing import Any

import formulas as f
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import salience
from salience.errors import MethodError
from salience.models.classifier import Classifier
from salience.testing.models import small_classifier, small_vit

attr = pytest.importorskip("captum.attr")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Normalised(nn.Module):
    """A model that takes pixels, as Captum must be given one: written without the classifier's own normalisation."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.inner = classifier.module.eval()
        for name in ("mean", "std"):
            values = getattr(classifier.preprocessing, name)
            self.register_buffer(name, torch.tensor(values, dtype=classifier.dtype).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner((x - self.mean) / self.std)


def directly(classifier: Classifier, name: str, images: Tensor, target: Tensor, layer: str | None = None, **how: Any):
    """What Captum itself says, (N, 3, H, W) or the layer's shape."""
    module = Normalised(classifier)
    cls = getattr(attr, name)
    explainer = cls(module) if layer is None else cls(module, classifier.module.get_submodule(layer))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return explainer.attribute(images.clone().requires_grad_(), target=target, **how).detach()


def near(found: Tensor | np.ndarray, expected: Tensor, relative: float) -> None:
    found = torch.as_tensor(found)
    assert found.shape == expected.shape
    scale = expected.abs().flatten(1).amax(1).view(-1, 1, 1)
    assert ((found.double() - expected.double()).abs() <= relative * scale).all()


# ---------------------------------------------------------------------- ours beside theirs


NETS = {"cnn": lambda: small_classifier(dtype=torch.float64), "vit": lambda: f.double_vit()}


@pytest.mark.parametrize("net", list(NETS))
def test_same_numbers_as_captum(net: str) -> None:
    classifier = NETS[net]()
    images = f.pixels(3, 16)
    forms = ["gradient", "gradient:channels=signed", "gradient_x_input", "ig:steps=32"]
    found = f.engine(classifier, images, forms)
    t = found.targets[:, 0]
    saliency = directly(classifier, "Saliency", images, t, abs=True)
    near(found.maps[0].values[:, 0], saliency.amax(1), 1e-9)
    near(found.maps[1].values[:, 0], directly(classifier, "Saliency", images, t, abs=False).sum(1), 1e-9)
    near(found.maps[2].values[:, 0], directly(classifier, "InputXGradient", images, t).sum(1), 1e-9)
    ig = directly(classifier, "IntegratedGradients", images, t, method="riemann_middle", n_steps=32)
    near(found.maps[3].values[:, 0], ig.sum(1), 1e-9)


def test_ig_from_white_is_captum_s() -> None:
    classifier = NETS["cnn"]()
    images = f.pixels(2, 16)
    found = f.engine(classifier, images, ["ig:steps=8:baseline=white"], target="class:1")
    expected = directly(
        classifier,
        "IntegratedGradients",
        images,
        torch.tensor([1, 1]),
        method="riemann_middle",
        n_steps=8,
        baselines=torch.ones_like(images),
    )
    near(found.maps[0].values[:, 0], expected.sum(1), 1e-9)


def test_gradcam_is_captum_s() -> None:
    classifier = NETS["cnn"]()
    images = f.pixels(3, 16)
    found = f.engine(classifier, images, ["gradcam", "gradcam:relu=false"])
    t = found.targets[:, 0]
    for maps, relu in zip(found.maps, (True, False), strict=True):
        expected = directly(classifier, "LayerGradCam", images, t, "relu2", relu_attributions=relu)
        near(maps.values[:, 0], expected[:, 0], 1e-9)


# ---------------------------------------------------------------------- the adapter


FORMS = {
    "Saliency": {},
    "InputXGradient": {},
    "IntegratedGradients": {"n_steps": 4},
    "DeepLift": {},
    "GuidedBackprop": {},
    "Deconvolution": {},
    "Occlusion": {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4)},
}


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", list(FORMS))
def test_adapter_is_captum_called_directly(name: str, inplace: bool, memory_format: str) -> None:
    classifier = small_classifier(inplace=inplace, dtype=torch.float64)
    images = f.pixels(3, 16)
    options = "".join(f":{k}={v}" for k, v in FORMS[name].items() if isinstance(v, int))
    if name == "Occlusion":
        options = ":sliding_window_shapes=4:strides=4"
    found = f.engine(classifier, images, [f"captum:{name}{options}"], memory_format=memory_format)
    expected = directly(small_classifier(dtype=torch.float64), name, images, found.targets[:, 0], **FORMS[name])
    near(found.maps[0].values[:, 0], expected.sum(1), 1e-9)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("LayerGradCam", {}),
        ("LayerGradCam", {"relu_attributions": True}),
        ("LayerActivation", {}),
        ("LayerGradientXActivation", {}),
        ("LayerConductance", {"n_steps": 4}),
        ("LayerDeepLift", {}),
    ],
)
def test_adapter_finds_the_layer(name: str, options: dict[str, Any]) -> None:
    classifier = small_classifier(dtype=torch.float64)
    images = f.pixels(3, 16)
    text = "".join(f":{k}={v}" for k, v in options.items())
    found = f.engine(classifier, images, [f"captum:{name}{text}"])
    if name == "LayerActivation":
        expected = attr.LayerActivation(Normalised(classifier), classifier.module.relu2).attribute(images).detach()
    else:
        expected = directly(classifier, name, images, found.targets[:, 0], "relu2", **options)
    near(found.maps[0].values[:, 0], expected.sum(1), 1e-9)


@pytest.mark.parametrize("output", ["prob", "logprob", "margin"])
def test_adapter_explains_the_chosen_scalar(output: str) -> None:
    classifier = small_classifier(dtype=torch.float64)
    theirs, ours = f.engine(
        classifier, f.pixels(3, 16), ["captum:InputXGradient", "gradient_x_input"], output=output, target="all"
    ).maps
    for t in range(5):
        near(theirs.values[:, t], ours.values[:, t], 1e-9)


@pytest.mark.parametrize("net", [lambda: small_classifier(), lambda: small_vit()])
@pytest.mark.parametrize("form", ["KernelShap:n_samples=8", "ShapleyValueSampling:n_samples=1", "GradientShap", "Lime"])
def test_drawing_classes_draw_per_image(form: str, net) -> None:
    """The map of an image hangs on its id and the seed, not on its place."""
    classifier = net()
    images = [(255 * image.permute(1, 2, 0)).byte().numpy() for image in f.pixels(3, 16)]
    whole = salience.explain(classifier, images, f"captum:{form}", seed=1, batch_size=4)
    part = salience.explain(classifier, images[:2], f"captum:{form}", seed=1, batch_size=4)
    assert part.values.tobytes() == whole.values[:2].tobytes()


class TwiceUsed(nn.Module):
    """A net that calls one rectifier twice, as many older ones do."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 2, 1)
        self.conv2 = nn.Conv2d(4, 4, 3, 1, 1)
        self.relu = nn.ReLU(inplace=inplace)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x))
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("inplace", [False, True])
def test_deeplift_refuses_a_module_used_twice(inplace: bool) -> None:
    """Captum clones what in-place activations overwrite (above), but reads one call of each module: told by name."""
    classifier = Classifier(TwiceUsed(inplace), size=16, name="twice")
    before = [dict(m._forward_hooks) for m in classifier.module.modules()]
    with pytest.raises(MethodError, match=r"captum's DeepLift does not work with this model.*ReLU"):
        salience.explain(classifier, f.pixels(2, 16).float(), "captum:DeepLift")
    assert [dict(m._forward_hooks) for m in classifier.module.modules()] == before
    # and the model is none the worse for it
    assert np.isfinite(salience.explain(classifier, f.pixels(2, 16).float(), "captum:Saliency").values).all()


def test_deeplift_adds_up_with_inplace_residuals() -> None:
    """Summation to delta: the map's sum is the change of the logit from a black image."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 4, 3, 2, 1)
            self.conv2 = nn.Conv2d(4, 4, 3, 1, 1)
            self.relu1 = nn.ReLU(inplace=True)
            self.relu2 = nn.ReLU(inplace=True)
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu1(self.conv1(x))
            y = self.conv2(x)
            y += x
            return self.fc(self.relu2(y).mean((2, 3)))

    classifier = Classifier(Residual().double(), size=16)
    images = f.pixels(3, 16)
    found = f.engine(classifier, images, ["captum:DeepLift"], target="class:1")
    black = f.logits(classifier, torch.zeros_like(images[0]))[1].item()
    torch.testing.assert_close(
        found.maps[0].values.sum((1, 2, 3)), found.maps[0].scores[:, 0] - black, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("captum:FeaturePermutation", "between the images of a batch"),
        ("captum:DeepLyft", "Did you mean 'DeepLift'"),
        ("captum:NeuronGradient", "no attribution class"),
        ("captum:Occlusion:stride=4", "Did you mean 'strides'"),
        ("captum:Saliency:target=1", "no setting 'target'"),
        ("captum", "captum:CLASS_NAME"),
    ],
)
def test_refused_by_name(form: str, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        salience.explain(small_classifier(), f.pixels(1, 16).float(), form)
