"""Which layer is found, and what its activations are."""

from __future__ import annotations

import pytest
import torch
from small_nets import ResNet, vgg
from torch import nn

from salience.errors import MethodError
from salience.models import Classifier, Layer, capture, find_layer
from salience.models.classifier import GRADIENTS
from salience.models.layers import token_grid


def _timm(name: str, **settings: object) -> nn.Module:
    models = pytest.importorskip("timm.models", exc_type=(ImportError, RuntimeError))  # type: ignore[arg-type]
    torch.manual_seed(0)
    return getattr(models, name)(num_classes=5, **settings).eval()


def _vit(size: int | tuple[int, int] = 32, patch: int = 8, **settings: object) -> nn.Module:
    net = _timm(
        "VisionTransformer",
        **{"img_size": size, "patch_size": patch, "embed_dim": 16, "depth": 3, "num_heads": 2, **settings},
    )
    nn.init.normal_(net.head.weight)
    return net


def _found(net: nn.Module, size: int | tuple[int, int], **settings: object) -> Layer:
    return find_layer(Classifier(net, size=size, **settings))  # type: ignore[arg-type]


def test_resnet_last_stage() -> None:
    assert _found(ResNet(), 16) == Layer("layer1", "nchw", (8, 8))


def test_vgg_with_in_place_activations() -> None:
    assert _found(vgg(), 16) == Layer("features", "nchw", (8, 8))


def test_vit_with_class_token_takes_the_last_block_but_one() -> None:
    assert _found(_vit(), 32) == Layer("blocks.1", "tokens", (4, 4))


def test_vit_with_pooled_patches_takes_the_last_block() -> None:
    net = _vit(global_pool="avg", class_token=False, fc_norm=False)
    assert _found(net, 32) == Layer("blocks.2", "tokens", (4, 4))


def test_vit_with_registers_and_an_oblong_input() -> None:
    net = _vit(size=(32, 48), reg_tokens=4)
    assert _found(net, (32, 48)) == Layer("blocks.1", "tokens", (4, 6))


def test_vit_whose_number_of_tokens_is_the_width_of_a_head() -> None:
    # 65 tokens, heads of 64: attention's own tensors (N, heads, 65, 64) are no maps
    net = _vit(size=64, patch=8, embed_dim=128, num_heads=2, qk_norm=True)
    assert _found(net, 64) == Layer("blocks.1", "tokens", (8, 8))


def test_torchs_own_encoder() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 16, 4, 4)
            layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(16, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.encoder(self.patch(x).flatten(2).transpose(1, 2)).mean(1))

    assert _found(Net(), 16) == Layer("encoder.layers.1", "tokens", (4, 4))


def test_swin_is_read_channels_last() -> None:
    net = _timm(
        "SwinTransformer", img_size=64, patch_size=4, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(1, 2)
    )
    layer = _found(net, 64)
    assert (layer.layout, layer.grid) == ("nhwc", (8, 8))
    assert layer.name in ("layers", "norm")


def test_convnext_last_stage() -> None:
    net = _timm("ConvNeXt", depths=(1, 1, 1, 1), dims=(8, 8, 8, 16))
    assert _found(net, 64) == Layer("stages", "nchw", (2, 2))


def test_a_named_layer_is_described() -> None:
    model = Classifier(ResNet(), size=16)
    assert find_layer(model, "stem") == Layer("stem", "nchw", (8, 8))
    model.layer = "layer1.0"
    assert find_layer(model).name == "layer1.0"


def test_layers_that_cannot_be_used_are_told() -> None:
    model = Classifier(ResNet(), size=16)
    with pytest.raises(MethodError, match=r"no layer 'layer2'. Did you mean 'layer1'"):
        find_layer(model, "layer2")
    with pytest.raises(MethodError, match="has no output that a map can be made of"):
        find_layer(model, "fc")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
    with pytest.raises(MethodError, match="No layer of model"):
        _found(flat, 16)
    with pytest.raises(MethodError, match="gives no access to its layers"):
        _found(ResNet(), 16, capabilities=frozenset({GRADIENTS}))


def test_finding_a_layer_leaves_the_model_as_found() -> None:
    net = ResNet().train()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    _found(net, 16)
    assert all(m.training and not m._forward_hooks for m in net.modules())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("net", ["resnet", "vgg"])
def test_what_is_captured_is_not_changed_by_in_place_operations(net: str) -> None:
    module = (ResNet() if net == "resnet" else vgg()).eval()
    model = Classifier(module, size=16)
    layer = find_layer(model, "stem" if net == "resnet" else "features.0")
    x = torch.rand(2, 3, 16, 16)
    plain = model.logits(x)
    with capture(model, layer) as held:
        logits = model.logits(x)
    torch.testing.assert_close(logits, plain)
    assert held.activation is not None
    first = module.stem if net == "resnet" else module.features[0]
    torch.testing.assert_close(held.activation, first(x))
    (gradient,) = torch.autograd.grad(logits.sum(), held.activation)
    assert gradient.shape == held.activation.shape
    assert not first._forward_hooks


def test_layouts_become_maps() -> None:
    values = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    assert Layer("x", "nchw", (4, 5)).maps(values) is values
    torch.testing.assert_close(Layer("x", "nhwc", (4, 5)).maps(values.permute(0, 2, 3, 1)), values)
    tokens = torch.cat([torch.zeros(2, 1, 3), values.flatten(2).transpose(1, 2)], 1)
    torch.testing.assert_close(Layer("x", "tokens", (4, 5)).maps(tokens), values)


@pytest.mark.parametrize(
    ("count", "size", "grid"),
    [
        (197, (224, 224), (14, 14)),
        (196, (224, 224), (14, 14)),
        (198, (224, 224), (14, 14)),
        (201, (224, 224), (14, 14)),
        (65, (32, 32), (8, 8)),
        (25, (32, 48), (4, 6)),
        (3, (32, 48), None),
    ],
)
def test_token_grid(count: int, size: tuple[int, int], grid: tuple[int, int] | None) -> None:
    assert token_grid(count, size) == grid
