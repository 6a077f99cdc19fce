"""Exported programs: ``pt2:PATH``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from salience.models.options import DESCRIBED
from salience.models.registry import Request, adapter, make_name

if TYPE_CHECKING:
    from salience.models.classifier import Classifier


@adapter(
    "pt2",
    summary="a program saved with torch.export.save: gradients, but no layers",
    example="pt2:model.pt2?mean=0.5&std=0.5",
    options=DESCRIBED,
    takes_card=True,
)
def load(request: Request) -> Classifier:
    """Load an exported program; size and normalisation come from the options."""
    from salience.models.card import describe
    from salience.models.exported import load_exported

    card, base, where = describe(request, frozenset())
    classifier = load_exported(request.path, card, base, where, request.device)
    classifier.name = card.name or make_name(request.path.stem)
    return classifier
