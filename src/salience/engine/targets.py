"""Which classes are explained: ``predicted``, ``predicted+M``, ``label``, ``given``, ``class:K`` or ``all``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from salience.errors import SettingsError, nearest


@dataclass(frozen=True)
class Target:
    """The rule that gives each image the classes to explain.

    ``top`` is the predicted class and its ``index`` runners-up, in falling order (ties: the lower class first).
    ``given`` is a class that the caller names for each image, such as what another model predicts.
    """

    kind: Literal["predicted", "label", "given", "class", "all", "top"]
    index: int = -1

    def __str__(self) -> str:
        return {"class": f"class:{self.index}", "top": f"predicted+{self.index}"}.get(self.kind, self.kind)

    @property
    def by_image(self) -> bool:
        """Whether each image comes with its class: its label, or the one that is given."""
        return self.kind in ("label", "given")

    def count(self, classes: int) -> int:
        """Return how many maps an image gets."""
        if self.kind == "top":
            return min(self.index + 1, classes)
        return classes if self.kind == "all" else 1

    def columns(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the classes (N, T) of images with ``logits`` (N, C) and ``labels`` (N,), -1 where unknown.

        ``labels`` are the classes that come with the images: those that are given, where the target is ``given``.
        """
        n, c = logits.shape
        if self.kind == "predicted":
            return logits.argmax(1, keepdim=True)
        if self.by_image:
            return labels.clamp_min(0).unsqueeze(1)
        if self.kind == "class":
            return torch.full((n, 1), self.index, dtype=torch.int64, device=logits.device)
        if self.kind == "top":
            return logits.argsort(dim=1, descending=True, stable=True)[:, : self.count(c)]
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
    first, plus, more = text.partition("+")
    if first == "predicted" and plus and more.isdecimal() and int(more) > 0:
        return Target("top", int(more))
    head, _, name = text.partition(":")
    if head != "class" or not name:
        raise SettingsError(
            f"Target {text!r} is unknown; choose 'predicted', 'predicted+M' (with M runners-up), 'label', 'all' or "
            "'class:K' with a class number or name."
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
