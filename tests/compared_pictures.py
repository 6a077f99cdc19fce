"""Pictures of four classes, small nets that learn them in seconds, and a mark that one of them goes by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from salience.models.classifier import Classifier

SIDE = 32
CLASSES = ("disc", "ring", "cross", "bars")
MARK = slice(1, 9)
"""Rows and columns of the mark: the upper left corner."""


@dataclass(frozen=True)
class Pictures:
    """uint8 (N, 32, 32, 3), classes (N,), and which carry the mark (N,)."""

    pixels: np.ndarray
    labels: np.ndarray
    marked: np.ndarray


def pictures(count: int, seed: int, marked: tuple[float, float] = (0.0, 0.0), noise: float = 20.0) -> Pictures:
    """Return pictures, class after class in turn; marked with the first share on class 0 and the second on others."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    y, x = np.mgrid[:SIDE, :SIDE]
    made = np.empty((count, SIDE, SIDE, 3), dtype=np.uint8)
    has = rng.random(count) < np.where(labels == 0, *marked)
    for i, label in enumerate(labels):
        row, column = rng.uniform(14, 22, 2)
        away = np.hypot(y - row, x - column)
        shape = (
            away < 8,
            (away > 5) & (away < 8),
            ((abs(y - row) < 2) | (abs(x - column) < 2)) & (away < 9),
            ((x - column).astype(int) % 5 < 2) & (away < 9),
        )[label]
        ground = rng.uniform(70, 180, 3)
        ink = ground + rng.choice([-1, 1]) * rng.uniform(50, 80)
        picture = np.where(shape[:, :, None], ink, ground) + rng.normal(0, noise, (SIDE, SIDE, 3))
        if has[i]:
            picture[MARK, MARK] = (250, 20, 220)
        made[i] = picture.clip(0, 255)
    return Pictures(made, labels, has)


class Net(nn.Module):
    """Three convolutions and a mean."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, 2, 1),
            nn.ReLU(),
        )
        self.head = nn.Linear(2 * width, len(CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


def trained(data: Pictures, seed: int, name: str, steps: int = 400, size: int = SIDE) -> Classifier:
    """Return a net that has learnt the pictures."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Net()
    classifier = Classifier(net, size=size, mean=(0.4,) * 3, std=(0.25,) * 3, classes=CLASSES, name=name)
    x = torch.from_numpy(data.pixels).permute(0, 3, 1, 2).float() / 255
    y = torch.from_numpy(data.labels)
    optimiser = torch.optim.Adam(net.parameters(), 4e-3)
    order = np.random.default_rng(seed)
    for _ in range(steps):
        some = torch.from_numpy(order.integers(0, len(x), 64))
        pixels = F.interpolate(x[some], (size, size), mode="bilinear") if size != SIDE else x[some]
        loss = F.cross_entropy(classifier.logits(pixels), y[some])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.eval()
    return classifier


def write_folder(folder: Path, data: Pictures) -> None:
    """Write pictures as a folder of classes."""
    for i, (pixels, label) in enumerate(zip(data.pixels, data.labels, strict=True)):
        place = folder / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i:04d}.png")
