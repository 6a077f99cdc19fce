"""Model cards: ``card.toml``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from salience.models.registry import Request, adapter

if TYPE_CHECKING:
    from salience.models.classifier import Classifier


@adapter(
    "card", summary="a model card: a TOML file that names a factory, weights, size and classes", example="card.toml"
)
def load(request: Request) -> Classifier:
    """Load the classifier that a model card describes."""
    from salience.models.card import load_card

    return load_card(Path(request.target), request.device)
