"""Factories: ``pkg.module:function`` and ``file.py:function``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from salience.models.options import DESCRIBED
from salience.models.registry import Request, adapter, make_name

if TYPE_CHECKING:
    from salience.models.classifier import Classifier


@adapter(
    "python",
    summary="a function of your own that returns a torch module or a salience.Classifier",
    example="file.py:function",
    options=DESCRIBED,
)
def load(request: Request) -> Classifier:
    """Call a factory; what it does not say of a bare module comes from the options."""
    from salience.models.classifier import Classifier
    from salience.models.description import from_options
    from salience.models.factories import make

    where = f"Model {request.spec!r}"
    description = from_options(request.options, where)
    made = make(request.target, Path(), where)
    if isinstance(made, Classifier) and not request.options:
        classifier = made
    else:
        classifier = description.build(made, Path(), where)
    if classifier.name == "model":
        classifier.name = make_name(request.target.rpartition(":")[2])
    return classifier
