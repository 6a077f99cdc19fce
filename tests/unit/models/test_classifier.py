"""The classifier and the promise to leave a model as it was found."""

from __future__ import annotations

import contextlib
import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_nets import Head, ResNet, tiny, vgg
from torch import nn
from torch.nn import functional as F

from salience.errors import ModelError, SettingsError
from salience.models import Classifier, as_found


@pytest.mark.parametrize("kind", ["tuple", "dict"])
def test_outputs_that_hold_logits_are_unpacked(kind: str) -> None:
    assert Classifier(Head(kind), size=4).logits(torch.rand(3, 3, 4, 4)).shape == (3, 2)


def test_outputs_without_logits_are_told() -> None:
    with pytest.raises(ModelError, match="returned dict; a tensor of logits"):
        _ = Classifier(Head("other"), size=4).num_classes
    with pytest.raises(ModelError, match=r"returned shape \(1, 3, 4, 4\)"):
        _ = Classifier(nn.Identity(), size=4).num_classes


def test_a_wrong_size_is_told() -> None:
    with pytest.raises(ModelError, match="fails on one image of 12x12 pixels"):
        _ = Classifier(vgg(side=16), size=12).num_classes
    with pytest.raises(SettingsError, match="two positive numbers"):
        Classifier(tiny(), size=(3, 4, 4))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"torch.nn.Module is needed, not function"):
        Classifier(lambda x: x, size=4)  # type: ignore[arg-type]


def test_normalisation_is_inside_the_logits() -> None:
    net, x = tiny(), torch.rand(2, 3, 8, 8)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    model = Classifier(net, size=8, mean=mean, std=std)
    expected = net((x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1))
    torch.testing.assert_close(model.logits(x), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_module_gets_its_own_precision(dtype: torch.dtype) -> None:
    model = Classifier(tiny().to(dtype), size=8, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    assert model.logits(torch.rand(1, 3, 8, 8)).dtype == dtype


def test_fixed_batch_is_used_to_count_the_classes() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert len(x) == 2
            return x.mean((2, 3))

    assert Classifier(Two(), size=4, fixed_batch=2).num_classes == 3


def test_the_fingerprint_follows_weights_structure_and_preprocessing() -> None:
    def fingerprint(net: nn.Module, **settings: float) -> str:
        return Classifier(net, size=8, **settings).fingerprint()  # type: ignore[arg-type]

    base = fingerprint(tiny())
    assert base == fingerprint(tiny())
    changed = tiny()
    changed[0].bias.data[0] += 1e-6
    statistics = tiny()
    statistics[1].running_mean += 1
    structure = tiny()
    structure[2] = nn.LeakyReLU()
    others = [fingerprint(n) for n in (changed, statistics, structure)] + [fingerprint(tiny(), crop=0.5)]
    assert len({base, *others}) == 5


def test_the_fingerprint_is_the_same_in_every_process() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from small_nets import tiny\nfrom torch import nn\nfrom torch.nn import functional as F\n"
        "from salience.models import Classifier\n"
        "class Act(nn.Module):\n"
        "    def extra_repr(self): return f'{F.softplus} {object()}'\n"
        "net = tiny(); net[2] = Act()\nprint(Classifier(net, size=8).fingerprint())"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout


# ---------------------------------------------------------------------- as found


def _snapshot(net: nn.Module) -> dict[str, object]:
    return {
        "training": [m.training for m in net.modules()],
        "requires_grad": [p.requires_grad for p in net.parameters()],
        "grad": [None if p.grad is None else (id(p.grad), p.grad.clone().tolist()) for p in net.parameters()],
        "storage": [p.data_ptr() for p in net.parameters()],
        "strides": [p.stride() for p in net.parameters()],
        "values": {k: v.tolist() for k, v in net.state_dict().items()},
        "modules": [(n, id(m)) for n, m in net.named_modules()],
        "buffers": [(n, id(b)) for n, b in net.named_buffers()],
        "hooks": [(list(m._forward_hooks), list(m._forward_pre_hooks), list(m._backward_hooks)) for m in net.modules()],
        "forward": ["forward" in m.__dict__ for m in net.modules()],
    }


def _lived_in() -> ResNet:
    """A network in the middle of somebody's training: mixed modes, frozen parts, gradients, hooks of its own."""
    net = ResNet().train()
    net.layer1[0].eval()
    net(torch.rand(2, 3, 16, 16)).sum().backward()
    net.stem.weight.requires_grad_(False)
    net.fc.register_forward_hook(lambda *_: None)
    return net


def _misuse(net: ResNet, x: torch.Tensor) -> None:
    """Do everything to a network that should not outlive the context."""
    net.train()
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    net(x).sum().backward()
    net.stem.register_forward_hook(lambda *_: None)
    net.fc.register_forward_pre_hook(lambda *_: None)
    net.layer1[1].register_full_backward_hook(lambda *_: None)
    net.fc._forward_hooks.clear()
    net.layer1[1].relu = nn.Softplus()
    net.extra = nn.Linear(1, 1)
    net.layer1[0].bn1.running_mean = torch.ones(8)
    del net.layer1[0].bn2.running_var
    net.fc.weight = nn.Parameter(torch.zeros_like(net.fc.weight))
    net.fc.forward = lambda x: x  # type: ignore[method-assign]


@pytest.mark.parametrize("memory_format", [None, torch.channels_last])
@pytest.mark.parametrize("raises", [True, False])
def test_a_model_is_left_as_found(raises: bool, memory_format: torch.memory_format | None) -> None:
    net, x = _lived_in(), torch.rand(2, 3, 16, 16)
    before, outputs = _snapshot(net), copy.deepcopy(net).eval()(x)
    with contextlib.suppress(ZeroDivisionError), as_found(net, memory_format):
        _misuse(net, x)
        if raises:
            raise ZeroDivisionError
    assert _snapshot(net) == before
    torch.testing.assert_close(copy.deepcopy(net).eval()(x), outputs)


def test_inside_a_model_is_frozen_and_laid_out() -> None:
    net = _lived_in()
    with as_found(net, torch.channels_last):
        assert not any(m.training for m in net.modules())
        assert not any(p.requires_grad for p in net.parameters())
        assert net.stem.weight.is_contiguous(memory_format=torch.channels_last)
        x = torch.rand(2, 3, 16, 16, requires_grad=True)
        (gradient,) = torch.autograd.grad(net(x).sum(), x)
        assert gradient.abs().sum() > 0


def test_in_place_activations_do_not_reach_the_images() -> None:
    class InPlace(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu_(x).mean((2, 3))

    x = torch.rand(2, 3, 4, 4) - 0.5
    before = x.clone()
    Classifier(InPlace(), size=4).logits(x)
    assert torch.equal(x, before)


def test_contexts_can_be_nested() -> None:
    net = _lived_in()
    before = _snapshot(net)
    with as_found(net), as_found(net, torch.channels_last):
        pass
    assert _snapshot(net) == before
