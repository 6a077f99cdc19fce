"""The model card: one TOML file that says how to make a classifier.

    factory = "file.py:function"        # relative to the card, or "package.module:function"
    weights = "weights.safetensors"     # optional: the factory gives the architecture, this file the weights
    size = 224
    mean = [0.485, 0.456, 0.406]
    std = [0.229, 0.224, 0.225]
    interpolation = "bicubic"
    fit = "crop"
    crop = 0.875
    classes = "classes.txt"             # or a list

``pt2 = "program.pt2"`` stands in the place of ``factory`` for an exported program.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from salience.errors import ModelError, nearest
from salience.models.classifier import Classifier
from salience.models.description import Description, validated
from salience.models.exported import load_exported
from salience.models.factories import make
from salience.models.registry import NAME, make_name
from salience.models.weights import load_weights


class Card(Description):
    """The keys of a model card."""

    factory: str | None = None
    pt2: str | None = None
    weights: str | None = None
    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")] | None = None


def read_card(path: Path) -> Card:
    """Read and check a model card.

    Raises
    ------
    ModelError
        When the file is missing or no TOML, a key is unknown, or a value is unusable.
    """
    where = f"Model card {str(path)!r}"
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.glob("*.toml")]) if path.parent.is_dir() else ""
        raise ModelError(f"There is no model card {str(path)!r}.{near} Check the path.")
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{where} is no valid TOML: {error}.") from error
    card = validated(Card, values, where)
    if (card.factory is None) == (card.pt2 is None):
        raise ModelError(
            f"{where} gives {'neither' if card.factory is None else 'both'} 'factory' and 'pt2': give one of them, "
            "factory = 'file.py:function' for a model in Python, or pt2 = 'file.pt2' for an exported program."
        )
    if card.pt2 is not None and card.weights is not None:
        raise ModelError(f"{where} gives 'weights' with 'pt2', but an exported program holds its own: leave them out.")
    return card


def load_card(path: Path, device: torch.device | None = None) -> Classifier:
    """Make the classifier that a card describes, named by its ``name`` or by the file.

    Raises
    ------
    ModelError
        When the card, its factory, its weights or its class names cannot be used.
    """
    card = read_card(path)
    where, base = f"Model card {str(path)!r}", path.parent
    if card.pt2 is not None:
        classifier = load_exported(base / card.pt2, card, base, where, device or torch.device("cpu"))
    else:
        made = make(card.factory or "", base, where)
        if card.weights is not None:
            module = made.module if isinstance(made, Classifier) else made
            load_weights(module, base / card.weights, where)
        classifier = card.build(made, base, where)
    classifier.name = card.name or make_name(path.stem)
    return classifier
