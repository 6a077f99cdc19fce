"""Specs: their grammar, the table of adapters, names, devices, factories."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from salience.errors import ModelError, SettingsError
from salience.models import list_adapters, load_model, registry, resolve_device, split_name
from salience.models.classifier import Classifier


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("card.toml", (None, "card.toml")),
        ("mine=card.toml", ("mine", "card.toml")),
        ("v1.0_a-b=timm:resnet50", ("v1.0_a-b", "timm:resnet50")),
        ("timm:resnet50?pretrained=false", (None, "timm:resnet50?pretrained=false")),
        ("a=timm:resnet50?pretrained=false", ("a", "timm:resnet50?pretrained=false")),
        ("pt2:a.pt2?size=3&mean=0.5", (None, "pt2:a.pt2?size=3&mean=0.5")),
        ("./a=b/card.toml", (None, "./a=b/card.toml")),
        ("C:\\a=b\\card.toml", (None, "C:\\a=b\\card.toml")),
    ],
)
def test_split_name(text: str, expected: tuple[str | None, str]) -> None:
    assert split_name(text) == expected


@pytest.mark.parametrize("text", ["my model=card.toml", "=card.toml", "é=card.toml", "..=card.toml"])
def test_names_that_cannot_be_names_are_told(text: str) -> None:
    with pytest.raises(ModelError, match="cannot name a model: use letters"):
        split_name(text)


def test_a_name_needs_a_spec() -> None:
    with pytest.raises(ModelError, match="nothing behind '='"):
        split_name("mine=")


def test_the_table_needs_neither_torch_nor_optional_packages() -> None:
    code = (
        "import sys\nfrom salience.models import list_adapters\nrows = list_adapters()\n"
        "print(*(r.prefix for r in rows))\n"
        "assert not {'torch', 'timm', 'torchvision', 'transformers', 'pydantic'} & set(sys.modules), 'slow'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) >= {"card", "python", "timm", "torchvision", "hf", "pt2"}


def test_the_table_tells_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "is_installed", lambda package: package != "timm")
    rows = {row.prefix: row for row in list_adapters()}
    assert not rows["timm"].installed
    assert rows["card"].installed
    with pytest.raises(ModelError, match=r'needs the package timm, .*pip install "salience\[timm\]"'):
        load_model("timm:resnet50", device="cpu")


def test_every_adapter_has_its_line_and_its_example() -> None:
    for row in list_adapters():
        assert row.summary
        assert row.prefix in row.example or row.prefix == "python"


def test_a_newcomer_registers_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ADAPTERS", dict(registry.adapters()))

    @registry.adapter("mine", summary="a test", example="mine:x", options={"width": "a number"})
    def load(request: registry.Request) -> Classifier:
        count = request.count("width") or 2
        return Classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, count)), size=2)

    assert load_model("mine:x?width=4", device="cpu").num_classes == 4
    with pytest.raises(ModelError, match="'width' is 'many'; a positive whole number"):
        load_model("mine:x?width=many", device="cpu")
    with pytest.raises(ModelError, match=r"unknown option 'widht'. Did you mean 'width'"):
        load_model("mine:x?widht=4", device="cpu")
    with pytest.raises(ModelError, match="is taken by the adapter"):
        registry.adapter("timm", summary="", example="")(load)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("tim:resnet50", "Did you mean 'timm'"),
        ("onxx:a b", "unknown prefix 'onxx'.*Ways to name a model: "),
        ("resnet50", "has no prefix and is no model card.*timm:resnet50"),
        ("model.py", "say which function makes the model"),
        ("model.pt2", "write 'pt2:model.pt2'"),
        ("weights.pth", "holds weights alone.*factory"),
        ("net.onnx", "ONNX"),
        ("timm:", "names nothing behind 'timm:'"),
        ("timm:resnet50?pretraind=false", "unknown option 'pretraind'. Did you mean 'pretrained'"),
        ("timm:resnet50?pretrained=perhaps", "write pretrained=true or pretrained=false"),
        (".", "is a folder"),
    ],
)
def test_unknown_specs_say_what_was_perhaps_meant(spec: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        load_model(spec, device="cpu")


def test_factories_in_files_and_modules(factories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = "size=8x9&mean=0.5&std=0.1,0.2,0.3&crop=0.5&fit=squash"
    model = load_model(f"{factories / 'nets.py'}:build?{settings}", device="cpu")
    assert model.name == "build"
    assert model.preprocessing.size == (8, 9)
    assert model.preprocessing.mean == (0.5, 0.5, 0.5)
    assert model.preprocessing.std == (0.1, 0.2, 0.3)
    assert model.preprocessing.crop == 0.5
    assert not model.module.training
    assert load_model(f"{factories / 'nets.py'}:whole", device="cpu").class_names == ("a", "b")
    assert load_model(f"{factories / 'nets.py'}:model?size=9&mean=0&std=1", device="cpu").num_classes == 2
    (factories / "in_the_current_folder.py").write_text("from nets import whole\n")
    monkeypatch.chdir(factories)
    before = list(sys.path)
    assert load_model("in_the_current_folder:whole", device="cpu").name == "whole"
    assert sys.path == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("", "does not give 'size'"),
        ("?size=big", "'size' is 'big'"),
        ("?size=9&mean=1,2", r"'mean' is \[1.0, 2.0\] \(2 values\)"),
        ("?size=9&crop=all", "'crop' is 'all'"),
    ],
)
def test_bad_options_of_a_factory(factories: Path, options: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        load_model(f"{factories / 'nets.py'}:build{options}", device="cpu")


def test_a_file_that_raises_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("x = 1\nraise RuntimeError('oh')\n")
    with pytest.raises(ModelError, match=r"raised RuntimeError: oh \(bad.py, line 2\)"):
        load_model(f"{tmp_path / 'bad.py'}:build", device="cpu")
    assert "salience_factory_bad" not in sys.modules


def test_the_files_beside_two_model_files_are_not_mixed_up(tmp_path: Path) -> None:
    counts = []
    for classes in (2, 3):
        folder = tmp_path / str(classes)
        folder.mkdir()
        (folder / "sizes.py").write_text(f"CLASSES = {classes}\n")
        (folder / "net.py").write_text(
            "from sizes import CLASSES\nfrom torch import nn\n"
            "def build(): return nn.Sequential(nn.Flatten(), nn.Linear(12, CLASSES))\n"
        )
        counts.append(load_model(f"{folder / 'net.py'}:build?size=2&mean=0&std=1", device="cpu").num_classes)
    assert counts == [2, 3]
    assert "sizes" not in sys.modules


def test_a_fingerprint_does_not_change_with_the_folder(
    factories: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    text = (
        "import torch\nclass Net(torch.nn.Linear): pass\ndef build():\n    torch.manual_seed(0)\n    return Net(2, 2)\n"
    )
    prints = set()
    for folder in (factories, elsewhere):
        (folder / "own.py").write_text(text)
        prints.add(load_model(f"{folder / 'own.py'}:build?size=2&mean=0&std=1", device="cpu").fingerprint())
    assert len(prints) == 1


def test_a_layer_is_checked_when_it_is_named(factories: Path) -> None:
    spec = f"{factories / 'nets.py'}:whole"
    assert load_model(spec, layer="0", device="cpu").layer == "0"
    with pytest.raises(ModelError, match="no layer 'conv1'"):
        load_model(spec, layer="conv1", device="cpu")


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")
    for name, told in {
        "cuda": "device is 'cuda', but",
        "cuda:1": "Choose 'auto' or 'cpu'",
        "mps": "no Apple GPU",
        "gpu": "device is 'gpu'",
        "cuda:x": "a whole number is needed behind the colon",
    }.items():
        with pytest.raises(SettingsError, match=told):
            resolve_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(SettingsError, match="2 GPUs here: 'cuda:0' to 'cuda:1'"):
        resolve_device("cuda:2")


def test_a_torchvision_that_does_not_fit_torch_is_told_with_its_cure() -> None:
    built = pytest.raises(ModelError, match=r"built for another torch.*pip install --force-reinstall")
    with built, registry.importing("torchvision"):
        raise RuntimeError("operator torchvision::nms does not exist")
    broken = pytest.raises(ModelError, match=r"cannot be imported: no part. Reinstall it: .*salience\[timm\]")
    with broken, registry.importing("timm"):
        raise ImportError("no part")
