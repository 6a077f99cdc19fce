from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from salience.errors import MethodError, SettingsError
from salience.testing.models import SmallNet, small_classifier, small_vit
from salience.training import GuidedLoss
from salience.training.loss import AttachedLoss, class_activation_maps, human_on_grid, normalise_maps


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net(inplace: bool = False) -> SmallNet:
    module = small_classifier(16, 4, inplace=inplace, dtype=torch.float64).module
    assert isinstance(module, SmallNet)
    return module


def batch(n: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    return random(n, 3, 16, 16), torch.arange(n) % 4, random(n, 16, 16, seed=1).abs()


def by_hand(logits: Tensor, features: Tensor, weight: Tensor, human: Tensor, classes: list[int]) -> float:
    """The published formula, cell by cell."""
    total = 0.0
    for n, c in enumerate(classes):
        cam = sum(float(weight[c, k]) * features[n, k].numpy() for k in range(features.shape[1]))
        cam = (cam - cam.min()) / (cam.max() - cam.min())
        h = human[n].numpy()
        step = h.shape[0] // cam.shape[0]
        wanted = np.array(
            [[h[i : i + step, j : j + step].mean() for j in range(0, 16, step)] for i in range(0, 16, step)]
        )
        wanted = (wanted - wanted.min()) / (wanted.max() - wanted.min())
        total += ((cam - wanted) ** 2).mean()
    return total / len(classes)


@pytest.mark.parametrize("target", ["predicted", "true"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5])
def test_it_is_the_published_formula(alpha: float, target: str) -> None:
    features, weight, human = random(4, 6, 4, 4), random(3, 6, seed=1), random(4, 16, 16, seed=2)
    logits, labels = random(4, 3, seed=3), torch.tensor([0, 2, 1, 1])
    parts = GuidedLoss(alpha, "x", target).of(logits, labels, human, features, weight)  # type: ignore[arg-type]
    classes = (logits.argmax(1) if target == "predicted" else labels).tolist()
    error = by_hand(logits, features, weight, human, classes)
    entropy = float(np.mean([-math.log(logits[i].exp()[y] / logits[i].exp().sum()) for i, y in enumerate(labels)]))
    assert float(parts.map_error) == pytest.approx(error, rel=1e-12)
    assert float(parts.total) == pytest.approx(alpha * entropy + (1 - alpha) * error, rel=1e-12)


def test_the_two_targets_differ() -> None:
    features, weight, human = random(4, 6, 4, 4), random(3, 6, seed=1), random(4, 16, 16, seed=2)
    logits = random(4, 3, seed=3)
    labels = (logits.argmax(1) + 1) % 3
    found = {
        t: GuidedLoss(0.5, "x", t).of(logits, labels, human, features, weight).map_error for t in ("predicted", "true")
    }  # type: ignore[arg-type]
    assert float(found["predicted"]) != pytest.approx(float(found["true"]), rel=1e-3)


def test_a_two_by_two_map_by_pencil() -> None:
    # CAM = 1 * F_1: (0, 1, 2, 4) / 4; human (0, 0, 1, 1): differences 0, 1/4, 1/2, 0
    features = torch.tensor([[[[0.0, 1.0], [2.0, 4.0]]]])
    human = torch.tensor([[[3.0, 3.0], [5.0, 5.0]]])
    parts = GuidedLoss(0.25, "x", "true").of(
        torch.zeros(1, 2), torch.tensor([1]), human, features, torch.tensor([[7.0], [1.0]])
    )
    assert float(parts.map_error) == pytest.approx((1 / 16 + 1 / 4) / 4)
    assert float(parts.total) == pytest.approx(0.25 * math.log(2) + 0.75 * 5 / 64)


@pytest.mark.parametrize("target", ["predicted", "true"])
def test_the_gradient_is_that_of_finite_differences(target: str) -> None:
    module, (images, labels, human) = net(), batch()
    module.train()
    loss = GuidedLoss(0.4, "relu2", target)  # type: ignore[arg-type]

    def value() -> Tensor:
        with loss.attach(module) as guided:
            return guided(module(images), labels, human)

    value().backward()
    for name in ("fc.weight", "fc.bias", "conv2.weight", "conv1.weight", "norm.weight"):
        parameter = module.get_parameter(name)
        assert parameter.grad is not None
        direction = random(*parameter.shape, seed=len(name))
        step = 1e-6
        with torch.no_grad():
            sides = []
            for sign in (1, -1):
                parameter.add_(direction, alpha=sign * step)
                sides.append(float(value()))
                parameter.sub_(direction, alpha=sign * step)
        slope = (sides[0] - sides[1]) / (2 * step)
        assert float((parameter.grad * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-9), name


def test_the_gradient_of_the_map_term_reaches_features_and_head() -> None:
    module, (images, labels, human) = net(), batch()
    with GuidedLoss(0.0, "relu2").attach(module) as guided:
        guided(module(images), labels, human).backward()
    for name in ("fc.weight", "conv2.weight", "conv1.weight"):
        gradient = module.get_parameter(name).grad
        assert gradient is not None
        assert gradient.abs().sum() > 0, name
    bias = module.fc.bias.grad
    assert bias is None or not bias.any()  # a map has no bias


def test_alpha_one_is_cross_entropy_to_the_bit() -> None:
    module, (images, labels, human) = net(), batch()
    with GuidedLoss(1.0, "relu2").attach(module) as guided:
        guided_value = guided(module(images), labels, human)
        guided_value.backward()
    gradients = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    module.zero_grad()
    plain = F.cross_entropy(module(images), labels)
    plain.backward()
    assert torch.equal(guided_value, plain)
    assert all(
        torch.equal(a, p.grad) for a, p in zip(gradients, module.parameters(), strict=True) if p.grad is not None
    )
    assert torch.equal(GuidedLoss(1.0).of(module(images), labels, None, None, None).total, plain)


def test_class_weights_are_those_of_torch() -> None:
    logits, labels, weights = random(6, 3), torch.tensor([0, 0, 0, 1, 1, 2]), (0.5, 1.0, 2.0)
    found = GuidedLoss(1.0, class_weights=weights).of(logits, labels, None, None, None).total
    assert torch.equal(found, F.cross_entropy(logits, labels, weight=logits.new_tensor(weights)))


@pytest.mark.parametrize("inplace", [False, True])
def test_attached_it_sees_what_the_pure_function_is_given(inplace: bool) -> None:
    module, (images, labels, human) = net(inplace), batch()
    seen: list[Tensor] = []
    handle = module.relu2.register_forward_hook(lambda _m, _a, output: seen.append(output.clone()))
    loss = GuidedLoss(0.5, "relu2")
    with loss.attach(module) as guided:
        logits = module(images)
        value = guided(logits, labels, human)
    handle.remove()
    assert torch.equal(value, loss.of(logits, labels, human, seen[0], module.fc.weight).total)


def test_operations_in_place_behind_the_layer_do_not_reach_what_was_seen() -> None:
    module = net(inplace=True)  # conv2 is rectified in place: its own output is what the map is asked of
    images, labels, human = batch()
    with torch.no_grad():
        module.conv2.bias.add_(100)  # so that the rectifier changes nothing, and the mean is that of conv2
    with GuidedLoss(0.5, "conv2").attach(module) as guided:
        value = guided(module(images), labels, human)
        value.backward()
    assert torch.isfinite(value)


def hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def test_the_model_is_left_as_found() -> None:
    module, (images, labels, human) = net(), batch()
    before, state = hooks(module), {k: v.clone() for k, v in module.state_dict().items()}

    def fails(guided: AttachedLoss) -> None:
        assert hooks(module) > before
        guided(module(images), labels, human)
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"), GuidedLoss(0.5, "relu2").attach(module) as guided:
        fails(guided)
    assert hooks(module) == before
    assert all(torch.equal(v, module.state_dict()[k]) for k, v in state.items())
    plain = module(images)
    with GuidedLoss(0.5, "relu2").attach(module):
        assert torch.equal(module(images), plain)


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 32, 3, 2), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.drop(self.features(x).mean((2, 3))))
        return out


