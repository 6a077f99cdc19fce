from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_nets import write_backbone

from salience.errors import ModelError
from salience.models import load_model
from salience.models.classifier import Classifier
from salience.models.heads import find_head, replace_head
from salience.models.zoo import EfficientNetLite
from salience.training.parts import choose_part, cut_at, innermost


def load(folder: Path, factory: str = "blocks") -> Classifier:
    return load_model(write_backbone(folder, factory), device="cpu")


def images(model: Classifier, n: int = 3) -> torch.Tensor:
    pixels = torch.rand(n, 3, *model.preprocessing.size, generator=torch.Generator().manual_seed(5))
    return model.normalise(pixels)


def hooks(model: Classifier) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.module.modules())


# ---------------------------------------------------------------------- heads


@pytest.mark.parametrize(("factory", "name"), [("blocks", "fc"), ("small", "fc"), ("vit", "head")])
def test_the_head_is_found(tmp_path: Path, factory: str, name: str) -> None:
    model = load(tmp_path, factory)
    assert find_head(model) == name
    assert hooks(model) == 0


def test_a_model_without_a_linear_end_has_no_head() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with pytest.raises(ModelError, match="does not end in a linear layer"):
        find_head(Classifier(module, size=8))


def test_another_head_has_the_classes_asked_for(tmp_path: Path) -> None:
    model = load(tmp_path)
    before = torch.get_rng_state()
    new = replace_head(model.module, "fc", 2, "here")
    assert (new.in_features, new.out_features) == (6, 2)
    assert not new.weight.any()
    drawn = [replace_head(model.module, "fc", 3, "here", torch.Generator().manual_seed(s)) for s in (1, 2, 1)]
    assert torch.equal(drawn[0].weight, drawn[2].weight)
    assert not torch.equal(drawn[0].weight, drawn[1].weight)
    assert drawn[0].weight.abs().max() <= 6**-0.5
    assert model.module.get_submodule("fc") is drawn[2]
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ModelError, match=r"here: 'stem' is no linear layer .* linear layers: fc"):
        replace_head(model.module, "stem", 2, "here")


# ---------------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("train", "start", "inside", "outside"),
    [
        ("head", "fc", {"fc"}, {"blocks.2", "blocks.2.conv"}),
        ("last", "blocks.2", {"blocks.2", "blocks.2.norm", "fc"}, {"blocks.1.conv", "blocks", ""}),
        ("blocks.1", "blocks.1", {"blocks.1", "blocks.2.conv", "fc"}, {"blocks.0.conv", "stem.0"}),
        ("all", "", {"", "stem.0", "fc"}, set()),
    ],
)
def test_what_runs_from_the_start_on_is_trained(
    tmp_path: Path, train: str, start: str, inside: set[str], outside: set[str]
) -> None:
    model = load(tmp_path)
    part = choose_part(model, train, "fc")
    assert part.start == start
    assert inside <= part.modules
    assert not outside & part.modules
    assert hooks(model) == 0
    part.set_up(model.module, training=True)
    for name, module in model.module.named_modules():
        assert module.training == (name in part.modules), name
        assert all(p.requires_grad == (name in part.modules) for p in module.parameters(recurse=False)), name
    part.set_up(model.module, training=False)
    assert not any(module.training for module in model.module.modules())


def test_the_state_of_a_part_is_its_weights_and_statistics(tmp_path: Path) -> None:
    model = load(tmp_path)
    found = choose_part(model, "last", "fc").state(model.module)
    own = ("conv.weight", "conv.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    wanted = {f"blocks.2.{k}" for k in (*own, "norm.num_batches_tracked")} | {"fc.weight", "fc.bias"}
    assert set(found) == wanted
    assert found["fc.weight"].data_ptr() == model.module.get_parameter("fc.weight").data_ptr()
    assert set(choose_part(model, "all", "fc").state(model.module)) == set(model.module.state_dict())


def test_the_last_block_is_found_in_real_networks() -> None:
    model = Classifier(EfficientNetLite(0, 10).eval(), size=64)
    assert choose_part(model, "last", "classifier").start == "blocks.15"


def test_no_such_part_is_told(tmp_path: Path) -> None:
    model = load(tmp_path)
    with pytest.raises(ModelError, match=r"'blocks.3' .* does not exist.*Did you mean"):
        choose_part(model, "blocks.3", "fc")
    with pytest.raises(ModelError, match="no repeated blocks"):
        choose_part(load(tmp_path, "small"), "last", "fc")


# ---------------------------------------------------------------------- cuts


@pytest.mark.parametrize(
    ("factory", "train", "layer"),
    [
        ("blocks", "head", None),
        ("blocks", "head", "blocks.2"),
        ("blocks", "last", None),
        ("blocks", "last", "blocks.2"),
        ("blocks", "blocks.1", None),
        ("small", "head", "relu2"),
        ("small", "conv2", None),
        ("vit", "head", None),
    ],
)
def test_a_cut_network_gives_the_logits_of_the_whole(
    tmp_path: Path, factory: str, train: str, layer: str | None
) -> None:
    model = load(tmp_path, factory)
    head = find_head(model)
    part = choose_part(model, train, head)
    cut = cut_at(model, part, head, layer)
    assert cut is not None
    batch = images(model)
    with cut.collecting() as collect:
        arrived = collect(batch)
    with torch.no_grad():
        assert torch.allclose(cut.tail(arrived), model.module(batch), atol=1e-6)
        model.module.get_submodule(head).weight.mul_(2)  # type: ignore[operator,union-attr]
        assert torch.allclose(cut.tail(arrived), model.module(batch), atol=1e-6)  # it is the same layer, not a copy
    assert hooks(model) == 0


def test_the_tail_is_what_is_trained(tmp_path: Path) -> None:
    model = load(tmp_path)
    part = choose_part(model, "last", "fc")
    cut = cut_at(model, part, "fc", None)
    assert cut is not None
    part.set_up(model.module, training=True)
    with cut.collecting() as collect:
        arrived = collect(images(model))
    cut.tail(arrived).sum().backward()
    trained = {name for name, p in model.module.named_parameters() if p.grad is not None}
    assert trained == {"blocks.2.conv.weight", "blocks.2.conv.bias", "blocks.2.norm.weight", "blocks.2.norm.bias"} | {
        "fc.weight",
        "fc.bias",
    }


@pytest.mark.parametrize(
    ("factory", "train", "layer"),
    [
        ("skipping", "last", None),  # a second value crosses the cut
        ("blocks", "all", None),
        ("blocks", "last", "blocks"),  # the layer would be taken apart
        ("small", "head", "conv1"),  # the head is given the mean of another layer
    ],
)
def test_where_a_network_cannot_be_cut_it_runs_whole(
    tmp_path: Path, factory: str, train: str, layer: str | None
) -> None:
    model = load(tmp_path, factory)
    assert cut_at(model, choose_part(model, train, "fc"), "fc", layer) is None
    assert hooks(model) == 0


def test_a_sequence_is_its_last_module(tmp_path: Path) -> None:
    module = load(tmp_path).module
    assert innermost(module, "blocks") == "blocks.2"
    assert innermost(module, "stem") == "stem.1"
    assert innermost(module, "fc") == "fc"
