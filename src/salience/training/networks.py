"""Small residual networks for small images, to be trained from scratch.

The plan of He et al. (2016, arXiv 1512.03385, section 4.2) for CIFAR-10: one convolution, three stages of residual
blocks at full, half and a quarter of the resolution with w, 2 w and 4 w channels, the mean over the last feature map,
one linear layer. Ours: two blocks a stage, and a 1 x 1 convolution where a block changes the shape.

    salience.training.networks:small_16        # a spec for load_model; 16 is the width w
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from salience.models.classifier import Classifier
from salience.models.heads import initialise_linear

WIDTHS = (8, 16, 32, 64)
"""Widths that have a factory: ``small_8`` to ``small_64``."""
SIZE = 32
CLASSES = 10


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch normalisation, and what goes around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        kept = stride == 1 and inputs == outputs
        self.around: nn.Module = (
            nn.Identity()
            if kept
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, h, w) to (N, outputs, h / stride, w / stride)."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(self.around(x) + y)


class SmallResidualNet(nn.Module):
    """Normalised images (N, 3, H, W) of any size from 8 pixels to logits (N, classes).

    Parameters
    ----------
    width
        Channels of the first stage; the last has four times as many, on a grid of a quarter of the image's side.
    classes
        Number of classes.
    blocks
        Residual blocks a stage.
    """

    def __init__(self, width: int = 16, classes: int = CLASSES, blocks: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        stages: list[nn.Module] = []
        inputs = width
        for stage in range(3):
            outputs = width * 2**stage
            for number in range(blocks):
                stages.append(ResidualBlock(inputs, outputs, 2 if stage > 0 and number == 0 else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*stages)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        logits: Tensor = self.fc(self.blocks(self.stem(images)).mean((2, 3)))
        return logits


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights afresh from ``generator``, in the order of the modules, and reset what normalisations learnt.

    Convolutions are drawn as He et al. (2015, arXiv 1502.01852) do, by their outputs; linear layers uniformly within
    1 / sqrt(inputs). The global generators are not touched.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
        elif isinstance(part, nn.Linear):
            initialise_linear(part, generator)


def small_network(width: int) -> Classifier:
    """Return an untrained network of that width for ten classes and images of 32 pixels: the same at every call."""
    with torch.random.fork_rng(devices=[]):  # torch draws first weights as it makes the layers
        module = SmallResidualNet(width)
    initialise(module, torch.Generator().manual_seed(0))
    return Classifier(
        module.eval(),
        size=SIZE,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        name=f"small_{width}",
        spec=f"{__name__}:small_{width}",
    )


def small_8() -> Classifier:
    """Small residual network of width 8, 44 thousand parameters."""
    return small_network(8)


def small_16() -> Classifier:
    """Small residual network of width 16, 175 thousand parameters."""
    return small_network(16)


def small_32() -> Classifier:
    """Small residual network of width 32, 697 thousand parameters."""
    return small_network(32)


def small_64() -> Classifier:
    """Small residual network of width 64, 2.8 million parameters."""
    return small_network(64)
