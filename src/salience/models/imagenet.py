"""The 1000 classes of ImageNet (ILSVRC 2012), by the names that torchvision gives them."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files


@cache
def imagenet_classes() -> tuple[str, ...]:
    """Return the names in the usual order: that of the sorted WordNet ids."""
    text = files("salience.models").joinpath("imagenet_classes.json").read_text(encoding="utf-8")
    return tuple(json.loads(text))
