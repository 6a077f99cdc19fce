from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model
from training_nets import write_backbone

import salience
from salience.errors import ModelError
from salience.models.heads import replace_head

GOOD = {
    "backbone": '"net/blocks.toml"',
    "head": '"fc"',
    "weights": '"mine.safetensors"',
    "classes": '["a", "b", "c"]',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    backbone = write_backbone(tmp_path / "net")
    module = salience.load_model(backbone, device="cpu").module
    replace_head(module, "fc", 3, "here", torch.Generator().manual_seed(1))
    save_model(module, str(tmp_path / "mine.safetensors"))
    return tmp_path


def card(folder: Path, **changes: str | None) -> Path:
    path = folder / "mine.toml"
    path.write_text("".join(f"{k} = {v}\n" for k, v in {**GOOD, **changes}.items() if v is not None))
    return path


def test_a_backbone_gets_another_head_and_the_weights_of_both(folder: Path) -> None:
    model = salience.load_model(card(folder), device="cpu")
    assert model.class_names == ("a", "b", "c")
    assert model.name == "mine"
    assert model.preprocessing.mean == (0.5, 0.5, 0.5)  # the backbone's
    drawn = torch.rand(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(model.module.get_parameter("fc.weight").double(), (2 * drawn - 1) / 6**0.5, atol=1e-6)


def test_the_card_goes_before_the_backbone(folder: Path) -> None:
    model = salience.load_model(card(folder, size="24", mean="[0.1, 0.2, 0.3]", layer='"blocks.1"'), device="cpu")
    assert model.preprocessing.size == (24, 24)
    assert model.preprocessing.mean == (0.1, 0.2, 0.3)
    assert model.layer == "blocks.1"


def test_a_python_file_is_relative_to_the_card(folder: Path) -> None:
    changed = card(folder, backbone='"net/nets.py:blocks?size=16&mean=0.5&std=0.25"')
    assert salience.load_model(changed, device="cpu").num_classes == 3


def test_loading_one_leaves_the_global_generator_alone(folder: Path) -> None:
    path, before = card(folder), torch.get_rng_state()
    salience.load_model(path, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": None}, "gives 'backbone' and not 'weights'"),
        ({"head": None, "classes": None}, "gives 'backbone' and not 'head', 'classes'"),
        ({"backbone": None}, "gives neither 'factory', 'pt2', 'model' nor 'backbone'"),
        ({"factory": '"net/nets.py:blocks"'}, "gives both 'factory' and 'backbone'"),
        ({"backbone": None, "factory": '"net/nets.py:blocks"'}, "gives 'head', which goes with 'backbone' alone"),
        ({"head": '"blocks"'}, "'blocks' is no linear layer"),
        ({"classes": '["a", "b"]'}, "do not fit"),
        ({"backbone": '"net/block.toml"'}, "Did you mean 'blocks.toml'"),
        ({"backbone": "7"}, "the card or spec of the model that was trained further is needed"),
    ],
)
def test_what_is_wrong_with_a_card_is_told(folder: Path, changes: dict[str, str | None], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        salience.load_model(card(folder, **changes), device="cpu")
