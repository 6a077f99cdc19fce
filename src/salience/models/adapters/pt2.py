"""Exported programs: ``pt2:PATH``."""

from __future__ import annotations

from pathlib import Path
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
)
def load(request: Request) -> Classifier:
    """Load an exported program; size and normalisation come from the options."""
    from salience.models.description import from_options
    from salience.models.exported import load_exported

    where, path = f"Model {request.spec!r}", Path(request.target)
    description = from_options(request.options, where)
    classifier = load_exported(path, description, Path(), where, request.device)
    classifier.name = make_name(path.stem)
    return classifier
