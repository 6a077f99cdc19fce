"""Small networks of every kind that layers and adapters have to cope with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x
        return self.relu(y)


class ResNet(nn.Module):
    """Residual blocks, in-place everything, global pooling."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.layer1 = nn.Sequential(Residual(8), Residual(8))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.layer1(self.stem(x))).flatten(1))


def vgg(classes: int = 5, side: int = 16) -> nn.Module:
    """In-place ReLU behind every convolution, and a fully connected head."""
    net = nn.Sequential()
    net.features = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True),
    )  # fmt: skip
    net.flatten = nn.Flatten()
    net.head = nn.Sequential(nn.Linear(8 * (side // 2) ** 2, 16), nn.ReLU(inplace=True), nn.Linear(16, classes))
    return net


class Head(nn.Module):
    """Two logits and something else besides, as detectors and auxiliary heads give."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> object:
        logits = self.fc(x.mean((2, 3)))
        if self.kind == "tuple":
            return logits, x
        return {"logits": logits} if self.kind == "dict" else {"features": x}


def tiny(classes: int = 5) -> nn.Module:
    """The least network with weights and statistics."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, classes),
    ).eval()  # fmt: skip
