"""Which class is explained: ``predicted``, ``label``, ``class:K`` or ``all``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from salience.errors import SettingsError, nearest


@dataclass(frozen=True)
class Target:
    """The rule that gives each image the classes to explain."""

    kind: Literal["predicted", "label", "class", "all"]
    index: int = -1

    def __str__(self) -> str:
        return f"class:{self.index}" if self.kind == "class" else self.kind

    def count(self, classes: int) -> int:
        """Return how many maps an image gets."""
        return classes if self.kind == "all" else 1

    def columns(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the classes (N, T) of images with ``logits`` (N, C) and ``labels`` (N,), -1 where unknown."""
        n, c = logits.shape
        if self.kind == "predicted":
            return logits.argmax(1, keepdim=True)
        if self.kind == "label":
            return labels.clamp_min(0).unsqueeze(1)
        if self.kind == "class":
            return torch.full((n, 1), self.index, dtype=torch.int64, device=logits.device)
        return torch.arange(c, device=logits.device).expand(n, c)


def parse_target(text: str | int, class_names: Sequence[str]) -> Target:
    """Read a target as the command line gives it; ``class:`` takes a number or a class name.

    Raises
    ------
    SettingsError
        When the word or the class is unknown.
    """
    if not isinstance(text, str):
        text = f"class:{int(text)}"  # NumPy's integers too
    if text == "predicted":
        return Target("predicted")
    if text == "label":
        return Target("label")
    if text == "all":
        return Target("all")
    head, _, name = text.partition(":")
    if head != "class" or not name:
        raise SettingsError(
            f"Target {text!r} is unknown; choose 'predicted', 'label', 'all' or 'class:K' with a class number or name."
        )
    if name.isdecimal():
        index = int(name)
        if index >= len(class_names):
            raise SettingsError(f"Target {text!r}: the model has the classes 0 to {len(class_names) - 1}.")
        return Target("class", index)
    wanted = name.casefold()
    found = [i for i, c in enumerate(class_names) if c.casefold() == wanted]
    if not found:
        raise SettingsError(f"Target {text!r}: the model has no class of that name.{nearest(name, class_names)}")
    return Target("class", found[0])
