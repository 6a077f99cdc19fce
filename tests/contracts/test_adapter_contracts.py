"""Every contract on a classifier from every adapter that can be installed, with small models and random weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch

from salience.models import load_model
from salience.models.classifier import Classifier
from salience.models.registry import adapters, list_adapters
from salience.testing.contracts import CLASSIFIER_CONTRACTS, METHOD_CONTRACTS
from salience.testing.models import SmallNet
from salience.testing.server import scores_of, serving, softmax

METHODS = ("gradient", "contrast", "ig:steps=2", "gradcam")
FEW_METHODS = ("contrast", "gradcam")
"""Pixels and a layer: for classifiers that differ in how they are loaded alone."""


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


def onnx(folder: Path, *, rows: int | None, scores: str, layout: str) -> str:
    """Export a small net to ONNX, with a fixed or free number of images."""
    for needed in ("onnxruntime", "onnx", "onnxscript"):
        library(needed)
    torch.manual_seed(0)
    net = Exported(SmallNet(5, inplace=False, norm=True), scores, layout).eval()
    shape = (rows or 2, 3, 16, 16) if layout == "nchw" else (rows or 2, 16, 16, 3)
    free = {"x": {0: torch.export.Dim("rows", min=1, max=64)}} if rows is None else None
    torch.onnx.export(net, (torch.rand(shape),), folder / "net.onnx", dynamo=True, dynamic_shapes=free, verbose=False)
    return f"onnx:{folder / 'net.onnx'}?mean=0.4&std=0.2&scores={scores}"


class Exported(torch.nn.Module):
    """A net that takes channels first or last, and returns logits or probabilities."""

    def __init__(self, net: torch.nn.Module, scores: str, layout: str) -> None:
        super().__init__()
        self.net, self.scores, self.layout = net, scores, layout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.net(x if self.layout == "nchw" else x.permute(0, 3, 1, 2))
        return z.softmax(1) if self.scores == "probabilities" else z


def http(folder: Path, stack: ExitStack, *, more: str) -> str:
    """Start a server in a process of its own; the card names it."""
    for needed in ("httpx", "uvicorn"):
        library(needed)
    server = stack.enter_context(serving())
    server.switch(probabilities="probabilities" in more)
    (folder / "far.toml").write_text(
        f'model = "{server.url}"\nsize = 12\nmean = [0.4, 0.4, 0.4]\nstd = [0.2, 0.2, 0.2]\n{more}'
    )
    return str(folder / "far.toml")


def callable_(fn: Callable[[Any], Any], arrays: Any, **how: Any) -> Classifier:
    return Classifier.from_callable(fn, size=12, mean=(0.4,) * 3, std=(0.2,) * 3, arrays=arrays, **how)


ADAPTERS: dict[str, Callable[[Path], str]] = {
    "card": card,
    "python": python,
    "pt2": pt2,
    "timm": timm,
    "timm_vit": timm_vit,
    "torchvision": torchvision,
    "hf": hf,
}
FILES: dict[str, Callable[[Path], str]] = {
    "onnx": partial(onnx, rows=None, scores="logits", layout="nchw"),
    "onnx_fixed_batch": partial(onnx, rows=4, scores="logits", layout="nchw"),
    "onnx_probabilities": partial(onnx, rows=None, scores="probabilities", layout="nchw"),
    "onnx_nhwc": partial(onnx, rows=None, scores="logits", layout="nhwc"),
}
SERVERS: dict[str, Callable[[Path, ExitStack], str]] = {
    "http": partial(http, more='classes = ["a", "b", "c", "d", "e"]\n'),
    "http_json_without_names": partial(http, more='wire = "json"\nscores = "probabilities"\n'),
}
CALLABLES: dict[str, Callable[[], Classifier]] = {
    "callable_numpy": partial(callable_, scores_of, "numpy", name="callable_numpy"),
    "callable_torch": partial(
        callable_, lambda x: torch.from_numpy(scores_of(x.numpy())), "torch", name="callable_torch"
    ),
    "callable_probabilities_fixed_batch": partial(
        callable_,
        lambda x: softmax(scores_of(x)),
        "numpy",
        logits=False,
        batch=4,
        name="callable_probabilities_fixed_batch",
    ),
    "callable_paid": partial(callable_, scores_of, "numpy", paid=True, name="callable_paid"),
}
BLACK_BOXES = (*FILES, *SERVERS, *CALLABLES)
ALL_METHODS = ("card", "timm_vit", "hf")
PAIRS = [(name, m) for name in ADAPTERS for m in (METHODS if name in ALL_METHODS else FEW_METHODS)]
PAIRS.remove(("pt2", "gradcam"))  # an exported program has no layers
PAIRS += [(name, "rise:budget=10") for name in BLACK_BOXES]
PAIRS += [(name, "occlusion:budget=10") for name in ("onnx_fixed_batch", "http", "callable_numpy")]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Classifier]]:
    """Make each classifier once: a fixture with parameters is made again whenever the order of tests changes it."""
    with ExitStack() as stack:

        @cache
        def build(name: str) -> Classifier:
            if name in CALLABLES:
                return CALLABLES[name]()
            folder = tmp_path_factory.mktemp(name)
            with torch.random.fork_rng():
                spec = SERVERS[name](folder, stack) if name in SERVERS else (ADAPTERS | FILES)[name](folder)
                torch.manual_seed(0)
                return load_model(f"{name}={spec}", device="cpu")

        yield build


@pytest.fixture(params=[*ADAPTERS, *BLACK_BOXES])
def classifier(request: pytest.FixtureRequest, built: Callable[[str], Classifier]) -> Classifier:
    return built(request.param)


@pytest.mark.parametrize("check", CLASSIFIER_CONTRACTS, ids=lambda c: c.__name__.removeprefix("check_"))
def test_classifier(check: Callable[[Classifier], None], classifier: Classifier) -> None:
    check(classifier)


@pytest.mark.parametrize(("classifier", "method"), PAIRS, indirect=["classifier"])
@pytest.mark.parametrize("check", METHOD_CONTRACTS, ids=lambda c: c.__name__.removeprefix("check_"))
def test_methods(check: Callable[[str, Classifier], None], method: str, classifier: Classifier) -> None:
    check(method, classifier)


def test_every_adapter_is_tried() -> None:
    tried = {name.split("_")[0] for name in (*ADAPTERS, *FILES, *SERVERS)}
    assert tried | {"https"} == {row.prefix for row in list_adapters()}
    assert adapters()["https"].load is adapters()["http"].load
