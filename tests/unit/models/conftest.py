from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

FACTORIES = """
import torch
from torch import nn

from salience.models.classifier import Classifier

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

def whole():
    return Classifier(build(), size=9, mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5), classes=("a", "b"), crop=0.9)

def fails():
    raise ValueError("no such depth")

def text():
    return "not a model"

number = 3
model = build()
"""


@pytest.fixture
def factories(tmp_path: Path) -> Path:
    """A folder with a Python file of factories, ``nets.py``."""
    (tmp_path / "nets.py").write_text(FACTORIES)
    return tmp_path


@pytest.fixture
def card(factories: Path) -> Callable[..., Path]:
    """Write a card beside the factories: the good one, with the given lines in place of its own."""

    def write(text: str = "", *, without: tuple[str, ...] = (), name: str = "mine.toml") -> Path:
        lines = {
            "factory": 'factory = "nets.py:build"',
            "size": "size = 9",
            "mean": "mean = [0.5, 0.5, 0.5]",
            "std": "std = [0.25, 0.25, 0.25]",
            "classes": 'classes = ["cat", "dog"]',
        }
        given = [line for line in textwrap.dedent(text).strip().splitlines() if line]
        for key in (*without, *(line.partition("=")[0].strip() for line in given)):
            lines.pop(key, None)
        path = factories / name
        path.write_text("\n".join([*lines.values(), *given]))
        return path

    return write
