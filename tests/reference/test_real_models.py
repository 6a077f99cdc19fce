"""Real classifiers on real images, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import salience
from salience.engine.tune import make_plan, rows_are_independent
from salience.models.classifier import Classifier

MODELS = ("resnet20", "cifar_vit")


@pytest.fixture(scope="module")
def cifar(assets: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(assets / "images" / "cifar10_test_2000.npz") as archive:
        every = slice(None, None, 20)  # classes stand in blocks or mixed: a stride sees all of them
        return archive["images"][every].copy(), archive["labels"][every].astype(int).copy()


@pytest.fixture(scope="module")
def models(assets: Path) -> dict[str, Classifier]:
    return {name: salience.load_model(str(assets / f"{name}.toml")) for name in MODELS}


@pytest.mark.parametrize("name", MODELS)
def test_accuracy_is_plausible(name: str, models, cifar) -> None:
    images, labels = cifar
    maps = salience.explain(models[name], images, "gradcam", labels=labels.tolist(), batch_size=32)
    right = (maps.probabilities.argmax(1) == maps.labels).mean()
    assert len(maps) == 100
    assert right > {"resnet20": 0.82, "cifar_vit": 0.6}[name]  # 91.8 and 72.2 % on all 2,000


@pytest.mark.parametrize("name", MODELS)
def test_gradient_and_gradcam_are_captum_s(name: str, models, cifar) -> None:
    attr = pytest.importorskip("captum.attr")
    classifier, images = models[name], cifar[0][:4]
    maps = salience.explain(classifier, images, ["gradient", "gradcam"], batch_size=4)
    mean = torch.tensor(classifier.preprocessing.mean).view(1, 3, 1, 1)
    std = torch.tensor(classifier.preprocessing.std).view(1, 3, 1, 1)

    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = classifier.module.eval()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner((x - mean) / std)

    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).requires_grad_()
    targets = torch.from_numpy(maps["gradient"].targets)
    expected = attr.Saliency(Pixels()).attribute(x, target=targets, abs=True).amax(1)
    top = expected.amax((1, 2)).max().item()
    np.testing.assert_allclose(maps["gradient"].values, expected.detach().numpy(), rtol=1e-3, atol=1e-5 * top)
    layer = {"resnet20": lambda m: m.layer3, "cifar_vit": None}[name]
    if layer is not None:
        cam = attr.LayerGradCam(Pixels(), layer(classifier.module)).attribute(x, target=targets, relu_attributions=True)
        np.testing.assert_allclose(
            maps["gradcam"].values, cam[:, 0].detach().numpy(), rtol=1e-3, atol=1e-5 * float(cam.detach().abs().max())
        )
    else:
        assert maps["gradcam"].values.shape == (4, 8, 8)


@pytest.mark.parametrize("name", MODELS)
def test_batch_invariance_byte_for_byte(name: str, models, cifar) -> None:
    """Under the plan that was measured, a row's results do not hang on its place or its neighbours."""
    classifier, images = models[name], cifar[0]
    plan = make_plan(classifier, batch=16, budget_s=0.3)
    assert plan.exact
    assert rows_are_independent(classifier, plan)
    how = {"method": ["gradient", "active", "gradcam", "ig:steps=4"], "batch_size": plan.batch}
    whole = salience.explain(classifier, images[:21], **how)
    back = salience.explain(classifier, images[:21][::-1], **how)
    few = salience.explain(classifier, images[14:17], **how)
    for method, maps in whole.items():
        assert maps.values[::-1].tobytes() == back[method].values.tobytes(), method
        assert maps.values[14:17].tobytes() == few[method].values.tobytes(), method


def test_ig_is_nearly_complete(models, cifar) -> None:
    maps = salience.explain(models["resnet20"], cifar[0][:8], "ig", steps=32, batch_size=16)
    gap, change = maps.diagnostics["completeness_gap"], maps.diagnostics["output_change"]
    assert np.median(np.abs(gap) / np.abs(change)) < 0.1
