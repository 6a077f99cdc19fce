"""Classifiers: torch modules with all that is needed to explain them, and the ways to load them.

``load_model`` takes a model card (``.toml``), ``timm:NAME``, ``torchvision:NAME``, ``hf:ID``, ``pt2:PATH`` or a
factory (``pkg.module:function``, ``file.py:function``). The public names are imported when they are first used, so
that listing the adapters does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from salience.models.classifier import Classifier, as_found
    from salience.models.devices import resolve_device
    from salience.models.layers import Layer, capture, find_layer
    from salience.models.loading import load_model
    from salience.models.registry import Adapter, Request, adapter, list_adapters, split_name

__all__ = [
    "Adapter",
    "Classifier",
    "Layer",
    "Request",
    "adapter",
    "as_found",
    "capture",
    "find_layer",
    "list_adapters",
    "load_model",
    "resolve_device",
    "split_name",
]

_HOMES = {
    "Adapter": "registry",
    "Classifier": "classifier",
    "Layer": "layers",
    "Request": "registry",
    "adapter": "registry",
    "as_found": "classifier",
    "capture": "layers",
    "find_layer": "layers",
    "list_adapters": "registry",
    "load_model": "loading",
    "resolve_device": "devices",
    "split_name": "registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
