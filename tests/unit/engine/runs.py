"""Runs of small models over small pictures, and what they cost, counted by the model itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from salience.engine.driver import Summary
from salience.engine.events import Event
from salience.explaining import Outcome, RunSettings, explain_run
from salience.models.classifier import Classifier
from salience.testing.contracts import example_images

SETTINGS = RunSettings(batch=2, memory_format="contiguous", unit_images=2, threads=1)


class Counter:
    """Rows that went through a module, and how often a gradient came back to its input."""

    def __init__(self) -> None:
        self.forward = self.backward = self.calls = 0

    def reset(self) -> None:
        self.__init__()


@contextmanager
def counted(module: nn.Module) -> Iterator[Counter]:
    """Count by hooks: independent of what the engine says of itself."""
    seen = Counter()

    def before(_m: nn.Module, args: tuple[Any, ...]) -> None:
        seen.forward += len(args[0])
        seen.calls += 1

    def behind(_m: nn.Module, _a: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            rows = len(output)
            output.register_hook(lambda _g: seen.__setattr__("backward", seen.backward + rows))

    handles = [module.register_forward_pre_hook(before), module.register_forward_hook(behind)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def write_images(folder: Path, classifier: Classifier, count: int) -> list[Path]:
    """Write pictures 0.png, 1.png, ... that the small models tell apart."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, image in enumerate(example_images(classifier, count)):
        path = folder / f"{i}.png"
        Image.fromarray(image).save(path)
        paths.append(path)
    return paths


def replace_image(path: Path, seed: int) -> None:
    """Put another picture of the same size in the place of one."""
    with Image.open(path) as old:
        size = old.size
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def run(
    classifier: Classifier,
    images: Any,
    methods: Sequence[str],
    out: Path,
    *,
    settings: RunSettings = SETTINGS,
    listen: Callable[[Event], None] = lambda event: None,
    **how: Any,
) -> tuple[Outcome, Summary]:
    """Explain into a run directory; return the outcome and the one model's summary."""
    how.setdefault("map_dtype", "float32")
    outcome = explain_run([classifier], images, methods, out, settings=settings, listen=listen, **how)
    return outcome, outcome.summaries[classifier.name]


class OutOfMemoryFor(nn.Module):
    """A model that runs out of memory where ``when`` says so of a batch of normalised images."""

    def __init__(self, inner: nn.Module, when: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.inner = inner
        self.when = when

    def forward(self, x: Tensor) -> Tensor:
        if self.when(x):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.inner(x)
