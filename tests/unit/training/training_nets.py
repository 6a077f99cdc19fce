"""Small problems for the tests of training: two classes told apart by colour, and cards of small networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from salience.training import Recipe

NETS = """
import torch
from torch import nn
from salience.models.classifier import Classifier
from salience.testing.models import small_classifier, small_vit

class Block(nn.Module):
    def __init__(self, width, drop):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, 1, 1)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(drop)
    def forward(self, x):
        return x + self.drop(torch.relu(self.norm(self.conv(x))))

class Blocks(nn.Module):
    # three blocks, one linear layer, dropout; where skip, the head also sees the stem
    def __init__(self, drop=0.0, skip=False):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.ReLU())
        self.blocks = nn.Sequential(Block(6, drop), Block(6, drop), Block(6, drop))
        self.fc = nn.Linear(6, 5)
        self.skip = skip
    def forward(self, x):
        first = self.stem(x)
        last = self.blocks(first)
        if self.skip:
            last = last + first
        return self.fc(last.mean((2, 3)))

def made(**settings):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Blocks(**settings).eval()

def blocks(): return made()
def dropping(): return made(drop=0.3)
def skipping(): return made(skip=True)
def small(): return small_classifier(16, 5, seed=1).module
def vit(): return small_vit(16, 4, 5, seed=1).module
"""


def write_backbone(folder: Path, factory: str = "blocks") -> Path:
    """Write a card of a backbone for 16 pixels with five classes, and its code beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nets.py").write_text(NETS)
    card = folder / f"{factory}.toml"
    keys = {"factory": f"nets.py:{factory}", "size": 16, "mean": [0.5] * 3, "std": [0.25] * 3}
    card.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in keys.items()))
    return card


def write_images(folder: Path, count: int = 12, size: int = 16, noise: int = 60, seed: int = 0) -> Path:
    """Write ``count`` images each of ``cold`` and ``warm``: noise, with a bright blue or red patch somewhere."""
    draw = np.random.default_rng(seed)
    for c, name in enumerate(("cold", "warm")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = draw.integers(0, noise, (size, size, 3))
            y, x = draw.integers(0, size // 2, 2)
            pixels[y : y + size // 2, x : x + size // 2, 2 if c == 0 else 0] += 190
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{name}{i:02d}.png")
    return folder


def write_maps(images: Path, folder: Path) -> Path:
    """Write a map for each image: the upper left quarter."""
    for path in images.glob("*/*.png"):
        with Image.open(path) as image:
            grey = np.zeros(image.size[::-1], np.uint8)
        grey[: len(grey) // 2, : grey.shape[1] // 2] = 255
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey).save(folder / path.parent.name / path.name)
    return folder


QUICK = Recipe(epochs=4, batch_size=6, lr=0.05)