def test_dropout_before_the_head_is_fine() -> None:
    module = Dropping().double().train()
    images, labels, human = batch()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with GuidedLoss(0.5, "features").attach(module) as guided:
            assert torch.isfinite(guided(module(images), labels, human))


class LateRectified(Dropping):
    """As DenseNet does: the rectifier is no module."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.features[0](x).relu().mean((2, 3)))  # type: ignore[operator]
        return out


def test_a_rectifier_before_the_mean_is_part_of_the_map() -> None:
    module, (images, labels, human) = LateRectified().double(), batch()
    loss = GuidedLoss(0.5, "features.0")
    with loss.attach(module) as guided:
        value = guided(module(images), labels, human)
    features = module.features(images)
    wanted = loss.of(module(images), labels, human, features, module.fc.weight).total
    assert torch.allclose(value, wanted, rtol=1e-12)
    assert not torch.allclose(
        value, loss.of(module(images), labels, human, module.features[0](images), module.fc.weight).total
    )  # type: ignore[operator]


class MaxPooled(Dropping):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.features(x).amax((2, 3)))
        return out


def test_models_without_a_class_activation_map_are_refused() -> None:
    images, labels, human = batch()
    module: nn.Module = MaxPooled().double()
    with (
        GuidedLoss(0.5, "features").attach(module) as guided,
        pytest.raises(MethodError, match="does not classify the mean"),
    ):
        guided(module(images), labels, human)
    vit = small_vit(16).module.double()
    with GuidedLoss(0.5, "blocks.2").attach(vit) as guided, pytest.raises(MethodError, match="feature map"):
        guided(vit(images), labels, human)
    with pytest.raises(MethodError, match="Did you mean 'relu2'"), GuidedLoss(0.5, "relu3").attach(net()):
        pass


def test_logits_of_another_pass_are_refused() -> None:
    module, (images, labels, human) = net(), batch()
    with GuidedLoss(0.5, "relu2").attach(module) as guided:
        with pytest.raises(MethodError, match="did not run"):
            guided(torch.zeros(3, 4, dtype=torch.float64), labels, human)
        logits = module(images)
        with pytest.raises(MethodError, match="as they come out"):
            guided(logits * 2, labels, human)
        guided(logits, labels, human)
        with pytest.raises(MethodError, match="did not run"):  # each pass gives one loss
            guided(logits, labels, human)


def test_what_is_missing_is_named() -> None:
    logits, labels = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    features, weight = torch.rand(2, 5, 4, 4), torch.rand(3, 5)
    with pytest.raises(MethodError, match="needs human maps"):
        GuidedLoss(0.5, "x").of(logits, labels, None, features, weight)
    with pytest.raises(MethodError, match=r"\(2, H, W\) is needed"):
        GuidedLoss(0.5, "x").of(logits, labels, torch.rand(3, 8, 8), features, weight)
    with pytest.raises(MethodError, match="linear layer classifies the mean"):
        GuidedLoss(0.5, "x").of(logits, labels, torch.rand(2, 8, 8), torch.rand(2, 6, 4, 4), weight)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_is_a_share(alpha: float) -> None:
    with pytest.raises(SettingsError, match="alpha"):
        GuidedLoss(alpha, "x")


def test_targets_are_two() -> None:
    with pytest.raises(SettingsError, match="predicted"):
        GuidedLoss(0.5, "x", "label")  # type: ignore[arg-type]


def test_constant_maps_have_a_defined_result_and_no_gradient() -> None:
    features = torch.ones(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    weight, logits = random(2, 3), torch.zeros(2, 2, dtype=torch.float64)
    human = torch.stack([torch.ones(8, 8), torch.eye(8)]).double()
    parts = GuidedLoss(0.0, "x", "true").of(logits, torch.tensor([0, 1]), human, features, weight)
    # the first human map says nothing; against the second, a constant map counts as zero
    wanted = human_on_grid(human, (4, 4))[1]
    assert float(parts.map_error.detach()) == pytest.approx(float(wanted.square().mean()) / 2)
    parts.total.backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert not features.grad.any()


def test_maps_are_scaled_each_by_itself() -> None:
    maps = random(5, 4, 6)
    scaled = normalise_maps(maps)
    assert torch.equal(scaled.amin((1, 2)), torch.zeros(5, dtype=torch.float64))
    assert torch.equal(scaled.amax((1, 2)), torch.ones(5, dtype=torch.float64))
    assert torch.equal(normalise_maps(maps[2:3]), scaled[2:3])
    assert torch.allclose(normalise_maps(3 * maps + 7), scaled)


def test_the_sum_of_a_class_activation_map_is_the_logit_without_its_bias() -> None:
    module, (images, _, _) = net(), batch()
    features: list[Tensor] = []
    handle = module.relu2.register_forward_hook(lambda _m, _a, output: features.append(output))
    logits = module(images)
    handle.remove()
    classes = torch.tensor([0, 3, 2])
    maps = class_activation_maps(features[0], module.fc.weight, classes)
    wanted = logits[torch.arange(3), classes] - module.fc.bias[classes]
    assert torch.allclose(maps.mean((1, 2)), wanted)


def test_half_precision_is_computed_in_single() -> None:
    features, weight = random(2, 8, 4, 4).half() * 100, random(3, 8, seed=1).half() * 100
    human, logits = random(2, 8, 8).abs().half(), random(2, 3, seed=2)
    found = GuidedLoss(0.5, "x").of(logits.float(), torch.tensor([0, 1]), human, features, weight)
    exact = GuidedLoss(0.5, "x").of(logits, torch.tensor([0, 1]), human.double(), features.double(), weight.double())
    assert float(found.map_error) == pytest.approx(float(exact.map_error), rel=1e-3)
