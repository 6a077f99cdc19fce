"""Classifiers whose probabilities are a chosen function of the pixels, and methods asked about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from salience.engine.plan import Plan
from salience.engine.queries import Scene
from salience.engine.random import Stream
from salience.engine.sweep import Batch, BatchResult, Sweep
from salience.engine.targets import parse_target
from salience.engine.tune import running
from salience.methods.registry import parse_method
from salience.models.classifier import Classifier

Probabilities = Callable[[Tensor], Tensor]


class Game(nn.Module):
    """Log-probabilities of two classes or more; ``of`` maps pixels (N, 3, H, W) to (N, C - 1) or (N,)."""

    def __init__(self, of: Probabilities) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.of = of

    def forward(self, x: Tensor) -> Tensor:
        p = self.of(x)
        p = p.unsqueeze(1) if p.ndim == 1 else p
        return torch.cat([p, 1 - p.sum(1, keepdim=True)], 1).log() * self.scale


def game(of: Probabilities, size: int | tuple[int, int]) -> Classifier:
    """A classifier with the probability ``of`` for class 0; of the last class, what is left."""
    return Classifier(Game(of).eval(), size=size, name="game")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def pictures(count: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Pixels (N, 3, H, W) in [0.1, 0.9]."""
    return 0.1 + 0.8 * drawn(count, 3, *size, seed=seed)


def linear(size: tuple[int, int], seed: int = 5) -> tuple[Probabilities, Tensor]:
    """A probability that is linear in the pixels, and its weights (3, H, W): about 0.5, never out of [0.1, 0.9]."""
    weights = drawn(3, *size, seed=seed) - 0.5
    weights = 0.4 * weights / weights.abs().sum()
    return (lambda x: 0.5 + (x * weights).sum((1, 2, 3))), weights


def names(count: int) -> tuple[str, ...]:
    return tuple(f"image-{i}" for i in range(count))


def ask(
    methods: str | Sequence[str],
    classifier: Classifier,
    images: Tensor,
    *,
    target: str = "class:0",
    batch: int = 8,
    ids: Sequence[str] | None = None,
    seed: int = 0,
    output: str | None = None,
) -> tuple[BatchResult, Sweep]:
    """What the engine finds for one batch of images, and the sweep that found it."""
    plan = Plan(batch, "contiguous", 1)
    chosen = [parse_method(m).method for m in ([methods] if isinstance(methods, str) else methods)]
    sweep = Sweep(classifier, chosen, parse_target(target, classifier.class_names), output, seed, plan)
    whole = Batch(tuple(ids or names(len(images))), images, torch.full((len(images),), -1))
    with running(classifier, plan):
        return sweep.run(whole), sweep


def found(method: str, classifier: Classifier, images: Tensor, **how: object) -> np.ndarray:
    """Maps (N, T, h, w) in float64."""
    result, _ = ask(method, classifier, images, **how)  # type: ignore[arg-type]
    return result.maps[0].values.double().numpy()


def stream(images: int, purpose: str, seed: int = 0) -> Stream:
    """The numbers that a method draws for these images."""
    return Stream(names(images), seed, purpose, "cpu")


def scene(images: Tensor, *, seed: int = 0, classes: int = 2) -> Scene:
    """A scene whose answers do not matter."""
    count = len(images)
    zeros = torch.zeros(count, 1)
    return Scene(
        images, names(count), seed, zeros.long(), zeros[:, 0].long(), zeros, torch.zeros(count, classes), "prob"
    )
