"""Training: heads and small networks, plain or guided by human maps, in groups of runs that can be audited.

``GuidedLoss`` drops into any training loop; ``train`` is what ``salience train`` does. The public names are imported
when they are first used, so that importing this room does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from salience.training.group import Trained, train
    from salience.training.loss import GuidedLoss
    from salience.training.recipe import Recipe
    from salience.training.records import RunRecord

__all__ = ["GuidedLoss", "Recipe", "RunRecord", "Trained", "train"]

_HOMES = {
    "GuidedLoss": "loss",
    "Recipe": "recipe",
    "RunRecord": "records",
    "Trained": "group",
    "train": "group",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
