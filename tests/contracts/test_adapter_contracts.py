"""Every contract on a classifier from every adapter that can be installed, with small models and random weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from salience.models import load_model
from salience.models.classifier import LAYERS, Classifier
from salience.models.registry import list_adapters
from salience.testing.contracts import CLASSIFIER_CONTRACTS, METHOD_CONTRACTS
from salience.testing.models import SmallNet

METHODS = ("gradient", "contrast", "ig:steps=2", "gradcam")


def library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:  # a torchvision beside another torch raises RuntimeError
        pytest.skip(f"{name} cannot be imported: {error}")


def card(folder: Path) -> str:
    (folder / "nets.py").write_text(
        "from salience.testing.models import SmallNet\nimport torch\n"
        "def net():\n    with torch.random.fork_rng():\n        torch.manual_seed(0)\n"
        "        return SmallNet(5, inplace=True, norm=True)\n"
    )
    (folder / "net.toml").write_text(
        'factory = "nets.py:net"\nsize = 16\nmean = [0.4, 0.4, 0.4]\nstd = [0.2, 0.2, 0.2]\n'
    )
    return str(folder / "net.toml")


def python(folder: Path) -> str:
    card(folder)
    return f"{folder / 'nets.py'}:net?size=16&mean=0.4&std=0.2"


def pt2(folder: Path) -> str:
    torch.manual_seed(0)
    net = SmallNet(5, inplace=False, norm=True).eval()
    rows = torch.export.Dim("rows", min=1, max=64)
    program = torch.export.export(net, (torch.rand(2, 3, 16, 16),), dynamic_shapes=({0: rows},))
    torch.export.save(program, folder / "net.pt2")
    return f"pt2:{folder / 'net.pt2'}?size=16&mean=0.4&std=0.2"


def timm(folder: Path) -> str:
    library("timm")
    return "timm:test_resnet?pretrained=false"


def timm_vit(folder: Path) -> str:
    library("timm")
    return "timm:test_vit?pretrained=false"


def torchvision(folder: Path) -> str:
    library("torchvision")
    return "torchvision:squeezenet1_1?pretrained=false&num_classes=10"


def hf(folder: Path) -> str:
    transformers = library("transformers")
    library("torchvision")  # where it is installed, the image processors use it
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        num_labels=4,
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return f"hf:{folder}"


ADAPTERS: dict[str, Callable[[Path], str]] = {
    "card": card,
    "python": python,
    "pt2": pt2,
    "timm": timm,
    "timm_vit": timm_vit,
    "torchvision": torchvision,
    "hf": hf,
}


@pytest.fixture(scope="module", params=list(ADAPTERS))
def classifier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    with torch.random.fork_rng():
        spec = ADAPTERS[request.param](tmp_path_factory.mktemp(request.param))
        torch.manual_seed(0)
        return load_model(f"{request.param}={spec}", device="cpu")


@pytest.mark.parametrize("check", CLASSIFIER_CONTRACTS, ids=lambda c: c.__name__.removeprefix("check_"))
def test_classifier(check: Callable[[Classifier], None], classifier: Classifier) -> None:
    check(classifier)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("check", METHOD_CONTRACTS, ids=lambda c: c.__name__.removeprefix("check_"))
def test_methods(check: Callable[[str, Classifier], None], method: str, classifier: Classifier) -> None:
    if method == "gradcam" and LAYERS not in classifier.capabilities:
        pytest.skip("an exported program has no layers; test_classifier holds that this is refused by name")
    check(method, classifier)


def test_every_adapter_is_tried() -> None:
    assert {name.split("_")[0] for name in ADAPTERS} == {row.prefix for row in list_adapters()}
